"""Building blocks of models: modules, parameters, layers, losses, initial values, checkpoints.

Names, arguments, parameter names and initial distributions are those of `torch.nn`, so that
published checkpoints load by name.
"""

from rung.nn import functional, init
from rung.nn.activation import (
    ELU,
    GELU,
    GLU,
    Dropout,
    Hardsigmoid,
    Hardswish,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Mish,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from rung.nn.attention import MultiheadAttention
from rung.nn.checkpoint import Checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from rung.nn.containers import ModuleDict, ModuleList, Sequential
from rung.nn.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from rung.nn.linear import Embedding, Flatten, Identity, Linear, Unflatten
from rung.nn.loss import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    HuberLoss,
    L1Loss,
    MSELoss,
    NLLLoss,
)
from rung.nn.module import LoadReport, Module, Parameter
from rung.nn.normalization import BatchNorm1d, BatchNorm2d, GroupNorm, LayerNorm, RMSNorm
from rung.nn.pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from rung.nn.safetensors import read_safetensors, write_safetensors

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "AdaptiveAvgPool2d",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm1d",
    "BatchNorm2d",
    "Checkpoint",
    "Conv1d",
    "Conv2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "CrossEntropyLoss",
    "Dropout",
    "Embedding",
    "Flatten",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "HuberLoss",
    "Identity",
    "L1Loss",
    "LayerNorm",
    "LeakyReLU",
    "Linear",
    "LoadReport",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Mish",
    "Module",
    "ModuleDict",
    "ModuleList",
    "MultiheadAttention",
    "NLLLoss",
    "Parameter",
    "RMSNorm",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "Unflatten",
    "functional",
    "init",
    "load_checkpoint",
    "read_checkpoint",
    "read_safetensors",
    "save_checkpoint",
    "write_safetensors",
]
