"""Positions and labels out of range: found in every function and style of program, reported with
the line, and nothing is changed by a run that fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.errors import IndexingError
from rung.ir.node import Graph, Value, make_graph, parameter
from rung.ir.passes import run_passes
from rung.ir.types import TensorType
from rung.kernel.interpret import interpret as interpret_kernel
from rung.kernel.plan import FaultMemory
from rung.ops.check import RangeAttrs, check_range, fault_error
from rung.ops.control import ScanAttrs, scan
from rung.ops.creation import array, full, full_like, iota
from rung.ops.elementwise import cast, floor_divide, maximum, minimum, remainder, where
from rung.ops.families import add
from rung.ops.indexing import take
from rung.ops.reduction import argmax
from rung.ops.sorting import argsort
from rung.ops.table import OPS
from rung.rules.pipeline import PIPELINE
from rung.runtime.program import CompiledGraph
from rung.tensor.executor import compiled
from rung.tensor.programs import clear_programs
from tests.generate.indices import FUNCTIONS, check_case, draw, fixed, styles

Array = np.ndarray[Any, Any]
EACH = 2
"""Cases of each function in each style that are interpreted; one of each function in some styles is
compiled."""


# ---- the table: every function in every style


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_style(name: str) -> None:
    number = list(FUNCTIONS).index(name)
    for k, style in enumerate(styles(name, FUNCTIONS[name])):
        cases = [draw(1000 * number + seed, name, style) for seed in range(EACH)]
        for case in cases:
            assert check_case(case, compiled=False) == []
        if (k + number) % 8 == 0:
            assert check_case(cases[0], compiled=True) == []


def test_the_table_has_every_function_of_positions() -> None:
    """What takes positions by one of our own ways of checking them is in the table."""
    words = " ".join(FUNCTIONS)
    missing = [n for n in _functions_of_positions() if n.rstrip("123d") not in words]
    assert not missing


def _functions_of_positions() -> list[str]:
    """Public functions with a parameter that holds positions or labels."""
    named = {"indices", "index", "label", "labels"}
    found = []
    for space in (rung, rung.nn.functional):
        for name in dir(space):
            function = getattr(space, name)
            public = inspect.isfunction(function) and not name.startswith("_")
            if public and named & set(inspect.signature(function).parameters):
                found.append(name)
    left_out = {"select_scatter", "switch"}  # a Python number; brought into range
    return sorted(set(found) - left_out)


def test_the_generator_finds_what_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks that never fail are found, interpreted and compiled, and so are false alarms."""
    drawn = [draw(seed, "take", "jit") for seed in range(99)]
    wrong = next(d for d in drawn if d.wrong is not None)
    right = next(d for d in drawn if d.wrong is None)
    assert not check_case(wrong, compiled=False) and not check_case(right, compiled=False)
    with monkeypatch.context() as patch:
        patch.setattr(RangeAttrs, "is_valid", lambda self, x: np.ones(x.shape, bool))
        assert check_case(wrong, compiled=False)
    with monkeypatch.context() as patch:
        patch.setattr(RangeAttrs, "is_valid", lambda self, x: np.zeros(x.shape, bool))
        assert check_case(right, compiled=False)
    with monkeypatch.context() as patch:
        patch.setattr("rung.kernel.plan.with_faults", lambda graph: (graph, ()))
        rung.configure(cache=False)
        clear_programs()
        assert check_case(wrong, compiled=True)
    clear_programs()
    rung.configure(cache=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_not_taken_is_no_error(name: str) -> None:
    """In a branch that is not taken, by one or by some of many examples, and behind the end of a
    loop of some of them."""
    function = FUNCTIONS[name]
    rng = np.random.default_rng(3)
    xs = [rung.asarray(rng.standard_normal(s).astype(np.float32)) for s in function.operands]
    rows = rng.integers(0, min(function.high, 3) + 1, (3, *function.shape))
    if name == "searchsorted":
        rows = np.stack([rng.permutation(4) for _ in range(3)])
    bad = rows.copy()
    bad[1] = -1000

    def call(i: rung.Tensor) -> rung.Tensor:
        return function.call(fixed(name, i), *xs).astype(rung.float32).sum()

    def taken(i: rung.Tensor) -> rung.Tensor:
        return rung.cond((i > -9).all(), call, lambda i: rung.asarray(-1.0), i)

    def rounds(i: rung.Tensor) -> rung.Tensor:
        return rung.while_loop(
            lambda c: (c[0] < 1) & (c[1] > -9).all(),
            lambda c: (c[0] + 1, c[1] - 1000, c[2] + call(c[1])),
            (rung.asarray(0), i, rung.asarray(0.0)),
        )[2]

    want = [float(call(rung.asarray(i))) for i in rows]
    assert float(taken(rung.asarray(bad[1]))) == -1
    for compile_it in (False, name in ("take", "x[i] = v", "cross_entropy")):
        rung.configure(interpret=not compile_it)
        try:
            found = rung.vmap(taken)(rung.asarray(bad)).numpy()
            np.testing.assert_allclose(found, [want[0], -1, want[2]], rtol=1e-4)
            found = rung.vmap(rounds)(rung.asarray(bad)).numpy()
            np.testing.assert_allclose(found, [want[0], 0, want[2]], rtol=1e-4)
            with pytest.raises(IndexError):
                rung.vmap(lambda i: rung.cond(i.sum() > 10**6, taken, call, i))(
                    rung.asarray(bad)
                ).numpy()
        finally:
            rung.configure(interpret=False)


# ---- state


SIZES = {"on one thread": 8, "on all threads": 40_000}


def _captured(size: int) -> tuple[Callable[[Array], Any], dict[str, rung.Tensor]]:
    w, count = rung.ones(size), rung.zeros(size)

    @rung.jit
    def step(i: rung.Tensor) -> rung.Tensor:
        nonlocal w
        count.assign(count + 1)
        w *= 2.0
        w[i] = -1.0
        return w.sum()

    return step, {"w": w, "count": count}


def _position_from_state(size: int) -> tuple[Callable[[Array], Any], dict[str, rung.Tensor]]:
    """The position is that of a counter after it was updated."""
    x, at = rung.arange(float(size)), rung.zeros(size, dtype=rung.int64)

    @rung.jit
    def step(i: rung.Tensor) -> rung.Tensor:
        nonlocal at
        at += i.max() - 2
        return x[at].sum()

    return step, {"at": at}


def _unread(size: int) -> tuple[Callable[[Array], Any], dict[str, rung.Tensor]]:
    """State that is set to something new, whose memory is used again."""
    x, held = rung.arange(float(size)), rung.zeros(size)

    @rung.jit
    def step(i: rung.Tensor) -> rung.Tensor:
        held.assign(x * i.sum() + x[i].sum())
        return held.sum()

    return step, {"held": held}


def _gradient(size: int) -> tuple[Callable[[Array], Any], dict[str, rung.Tensor]]:
    w = rung.ones(size)
    w.requires_grad = True
    (w * 3).sum().backward()
    assert w.grad is not None

    @rung.jit
    def step(i: rung.Tensor) -> rung.Tensor:
        w.grad = None
        loss = (w * w).sum() + (w[i] ** 2).sum()
        loss.backward()
        return loss.detach()

    return step, {"w": w}


def _in_a_loop(size: int) -> tuple[Callable[[Array], Any], dict[str, rung.Tensor]]:
    """Updates before, in and after a loop whose body fails in its last iteration."""
    w, total, last = rung.ones(size), rung.zeros(size), rung.zeros(size)

    @rung.jit
    def step(i: rung.Tensor) -> rung.Tensor:
        total.assign(total + 1)

        def body(c: rung.Tensor, k: rung.Tensor) -> tuple[rung.Tensor, rung.Tensor]:
            return c + w[k], c

        final, _ = rung.scan(body, total, i)
        w.assign(final * 1.0)
        last.assign(final + 2.0)
        return final.sum()

    return step, {"w": w, "total": total, "last": last}


def _counted_in_a_loop(size: int) -> tuple[Callable[[Array], Any], dict[str, rung.Tensor]]:
    w = rung.ones(size)

    @rung.jit
    def step(i: rung.Tensor) -> rung.Tensor:
        nonlocal w
        x = w * 2.0
        w += 1.0
        return rung.while_loop(
            lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + x[i[c[0]]]), (rung.asarray(0), w.sum())
        )[1]

    return step, {"w": w}


