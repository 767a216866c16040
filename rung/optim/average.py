"""Averages of the weights of a model over the steps of its training."""

from __future__ import annotations

import copy
from typing import Any

from rung.core.errors import RungError
from rung.nn.module import Module
from rung.tensor import elementwise as e
from rung.tensor.autograd import no_grad
from rung.tensor.creation import array
from rung.tensor.tensor import Tensor


class ExponentialMovingAverage(Module):
    """A copy of a model, `module`, whose parameters follow those of the model: after each
    `update_parameters(model)` they are decay * average + (1 - decay) * parameter; the first takes
    them over.

    As `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn(decay)`, under the same
    names in `state_dict`. With `use_buffers` floating-point buffers are averaged too; else buffers
    are copied. It is a module: call it, save it in a checkpoint."""

    n_averaged: Tensor

    def __init__(self, model: Module, decay: float = 0.999, use_buffers: bool = False) -> None:
        super().__init__()
        if not 0 <= decay <= 1:
            raise RungError(f"ExponentialMovingAverage: decay={decay}", fix="from 0 to 1")
        self.decay = decay
        self.use_buffers = use_buffers
        self.register_buffer("n_averaged", array(0))
        self.module = copy.deepcopy(model)
        self.module.requires_grad_(False)

    def update_parameters(self, model: Module) -> None:
        """Take in the parameters of the model; also inside a jitted step."""
        with no_grad():
            first = self.n_averaged == 0
            for mine, theirs in zip(self.module.parameters(), model.parameters(), strict=True):
                mine.assign(self._mixed(first, mine, theirs.detach()))
            for mine, theirs in zip(self.module.buffers(), model.buffers(), strict=True):
                averaged = self.use_buffers and mine.dtype.is_float
                new = theirs.detach()
                mine.assign(self._mixed(first, mine, new) if averaged else new)
            self.n_averaged.assign(self.n_averaged + 1)

    def _mixed(self, first: Tensor, mine: Tensor, theirs: Tensor) -> Tensor:
        old, new = mine.detach(), theirs.astype(mine.dtype)
        return e.where(first, new, old + (new - old) * (1 - self.decay))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)

    def extra_repr(self) -> str:
        return f"decay={self.decay}"
