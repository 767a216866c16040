"""The kernels that compute an op at once, against the references: every case of every op, large
arrays, operands of any strides, which must stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from op_cases import Case, cases, draw, rng_of, type_of

from rung.core import dtype as dt
from rung.core.errors import IndexingError
from rung.ir.node import make_graph
from rung.ir.op import Array, Op
from rung.ir.types import TensorType
from rung.ops.broadcast import ShapeAttrs, broadcast_to, reduce_sum
from rung.ops.check import RangeAttrs, check_range
from rung.ops.contraction import DotAttrs, dot_general
from rung.ops.convolution import ConvAttrs, conv
from rung.ops.cumulative import ScanAttrs
from rung.ops.cumulative import cumulative_sum as cumsum
from rung.ops.eager import blas
from rung.ops.families import ReduceAttrs, is_narrow
from rung.ops.pooling import PutAttrs, WindowAttrs, window_argmax, window_max, window_put
from rung.ops.reduction import reduce_max
from rung.ops.sorting import TopAttrs, top_k
from rung.ops.table import RECORDS
from tests.levels import Truth
from tests.random_graphs import RandomGraph

every_op = pytest.mark.parametrize("op", RECORDS, ids=lambda op: op.name)
PAIRED = ("window_argmax", "window_take", "window_put", "check_range")
"""Ops whose operands belong together."""
ROUNDED = (
    "reduce_sum", "reduce_prod", "cumulative_sum", "cumulative_prod", "dot_general", "conv",
    "window_sum", "window_put", "scatter_add", "scatter_prod", "euclidean_norm", "softmax",
)  # fmt: skip
"""Ops that add up or multiply terms in an order of their own."""
IN_DOUBLE = (
    "exp", "exp2", "expm1", "log", "log1p", "log2", "log10", "sin", "cos", "tan", "asin", "acos",
    "atan", "cosh", "tanh", "power", "atan2", "logaddexp", "erf", "normal_cdf",
)  # fmt: skip
"""Functions that NumPy's f32 is not accurate enough for."""
WITHOUT: dict[str, str] = {
    "scan": "its body is run op by op",
    "while_loop": "its body is run op by op",
    "switch": "its body is run op by op",
    "after": "hands its operands on",
}
"""Ops without kernels, and why."""


def kernel_of(case: Case) -> Callable[..., Array | tuple[Array, ...]] | None:
    """The kernel for the types of a case."""
    if case.op.eager is None:
        return None
    _, results = case.build()
    return case.op.eager(case.attrs, case.types, [v.type for v in results])


# ---- layouts of operands


def transposed(a: Array) -> Array:
    """The dims from the last to the first in memory."""
    return np.ascontiguousarray(a.T).T


def stepped(a: Array) -> Array:
    """Every second element of larger memory, along each dim."""
    whole = np.zeros([2 * n + 1 for n in a.shape], a.dtype)
    view = whole[tuple(slice(1, 2 * n + 1, 2) for n in a.shape)]
    view[...] = a
    return view


def backwards(a: Array) -> Array:
    """Strides below 0."""
    place = (slice(None, None, -1),) * a.ndim
    return np.ascontiguousarray(a[place])[place]


def repeated(a: Array) -> Array:
    """The first element along the first dim, for all."""
    return np.broadcast_to(a[:1], a.shape)


