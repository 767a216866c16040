"""A trace: what jit records while it runs a function once.

A tensor from outside that is read becomes an input that every call reads anew (capture by
reference); one that is assigned becomes an output that every call writes back. So does an argument,
for which a stand-in is handed to the function.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rung.ir.node import Value
from rung.ir.types import TensorType
from rung.tensor.leaf import Placeholder, detached, leaf_value

if TYPE_CHECKING:
    from rung.tensor.state import TensorState
    from rung.tensor.tensor import Tensor

Guard = tuple[Callable[[], Hashable], Hashable, str]
"""(what to read before each call, what it was while tracing, how to name it)."""


@dataclass(slots=True, eq=False)
class Argument:
    """A tensor among the arguments: the one given, its number, and what the function gets for it.
    `grad_read`: the function has looked at its `.grad`. `met`: it has also come by the tensor given
    from outside."""

    given: TensorState
    number: int
    holder: Placeholder
    tensor: Tensor
    grad_read: bool = False
    met: bool = False


class Trace:
    """The tensors that a function under trace reads and writes outside itself."""

    __slots__ = (
        "arguments", "captured", "dynamic", "grads", "guards", "inputs", "name", "overlay",
        "stand_ins", "tracked", "written",
    )  # fmt: skip

    def __init__(self, name: str, dynamic: bool = True) -> None:
        self.name = name
        self.dynamic = dynamic
        self.arguments: dict[int, Argument] = {}
        self.stand_ins: dict[int, Argument] = {}
        self.captured: dict[int, TensorState] = {}
        self.inputs: dict[int, Value] = {}
        self.overlay: dict[int, Value] = {}
        self.written: dict[int, TensorState] = {}
        self.grads: dict[int, tuple[TensorState, Tensor | None]] = {}
        self.guards: list[Guard] = []
        self.tracked = False

    def add_argument(self, given: TensorState, number: int, tensor: Tensor) -> None:
        """`tensor` stands for argument `number`, which is `given` in this call."""
        holder = Placeholder(self.name)
        tensor._value = leaf_value(holder, given._type)
        tensor._grad = given._grad
        found = Argument(given, number, holder, tensor)
        self.arguments[id(given)] = self.stand_ins[id(tensor)] = found

    def read(self, tensor: TensorState) -> Value:
        """The value of a tensor from outside at this point of the function."""
        key = id(tensor)
        argument = self.arguments.get(key)
        if argument is not None:
            argument.met = True
            held = argument.tensor._value
            if held is not None:
                return held
            assert argument.tensor._buffer is not None
            return argument.tensor._buffer.leaf()
        found = self.overlay.get(key)
        if found is None:
            found = self.inputs.get(key)
        if found is None:
            found = leaf_value(Placeholder(self.name), tensor._type)
            self.inputs[key] = found
            self.captured[key] = tensor
        return found

    def write(self, tensor: TensorState, value: Value, tracked: bool = False) -> None:
        """The function puts `value` into a tensor from outside; `tracked`: gradients go through
        it."""
        self.tracked = self.tracked or tracked
        argument = self.arguments.get(id(tensor))
        if argument is not None:
            argument.met = True
            argument.tensor._value, argument.tensor._buffer = detached(value), None
            return
        self.overlay[id(tensor)] = detached(value)
        self.written[id(tensor)] = tensor

    def get_grad(self, tensor: TensorState) -> Tensor | None:
        """`tensor.grad` at this point of the function."""
        argument = self.stand_ins.get(id(tensor)) or self.arguments.get(id(tensor))
        if argument is not None:
            argument.grad_read = True
            argument.met = argument.met or argument.tensor is not tensor
            return argument.tensor._grad
        if tensor._trace is self:
            return tensor._grad
        known = self.grads.get(id(tensor))
        if known is not None:
            return known[1]
        grad = tensor._grad
        self.guards.append((lambda: type_of(tensor._grad), type_of(grad), "whether .grad is set"))
        self.grads[id(tensor)] = (tensor, grad)
        return grad

    def set_grad(self, tensor: TensorState, grad: Tensor | None) -> None:
        """The function sets `tensor.grad`."""
        argument = self.arguments.get(id(tensor))
        if argument is not None:
            argument.met = True
            argument.tensor._grad = grad
            return
        self.grads[id(tensor)] = (tensor, grad)


def type_of(tensor: TensorState | None) -> TensorType | None:
    """The type of a tensor, None for none."""
    return None if tensor is None else tensor._type