PROGRAMS = [_captured, _position_from_state, _unread, _gradient, _in_a_loop, _counted_in_a_loop]


def _contents(tensors: dict[str, rung.Tensor]) -> list[Array]:
    found = [t.numpy().copy() for t in tensors.values()]
    return found + [t.grad.numpy().copy() for t in tensors.values() if t.grad is not None]


@pytest.mark.parametrize("interpret", [False, True], ids=["compiled", "interpreted"])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("program", PROGRAMS)
def test_state_is_as_before_when_a_run_fails(
    program: Callable[..., Any], size: int, interpret: bool
) -> None:
    """And the next run goes on from there as if there had been no other."""
    good, bad = np.array([1, 0, 3]), np.array([1, 0, 10**9])
    rung.configure(interpret=interpret)
    try:
        step, state = program(size)
        other, wanted = program(size)
        for _ in range(3):
            a, b = step(rung.asarray(good)), other(rung.asarray(good))
            np.testing.assert_array_equal(a.numpy(), b.numpy())
            before = _contents(state)
            for _ in range(2):
                with pytest.raises(IndexError, match="out of range"):
                    step(rung.asarray(bad))
                for x, y in zip(_contents(state), before, strict=True):
                    np.testing.assert_array_equal(x, y)
        for x, y in zip(_contents(state), _contents(wanted), strict=True):
            np.testing.assert_array_equal(x, y)
    finally:
        rung.configure(interpret=False)


