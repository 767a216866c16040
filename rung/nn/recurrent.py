"""Recurrent networks: layers of `scan`s over time, and their cells.

The products with the input are made for all steps at once; a step of the loop adds that with the
state. Parameter names, the order of the gates and the layout of the states are those of PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

from rung.core.arguments import check_parts
from rung.core.errors import RungError, ShapeError
from rung.nn import init
from rung.nn.module import Module, Parameter
from rung.tensor import functional as f
from rung.tensor.control import scan
from rung.tensor.creation import empty, zeros
from rung.tensor.elementwise import tanh
from rung.tensor.functional import sigmoid
from rung.tensor.operate import as_tensor
from rung.tensor.shapes import concat, stack
from rung.tensor.tensor import Tensor

State = tuple[Tensor, ...]
Step = Callable[[Tensor, Tensor, State], State]
"""(the input's part of the gates, the state's part of the gates, states) -> new states."""


def _plain_step(activation: Callable[[Tensor], Tensor]) -> Step:
    def step(given: Tensor, own: Tensor, states: State) -> State:
        return (activation(given + own),)

    return step


def _lstm_step(given: Tensor, own: Tensor, states: State) -> State:
    """Gates i, f, g, o: c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c')."""
    i, forget, g, o = _parts(given + own, 4)
    cell = sigmoid(forget) * states[1] + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(cell), cell


def _gru_step(given: Tensor, own: Tensor, states: State) -> State:
    """Gates r, z, n: n' = tanh(n + σ(r) n_h), h' = n' + σ(z) (h - n')."""
    (r, z, n), (r_own, z_own, n_own) = _parts(given, 3), _parts(own, 3)
    new = tanh(n + sigmoid(r + r_own) * n_own)
    return (new + sigmoid(z + z_own) * (states[0] - new),)


def _parts(x: Tensor, count: int) -> list[Tensor]:
    size = x.shape[-1] // count
    return [x[..., k * size : (k + 1) * size] for k in range(count)]


NONLINEARITIES: dict[str, Callable[[Tensor], Tensor]] = {"tanh": tanh, "relu": f.relu}


def _nonlinearity(name: str) -> Step:
    if name not in NONLINEARITIES:
        raise RungError(f"RNN: nonlinearity={name!r}", fix='"tanh" or "relu"')
    return _plain_step(NONLINEARITIES[name])


# ---- cells


