"""Adam, and what has been made of it: AdamW, Adamax, NAdam, RAdam.

The formulas, and the order of their operations, are those of the classes of the same names in
`torch.optim`; what depends on the step alone is computed in f64, as there. The moments of 16-bit
parameters are kept in f32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from rung.core import dtype as dt
from rung.core.errors import RungError
from rung.ops.eager import optimizers as kernels
from rung.optim.optimizer import (
    Group,
    Optimizer,
    Pairs,
    Params,
    Rate,
    accumulated,
    assign_all,
    filled,
    in_accumulator,
    lerp,
    require_range,
)
from rung.tensor import elementwise as e
from rung.tensor.composed import composed
from rung.tensor.tensor import Tensor

Betas = tuple[float, float]


def _steps(count: Tensor) -> Tensor:
    """The number of the step after `count` of them, from 1, f64[]."""
    return (count + 1).astype("f64")


class _Moments(Optimizer):
    """What these optimizers share: two moving averages, bounds of the hyperparameters."""

    slots = ("exp_avg", "exp_avg_sq")

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        name, betas = type(self).__name__, hyperparameters["betas"]
        if not all(0 <= beta < 1 for beta in betas):
            raise RungError(f"{name}: betas={betas}", fix="each from 0 to below 1")
        if not (hyperparameters["eps"] >= 0 and hyperparameters["weight_decay"] >= 0):
            raise RungError(f"{name}: eps and weight_decay must not be negative")

    def _decay(self, group: Group, lr: Tensor) -> Tensor | None:
        """lr * weight_decay where that multiplies the parameter itself."""
        return lr * group["weight_decay"] if group.get("decoupled_weight_decay") else None

    def _averages(self, group: Group, p: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The averages of g and of g², brought up to date."""
        beta1, beta2 = group["betas"]
        state = self.state[p]
        before, square = state["exp_avg"], state["exp_avg_sq"]
        m = lerp(before, g, 1 - beta1)
        v = square * beta2 + (1 - beta2) * g * g
        before.assign(m)
        square.assign(v)
        return m, v


@composed(eager=lambda call: kernels.adam(call.types, call.static))
def adam(
    grad: Tensor,
    p: Tensor,
    average: Tensor,
    square: Tensor,
    *others: Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    amsgrad: bool,
    maximize: bool,
    decoupled: bool,
) -> list[Tensor]:
    """One parameter of `Adam` and its slots after a step. `others`: the largest square so far where
    `amsgrad`, the size of the step, the root of the correction, and lr * weight_decay where that is
    `decoupled`."""
    largest, others = (others[0], others[1:]) if amsgrad else (None, others)
    step_size, root, decay = (*others, None)[:3]
    old, g = accumulated(p, grad, decay, maximize=maximize, weight_decay=weight_decay)
    m = lerp(average, g, 1 - beta1)
    v = square * beta2 + (1 - beta2) * g * g
    bound = v if largest is None else e.maximum(largest, v)
    below = bound.sqrt() / root.astype(old.dtype) + eps
    new = old + (-step_size).astype(old.dtype) * m / below
    return [new.astype(p.dtype), m, v, *([bound] if amsgrad else [])]


class Adam(_Moments):
    """m += (g - m)(1 - beta1); v = beta2 v + (1 - beta2) g²;
    p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)  (Kingma and Ba, 2014).

    `weight_decay * p` is added to g; with `amsgrad`, v is its largest value so far
    (Reddi et al., 2018)."""

    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            amsgrad=amsgrad,
            maximize=maximize,
        )

    def _slots(self, group: Group) -> tuple[str, ...]:
        return (*self.slots, "max_exp_avg_sq") if group["amsgrad"] else self.slots

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        (beta1, beta2), decay = group["betas"], group["weight_decay"]
        t = _steps(count)
        step_size = lr / (1 - beta1**t)
        root = (1 - beta2**t).sqrt()
        rest = [root, *([lr * decay] if self.decoupled and decay else [])]
        static = {name: group[name] for name in ("eps", "weight_decay", "amsgrad", "maximize")}
        for p, grad in pairs:
            slots = self.state[p].values()
            new, *kept = adam(
                grad, p, *slots, step_size, *rest, **static,
                beta1=beta1, beta2=beta2, decoupled=self.decoupled,
            )  # fmt: skip
            assign_all(p, new, slots, kept)


