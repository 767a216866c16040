"""Optimizers that scale each element by the size of its gradients: RMSprop, Adagrad, Adadelta,
Rprop; and averaged descent, ASGD.

The formulas, and the order of their operations, are those of `torch.optim`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rung.core import dtype as dt
from rung.core.errors import RungError
from rung.optim.optimizer import (
    Group,
    Optimizer,
    Pairs,
    Params,
    Rate,
    filled,
    in_accumulator,
    lerp,
    require_range,
)
from rung.tensor import elementwise as e
from rung.tensor.tensor import Tensor


class RMSprop(Optimizer):
    """v = alpha v + (1 - alpha) g²; p -= lr g / (sqrt(v) + eps)  (Hinton, 2012).

    With `centered`, v is less the square of the average of g; with `momentum`, the quotients are
    summed up with it first."""

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            alpha=alpha,
            eps=eps,
            weight_decay=weight_decay,
            momentum=momentum,
            centered=centered,
            maximize=maximize,
        )

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        names = ("alpha", "eps", "weight_decay", "momentum")
        require_range("RMSprop", **{n: hyperparameters[n] for n in names})

    def _slots(self, group: Group) -> tuple[str, ...]:
        centered = ("grad_avg",) if group["centered"] else ()
        momentum = ("momentum_buffer",) if group["momentum"] > 0 else ()
        return ("square_avg", *centered, *momentum)

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad)
            state = self.state[p]
            step = g / (self._size(group, state, g) + group["eps"])
            if group["momentum"] > 0:
                step = state["momentum_buffer"] * group["momentum"] + step
                state["momentum_buffer"].assign(step)
            p.assign(old - lr.astype(old.dtype) * step)

    def _size(self, group: Group, state: Mapping[str, Tensor], g: Tensor) -> Tensor:
        """The typical size of a gradient, of its deviation from the mean with `centered`."""
        alpha = group["alpha"]
        square = state["square_avg"] * alpha + (1 - alpha) * g * g
        state["square_avg"].assign(square)
        if not group["centered"]:
            return square.sqrt()
        mean = lerp(state["grad_avg"], g, 1 - alpha)
        state["grad_avg"].assign(mean)
        return (square - mean * mean).sqrt()


class Adagrad(Optimizer):
    """v += g²; p -= lr / (1 + (t - 1) lr_decay) * g / (sqrt(v) + eps)  (Duchi et al., 2011)."""

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            lr_decay=lr_decay,
            weight_decay=weight_decay,
            initial_accumulator_value=initial_accumulator_value,
            eps=eps,
            maximize=maximize,
        )

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        names = ("lr_decay", "weight_decay", "initial_accumulator_value", "eps")
        require_range("Adagrad", **{n: hyperparameters[n] for n in names})

    def _new_state(self, group: Group, p: Tensor) -> dict[str, Tensor]:
        start = group["initial_accumulator_value"]
        return {"sum": filled(p.shape, dt.accumulator(p.dtype), start)}

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        rate = lr / (1 + count.astype("f64") * group["lr_decay"])
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad)
            total = self.state[p]["sum"]
            total.assign(total + g * g)
            p.assign(old - rate.astype(old.dtype) * g / (total.sqrt() + group["eps"]))


class Adadelta(Optimizer):
    """v = rho v + (1 - rho) g²; d = g sqrt(u + eps) / sqrt(v + eps); u = rho u + (1 - rho) d²;
    p -= lr d  (Zeiler, 2012)."""

    slots = ("square_avg", "acc_delta")

    def __init__(
        self,
        params: Params,
        lr: Rate = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, rho=rho, eps=eps, weight_decay=weight_decay, maximize=maximize)

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        if not 0 <= hyperparameters["rho"] <= 1:
            raise RungError(f"Adadelta: rho={hyperparameters['rho']}", fix="from 0 to 1")
        names = ("eps", "weight_decay")
        require_range("Adadelta", **{n: hyperparameters[n] for n in names})

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        rho, eps = group["rho"], group["eps"]
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad)
            state = self.state[p]
            square, moved = state["square_avg"], state["acc_delta"]
            new = square * rho + (1 - rho) * g * g
            delta = (moved + eps).sqrt() / (new + eps).sqrt() * g
            square.assign(new)
            moved.assign(moved * rho + (1 - rho) * delta * delta)
            p.assign(old - lr.astype(old.dtype) * delta)


class Rprop(Optimizer):
    """Each element has a step size of its own, which grows while the sign of its gradient stays and
    shrinks when that turns; the size of the gradient does not matter (Riedmiller and Braun, 1993).

    `etas`: the two factors; `step_sizes`: the bounds; the first step size is `lr`."""

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        etas: tuple[float, float] = (0.5, 1.2),
        step_sizes: tuple[float, float] = (1e-6, 50.0),
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, etas=etas, step_sizes=step_sizes, maximize=maximize)

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        shrink, grow = hyperparameters["etas"]
        if not 0 < shrink < 1 < grow:
            raise RungError(f"Rprop: etas={hyperparameters['etas']}", fix="0 < first < 1 < second")

    def _new_state(self, group: Group, p: Tensor) -> dict[str, Tensor]:
        kind = dt.accumulator(p.dtype)
        first = float(group["lr"])
        return {"prev": filled(p.shape, kind), "step_size": filled(p.shape, kind, first)}

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        (shrink, grow), (low, high) = group["etas"], group["step_sizes"]
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad)
            state = self.state[p]
            turned = (g * state["prev"]).sign()
            factor = e.where(turned > 0, grow, e.where(turned < 0, shrink, turned * 0 + 1))
            size = e.clip(state["step_size"] * factor, low, high)
            kept = e.where(turned < 0, 0.0, g)
            state["step_size"].assign(size)
            state["prev"].assign(kept)
            p.assign(old - kept.sign() * size)


class ASGD(Optimizer):
    """Descent with falling rates lr / (1 + lambd lr t)^alpha, p decaying by 1 - lambd times the
    rate; the average of p from step `t0` on is kept under `ax` (Polyak and Juditsky, 1992)."""

    slots = ("ax",)

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        lambd: float = 1e-4,
        alpha: float = 0.75,
        t0: float = 1e6,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            lambd=lambd,
            alpha=alpha,
            t0=t0,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        require_range("ASGD", weight_decay=hyperparameters["weight_decay"])

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        done = count.astype("f64")
        rate = lr / (1 + group["lambd"] * lr * done) ** group["alpha"]
        weight = 1 / e.maximum(done - group["t0"], 1.0)
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad)
            average = self.state[p]["ax"]
            kept = old * (1 - group["lambd"] * rate).astype(old.dtype)
            new = kept - rate.astype(old.dtype) * g
            mixed = average + (new - average) * weight.astype(old.dtype)
            average.assign(e.where(weight == 1.0, new, mixed))
            p.assign(new)