def of_arrays(layout: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """The layout of what has dims."""
    return lambda a: layout(a) if a.ndim else np.array(a)


LAYOUTS = tuple(map(of_arrays, (np.array, transposed, stepped, backwards, repeated)))
REPEATED = LAYOUTS[-1]


# ---- comparison


def check(case: Case, kernel: Callable[..., Array | tuple[Array, ...]]) -> None:
    """The kernel on the operands, which it cannot write to, against the reference."""
    before = [a.copy() for a in case.operands]
    for a in case.operands:
        a.flags.writeable = False
    with np.errstate(all="ignore"):
        made = kernel(*case.operands)
    wanted = case.ref()
    assert isinstance(made, tuple) == (len(wanted) > 1), f"{case}: gives {type(made)}"
    outputs = made if isinstance(made, tuple) else (made,)
    assert len(outputs) == len(wanted), case
    for ours, theirs in zip(outputs, wanted, strict=True):
        assert isinstance(ours, np.ndarray), f"{case}: gives a {type(ours).__name__}"
        assert type_of(ours) == type_of(theirs), f"{case}: gives {type_of(ours)}"
    for a, b in zip(case.operands, before, strict=True):
        assert a.tobytes() == b.tobytes(), f"{case} changed an operand"
    rounded = case.op.name in ROUNDED + IN_DOUBLE and outputs[0].dtype.kind == "f"
    if not rounded:
        for ours, theirs in zip(outputs, wanted, strict=True):
            same_bits(case, ours, theirs)
        return
    params, results = case.build()
    graph = make_graph(case.op.name, params, results)
    truth = Truth(RandomGraph(0, graph, tuple(map(np.array, case.operands)), {}, {}))
    assert not truth.check("eager", [np.array(o) for o in outputs]), case
    if case.op.name in IN_DOUBLE and outputs[0].dtype == np.float32:
        exact = replace(case, operands=tuple(a.astype(np.float64) for a in case.operands))
        check_accuracy(case, outputs[0], exact.ref()[0])


def same_bits(case: Case, ours: Array, theirs: Array) -> None:
    """Equal, zeros in their sign too where they are no choice."""
    equal = (ours == theirs) | ((ours != ours) & (theirs != theirs))
    assert equal.all(), f"{case}: {ours[~equal][:5]} is not {theirs[~equal][:5]}"
    choice = case.op.name in ("maximum", "minimum", "reduce_max", "reduce_min", "window_max")
    if ours.dtype.kind == "f" and not choice and case.op.family != "sorting":
        zero = theirs == 0
        assert (np.signbit(ours) == np.signbit(theirs))[zero].all(), f"{case}: sign of a zero"


def check_accuracy(case: Case, ours: Array, exact: Array) -> None:
    """Within one unit in the last place."""
    with np.errstate(all="ignore"):
        step = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
        error = np.abs(ours.astype(np.float64) - exact) / step
        fine = (error <= 1) | ~np.isfinite(exact) | (np.abs(exact) > 3.4e38)
        absolute = case.op.name == "normal_cdf"
        fine |= absolute & (np.abs(ours - exact) <= 2.0**-22)
    assert fine.all(), f"{case}: {ours[~fine][:3]} is not {exact[~fine][:3]}"


# ---- cases of the records


@every_op
def test_kernel_gives_what_the_reference_gives(op: Op):
    checked = 0
    for case in cases(op):
        kernel = kernel_of(case)
        if kernel is None:
            continue
        for layout in LAYOUTS:
            if layout is REPEATED and (op.name in PAIRED or not case.drawn):
                continue
            operands = tuple(map(layout, case.operands))
            check(replace(case, operands=operands), kernel)
            checked += 1
    assert checked or op.eager is None or op.samples is None, f"{op.name}: no case has a kernel"


@every_op
def test_ops_without_kernels_say_why(op: Op):
    """Every primitive op has kernels, for all that is not of 16-bit floats; others have a body, or
    a reason."""
    if op.host or op.decompose is not None or op.name in WITHOUT:
        return
    assert op.eager is not None, f"{op.name}: has no kernel"
    for case in cases(op):
        if not any(is_narrow(a.dtype) for a in case.operands):
            assert kernel_of(case) is not None, f"{case}: has no kernel"


def test_the_list_of_ops_without_kernels_is_true():
    names = {op.name for op in RECORDS if op.eager is None and not op.host and not op.decompose}
    assert set(WITHOUT) <= names


# ---- large arrays


def filled(op: Op, *types: TensorType) -> tuple[Array, ...]:
    rng = rng_of(op)
    return tuple(draw(rng, t, op) for t in types)


elementwise_ops = pytest.mark.parametrize(
    "op",
    [op for op in RECORDS if op.family == "elementwise" and op.eager and op.arity != 0],
    ids=lambda op: op.name,
)


@elementwise_ops
def test_many_elements(op: Op):
    """More than a kernel handles as few."""
    samples = {tuple(t.dtype for t in c.types): c for c in cases(op) if c.types}
    for dtypes, case in samples.items():
        if any(d.bits == 16 and d.is_float for d in dtypes):
            continue
        large = replace(
            case, operands=filled(op, *(TensorType(d, (37, 113)) for d in dtypes)), drawn=True
        )
        kernel = kernel_of(large)
        assert kernel is not None
        for layout in LAYOUTS:
            check(replace(large, operands=tuple(map(layout, large.operands))), kernel)


def large_cases() -> Iterator[Case]:
    f32 = dt.float32
    for d in (f32, dt.float64, dt.int32):
        for shape in ((5000,), (70, 90), (3, 700, 5), (600, 3, 9), (4, 3, 5, 130), (2000, 1, 3)):
            for bits in range(1, 2 ** len(shape)):
                dims = tuple(k for k in range(len(shape)) if bits >> k & 1)
                for op in (reduce_sum, reduce_max):
                    types = [TensorType(d, shape)]
                    yield Case(op, filled(op, *types), ReduceAttrs(dims), True)
        x = filled(broadcast_to, TensorType(d, (90, 1)))
        yield Case(broadcast_to, x, ShapeAttrs((3, 90, 70)), True)
        x = filled(broadcast_to, TensorType(d, ()))
        yield Case(broadcast_to, x, ShapeAttrs((3, 90, 70)), True)
        yield Case(cumsum, filled(cumsum, TensorType(d, (5, 999))), ScanAttrs(1), True)
    products = (
        ((5000,), (5000,), DotAttrs(contract=((0,), (0,)))),
        ((3, 5003), (5003, 20), DotAttrs(contract=((1,), (0,)))),
        ((5003, 20), (5003,), DotAttrs(contract=((0,), (0,)))),
        ((9, 70), (70, 33), DotAttrs(contract=((1,), (0,)))),
        ((9, 8, 70), (33, 70), DotAttrs(contract=((2,), (1,)))),
        ((2, 9, 4, 8), (2, 6, 4, 8), DotAttrs(((0, 2), (0, 2)), ((3,), (3,)))),
        ((9, 8, 7), (7, 3, 8), DotAttrs(contract=((1, 2), (2, 0)))),
        ((6, 7), (6,), DotAttrs(contract=((0,), (0,)))),
        ((6,), (6, 7), DotAttrs(contract=((0,), (0,)))),
        ((2, 3, 30, 4), (2, 3, 30, 4), DotAttrs(
            ((0, 1), (0, 1)), ((3,), (3,)), (((0, 2), (1, 2), 0),))),
        ((2, 30, 30), (2, 30, 4), DotAttrs(((0,), (0,)), ((2,), (1,)), (((0, 1), (0, 2), 0),))),
        ((2, 30, 30), (2, 30, 4), DotAttrs(((0,), (0,)), ((2,), (1,)), (((0, 1), (1, 1), 0),))),
    )  # fmt: skip
    for d in (f32, dt.float64, dt.int32):
        for a, b, attrs in products:
            types = TensorType(d, a), TensorType(d, b)
            yield Case(dot_general, filled(dot_general, *types), attrs, True)


@pytest.mark.parametrize("case", list(large_cases()), ids=repr)
def test_large_arrays(case: Case):
    kernel = kernel_of(case)
    assert kernel is not None
    for layout in LAYOUTS:
        check(replace(case, operands=tuple(map(layout, case.operands))), kernel)


@pytest.mark.parametrize("turn", [(1, 0, 2, 3), (0, 2, 3, 1), (3, 2, 1, 0)])
def test_sums_of_turned_arrays(turn: tuple[int, ...]):
    """Dense memory whose dims are in another order."""
    x = np.random.default_rng(0).standard_normal((40, 6, 9, 11)).astype(np.float32)
    for dims in ((0,), (1,), (0, 2, 3), (2, 3), (0, 1, 2, 3)):
        given = (x.transpose(turn),)
        case = Case(reduce_sum, given, ReduceAttrs(dims), True)
        kernel = kernel_of(case)
        assert kernel is not None
        check(case, kernel)


def conv_cases() -> Iterator[Case]:
    """The convolutions of small networks and their derivatives."""
    one, two, none = (1, 1), (2, 2), ((0, 0), (0, 0))
    around = ((1, 1), (1, 1))
    for x, w, attrs in (
        ((4, 3, 12, 12), (8, 3, 3, 3), ConvAttrs(one, around, one, one)),
        ((3, 8, 12, 12), (8, 8, 3, 3), ConvAttrs(two, around, one, one)),
        ((4, 8, 6, 6), (5, 8, 4, 4), ConvAttrs(one, ((2, 2), (2, 2)), one, two)),
        ((8, 4, 12, 12), (6, 4, 12, 12), ConvAttrs(one, around, one, one)),
        ((3, 4, 12, 12), (8, 4, 6, 6), ConvAttrs(one, around, two, one)),
        ((4, 8, 4, 4), (1, 8, 4, 4), ConvAttrs(one, none, one, one)),
        ((4, 8, 5, 7), (6, 8, 1, 1), ConvAttrs(one, none, one, one)),
        ((4, 8, 5, 7), (8, 1, 3, 3), ConvAttrs(one, around, one, one, 8)),
        ((4, 8, 9, 9), (6, 8, 2, 2), ConvAttrs(one, ((-1, -2), (-2, 0)), one, one)),
    ):
        for d in (dt.float32, dt.float64):
            yield Case(conv, filled(conv, TensorType(d, x), TensorType(d, w)), attrs, True)


@pytest.mark.parametrize("case", list(conv_cases()), ids=repr)
def test_convolutions(case: Case):
    kernel = kernel_of(case)
    assert kernel is not None
    for layout in LAYOUTS:
        check(replace(case, operands=tuple(map(layout, case.operands))), kernel)


@pytest.mark.parametrize("nan", [False, True])
@pytest.mark.parametrize("padding", [0, 1])
def test_pooling_with_ties(padding: int, nan: bool):
    """The first of equal maxima; NaN where there is one."""
    rng = np.random.default_rng(padding)
    x = rng.integers(0, 3, (2, 3, 8, 9)).astype(np.float32)
    if nan:
        x[rng.random(x.shape) < 0.1] = np.nan
    pair = (padding, padding)
    windows = WindowAttrs((3, 2), (2, 2), (pair, (0, 0)), (1, 1), (1, 1))
    top = window_max.ref(windows, (x,))[0]
    position = window_argmax.ref(windows, (x, top))[0]
    put = PutAttrs(**vars(windows), lengths=(8, 9))
    for case in (
        Case(window_max, (x,), windows, False),
        Case(window_argmax, (x, top), windows, False),
        Case(window_put, (top, position), put, False),
    ):
        kernel = kernel_of(case)
        assert kernel is not None
        check(case, kernel)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8, np.bool_])
