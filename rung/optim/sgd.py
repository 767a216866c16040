"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.core.errors import RungError
from rung.optim.optimizer import Group, Optimizer, Pairs, Params, Rate, in_accumulator
from rung.tensor import elementwise as e
from rung.tensor.tensor import Tensor


class SGD(Optimizer):
    """p -= lr * v with v = momentum * v + (1 - dampening) * g (the first v is g), or, with
    `nesterov`, p -= lr * (g + momentum * v); `weight_decay * p` is added to g.

    The formulas, and the order of their operations, are those of `torch.optim.SGD`."""

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
            maximize=maximize,
        )

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        if not (hyperparameters["momentum"] >= 0 and hyperparameters["weight_decay"] >= 0):
            raise RungError("SGD: momentum and weight_decay must not be negative")
        if hyperparameters["nesterov"] and (
            hyperparameters["momentum"] == 0 or hyperparameters["dampening"] != 0
        ):
            raise RungError("SGD: nesterov needs a momentum, and dampening=0")

    def _slots(self, group: Group) -> tuple[str, ...]:
        return ("momentum_buffer",) if group["momentum"] != 0 else ()

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad)
            if group["momentum"] != 0:
                g = self._with_momentum(group, count, p, g)
            p.assign(old - lr.astype(old.dtype) * g)

    def _with_momentum(self, group: Group, count: Tensor, p: Tensor, g: Tensor) -> Tensor:
        buffer = self.state[p]["momentum_buffer"]
        velocity = group["momentum"] * buffer + (1 - group["dampening"]) * g
        if group["dampening"] != 0:
            velocity = e.where(count == 0, g, velocity)
        buffer.assign(velocity)
        return g + group["momentum"] * velocity if group["nesterov"] else velocity
