"""Optimizers, learning-rate schedules, averages of weights and gradient clipping."""

from rung.optim.adam import Adam, Adamax, AdamW, NAdam, RAdam
from rung.optim.adaptive import ASGD, Adadelta, Adagrad, RMSprop, Rprop
from rung.optim.average import ExponentialMovingAverage
from rung.optim.clip import clip_grad_norm_, clip_grad_value_, grad_norm
from rung.optim.lbfgs import LBFGS
from rung.optim.matrix import Adafactor, Lion, Muon
from rung.optim.optimizer import Group, Optimizer
from rung.optim.plateau import ReduceLROnPlateau
from rung.optim.schedule import (
    Chain,
    Constant,
    Cosine,
    ExponentialDecay,
    FromFunction,
    Linear,
    MultiStepDecay,
    OneCycle,
    Scaled,
    Schedule,
    StepDecay,
    WarmUp,
)
from rung.optim.sgd import SGD

__all__ = [
    "ASGD",
    "LBFGS",
    "SGD",
    "Adadelta",
    "Adafactor",
    "Adagrad",
    "Adam",
    "AdamW",
    "Adamax",
    "Chain",
    "Constant",
    "Cosine",
    "ExponentialDecay",
    "ExponentialMovingAverage",
    "FromFunction",
    "Group",
    "Linear",
    "Lion",
    "MultiStepDecay",
    "Muon",
    "NAdam",
    "OneCycle",
    "Optimizer",
    "RAdam",
    "RMSprop",
    "ReduceLROnPlateau",
    "Rprop",
    "Scaled",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "clip_grad_norm_",
    "clip_grad_value_",
    "grad_norm",
]