class _Cell(Module):
    gates: ClassVar[int] = 1
    num_states: ClassVar[int] = 1
    step: Step

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, dtype: object = None
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bias
        wide = self.gates * hidden_size
        self.weight_ih = Parameter(empty((wide, input_size), dtype))
        self.weight_hh = Parameter(empty((wide, hidden_size), dtype))
        self.bias_ih = Parameter(empty(wide, dtype)) if bias else None
        self.bias_hh = Parameter(empty(wide, dtype)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values, evenly spread within ±1 / sqrt(hidden_size)."""
        _draw(self, self.hidden_size)

    def forward(self, x: Any, state: Any = None) -> Any:
        x = as_tensor(x)
        _check_input(type(self).__name__, x, self.input_size, (1, 2))
        shape = (*x.shape[:-1], self.hidden_size)
        states = _states(type(self).__name__, state, self.num_states, shape, x)
        given = f.linear(x, self.weight_ih, self.bias_ih)
        own = f.linear(states[0], self.weight_hh, self.bias_hh)
        made = self.step(given, own, states)
        return made if self.num_states > 1 else made[0]

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, bias={self.bias}"


class RNNCell(_Cell):
    """x[B, I], h[B, H] -> act(x w_ihᵀ + b_ih + h w_hhᵀ + b_hh), [B, H]; without B too. h is zeros
    unless given."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        dtype: object = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype)
        self.step = _nonlinearity(nonlinearity)


class LSTMCell(_Cell):
    """x[B, I], (h[B, H], c[B, H]) -> (h, c) after a step; without B too. The states are zeros
    unless given."""

    gates, num_states, step = 4, 2, staticmethod(_lstm_step)


class GRUCell(_Cell):
    """x[B, I], h[B, H] -> h after a step, [B, H]; without B too. h is zeros unless given."""

    gates, step = 3, staticmethod(_gru_step)


# ---- layers


class _Recurrent(Module):
    gates: ClassVar[int] = 1
    num_states: ClassVar[int] = 1
    step: Step

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype: object = None,
    ) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.num_layers = input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, dropout
        self.bidirectional, self.proj_size = bidirectional, proj_size
        check_parts(type(self).__name__, 1, num_layers=num_layers)
        if not 0 <= dropout <= 1 or not 0 <= proj_size < max(hidden_size, 1):
            raise RungError(
                f"{type(self).__name__}: dropout={dropout}, "
                f"proj_size={proj_size} with hidden_size={hidden_size}"
            )
        width = proj_size or hidden_size
        for layer in range(num_layers):
            inputs = width * (1 + bidirectional) if layer else input_size
            for suffix in self._suffixes(layer):
                self._add(suffix, inputs, width, dtype)
        self.reset_parameters()

    def _add(self, suffix: str, inputs: int, width: int, dtype: object) -> None:
        wide = self.gates * self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (wide, inputs),
            "weight_hh": (wide, width),
        }
        if self.bias:
            shapes |= {"bias_ih": (wide,), "bias_hh": (wide,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        for name, shape in shapes.items():
            setattr(self, f"{name}_{suffix}", Parameter(empty(shape, dtype)))

    def _suffixes(self, layer: int) -> list[str]:
        return [f"l{layer}", f"l{layer}_reverse"][: 1 + self.bidirectional]

    def reset_parameters(self) -> None:
        """Draw new initial values, evenly spread within ±1 / sqrt(hidden_size)."""
        _draw(self, self.hidden_size)

    def forward(self, x: Any, state: Any = None) -> Any:
        name = type(self).__name__
        x = as_tensor(x)
        _check_input(name, x, self.input_size, (2, 3))
        single = x.ndim == 2
        if single:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.swapaxes(0, 1)
        given = state if state is None or not single else _with_batch(state)
        starts = self._starts(name, given, x)
        ends: list[State] = []
        for layer in range(self.num_layers):
            outputs: list[Tensor] = []
            for number, suffix in enumerate(self._suffixes(layer)):
                y, end = self._direction(x, suffix, starts[len(ends)], reverse=number == 1)
                outputs.append(y)
                ends.append(end)
            x = concat(outputs, axis=-1) if len(outputs) > 1 else outputs[0]
            if self.dropout and self.training and layer < self.num_layers - 1:
                x = f.dropout(x, self.dropout)
        final = tuple(stack(list(s), axis=0) for s in zip(*ends, strict=True))
        if single:
            x, final = x.squeeze(1), tuple(s.squeeze(1) for s in final)
        elif self.batch_first:
            x = x.swapaxes(0, 1)
        return x, final if self.num_states > 1 else final[0]

    def _starts(self, name: str, state: Any, x: Tensor) -> list[State]:
        """The first states of each layer and direction."""
        count = self.num_layers * (1 + self.bidirectional)
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: self.num_states]
        shapes = [(count, x.shape[1], w) for w in widths]
        if state is None:
            whole = tuple(zeros(shape, dtype=x.dtype) for shape in shapes)
        else:
            whole = _as_states(name, state, self.num_states)
            for s, shape in zip(whole, shapes, strict=True):
                _check_state(name, s, shape)
        return [tuple(s[k] for s in whole) for k in range(count)]

    def _direction(
        self, x: Tensor, suffix: str, start: State, reverse: bool
    ) -> tuple[Tensor, State]:
        """One layer in one direction: its outputs [T, B, H] and last states."""
        get = lambda name: getattr(self, f"{name}_{suffix}", None)  # noqa: E731
        weight, bias, projection = get("weight_hh"), get("bias_hh"), get("weight_hr")
        given = f.linear(x, get("weight_ih"), get("bias_ih"))

        def step(states: State, part: Tensor) -> tuple[State, Tensor]:
            made = self.step(part, f.linear(states[0], weight, bias), states)
            if projection is not None:
                made = (f.linear(made[0], projection), *made[1:])
            return made, made[0]

        end, outputs = scan(step, start, given, reverse=reverse)
        return outputs, end

    def extra_repr(self) -> str:
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"


class RNN(_Recurrent):
    """x[T, B, I], h[L, B, H] -> (outputs[T, B, H], last h[L, B, H]) of `num_layers` layers.

    [B, T, I] and [B, T, H] with `batch_first`; without B too. With `bidirectional` a second
    direction runs from the end: 2H outputs, 2L states. `dropout` between layers while training.
    h is zeros unless given."""

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: object = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            dtype=dtype,
        )  # fmt: skip
        self.step = _nonlinearity(nonlinearity)


class LSTM(_Recurrent):
    """As `RNN`, of LSTM cells (Hochreiter and Schmidhuber, 1997): the states are (h, c). With
    `proj_size` P, h and the outputs are projected to P features."""

    gates, num_states, step = 4, 2, staticmethod(_lstm_step)


class GRU(_Recurrent):
    """As `RNN`, of gated recurrent units (Cho et al., 2014)."""

    gates, step = 3, staticmethod(_gru_step)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: object = None,
    ) -> None:
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional,
            dtype=dtype,
        )  # fmt: skip


# ---- shared


def _draw(module: Module, hidden_size: int) -> None:
    bound = 1 / math.sqrt(max(hidden_size, 1))
    for p in module.parameters():
        init.uniform_(p, -bound, bound)


def _check_input(name: str, x: Tensor, size: int, ranks: tuple[int, int]) -> None:
    if x.ndim not in ranks or x.shape[-1] != size:
        raise ShapeError(
            f"{name}: the input is {list(x.shape)}",
            fix=f"{ranks[1]} dims ({ranks[0]} without a batch), the last of {size}",
        )


def _states(name: str, state: Any, count: int, shape: tuple[int, ...], x: Tensor) -> State:
    if state is None:
        return tuple(zeros(shape, dtype=x.dtype) for _ in range(count))
    found = _as_states(name, state, count)
    for s in found:
        _check_state(name, s, shape)
    return found


def _as_states(name: str, state: Any, count: int) -> State:
    given = tuple(state) if count > 1 and isinstance(state, tuple | list) else (state,)
    if len(given) != count:
        raise RungError(f"{name}: {len(given)} states are given", fix=f"it has {count}")
    return tuple(as_tensor(s) for s in given)


def _check_state(name: str, s: Tensor, shape: tuple[int, ...]) -> None:
    if s.shape != shape:
        raise ShapeError(f"{name}: a state is {list(s.shape)}, not {list(shape)}")


def _with_batch(state: Any) -> Any:
    if isinstance(state, tuple | list):
        return tuple(as_tensor(s).unsqueeze(1) for s in state)
    return as_tensor(state).unsqueeze(1)
