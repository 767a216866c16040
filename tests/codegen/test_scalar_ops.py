"""Every element-wise op on every dtype, in scalar loops and in vector loops with a masked end."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import Compiled, kernel, loop, vector

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.ir.expr import Expr, Read, Var, const, iadd, imul, read, transform, var
from rung.ir.op import Attrs, Op
from rung.ir.types import TensorType
from rung.kernel.loop import Block, Buffer, For, Stmt, Store
from rung.ops import elementwise, random, transcendental

_LANES = 16
_APPROXIMATE = {op.name for op in transcendental.RECORDS}
_TOLERANCE = {"f16": 2e-3, "bf16": 2e-2, "f32": 3e-6, "f64": 1e-12}


def _values(dtype: DType, op: Op, n: int, rng: np.random.Generator) -> np.ndarray:
    if dtype.is_bool:
        return rng.integers(0, 2, n).astype(bool)
    if dtype.is_integer:
        return rng.integers(-9 if dtype.kind == "i" else 0, 100, n).astype(dtype.numpy)
    low, high = op.facts.domain
    return rng.uniform(low, high, n).astype(dtype.numpy)


def _cases(op: Op) -> dict[tuple[tuple[DType, ...], Attrs], list[np.ndarray]]:
    """Operands for each combination of dtypes and attributes: edge values, then random ones."""
    rng = np.random.default_rng(3)
    found: dict[tuple[tuple[DType, ...], Attrs], list[np.ndarray]] = {}
    assert op.samples is not None
    for sample in op.samples(rng):
        dtypes = tuple(
            x.dtype if isinstance(x, TensorType) else dt.as_dtype(x.dtype) for x in sample.operands
        )
        key = (dtypes, sample.attrs)
        edges = [x.reshape(-1) for x in sample.operands if isinstance(x, np.ndarray)]
        if key not in found:
            found[key] = [_values(d, op, 21, rng) for d in dtypes]
        if edges:
            pairs = zip(edges, found[key], strict=True)
            found[key] = [np.concatenate([e, old]) for e, old in pairs]
    return found


def _on_buffers(body: Expr, buffers: list[Buffer], axis: Expr) -> Expr:
    def leaf(x: Expr) -> Expr | None:
        if isinstance(x, Read):
            return read(buffers[x.source], (axis,))
        return None

    return transform(body, leaf)


def _vector_phases(axis: Var, n: int, store: object) -> list[Stmt]:
    """Whole vectors in a loop, then one vector with lanes that are off."""
    lane = var("v", _LANES)
    whole = n // _LANES
    outer = var("o", whole)
    stmts: list[Stmt] = []
    if whole:
        stmts.append(loop(outer, vector(lane, store(iadd(imul(outer, _LANES), lane)))))
    if n % _LANES:
        rest = var("t", n % _LANES)
        body = Block((store(iadd(rest, whole * _LANES)),))
        stmts.append(For(rest, const(n % _LANES), body, "vector", _LANES))
    return stmts


@pytest.mark.parametrize(
    "op",
    (*elementwise.RECORDS, *transcendental.RECORDS, *random.RECORDS[:2]),
    ids=lambda op: op.name,
)
def test_equals_reference(op: Op) -> None:
    params: list[Buffer] = []
    arrays: list[np.ndarray] = []
    phases: list[Stmt] = []
    checks: list[tuple[str, np.ndarray, np.ndarray]] = []
    for number, ((dtypes, attrs), operands) in enumerate(_cases(op).items()):
        n = len(operands[0])
        types = [TensorType(d, (n,)) for d in dtypes]
        (result,) = op.type(attrs, types)
        form = op.axes(attrs, types)
        ins = [Buffer(f"x{number}_{i}", d, (n,), "input") for i, d in enumerate(dtypes)]
        params += ins
        arrays += operands
        with np.errstate(all="ignore"):
            (expected,) = op.ref(attrs, operands)
        for how in ("scalar", "vector"):
            out = Buffer(f"{how}{number}", result.dtype, (n,), "output")
            made = np.zeros(n, result.dtype.numpy)
            params.append(out)
            arrays.append(made)

            def store(i: Expr, ins=ins, out=out, body=form.bodies[0]) -> Store:
                return Store(out, (i,), _on_buffers(body, ins, i))

            axis = var("i", n)
            is_scalar = how == "scalar"
            phases += [loop(axis, store(axis))] if is_scalar else _vector_phases(axis, n, store)
            checks.append((f"{op.name} {dtypes} {attrs} {how}", made, expected))
    Compiled(kernel(params, *phases))(*arrays)
    for label, made, expected in checks:
        _compare(label, made, expected, op)


def _compare(label: str, made: np.ndarray, expected: np.ndarray, op: Op) -> None:
    if op.name not in _APPROXIMATE or expected.dtype.kind in "biu":
        same = made == expected
        if expected.dtype.kind not in "biu":
            same |= (made != made) & (expected != expected)
        assert same.all(), (label, np.nonzero(~same)[0], made[~same], expected[~same])
        return
    tolerance = _TOLERANCE[dt.as_dtype(expected.dtype).name]
    wide, want = made.astype(np.float64), expected.astype(np.float64)
    tiny = float(np.finfo(np.float32).tiny) if expected.dtype.itemsize < 8 else 1e-300
    if op.name == "normal_cdf":  # its error is one relative to 1
        tiny = tolerance
    np.testing.assert_allclose(wide, want, rtol=tolerance, atol=tiny, err_msg=label)
