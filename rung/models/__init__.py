"""Models, each in one file."""

from rung.models.convnet import ConvNet
from rung.models.gpt import CHAR, CHAR_10M, GPT, GPT2, GPTConfig
from rung.models.mlp import MLP
from rung.models.resnet import ResNet, resnet18, resnet50

__all__ = [
    "CHAR",
    "CHAR_10M",
    "GPT",
    "GPT2",
    "MLP",
    "ConvNet",
    "GPTConfig",
    "ResNet",
    "resnet18",
    "resnet50",
]
