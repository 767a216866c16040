"""A trace: what jit records while it runs a function once.

A tensor from outside that is read becomes an input that every call reads anew (capture by
reference); one that is assigned becomes an output that every call writes back.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from rung.ir.node import Value
from rung.tensor.leaf import Placeholder, detached, leaf_value

if TYPE_CHECKING:
    from rung.tensor.state import TensorState
    from rung.tensor.tensor import Tensor

Guard = tuple[Callable[[], Hashable], Hashable, str]
"""(what to read before each call, what it was while tracing, how to name it)."""


class Trace:
    """The tensors that a function under trace reads and writes outside itself."""

    __slots__ = ("captured", "grads", "guards", "inputs", "name", "overlay", "written")

    def __init__(self, name: str) -> None:
        self.name = name
        self.captured: dict[int, TensorState] = {}
        self.inputs: dict[int, Value] = {}
        self.overlay: dict[int, Value] = {}
        self.written: dict[int, TensorState] = {}
        self.grads: dict[int, tuple[TensorState, Tensor | None]] = {}
        self.guards: list[Guard] = []

    def read(self, tensor: TensorState) -> Value:
        """The value of a tensor from outside at this point of the function."""
        key = id(tensor)
        found = self.overlay.get(key)
        if found is None:
            found = self.inputs.get(key)
        if found is None:
            found = leaf_value(Placeholder(self.name), tensor._type)
            self.inputs[key] = found
            self.captured[key] = tensor
        return found

    def write(self, tensor: TensorState, value: Value) -> None:
        """The function puts `value` into a tensor from outside."""
        self.overlay[id(tensor)] = detached(value)
        self.written[id(tensor)] = tensor

    def get_grad(self, tensor: TensorState) -> Tensor | None:
        """`tensor.grad` at this point of the function."""
        known = self.grads.get(id(tensor))
        if known is not None:
            return known[1]
        grad = tensor._grad
        self.guards.append((lambda: tensor._grad, grad, "whether .grad is set"))
        self.grads[id(tensor)] = (tensor, grad)
        return grad

    def set_grad(self, tensor: TensorState, grad: Tensor | None) -> None:
        """The function sets `tensor.grad`."""
        self.grads[id(tensor)] = (tensor, grad)
