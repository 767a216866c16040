"""Holding gradients within bounds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rung.core.arguments import described
from rung.core.errors import ArgumentError, GradientError
from rung.nn.module import Module
from rung.tensor import elementwise as e
from rung.tensor.autograd import no_grad
from rung.tensor.creation import array
from rung.tensor.reductions import norm
from rung.tensor.shapes import stack
from rung.tensor.state import TensorState
from rung.tensor.tensor import Tensor

Params = Module | Tensor | Iterable[Tensor]


def _with_gradient(params: Params) -> list[Tensor]:
    if isinstance(params, Module):
        given: list[Any] = list(params.parameters())
    else:
        given = [params] if isinstance(params, TensorState) else list(params)
    for p in given:
        if not isinstance(p, TensorState):
            raise ArgumentError(f"params has {described(p)}", fix="give model.parameters()")
    return [p for p in given if p.grad is not None]


def _total(gradients: Iterable[Tensor]) -> Tensor:
    return norm(stack([norm(g.flatten().astype("f32")) for g in gradients]))


def clip_grad_norm_(params: Params, max_norm: float, error_if_nonfinite: bool = False) -> Tensor:
    """Scale all gradients so that their norm together is at most `max_norm`; returns the norm from
    before, f32[]. Also inside a jitted step (there without `error_if_nonfinite`).

    The formula is PyTorch's: each is multiplied by min(1, max_norm / (norm + 1e-6))."""
    chosen = _with_gradient(params)
    with no_grad():
        if not chosen:
            return array(0.0)
        total = _total([p.grad for p in chosen])  # type: ignore[misc]
        if error_if_nonfinite and not total.isfinite():
            raise GradientError(f"clip_grad_norm_: the norm of the gradients is {total.item()}")
        scale = e.minimum(max_norm / (total + 1e-6), 1.0)
        for p in chosen:
            assert p.grad is not None
            p.grad = p.grad * scale.astype(p.grad.dtype)
        return total


def clip_grad_value_(params: Params, max_value: float) -> None:
    """Hold every element of the gradients within [-max_value, max_value]."""
    with no_grad():
        for p in _with_gradient(params):
            assert p.grad is not None
            p.grad = e.clip(p.grad, -max_value, max_value)


def grad_norm(params: Params) -> Tensor:
    """The norm of all gradients together, f32[]."""
    with no_grad():
        chosen = _with_gradient(params)
        return _total([p.grad for p in chosen]) if chosen else array(0.0)  # type: ignore[misc]
