"""The op that says which positions are valid: what is outside of it is an error of the run.

Ops that read or write at positions hold them inside of the array, so that memory is safe whatever
comes. `check_range` passes positions on as they are and is where an invalid one is found: `ref`
raises the error; a compiled program finds out by `fault`, a number that it looks at once each run.
A position that nobody uses, such as that of a branch not taken, is left out by a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import INTEGERS, DType, as_dtype
from rung.core.errors import GraphError, IndexingError, ShapeError
from rung.core.source import Source
from rung.ir.expr import read
from rung.ir.literal import sub_graphs
from rung.ir.node import Node, Value
from rung.ir.op import Array, Attrs, Cost, LoopForm, Op, Sample
from rung.ir.types import TensorType
from rung.ops.creation import full_like
from rung.ops.eager.indexing import within
from rung.ops.elementwise import bitcast, cast, equal, greater, subtract, where
from rung.ops.families import Types, axis_vars, require_dtype, structured
from rung.ops.reduction import reduce_max


@dataclass(frozen=True)
class RangeAttrs(Attrs):
    """Valid are `low` to `high`, and `ignored` if it is given. `what` and `unit` are words of the
    message: "take: index 7 is out of range for 5 elements"."""

    low: int
    high: int
    what: str
    unit: str = "elements"
    ignored: int | None = None

    def is_valid(self, x: Array) -> Array:
        """Which elements are valid."""
        valid = (x >= _held(self.low, x)) & (x <= _held(self.high, x))
        return valid if self.ignored is None else valid | (x == self.ignored)

    def error(self, value: int, source: Source | None = None) -> IndexingError:
        """The error for an element that is not valid."""
        also = "" if self.ignored is None else f", or {self.ignored} to be left out"
        whole = f" for {self.high + 1} {self.unit}" if self.unit else ""
        return IndexingError(
            f"{self.what} {value} is out of range{whole}",
            fix=f"{_plural(self.what.split()[-1])} go from {self.low} to {self.high}{also}",
            source=source,
        )


def _plural(word: str) -> str:
    return {"index": "indices", "class": "classes"}.get(word, f"{word}s")


def _held(bound: int, x: Array) -> int:
    """The nearest number to a bound that the dtype of x has."""
    info = np.iinfo(x.dtype)
    return min(max(bound, int(info.min)), int(info.max))


def _type(attrs: RangeAttrs, types: Types) -> tuple[TensorType, ...]:
    x, *masks = types
    require_dtype("check_range", "x", x, INTEGERS)
    if attrs.high < attrs.low:
        raise GraphError(f"check_range: {attrs.low} to {attrs.high} has no number")
    if len(masks) > 1 or any(m != TensorType(dt.bool_, x.shape) for m in masks):
        raise ShapeError(
            f"check_range: x {x} with masks {masks}", fix="at most one, bool, of the shape of x"
        )
    return (x,)


def _ref(attrs: RangeAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    x, *masks = operands
    valid = attrs.is_valid(x)
    if masks:
        valid = valid | ~masks[0]
    if not valid.all():
        raise attrs.error(int(x[~valid].reshape(-1)[0]))
    return (x.copy(),)


def _checked(attrs: RangeAttrs, *operands: Array) -> Array:
    return _ref(attrs, operands)[0]


def _axes(attrs: RangeAttrs, types: Types) -> LoopForm:
    axes = axis_vars(types[0].shape)
    return LoopForm(axes, (read(0, axes, types[0].dtype),))


def _samples(rng: np.random.Generator) -> Sequence[Sample]:
    attrs = RangeAttrs(0, 6, "index")
    found = [
        Sample((rng.integers(0, 7, size=shape).astype(d.numpy),), attrs)
        for d in INTEGERS
        for shape in ((), (5,), (3, 0), (2, 3))
    ]
    masked = np.array([[-1, 7], [9, -100]], np.int64), np.zeros((2, 2), bool)
    ignored = np.array([-100, 3, 0, 6], np.int64)
    labels = RangeAttrs(0, 6, "label", ignored=-100)
    return [*found, Sample(masked, labels), Sample((ignored,), labels)]


check_range: Op = structured(
    "check_range",
    "indexing",
    "The integers x as they are. One that is not from `low` to `high`, where the mask (if there is "
    "one) is true, is an error.",
    arity=None,
    attrs=RangeAttrs,
    type=_type,
    ref=_ref,
    axes=_axes,
    eager=lambda attrs, ins, outs: within(attrs.low, attrs.high, partial(_checked, attrs)),
    cost=lambda attrs, ins, outs: Cost(0, 0),
    samples=_samples,
    dtypes=INTEGERS,
    elementwise=True,
    blank={"jvp": "not on floats"},
)


def holds_check(node: Node) -> bool:
    """Whether a node is a check, or one of the graphs inside it has one."""
    graphs = sub_graphs(node.attrs)
    return node.op is check_range or any(holds_check(n) for graph in graphs for n in graph.nodes)


# ---- in compiled programs

_UNSIGNED = {d: as_dtype(f"u{d.bits}") for d in INTEGERS if d.kind != "u"}


def fault(attrs: RangeAttrs, inputs: Sequence[Value]) -> Value:
    """A u64 scalar: 0 if all elements are valid, else one that is not, as `fault_error` reads it.

    With low subtracted, modulo 2^bits, all that is not valid is more than high - low: so each
    element takes a subtraction, a comparison, a choice and a maximum."""
    x, *masks = inputs
    dtype = x.dtype
    low, high = (_bound(n, dtype) for n in (attrs.low, attrs.high))
    if masks:
        x = where(masks[0], x, full_like(x, low))
    if attrs.ignored is not None and dt.fits(attrs.ignored, dtype):
        x = where(equal(x, full_like(x, attrs.ignored)), full_like(x, low), x)
    above = subtract(x, full_like(x, low)) if low else x
    if dtype in _UNSIGNED:
        above = bitcast(above, dtype=_UNSIGNED[dtype])
    wrong = where(
        greater(above, full_like(above, high - low)), above, full_like(above, 0)
    )
    most = reduce_max(wrong, dims=tuple(range(len(wrong.shape)))) if wrong.shape else wrong
    return most if most.dtype is dt.uint64 else cast(most, dtype=dt.uint64)


def fault_error(attrs: RangeAttrs, dtype: DType, word: int, source: Source) -> IndexingError:
    """The error that a number from `fault` stands for, not 0, of positions of `dtype`."""
    low = _bound(attrs.low, dtype)
    value = np.array([(word + low) % 2**dtype.bits], np.uint64)
    return attrs.error(int(value.astype(f"u{dtype.itemsize}").view(dtype.numpy)[0]), source)


def _bound(n: int, dtype: DType) -> int:
    return _held(n, np.empty(0, dtype.numpy))


RECORDS = (check_range,)