def test_the_greatest_of_many(dtype):
    """Ties in order, NaN first, rows with fewer numbers than are asked for."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (30, 50)).astype(dtype)
    if dtype is np.float32:
        x[rng.random(x.shape) < 0.02] = np.nan
        x[3], x[4, 1:], x[5] = -np.inf, -np.inf, np.nan
    if dtype is np.int32:
        x[3] = np.iinfo(np.int32).min
    for k in (1, 3, 7):
        for shape in (x.shape, (5, 6, 50)):
            case = Case(top_k, (x.reshape(shape),), TopAttrs(k, len(shape) - 1), False)
            kernel = kernel_of(case)
            assert kernel is not None
            for layout in LAYOUTS[:-1]:
                check(replace(case, operands=tuple(map(layout, case.operands))), kernel)


# ---- errors, and products of what does not count


@pytest.mark.parametrize("value", [-1, 5, 100])
def test_a_position_out_of_range_is_the_same_error(value: int):
    x = np.array([0, value, 4], np.int64)
    case = Case(check_range, (x,), RangeAttrs(0, 4, "take: index"), False)
    kernel = kernel_of(case)
    assert kernel is not None
    with pytest.raises(IndexingError) as ours:
        kernel(x)
    with pytest.raises(IndexingError) as theirs:
        case.ref()
    assert ours.value.message == theirs.value.message


@pytest.mark.parametrize("bad", [np.inf, np.nan])
@pytest.mark.parametrize("operand", [0, 1])
def test_what_does_not_count_is_not_computed(bad: float, operand: int):
    """A term outside of the domain is nothing, whatever the operands hold there."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((6, 6)).astype(np.float32)
    b = rng.standard_normal((6, 3)).astype(np.float32)
    (a, b)[operand][-1, :] = bad
    for domain in (((0, 0), (0, 1), 0), ((0, 0), (1, 0), 0)):
        case = Case(dot_general, (a, b), DotAttrs(contract=((1,), (0,)), domain=(domain,)), False)
        kernel = kernel_of(case)
        assert kernel is not None
        check(case, kernel)


