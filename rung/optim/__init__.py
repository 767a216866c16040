"""Optimizers, learning-rate schedules and gradient clipping."""

from rung.optim.adam import Adam, AdamW
from rung.optim.clip import clip_grad_norm_, clip_grad_value_, grad_norm
from rung.optim.optimizer import Group, Optimizer
from rung.optim.schedule import (
    Chain,
    Constant,
    Cosine,
    FromFunction,
    Linear,
    Scaled,
    Schedule,
    StepDecay,
    WarmUp,
)
from rung.optim.sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Chain",
    "Constant",
    "Cosine",
    "FromFunction",
    "Group",
    "Linear",
    "Optimizer",
    "Scaled",
    "Schedule",
    "StepDecay",
    "WarmUp",
    "clip_grad_norm_",
    "clip_grad_value_",
    "grad_norm",
]
