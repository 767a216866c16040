"""Every function that takes positions or labels, in every style of program, with valid ones and
with one that is out of range.

Valid positions give what the call alone gives. One that is not is an IndexError that names it and
the line of the function, in a program that is run or compiled, and all else stays as it was: what
the program reads, and what it updates. What is not taken is no error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import rung
from rung import Tensor
from rung.core.errors import IndexingError
from rung.core.settings import configure, settings
from rung.nn import functional as f

Array = np.ndarray[Any, Any]
COMPILED_SHARE = 40
"""One case of so many is compiled, the others are interpreted."""
MANY = 66_000
"""Positions above which nobody looks at them when a function is called."""


@dataclass(frozen=True)
class Function:
    """A function of positions and of other operands. Positions are from `low` to `high`; there are
    `shape` of them. `call(positions, *operands)` is the function; with `large`, of many positions.
    `ignored` is one more valid number."""

    call: Callable[..., Tensor]
    operands: tuple[tuple[int, ...], ...]
    low: int
    high: int
    shape: tuple[int, ...] = (4,)
    large: bool = True
    ignored: int | None = None
    differentiable: bool = True


def _set(x: Tensor, i: Tensor, v: Any) -> Tensor:
    made = x * 1.0
    made[i] = v
    return made


def _updated(x: Tensor, i: Tensor, j: Any) -> Tensor:
    made = x * 1.0
    made[i, j] = 7.0
    return made


def _offsets(i: Tensor, w: Tensor) -> Tensor:
    return f.embedding_bag(i, w, rung.asarray([0, 2]), mode="sum")


N = 5
ROWS = (N, 3)
FUNCTIONS: dict[str, Function] = {
    "x[i]": Function(lambda i, x: x[i], (ROWS,), -N, N - 1),
    "x[i, j]": Function(lambda i, x: x[i, 1], (ROWS,), -N, N - 1),
    "x[:, i]": Function(lambda i, x: x[:, i], ((3, N),), -N, N - 1),
    "x[i] (scalar)": Function(lambda i, x: x[i], (ROWS,), -N, N - 1, (), False),
    "x[i] = v": Function(lambda i, x: _set(x, i, 2.0), (ROWS,), -N, N - 1),
    "x[i, 1] = v": Function(lambda i, x: _updated(x, i, 1), (ROWS,), -N, N - 1),
    "x[i] = v (scalar)": Function(lambda i, x: _set(x, i, 2.0), (ROWS,), -N, N - 1, (), False),
    "take": Function(lambda i, x: rung.take(x, i, 0), (ROWS,), -N, N - 1),
    "take of all": Function(lambda i, x: rung.take(x, i), (ROWS,), -15, 14),
    "take_along_axis": Function(
        lambda i, x: rung.take_along_axis(x, i, 0), ((N,),), -N, N - 1
    ),
    "take_along_dim": Function(lambda i, x: rung.take_along_dim(x, i), (ROWS,), -15, 14),
    "gather": Function(lambda i, x: rung.gather(x, 0, i), ((N,),), -N, N - 1),
    "index_select": Function(lambda i, x: rung.index_select(x, 0, i), (ROWS,), -N, N - 1),
    "index_add": Function(
        lambda i, x: rung.index_add(x, 0, i, rung.ones(i.shape[0])), ((N,),), -N, N - 1
    ),
    "index_copy": Function(
        lambda i, x: rung.index_copy(x, 0, i, rung.ones(i.shape[0])), ((N,),), -N, N - 1
    ),
    "index_fill": Function(lambda i, x: rung.index_fill(x, 0, i, 3.0), (ROWS,), -N, N - 1),
    "index_reduce": Function(
        lambda i, x: rung.index_reduce(x, 0, i, rung.full(i.shape, 0.5), "amax"),
        ((N,),), -N, N - 1,
    ),
    "index_put": Function(
        lambda i, x: rung.index_put(x, (i,), rung.ones(i.shape)), ((N,),), -N, N - 1
    ),
    "index_put (added)": Function(
        lambda i, x: rung.index_put(x, (i,), rung.ones(i.shape), accumulate=True),
        ((N,),), -N, N - 1,
    ),
    "put": Function(lambda i, x: rung.put(x, i, rung.ones(i.shape)), (ROWS,), -15, 14),
    "put (added)": Function(
        lambda i, x: rung.put(x, i, rung.ones(i.shape), accumulate=True), (ROWS,), -15, 14
    ),
    "scatter": Function(
        lambda i, x: rung.scatter(x, 0, i, rung.ones(i.shape)), ((N,),), -N, N - 1
    ),
    "scatter (multiplied)": Function(
        lambda i, x: rung.scatter(x, 0, i, 2.0, reduce="multiply"), ((N,),), -N, N - 1
    ),
    "scatter_add": Function(
        lambda i, x: rung.scatter_add(x, 0, i, rung.ones(i.shape)), ((N,),), -N, N - 1
    ),
    **{
        f"scatter_reduce {how}": Function(
            lambda i, x, how=how: rung.scatter_reduce(x, 0, i, rung.full(i.shape, 0.5), how),
            ((N,),), -N, N - 1,
        )
        for how in ("sum", "prod", "mean", "amax", "amin")
    },
    "embedding": Function(lambda i, w: f.embedding(i, w), (ROWS,), -N, N - 1),
    "embedding (padding)": Function(lambda i, w: f.embedding(i, w, 1), (ROWS,), -N, N - 1),
    "embedding_bag": Function(_offsets, (ROWS,), -N, N - 1),
    "embedding_bag (rows)": Function(
        lambda i, w: f.embedding_bag(i, w, mode="max"), (ROWS,), -N, N - 1, (2, 3), False
    ),
    "one_hot": Function(lambda i: f.one_hot(i, N), (), 0, N - 1, differentiable=False),
    "cross_entropy": Function(
        lambda i, x: f.cross_entropy(x, i), ((4, N),), 0, N - 1, (4,), False, -100
    ),
    "cross_entropy (weights)": Function(
        lambda i, x, w: f.cross_entropy(x, i, w.abs() + 1, reduction="none"),
        ((4, N), (N,)), 0, N - 1, (4,), False, -100,
    ),
    "cross_entropy (pixels, smooth)": Function(
        lambda i, x: f.cross_entropy(x, i, label_smoothing=0.1, reduction="sum"),
        ((2, N, 3), ), 0, N - 1, (2, 3), False, -100,
    ),
    "nll_loss": Function(
        lambda i, x: f.nll_loss(x, i, reduction="sum"), ((4, N),), 0, N - 1, (4,), False, -100
    ),
    "nll_loss (weights)": Function(
        lambda i, x, w: f.nll_loss(x, i, w.abs() + 1, ignore_index=2),
        ((4, N), (N,)), 0, N - 1, (4,), False,
    ),
    "multi_margin_loss": Function(
        lambda i, x: f.multi_margin_loss(x, i), ((4, N),), 0, N - 1, (4,), False
    ),
    "multilabel_margin_loss": Function(
        lambda i, x: f.multilabel_margin_loss(x, i), ((2, N),), -1, N - 1, (2, N), False
    ),
    "bincount": Function(
        lambda i: rung.bincount(i, length=N), (), 0, 2**63 - 1, differentiable=False
    ),
    "unravel_index": Function(
        lambda i: rung.stack(list(rung.unravel_index(i, (2, 3)))), (), -6, 5,
        differentiable=False,
    ),
    "max_unpool1d": Function(
        lambda i, x: f.max_unpool1d(x, i, 2), ((1, 1, 4),), 0, 7, (1, 1, 4), False
    ),
    "ctc_loss": Function(
        lambda i, x: f.ctc_loss(f.log_softmax(x, -1), i, [6, 6], [2, 3], reduction="sum"),
        ((6, 2, N),), 0, N - 1, (2, 2), False,
    ),
    "ctc_loss (lengths)": Function(
        lambda i, x: f.ctc_loss(
            f.log_softmax(x, -1), [[1, 2], [2, 3]], [6, 6], i, reduction="sum"
        ),
        ((6, 2, N),), 0, 2, (2,), False,
    ),
    "searchsorted": Function(
        lambda i, x: rung.searchsorted(rung.sort(x), x, sorter=i), ((4,),), -4, 3, (4,), False,
        differentiable=False,
    ),
}  # fmt: skip
WITH_PADDED_LABELS = {"ctc_loss"}
Call = Callable[[Array, Sequence[Array]], Sequence[Any]]
"""From positions [rows, …] and operands to a result for each row."""


def fixed(name: str, i: Tensor) -> Tensor:
    """Labels that are longer than what counts of them: the rest is no class."""
    if name not in WITH_PADDED_LABELS:
        return i
    return rung.concat([i, rung.asarray([[-7], [1]])], 1)


def styles(name: str, function: Function) -> dict[str, Call]:
    """How a function is called on positions of several rows."""

    def call(i: Any, *xs: Any) -> Tensor:
        return function.call(fixed(name, i), *xs)

    def given(xs: Sequence[Array]) -> list[Tensor]:
        return [rung.asarray(x) for x in xs]

    def alone(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        return [call(rung.asarray(i), *given(xs)) for i in rows]

    def computed(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        return [call(rung.asarray(i) * 1, *given(xs)) for i in rows]

    def jit(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        compiled = rung.jit(call)
        return [compiled(rung.asarray(i), *given(xs)) for i in rows]

    def captured(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        place = rung.asarray(rows[0])
        compiled = rung.jit(lambda *ts: call(place, *ts))
        found = []
        for i in rows:
            place.assign(i)
            found.append(compiled(*given(xs)))
        return found

    def scan(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        ts = given(xs)
        return list(rung.scan(lambda _, i: (_, call(i, *ts)), rung.zeros(()), rows)[1])

    def fori(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        ts, all_rows = given(xs), rung.asarray(rows)

        def body(n: Tensor, total: Tensor) -> Tensor:
            return total + call(all_rows[n], *ts).sum().astype(rung.float32)

        return [rung.jit(lambda: rung.fori_loop(0, len(rows), body, rung.zeros(())))()]

    def while_loop(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        ts, all_rows = given(xs), rung.asarray(rows)
        _, total = rung.while_loop(
            lambda c: c[0] < len(rows),
            lambda c: (c[0] + 1, c[1] + call(all_rows[c[0]], *ts).sum().astype(rung.float32)),
            (rung.asarray(0), rung.zeros(())),
        )
        return [total]

    def cond(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        ts, no = given(xs), rung.asarray(False)
        found = []
        for row in rows:
            i = rung.asarray(row)
            zero = rung.asarray(0) * i
            found.append(rung.cond(~no, lambda i=i: call(i, *ts), lambda z=zero: call(z, *ts)))
        return found

    def vmap(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        ts = given(xs)
        return list(rung.vmap(lambda i: call(i, *ts))(rung.asarray(rows)))

    def grad(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        slope = rung.jit(rung.grad(lambda x, i, *more: (call(i, x, *more) ** 2).sum()))
        first, *rest = given(xs)
        return [slope(first, rung.asarray(i), *rest) for i in rows]

    def large(rows: Array, xs: Sequence[Array]) -> Sequence[Any]:
        many = [np.concatenate([np.resize(i, MANY), i]) for i in rows]
        return [call(rung.asarray(i) * 1, *given(xs)).sum() for i in many]

    found: dict[str, Call] = {
        s.__name__: s for s in (alone, computed, jit, captured, scan, fori, while_loop, cond, vmap)
    }
    if function.differentiable:
        found["grad"] = grad
    if function.large:
        found["large"] = large
    return found


def expected(style: str, name: str, function: Function, rows: Array, xs: Sequence[Array]) -> Any:
    """What a style gives for valid positions: from calls alone."""
    if style == "grad":

        def loss(x: Any, i: Any, *more: Any) -> Tensor:
            return (function.call(fixed(name, i), x, *more) ** 2).sum()

        first, *rest = [rung.asarray(x) for x in xs]
        return [rung.grad(loss)(first, rung.asarray(i), *rest).numpy() for i in rows]
    if style == "large":
        rows_of = [np.concatenate([np.resize(i, MANY), i]) for i in rows]
        made = [function.call(rung.asarray(i), *map(rung.asarray, xs)) for i in rows_of]
        return [m.sum().numpy() for m in made]
    alone = [function.call(fixed(name, rung.asarray(i)), *map(rung.asarray, xs)) for i in rows]
    each = [a.numpy() for a in alone]
    return [np.sum([a.sum() for a in each])] if style in ("fori", "while_loop") else each


# ---- cases


@dataclass(frozen=True)
class Drawn:
    """A case: a function in a style, positions [rows, …], operands, and the position that is out of
    range, if one is."""

    name: str
    style: str
    rows: Array
    operands: tuple[Array, ...]
    wrong: int | None


def draw(seed: int, name: str | None = None, style: str | None = None) -> Drawn:
    """Case `seed`, of a function and a style if they are given."""
    rng = np.random.default_rng(seed)
    name = str(rng.choice(list(FUNCTIONS))) if name is None else name
    function = FUNCTIONS[name]
    kinds = list(styles(name, function))
    style = str(rng.choice(kinds)) if style is None else style
    dtype = rng.choice(["i8", "i4", "i8", "i2"])
    shape = (3, *function.shape)
    highest = min(function.high, 9)
    rows = rng.integers(function.low, highest + 1, shape).astype(dtype)
    if name == "searchsorted":
        rows = np.stack([rng.permutation(4) for _ in range(3)]).astype(dtype)
    if function.ignored is not None and rng.random() < 0.5:
        rows.reshape(-1)[rng.integers(rows.size)] = function.ignored
    operands = tuple(rng.standard_normal(s).astype(np.float32) for s in function.operands)
    wrong = None
    if rng.random() < 0.6:
        info = np.iinfo(rows.dtype)
        above = [function.high + 1, function.high + int(rng.integers(1, 300)), int(info.max)]
        below = [function.low - 1, function.low - int(rng.integers(1, 300)), int(info.min)]
        known = (*range(function.low, highest + 1), function.ignored)
        choices = [n for n in above + below if info.min <= n <= info.max and n not in known]
        choices = [n for n in choices if not function.low <= n <= function.high]
        wrong = int(rng.choice(choices))
        rows.reshape(-1)[rng.integers(rows.size)] = wrong
    return Drawn(name, style, rows, operands, wrong)


def problems(drawn: Drawn) -> list[str]:
    """What is wrong with a case."""
    function = FUNCTIONS[drawn.name]
    call = styles(drawn.name, function)[drawn.style]
    before = [x.copy() for x in drawn.operands]
    error: IndexError | None = None
    made: list[Array] = []
    try:
        made = [m.numpy() for m in call(drawn.rows, drawn.operands)]
    except IndexError as e:
        error = e
    found = [
        "an operand has changed"
        for a, b in zip(before, drawn.operands, strict=True)
        if not np.array_equal(a, b)
    ]
    if drawn.wrong is not None:
        return found + _error_problems(function, error, drawn.wrong)
    if error is not None:
        return [*found, f"valid positions: {error}"]
    want = expected(drawn.style, drawn.name, function, drawn.rows, drawn.operands)
    same = all(
        np.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True)
        for a, b in zip(made, want, strict=True)
    )
    return found if same else [*found, f"gives {made}, not {want}"]


def _error_problems(function: Function, error: IndexError | None, wrong: int) -> list[str]:
    if error is None:
        return [f"{wrong} is no error"]
    if not isinstance(error, IndexingError):
        return [f"is a {type(error).__name__}: {error}"]
    found = []
    if f" {wrong} " not in error.message:
        found.append(f"{wrong} is not named: {error}")
    if error.source is None or error.source.file != __file__:
        found.append(f"no line of the program: {error}")
    return found


def check(seed: int) -> list[str]:
    """What is wrong with case `seed`, one line each."""
    return check_case(draw(seed), compiled=seed % COMPILED_SHARE == 0)


def check_case(drawn: Drawn, compiled: bool) -> list[str]:
    """What is wrong with a case that is compiled, or interpreted."""
    before = settings().interpret
    configure(interpret=not compiled)
    try:
        found = problems(drawn)
    finally:
        configure(interpret=before)
    return [f"{drawn.name}, {drawn.style}: {line}" for line in found]


def show(seed: int) -> str:
    """Case `seed` as text."""
    drawn = draw(seed)
    lines = [f"{drawn.name} in the style {drawn.style}, wrong: {drawn.wrong}"]
    lines += [f"positions {drawn.rows.tolist()} ({drawn.rows.dtype})"]
    return "\n".join(lines + [f"x{k} = {x!r}" for k, x in enumerate(drawn.operands)])