def test_a_donated_argument_is_left_when_a_run_fails() -> None:
    step = rung.jit(lambda x, i: x * 2 + x[i].sum(), donate=(0,))
    for n in (8, 40_000):
        x = rung.ones(n)
        with pytest.raises(IndexError, match="99999999 is out of range"):
            step(x, rung.asarray([99_999_999]))
        assert x.numpy().tolist() == [1.0] * n
        assert float(step(x, rung.asarray([0]))[0]) == 3


def test_an_update_that_fails_raises_on_its_own_line_and_is_undone() -> None:
    x, z = rung.zeros(5), rung.ones(5)
    x.numpy()
    for at, look in (([7], x), (np.full(70_000, -6), z)):
        z += 1.0
        x[rung.asarray(at) * 1] = 1.0  # the line
        y = x.sum() + 1
        seen = [float(z[0]) if look is z else None]  # nothing else fails because of it
        with pytest.raises(IndexingError, match="is out of range for 5 elements") as caught:
            x.numpy()
        assert caught.value.source is not None and "# the line" in str(caught.value)
        with pytest.raises(IndexingError, match="# the line"):
            y.numpy()
        assert x.numpy().tolist() == [0.0] * 5 and seen[0] in (None, 3.0)
    assert z.numpy().tolist() == [3.0] * 5


