"""Stochastic gradient descent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.core.errors import RungError
from rung.ops.eager import optimizers as kernels
from rung.optim.optimizer import Group, Optimizer, Pairs, Params, Rate, accumulated, assign_all
from rung.tensor import elementwise as e
from rung.tensor.composed import composed
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
        static = {k: group[k] for k in _STATIC}
        for p, grad in pairs:
            slots = self.state[p].values()
            new, *kept = sgd(grad, lr, count, p, *slots, **static)
            assign_all(p, new, slots, kept)


_STATIC = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")


@composed(eager=lambda call: kernels.sgd(call.types, call.static))
def sgd(
    grad: Tensor,
    lr: Tensor,
    count: Tensor,
    p: Tensor,
    *buffers: Tensor,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    maximize: bool,
) -> list[Tensor]:
    """One parameter of `SGD` and its slot, if there is a momentum, after a step."""
    old, g = accumulated(p, grad, None, maximize=maximize, weight_decay=weight_decay)
    kept: list[Tensor] = []
    for buffer in buffers:
        velocity = momentum * buffer + (1 - dampening) * g
        if dampening != 0:
            velocity = e.where(count == 0, g, velocity)
        kept.append(velocity)
        g = g + momentum * velocity if nesterov else velocity
    return [(old - lr.astype(old.dtype) * g).astype(p.dtype), *kept]
