"""Optimizers that know matrices: Adafactor and Muon; and Lion, which knows signs alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from rung.core import dtype as dt
from rung.core.errors import RungError, ShapeError
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
from rung.tensor.reductions import norm
from rung.tensor.tensor import Tensor

_EPSILON: Final = {dt.float16: 2.0**-10, dt.bfloat16: 2.0**-7, dt.float32: 2.0**-23}
_NEWTON_SCHULZ: Final = (3.4445, -4.7750, 2.0315)
"""Coefficients by Keller Jordan: https://kellerjordan.github.io/posts/muon/"""


class Adafactor(Optimizer):
    """The second moment of a matrix is kept as the means of its rows and of its columns alone
    (Shazeer and Stern, 2018): p -= max(eps2, rms(p)) min(lr, 1 / sqrt(t)) u / max(1, rms(u) / d)
    with u = g / sqrt(row column / mean(row)).

    Semantics are those of `torch.optim.Adafactor`: `eps` is (eps1, eps2), eps1 None for the
    epsilon of the dtype; `beta2_decay` is the power of t by which the averages forget."""

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-2,
        beta2_decay: float = -0.8,
        eps: tuple[float | None, float] = (None, 1e-3),
        d: float = 1.0,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            beta2_decay=beta2_decay,
            eps=eps,
            d=d,
            weight_decay=weight_decay,
            maximize=maximize,
        )

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        if hyperparameters["beta2_decay"] > 0:
            raise RungError(
                f"Adafactor: beta2_decay={hyperparameters['beta2_decay']}", fix="at most 0"
            )
        require_range("Adafactor", weight_decay=hyperparameters["weight_decay"])
        require_range("Adafactor", low=1.0, d=hyperparameters["d"])

    def _new_state(self, group: Group, p: Tensor) -> dict[str, Tensor]:
        kind = dt.accumulator(p.dtype)
        if p.ndim < 2:
            return {"variance": filled(p.shape, kind)}
        *lead, rows, columns = p.shape
        return {
            "row_var": filled((*lead, rows, 1), kind),
            "col_var": filled((*lead, 1, columns), kind),
        }

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        t = (count + 1).astype("f64")
        forgotten = t ** group["beta2_decay"]
        rho = e.minimum(lr, 1 / t.sqrt())
        floor = group["eps"][1]
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad, lr * group["weight_decay"])
            kind = old.dtype
            small = group["eps"][0]
            small = _EPSILON.get(p.dtype, 2.0**-52) if small is None else small
            size = _rms(p.detach().astype(kind)).astype("f64")
            alpha = e.maximum(size, floor) * rho
            estimate = self._estimate(self.state[p], g, forgotten.astype(kind), small)
            update = e.maximum(estimate, small * small).rsqrt() * g
            below = e.maximum(_rms(update) / group["d"], 1.0)
            p.assign(old - (alpha / below.astype("f64")).astype(kind) * update)

    def _estimate(
        self, state: Mapping[str, Tensor], g: Tensor, weight: Tensor, small: float
    ) -> Tensor:
        """The second moment of every element, as far as it is known."""
        if "variance" in state:
            variance = state["variance"]
            variance.assign(variance + weight * (g * g - variance))
            return variance.detach()
        rows, columns = state["row_var"], state["col_var"]
        square = g * g
        rows.assign(rows + weight * (square.mean(-1, keepdims=True) - rows))
        columns.assign(columns + weight * (square.mean(-2, keepdims=True) - columns))
        return rows * columns / e.maximum(rows.mean(-2, keepdims=True), small)


def _rms(x: Tensor) -> Tensor:
    return norm(x.flatten()) / math.sqrt(max(x.size, 1))


class Muon(Optimizer):
    """Momentum made orthogonal by Newton–Schulz steps, for the matrices inside a network
    (Jordan et al., 2024); give other parameters to AdamW.

    As `torch.optim.Muon`, in bf16: `adjust_lr_fn` is "original" (None; the rate times
    sqrt(max(1, rows / columns))) or "match_rms_adamw" (0.2 sqrt(max(rows, columns)))."""

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = _NEWTON_SCHULZ,
        eps: float = 1e-7,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov,
            ns_coefficients=ns_coefficients,
            eps=eps,
            ns_steps=ns_steps,
            adjust_lr_fn=adjust_lr_fn,
        )

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        names = ("weight_decay", "momentum", "eps")
        require_range("Muon", **{n: hyperparameters[n] for n in names})
        if hyperparameters["adjust_lr_fn"] not in (None, "original", "match_rms_adamw"):
            raise RungError(
                f"Muon: adjust_lr_fn={hyperparameters['adjust_lr_fn']!r}",
                fix='give "original" or "match_rms_adamw"',
            )

    def _new_state(self, group: Group, p: Tensor) -> dict[str, Tensor]:
        if p.ndim != 2:
            raise ShapeError(
                f"Muon: a parameter {p._type} is no matrix", fix="give such ones to AdamW"
            )
        return {"momentum_buffer": filled(p.shape, dt.accumulator(p.dtype))}

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad, lr * group["weight_decay"])
            buffer = self.state[p]["momentum_buffer"]
            buffer.assign(lerp(buffer, g, 1 - group["momentum"]))
            update = lerp(g, buffer, group["momentum"]) if group["nesterov"] else buffer.detach()
            turned = _orthogonal(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
            rate = (lr * _adjustment(group["adjust_lr_fn"], p.shape)).astype(old.dtype)
            p.assign(old - rate * turned.astype(old.dtype))


def _adjustment(name: str | None, shape: tuple[int, ...]) -> float:
    rows, columns = shape
    if name == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1.0, rows / columns))


def _orthogonal(
    x: Tensor, coefficients: tuple[float, float, float], num_steps: int, eps: float
) -> Tensor:
    """Nearly u vᵀ of the singular value decomposition of x, bf16: sums are made in f32, results of
    each product rounded."""
    a, b, c = coefficients
    tall = x.shape[0] > x.shape[1]
    y = x.astype("bf16")
    y = y.mT if tall else y
    length = norm(y.astype("f32").flatten()).astype("bf16")
    y = y / e.maximum(length, eps)
    for _ in range(num_steps):
        wide = y.astype("f32")
        gram = (y @ y.mT).astype("f32")
        step = (b * gram + c * (gram @ gram)).astype("bf16").astype("f32")
        y = (a * wide + step @ wide).astype("bf16")
    return y.mT if tall else y


class Lion(Optimizer):
    """p -= lr (sign(beta1 m + (1 - beta1) g) + weight_decay p); m = beta2 m + (1 - beta2) g
    (Chen et al., 2023, "Symbolic discovery of optimization algorithms")."""

    slots = ("exp_avg",)

    def __init__(
        self,
        params: Params,
        lr: Rate = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        super().__init__(params, lr, betas=betas, weight_decay=weight_decay, maximize=maximize)

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        beta1, beta2 = hyperparameters["betas"]
        require_range("Lion", high=1.0, beta1=beta1, beta2=beta2)
        require_range("Lion", weight_decay=hyperparameters["weight_decay"])

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        beta1, beta2 = group["betas"]
        for p, grad in pairs:
            old, g = in_accumulator(group, p, grad, lr * group["weight_decay"])
            average = self.state[p]["exp_avg"]
            direction = (average * beta1 + (1 - beta1) * g).sign()
            average.assign(average * beta2 + (1 - beta2) * g)
            p.assign(old - lr.astype(old.dtype) * direction)
