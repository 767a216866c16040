"""Adam, and AdamW with decoupled weight decay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rung.core.dtype import accumulator
from rung.core.errors import RungError
from rung.optim.optimizer import Group, Optimizer, Params, Rate
from rung.tensor.tensor import Tensor


class Adam(Optimizer):
    """m += (g - m)(1 - beta1); v = beta2 v + (1 - beta2) g²;
    p -= lr / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + eps)  (Kingma and Ba, 2014).

    `weight_decay * p` is added to g. The formulas, and the order of their operations, are those of
    `torch.optim.Adam`; what depends on the step alone is computed in f64, as there. The moments of
    16-bit parameters are kept in f32."""

    slots = ("exp_avg", "exp_avg_sq")
    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params, lr, betas=betas, eps=eps, weight_decay=weight_decay, maximize=maximize
        )

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        if not all(0 <= beta < 1 for beta in hyperparameters["betas"]):
            raise RungError(f"Adam: betas={hyperparameters['betas']}", fix="each from 0 to below 1")
        if hyperparameters["eps"] < 0 or hyperparameters["weight_decay"] < 0:
            raise RungError("Adam: eps and weight_decay must not be negative")

    def _update(self, group: Group, lr: Tensor, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        beta1, beta2 = group["betas"]
        t = (self.step_count + 1).astype("f64")
        step_size = lr / (1 - beta1**t)
        root = (1 - beta2**t).sqrt()
        kept = 1 - lr * group["weight_decay"]
        for p, grad in pairs:
            kind = accumulator(p.dtype)
            g = -grad.astype(kind) if group["maximize"] else grad.astype(kind)
            old = p.detach().astype(kind)
            if group["weight_decay"] != 0 and self.decoupled:
                old = old * kept.astype(kind)
            elif group["weight_decay"] != 0:
                g = g + group["weight_decay"] * old
            m, v = self._moments(p, g, beta1, beta2)
            below = v.sqrt() / root.astype(kind) + group["eps"]
            p.assign(old + (-step_size).astype(kind) * m / below)

    def _moments(self, p: Tensor, g: Tensor, beta1: float, beta2: float) -> tuple[Tensor, Tensor]:
        state = self.state[id(p)]
        before, square = state["exp_avg"], state["exp_avg_sq"]
        m = before + (1 - beta1) * (g - before) if beta1 > 0.5 else g - (g - before) * beta1
        v = square * beta2 + (1 - beta2) * g * g
        before.assign(m)
        square.assign(v)
        return m, v


class AdamW(Adam):
    """Adam whose weight decay multiplies p by 1 - lr * weight_decay, and does not pass through the
    moments (Loshchilov and Hutter, 2017)."""

    decoupled = True

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas, eps, weight_decay, maximize)