def test_a_step_that_fails_leaves_the_model_and_the_next_goes_on() -> None:
    """An optimizer step over positions that nobody has looked at."""
    def steps(model: rung.nn.Module, ids: list[Array]) -> list[Array]:
        optimizer = rung.optim.SGD(model.parameters(), lr=0.1)
        for i in ids:
            optimizer.zero_grad()
            model(rung.asarray(i) * 1).square().sum().backward()
            optimizer.step()
            try:
                rung.nn.functional.relu(next(iter(model.parameters()))).numpy()
            except IndexError:
                assert 9 in i
        return [p.detach().numpy().copy() for p in model.parameters()]

    good, bad = np.array([1, 2]), np.array([1, 9])
    made, wanted = [], []
    for found, ids in ((made, [good, bad, good]), (wanted, [good, good])):
        rung.manual_seed(0)
        model = rung.nn.Sequential(rung.nn.Embedding(5, 3), rung.nn.Linear(3, 2))
        found += steps(model, ids)
    for a, b in zip(made, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_equal_program_on_another_line_names_its_own() -> None:
    x = rung.arange(5.0)
    for number in range(2):
        at = rung.asarray([9]) * 1
        made = x[at]  # both
        assert number < 2
        with pytest.raises(IndexingError, match="# both"):
            made.numpy()
    other = x[rung.asarray([9]) * 1]  # the other
    with pytest.raises(IndexingError, match="# the other"):
        other.numpy()


# ---- one place for all updates


@pytest.mark.parametrize("size", [1, 7, 40])
@pytest.mark.parametrize("count", [5, 100, 3000])
@pytest.mark.parametrize("dtype", ["f32", "i64", "f16"])
def test_updates_at_constant_positions(size: int, count: int, dtype: str) -> None:
    """Positions that the compiler knows: all in one place, or counted."""
    at = size // 2
    place, steps = rung.full((count,), at, dtype=rung.int64), rung.arange(count) % size
    x = np.arange(size)
    u = np.arange(count) % 3
    given = [rung.asarray(a).astype(dtype) for a in (x, u)]
    one = np.bincount(np.full(count, at), u, size)
    spread = np.bincount(np.arange(count) % size, u, size)
    calls: dict[str, tuple[Callable[..., rung.Tensor], Array]] = {
        "index_add": (lambda x, u: rung.index_add(x, 0, place, u), x + one),
        "index_add, counted": (lambda x, u: rung.index_add(x, 0, steps, u), x + spread),
        "zeros": (lambda x, u: rung.index_add(x * 0, 0, place, u), one),
        "constants": (
            lambda x, u: rung.index_add(x, 0, place, rung.ones(count, dtype=x.dtype)),
            x + count * (np.arange(size) == at),
        ),
        "index_put": (lambda x, u: rung.index_put(x, (place,), u, accumulate=True), x + one),
        "scatter_add": (lambda x, u: rung.scatter_add(x, 0, place, u), x + one),
        "index_copy": (
            lambda x, u: rung.index_copy(x, 0, place, u),
            np.where(np.arange(size) == at, u[-1], x),
        ),
        "amax": (
            lambda x, u: rung.scatter_reduce(x, 0, place, u, "amax"),
            np.where(np.arange(size) == at, np.maximum(x, u.max()), x),
        ),
    }
    for name, (call, want) in calls.items():
        for made in (call(*given), rung.jit(call)(*given)):
            np.testing.assert_allclose(made.numpy(), want.astype(made.numpy().dtype), err_msg=name)
    if dtype == "f32":
        slope = rung.grad(lambda x: (x[place] * u.astype("f4")).sum())(given[0]).numpy()
        np.testing.assert_allclose(slope, one)
    if size > 1:
        counts = rung.histc(rung.full((count,), 0.5), size, 0, 1).numpy()
        assert counts.tolist() == [count * (k == at) for k in range(size)]


# ---- what needs no check


def _left(build: Callable[[Value, Value], Value]) -> int:
    """How many checks of positions below 10 are left of those that `build(x i64[6], y f32[4, 10])`
    gives."""
    params = [
        parameter(0, "x", TensorType(rung.int64, (6,))),
        parameter(1, "y", TensorType(rung.float32, (4, 10))),
    ]
    at = check_range(build(*params), attrs=RangeAttrs(0, 9, "index"))
    graph = make_graph("g", params, [cast(at, dtype=rung.float32)])
    return _count(run_passes(graph, PIPELINE)[0])


def _count(graph: Graph) -> int:
    bodies = [n.attrs.body for n in graph.nodes if isinstance(n.attrs, ScanAttrs)]
    return sum(n.op is check_range for n in graph.nodes) + sum(map(_count, bodies))


_ten = lambda v: full_like(v, 10)  # noqa: E731
PROVEN: dict[str, Callable[[Value, Value], Value]] = {
    "iota": lambda x, y: iota(shape=(10,), dim=0, dtype=rung.int64),
    "constants": lambda x, y: array(np.array([0, 9])),
    "argmax": lambda x, y: argmax(y, dim=1),
    "argsort": lambda x, y: argsort(y, dim=1),
    "remainder": lambda x, y: remainder(x, _ten(x)),
    "clipped": lambda x, y: minimum(maximum(x, full_like(x, 0)), full_like(x, 9)),
    "quotient": lambda x, y: floor_divide(remainder(x, full_like(x, 95)), _ten(x)),
    "checked before": lambda x, y: check_range(x, attrs=RangeAttrs(2, 7, "index")),
    "taken from such": lambda x, y: take(argsort(y, dim=1), remainder(x, full_like(x, 4)), dim=0),
    "chosen": lambda x, y: where(
        OPS["less"](x, full_like(x, 5)), remainder(x, _ten(x)), full_like(x, 3)
    ),
}
UNPROVEN: dict[str, Callable[[Value, Value], Value]] = {
    "given": lambda x, y: x,
    "longer iota": lambda x, y: iota(shape=(11,), dim=0, dtype=rung.int64),
    "clipped on one side": lambda x, y: minimum(x, full_like(x, 9)),
    "wrapped around": lambda x, y: add(
        full((6,), 2**63 - 1, rung.int64), minimum(maximum(x, full_like(x, 0)), full_like(x, 9))
    ),
    "remainder of a longer dim": lambda x, y: remainder(x, full_like(x, 11)),
}


@pytest.mark.parametrize("name", PROVEN)
def test_a_check_that_surely_holds_is_dropped(name: str) -> None:
    extra = name == "checked before"  # the stricter one stays
    assert _left(PROVEN[name]) == extra


@pytest.mark.parametrize("name", UNPROVEN)
def test_a_check_that_may_fail_stays(name: str) -> None:
    assert _left(UNPROVEN[name]) == 1


def test_the_counter_of_a_loop_needs_no_check() -> None:
    x = rung.asarray(np.ones((10, 2), np.float32))
    given = parameter(0, "x", TensorType(rung.float32, (10, 2)))
    number = parameter(1, "i", TensorType(rung.int64, ()))
    at = check_range(number, attrs=RangeAttrs(0, 9, "index"))
    body = make_graph("body", [given, number], [add(given, given), take(given, at, dim=0)])
    for length, left in ((10, 0), (11, 1)):
        steps = iota(shape=(length,), dim=0, dtype=rung.int64)
        made = scan.build([given, steps], ScanAttrs(body, length, 0, 1))
        graph = run_passes(make_graph("g", [given], made), PIPELINE)[0]
        assert _count(graph) == left
    assert float(rung.fori_loop(0, 10, lambda i, c: c + x[i].sum(), rung.zeros(()))) == 20


# ---- every level says the same


@pytest.mark.parametrize("dtype", ["i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 700), (70_000,)], ids=str)
def test_levels_agree(dtype: str, shape: tuple[int, ...]) -> None:
    """Reference, machine code and interpreted kernels: the same error, for values at the ends of
    every dtype."""
    kind = rung.asarray(np.zeros(1)).astype(dtype).dtype
    info = np.iinfo(kind.numpy)
    low = 0 if info.min == 0 else -50
    attrs = RangeAttrs(low, 49, "index", ignored=100 if kind.bits > 8 else None)
    i = parameter(0, "i", TensorType(kind, shape))
    mask = parameter(1, "mask", TensorType(rung.bool_, shape))
    graph = make_graph("g", [i, mask], [check_range(i, mask, attrs=attrs)])
    program = compiled(graph, {})
    assert isinstance(program, CompiledGraph)
    rng = np.random.default_rng(0)
    good = np.array(rng.integers(low, 50, shape)).astype(kind.numpy)
    out = np.empty(shape, kind.numpy)
    counts = np.ones(shape, bool)

    def run(x: Array, mask: Array) -> None:
        program.run([x.ctypes.data, mask.ctypes.data], [out.ctypes.data])

    run(good, counts)
    np.testing.assert_array_equal(out, good)
    for wrong in (50, 51, 127, info.max, info.min, -51, -128):
        if not info.min <= wrong <= info.max or low <= wrong < 50:
            continue
        bad, place = good.copy(), tuple(int(rng.integers(n)) for n in shape)
        bad[place] = wrong
        with pytest.raises(IndexingError, match=f"index {wrong} is out of range for 50"):
            run(bad, counts)
        with pytest.raises(IndexingError, match=f"index {wrong} is out of range for 50"):
            check_range.ref(attrs, [bad, counts])
        if bad.size < 5000:
            assert str(_kernel_error(program, [bad, counts])) == str(_error(run, bad, counts))
        left_out = counts.copy()
        left_out[place] = False
        run(bad, left_out)
    run(good, counts)


def _error(run: Callable[..., None], *arrays: Array) -> IndexingError:
    with pytest.raises(IndexingError) as caught:
        run(*arrays)
    return caught.value


def _kernel_error(program: CompiledGraph, arrays: list[Array]) -> IndexingError:
    """The error that the kernels of a plan find in their interpreter."""
    temps: dict[object, Array] = {}
    words = np.zeros(len(program.plan.checks), np.uint64)
    for call, kernel in zip(program.plan.calls, program.kernels, strict=True):
        given = []
        for b, m in zip(call.kernel.params, call.memory, strict=True):
            if isinstance(m, FaultMemory):
                given.append(words[m.index : m.index + 1])
            elif type(m).__name__ == "InputMemory":
                given.append(arrays[m.index].reshape(-1))  # type: ignore[union-attr]
            else:
                given.append(temps.setdefault(m, np.zeros(b.shape, b.dtype.numpy)))
        interpret_kernel(kernel.naive, given)
    return program.error(words.tolist())


def test_the_error_of_a_word_names_the_number() -> None:
    for value in (-2**63, -1, 10, 2**63 - 1):
        attrs = RangeAttrs(0, 9, "take: index")
        word = value % 2**64
        assert fault_error(attrs, rung.int64, word, None).message.startswith(  # type: ignore[arg-type]
            f"take: index {value} is out of range for 10 elements"
        )