class AdamW(Adam):
    """Adam whose weight decay multiplies p by 1 - lr * weight_decay, and does not pass through the
    moments (Loshchilov and Hutter, 2017)."""

    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize)


class Adamax(_Moments):
    """Adam with the infinity norm: u = max(beta2 u, |g| + eps);
    p -= lr / (1 - beta1^t) * m / u  (Kingma and Ba, 2014, section 7)."""

    slots = ("exp_avg", "exp_inf")

    def __init__(
        self,
        params: Params,
        lr: Rate = 2e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params, lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize
        )

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        beta1, beta2 = group["betas"]
        step_size = lr / (1 - beta1 ** _steps(count))
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad)
            state = self.state[p]
            m = lerp(state["exp_avg"], g, 1 - beta1)
            u = e.maximum(state["exp_inf"] * beta2, g.abs() + group["eps"])
            state["exp_avg"].assign(m)
            state["exp_inf"].assign(u)
            p.assign(old + (-step_size).astype(old.dtype) * m / u)


class NAdam(_Moments):
    """Adam with Nesterov's momentum (Dozat, 2016): the step takes g and the next momentum,
    weighted by mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2) and the products of these."""

    def __init__(
        self,
        params: Params,
        lr: Rate = 2e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum_decay: float = 4e-3,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            momentum_decay=momentum_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        super()._check(hyperparameters)
        require_range("NAdam", momentum_decay=hyperparameters["momentum_decay"])

    def _new_state(self, group: Group, p: Tensor) -> dict[str, Tensor]:
        return {**super()._new_state(group, p), "mu_product": filled((), dt.float64, 1.0)}

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        beta1, beta2 = group["betas"]
        t = _steps(count)
        now = beta1 * (1 - 0.5 * 0.96 ** (t * group["momentum_decay"]))
        following = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * group["momentum_decay"]))
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad, self._decay(group, lr))
            m, v = self._averages(group, p, g)
            product = self.state[p]["mu_product"]
            product.assign(product * now)
            below = (v / (1 - beta2**t).astype(v.dtype)).sqrt() + group["eps"]
            of_gradient = lr * (1 - now) / (1 - product)
            of_momentum = lr * following / (1 - product * following)
            moved = old - of_gradient.astype(g.dtype) * g / below
            p.assign(moved - of_momentum.astype(g.dtype) * m / below)


class RAdam(_Moments):
    """Adam whose second moment is used, rectified, only once enough steps have been averaged in it
    (Liu et al., 2019): while 5 or fewer, p -= lr m / (1 - beta1^t)."""

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: Betas = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            decoupled_weight_decay=decoupled_weight_decay,
            maximize=maximize,
        )

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        beta1, beta2 = group["betas"]
        t = _steps(count)
        left = 1 - beta2**t
        longest = 2 / (1 - beta2) - 1
        length = longest - 2 * t * beta2**t / left
        enough = length > 5.0
        safe = e.where(enough, length, 6.0)
        ratio = (safe - 4) * (safe - 2) * longest / ((longest - 4) * (longest - 2) * safe)
        rectified = e.maximum(ratio, 0.0).sqrt() * left.sqrt()
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad, self._decay(group, lr))
            m, v = self._averages(group, p, g)
            scale = rectified.astype(v.dtype) / (v.sqrt() + group["eps"])
            step = m * (lr / (1 - beta1**t)).astype(m.dtype)
            p.assign(old - step * e.where(enough, scale, 1.0))