def test_a_wrong_kernel_is_found():
    """That the comparison can fail."""
    x = np.linspace(0.5, 2, 6, dtype=np.float32)

    def broken(function: Callable[[Array], Array]) -> Callable[..., Array]:
        return lambda x: function(x) * np.float32(1 + 2e-5)

    for name, function in (("exp", np.exp), ("sqrt", np.sqrt)):
        op = next(op for op in RECORDS if op.name == name)
        with pytest.raises(AssertionError):
            check(Case(op, (x,), op.attrs(), True), broken(function))
    total = Case(reduce_sum, (x,), ReduceAttrs((0,)), True)
    with pytest.raises(AssertionError):
        check(total, lambda x: np.asarray(x.sum() * np.float32(1.001)))




# ---- threads of BLAS


def test_blas_gets_its_threads_back():
    """One thread within, all of them in large products there, and afterwards."""
    functions = blas._functions()
    if functions is None:
        pytest.skip("NumPy has another BLAS")
    count, tell = functions
    before = count()
    seen: list[int] = []
    tell(2)
    try:
        with blas.one_thread:
            seen.append(count())
            with blas.one_thread:
                blas.threaded(lambda: seen.append(count()), blas.LARGE)()
                blas.threaded(lambda: seen.append(count()), blas.LARGE - 1)()
            seen.append(count())
        seen.append(count())
        with pytest.raises(ZeroDivisionError), blas.one_thread:
            blas.threaded(lambda: 1 / 0, blas.LARGE)()
        seen.append(count())
    finally:
        tell(before)
    assert seen == [1, 2, 1, 1, 2, 2]
