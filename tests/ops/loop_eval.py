"""The meaning of a loop form: a NumPy evaluation over its whole iteration space at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rung.core.dtype import as_dtype
from rung.ir.expr import Call, Const, Expr, Read, Var
from rung.ir.op import NO_ATTRS, Array, LoopForm
from rung.ir.types import TensorType
from rung.ops.elementwise import cast_array
from rung.ops.table import OPS

UFUNCS = {
    "add": np.add,
    "multiply": np.multiply,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "logical_and": np.logical_and,
    "logical_or": np.logical_or,
    "bitwise_and": np.bitwise_and,
    "bitwise_or": np.bitwise_or,
    "bitwise_xor": np.bitwise_xor,
}
ARGS = {"argmax": np.argmax, "argmin": np.argmin}


class Evaluator:
    """Evaluates scalar expressions for every point of `space` at once."""

    def __init__(self, space: Sequence[Var], operands: Sequence[Array]) -> None:
        self.shape = tuple(v.extent for v in space)
        grids = np.indices(self.shape, np.int64, sparse=True) if space else ()
        self.known: dict[Expr, Array] = dict(zip(space, grids, strict=True))
        self.operands = operands

    def __call__(self, e: Expr) -> Array:
        found = self.known.get(e)
        if found is None:
            found = self.known[e] = self._compute(e)
            assert found.dtype == e.dtype.numpy, f"{e} is {found.dtype}, not {e.dtype}"
        return found

    def full(self, e: Expr) -> Array:
        """`e` at every point, in the shape of the space."""
        return np.array(np.broadcast_to(self(e), self.shape))

    def _compute(self, e: Expr) -> Array:
        if isinstance(e, Const):
            return np.array(e.value, e.dtype.numpy)
        if isinstance(e, Read):
            return self._read(e)
        assert isinstance(e, Call), f"{e!r} is not in the iteration space"
        args = [self(a) for a in e.args]
        if e.op == "cast":
            return cast_array(args[0], e.dtype)
        if e.op == "bitcast":
            return np.ascontiguousarray(args[0]).view(e.dtype.numpy).reshape(args[0].shape)
        op = OPS[e.op]
        assert op.emit == e.op, f"{e.op} is not a scalar op that code generators know"
        return op.ref(NO_ATTRS, np.broadcast_arrays(*args))[0]

    def _read(self, e: Read) -> Array:
        assert isinstance(e.source, int)
        source = self.operands[e.source]
        assert len(e.index) == source.ndim, f"{e}: operand has {source.ndim} dims"
        index = np.broadcast_arrays(*(self(i) for i in e.index)) if e.index else []
        ok = np.ones((), bool) if e.guard is None else self(e.guard)
        inside = np.ones((), bool)
        for i, n in zip(index, source.shape, strict=True):
            inside = inside & (i >= 0) & (i < n)
        if 0 not in self.shape:
            assert np.all(inside | ~ok), f"{e} reads outside of its operand"
        if source.size == 0:
            return np.zeros(np.broadcast_shapes(*(i.shape for i in index), ok.shape), source.dtype)
        clipped = tuple(np.clip(i, 0, n - 1) for i, n in zip(index, source.shape, strict=True))
        return np.where(ok, source[clipped], np.zeros((), source.dtype))


def evaluate(
    form: LoopForm, operands: Sequence[Array], results: Sequence[TensorType]
) -> list[Array]:
    """The results of a loop form for operand arrays."""
    evaluator = Evaluator((*form.axes, *form.reduce), operands)
    with np.errstate(all="ignore"):
        return [
            _result(form, evaluator, body, operands, type)
            for body, type in zip(form.bodies, results, strict=True)
        ]


def _result(
    form: LoopForm, at: Evaluator, body: Expr, operands: Sequence[Array], type: TensorType
) -> Array:
    elements = at.full(body)
    if form.guard is not None and form.write is None:
        assert form.combine == "add"
        elements = np.where(at.full(form.guard), elements, np.zeros((), elements.dtype))
    if form.write is not None:
        return _written(form, at, elements, operands)
    dims = tuple(range(len(form.axes), len(at.shape)))
    if form.scan is not None:
        ufunc = UFUNCS[str(form.combine)]
        elements = ufunc.accumulate(elements, form.axes.index(form.scan), elements.dtype)
    elif form.combine in ARGS:
        kept = tuple(v.extent for v in form.axes)
        length = int(np.prod([v.extent for v in form.reduce]))
        elements = ARGS[form.combine](elements.reshape(*kept, length), axis=-1)
    elif form.combine is not None:
        ufunc = UFUNCS[form.combine]
        kind = bool if form.combine.startswith("logical") else elements.dtype
        elements = ufunc.reduce(elements, dims, kind)
    else:
        assert not form.reduce
    return cast_array(np.asarray(elements), type.dtype)


def _written(form: LoopForm, at: Evaluator, elements: Array, operands: Sequence[Array]) -> Array:
    assert form.init is not None and form.write is not None
    result = operands[form.init].copy()
    index = tuple(at.full(i) for i in form.write)
    ok = np.ones(at.shape, bool) if form.guard is None else at.full(form.guard)
    inside = np.ones(at.shape, bool)
    for i, n in zip(index, result.shape, strict=True):
        inside &= (i >= 0) & (i < n)
    assert np.all(inside | ~ok), "writes outside of the result"
    places = tuple(i[ok] for i in index)
    if form.combine is None:
        for *place, value in zip(*places, elements[ok], strict=True):
            result[tuple(place)] = value
    else:
        wide = result.astype(elements.dtype)
        UFUNCS[form.combine].at(wide, places, elements[ok])
        result = cast_array(wide, as_dtype(result.dtype))
    return result
