"""The same program in every style: eagerly, lazily, under `jit`, in loops of the graph, in
`rung.function` and under `vmap`; results, states, gradients and random numbers must be the same.

The programs are those of `tests.generate.style_programs`. NumPy performs each too, with random
numbers from explicit keys, which says what the eager run must give.
"""

from __future__ import annotations

import linecache
import random
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

import rung
from rung.core.settings import configure, settings
from rung.nn import functional as f
from rung.ops.random import key_words, threefry_arrays
from rung.tensor.random import default_generator
from tests.generate.style_programs import LENGTH, SIZE, STATE, Program

NUM_STYLES = 2
"""How many of the styles a case has beside the eager one."""
COMPILED_EVERY = 8
"""One case of so many is compiled."""
Carry = tuple[Any, ...]


# ---- what a program starts from


class Given:
    """The inputs of a program, and its state before it begins, as arrays."""

    def __init__(self, program: Program) -> None:
        rng = np.random.default_rng(program.seed)
        kind = np.dtype(program.dtype)

        def array(*shape: int) -> np.ndarray:
            whole = rng.integers(-4, 5, shape)
            return (whole / 4 if program.floats else whole).astype(kind)

        self.program = program
        self.rounds = program.rounds
        self.xs = [array(LENGTH, SIZE) for _ in range(self.rounds)]
        self.u, self.v, self.w = array(SIZE), array(SIZE), array(SIZE)
        self.s = program.start if program.weak else np.asarray(program.start, kind)
        self.state = [array(SIZE) for _ in STATE]
        self.count = int(rng.integers(0, 4))

    def state_of(self, make: Callable[[Any], Any]) -> SimpleNamespace:
        """The state S, its arrays made tensors (or places) by `make`."""
        t, d, held = map(make, self.state)
        found = SimpleNamespace(t=t, d={"k": d}, l=[held], n=make(np.asarray(self.count, np.int64)))
        found.w = make(self.w)
        return found


def rebind(S: SimpleNamespace, given: Given, make: Callable[[Any], Any]) -> None:
    """Other tensors in the places of the state, before the second round."""
    if given.program.rebinds:
        S.t, S.d["k"], S.l = make(given.state[1]), make(given.state[2]), [make(given.state[0])]
        S.n = make(np.asarray(given.count + 1, np.int64))


def arrays(S: SimpleNamespace) -> list[Any]:
    """The tensors of a state."""
    return [S.t, S.d["k"], S.l[0], S.n]


# ---- NumPy


class Place(np.ndarray):
    """An array with the updates that tensors have."""

    def assign(self, x: Any) -> None:
        self[...] = x

    def add_(self, x: Any) -> None:
        self[...] += x


class Oracle:
    """The names that a program uses, by NumPy; draws are counted here."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.kind = np.dtype(program.dtype)
        self.counts = {"default": 0, "given": 0}

    def _words(self, which: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Both random words of each element of the next draw."""
        count = self.counts[which]
        self.counts[which] += 1
        words = [np.asarray(w, np.uint32) for w in key_words(seed)]
        key = threefry_arrays((words[0], words[1]), (np.uint32(0), np.uint32(count)))
        return threefry_arrays(key, (np.zeros(SIZE, np.uint32), np.arange(SIZE, dtype=np.uint32)))

    def _draw(self, which: str, seed: int) -> np.ndarray:
        first, second = (w.astype(np.uint64) for w in self._words(which, seed))
        whole = ((first * 2**32 + second) % 7).astype(self.kind) - 3
        return whole * 0.25 if self.program.floats else whole

    def dropout(self, x: Any) -> Any:
        first, second = self._words("default", self.program.seed)
        return np.where(first ^ second >= 2**31, x * 2, x * 0)

    def names(self) -> dict[str, Any]:
        return {
            "minimum": np.minimum, "maximum": np.maximum, "where": np.where, "flip": np.flip,
            "tanh": np.tanh, "cast": lambda x: np.asarray(x).astype(self.kind),
            "total": lambda x: np.sum(x, dtype=self.kind),
            "draw": lambda: self._draw("default", self.program.seed),
            "draw_given": lambda: self._draw("given", self.program.seed + 1),
            "dropout": self.dropout, "range": range,
        }  # fmt: skip


def drawn(program: Program, generator: Any = None) -> Any:
    """A vector of random numbers, from the default generator unless given."""
    whole = rung.randint(-3, 4, (SIZE,), key=generator).astype(program.dtype)
    return whole * 0.25 if program.floats else whole


def by_numpy(program: Program, given: Given) -> list[Any]:
    """What the eager run must give, without gradients."""
    oracle = Oracle(program)
    body = module(program, "python", oracle.names(), "numpy")["body"]
    make = lambda a: a.copy().view(Place)  # noqa: E731
    S = given.state_of(make)
    carry, ys = (given.u, given.v, given.s), []
    with np.errstate(all="ignore"):
        for number, xs in enumerate(given.xs):
            if number:
                rebind(S, given, make)
            for i in range(LENGTH):
                *carry, y = body(S, i, xs[i], *carry)
                ys.append(np.asarray(y))
    counts = [oracle.counts["default"], oracle.counts["given"]]
    return [*carry, np.stack(ys), *arrays(S), *counts]


# ---- the modules


def module(program: Program, kind: str, names: dict[str, Any], label: str) -> dict[str, Any]:
    """The functions of a program; their source can be read as that of a file."""
    text = program.text(kind)
    path = f"<style {program.seed} {label}>"
    linecache.cache[path] = (len(text), None, text.splitlines(keepends=True), path)
    made = dict(names)
    exec(compile(text, path, "exec"), made)
    return made


class Run:
    """One style: the program from the beginning, on tensors of its own."""

    def __init__(self, program: Program, given: Given) -> None:
        self.program, self.given = program, given
        self.S = given.state_of(rung.tensor)
        self.S.w.requires_grad = program.gradient
        self.generator = rung.Generator(program.seed + 1)
        rung.manual_seed(program.seed)
        self.kind = getattr(rung, program.dtype)
        self.graph = module(program, "graph", self.names(), "graph")
        self.ys: list[Any] = []

    def names(self) -> dict[str, Any]:
        return {
            "rung": rung, "minimum": rung.minimum, "maximum": rung.maximum, "where": rung.where,
            "flip": rung.flip, "tanh": rung.tanh, "cast": lambda x: x.astype(self.kind),
            "total": lambda x: x.sum(dtype=self.kind),
            "draw": lambda: drawn(self.program),
            "draw_given": lambda: drawn(self.program, self.generator),
            "dropout": lambda x: f.dropout(x, 0.5, True),
        }  # fmt: skip

    def python(self) -> dict[str, Any]:
        """The functions whose control flow is that of Python."""
        return module(self.program, "python", self.names(), "python")

    def start(self) -> Carry:
        s = self.given.s
        return (
            rung.tensor(self.given.u), rung.tensor(self.given.v),
            s if self.program.weak else rung.tensor(s),
        )  # fmt: skip

    def tensors(self) -> list[Any]:
        """Everything in reach that may be updated."""
        return arrays(self.S)

    def found(self, one_round: Callable[[Any, Carry], tuple[Carry, Any]]) -> list[Any]:
        """Results, states, gradients and counters after all rounds."""
        carry, rows = self.start(), []
        for number, xs in enumerate(self.given.xs):
            if number:
                rebind(self.S, self.given, rung.tensor)
            carry, ys = one_round(rung.asarray(xs), carry)
            rows.append(ys)
        ys = rung.concat(rows)
        gradient = []
        if self.program.gradient:
            total = ys.sum() + sum(t.sum() for t in map(rung.asarray, carry))
            if total.requires_grad:
                total.backward()
            gradient = [self.S.w * 0 if self.S.w.grad is None else self.S.w.grad]
        later = rung.rand(2)
        counts = [
            default_draws(),
            self.generator.state["draws"],
        ]
        return [*carry, ys, *arrays(self.S), *counts, *gradient, later]


def default_draws() -> Any:
    """How often the default generator was drawn from, without the draw after the program."""
    return default_generator().state["draws"] - 1


# ---- styles


def eager(run: Run) -> list[Any]:
    """A Python loop with a look at everything after each iteration."""
    body = run.python()["body"]

    def one_round(xs: Any, carry: Carry) -> tuple[Carry, Any]:
        rows = []
        for i in range(LENGTH):
            *carry, y = body(run.S, i, xs[i], *carry)
            rows.append(y)
            for t in (*carry, y, *arrays(run.S)):
                np.array(t)
        return tuple(carry), rung.stack(rows)

    return run.found(one_round)


def steps(run: Run, step: Callable[..., Any]) -> Callable[[Any, Carry], tuple[Carry, Any]]:
    """A Python loop over `step(i, x, u, v, s)`."""

    def one_round(xs: Any, carry: Carry) -> tuple[Carry, Any]:
        rows = []
        for i in range(LENGTH):
            *carry, y = step(i, xs[i], *carry)
            rows.append(y)
        return tuple(carry), rung.stack(rows)

    return one_round


def lazy(run: Run) -> list[Any]:
    body = run.graph["body"]
    return run.found(steps(run, lambda *a: body(run.S, *a)))


def jit_steps(run: Run) -> list[Any]:
    body = run.graph["body"]
    return run.found(steps(run, rung.jit(lambda *a: body(run.S, *a))))


def jit_arguments(run: Run) -> list[Any]:
    """The state is an argument of the compiled step."""
    body, S = run.graph["body"], run.S

    @rung.jit
    def step(given: dict[str, Any], w: Any, *a: Any) -> Any:
        inner = SimpleNamespace(t=given["t"], d=given["d"], l=given["l"], n=given["n"], w=w)
        return body(inner, *a)

    return run.found(steps(run, lambda *a: step({"t": S.t, "d": S.d, "l": S.l, "n": S.n}, S.w, *a)))


def jit_loop(run: Run) -> list[Any]:
    body = run.graph["body"]
    return run.found(rung.jit(steps(run, lambda *a: body(run.S, *a))))


def scan(run: Run) -> list[Any]:
    return run.found(scanned(run))


def scanned(run: Run) -> Callable[[Any, Carry], tuple[Carry, Any]]:
    body = run.graph["body"]

    def step(carry: Carry, given: Any) -> tuple[Carry, Any]:
        *carry, y = body(run.S, *given, *carry)
        return tuple(carry), y

    return lambda xs, carry: rung.scan(step, carry, (rung.arange(LENGTH), xs))


def jit_scan(run: Run) -> list[Any]:
    return run.found(rung.jit(scanned(run)))


def indexed(run: Run, xs: Any, i: Any, carry: Carry) -> Carry:
    """An iteration that puts its result in the place i of the last carry."""
    *carry, ys = carry
    *carry, y = run.graph["body"](run.S, i, xs[i], *carry)
    ys[i] = y
    return (*carry, ys)


def empty(run: Run) -> Any:
    return rung.zeros((LENGTH, SIZE), dtype=run.kind)


def fori_loop(run: Run) -> list[Any]:
    def one_round(xs: Any, carry: Carry) -> tuple[Carry, Any]:
        *carry, ys = rung.fori_loop(
            0, LENGTH, lambda i, c: indexed(run, xs, i, c), (*carry, empty(run))
        )
        return tuple(carry), ys

    return run.found(one_round)


def while_loop(run: Run) -> list[Any]:
    def one_round(xs: Any, carry: Carry) -> tuple[Carry, Any]:
        _, *carry, ys = rung.while_loop(
            lambda c: c[0] < LENGTH,
            lambda c: (c[0] + 1, *indexed(run, xs, c[0], c[1:])),
            (0, *carry, empty(run)),
            limit=LENGTH,
        )
        return tuple(carry), ys

    return run.found(one_round)


def function(run: Run) -> list[Any]:
    """Python's control flow up to a tensor, by transformation of the source."""
    loop = rung.function(run.python()["loop"], max_iterations=LENGTH + 1)

    def one_round(xs: Any, carry: Carry) -> tuple[Carry, Any]:
        *carry, ys = loop(run.S, rung.asarray(LENGTH), xs, *carry, empty(run))
        return tuple(carry), ys

    return run.found(one_round)


def mapped(run: Run) -> list[Any]:
    """The carry is state from outside too."""
    body = run.graph["body"]

    def one_round(xs: Any, carry: Carry) -> tuple[Carry, Any]:
        held = [rung.asarray(c) * 1 for c in carry]

        def one(i: Any, x: Any) -> Any:
            *made, y = body(run.S, i, x, *(t * 1 for t in held))
            for t, new in zip(held, made, strict=True):
                t.sub_(t)
                t.add_(new)
            return y

        ys = rung.map(one, rung.arange(LENGTH), xs)
        return tuple(held), ys

    return run.found(one_round)


def vmapped(run: Run) -> list[Any]:
    """All iterations at once, of a program that hands nothing on."""
    body = run.graph["body"]

    def one_round(xs: Any, carry: Carry) -> tuple[Carry, Any]:
        one = lambda i, x: body(run.S, i, x, *carry)[-1]  # noqa: E731
        return carry, rung.vmap(one)(rung.arange(LENGTH), xs)

    return run.found(one_round)


STYLES = {
    s.__name__: s
    for s in (lazy, jit_steps, jit_arguments, jit_loop, scan, jit_scan, fori_loop, while_loop,
              function, mapped)
}  # fmt: skip


# ---- comparison


def chosen(program: Program) -> list[str]:
    """The styles of a case."""
    r = random.Random(program.seed + 10**9)
    unfit = {"mapped"} if program.weak else set()
    names = [n for n in STYLES if n not in unfit]
    return r.sample(names, NUM_STYLES)


def names_of(program: Program) -> list[str]:
    """What each of the compared values is."""
    last = ["default draws", "given draws", *["gradient"] * program.gradient, "drawn later"]
    return ["u", "v", "s", "ys", *STATE, "S.n", *last]


def differences(program: Program, label: str, found: list[Any], wanted: list[Any]) -> list[str]:
    """Where a style gives something else."""
    lines: list[str] = []
    for name, a, b in zip(names_of(program), found, wanted, strict=False):
        x, y = np.array(a), np.array(b)
        typed = name != "s" and label != "numpy"
        if x.shape != y.shape or (typed and x.dtype != y.dtype):
            theirs = f"{y.dtype}{list(y.shape)}"
            lines.append(f"{label}: {name} is {x.dtype}{list(x.shape)}, not {theirs}")
        elif not close(program, x, y):
            lines.append(f"{label}: {name} is {x.tolist()}, not {y.tolist()}")
    return lines


def close(program: Program, x: np.ndarray, y: np.ndarray) -> bool:
    """Integers are equal; floats as close as the order of the operations allows."""
    if x.dtype.kind != "f" and y.dtype.kind != "f":
        return bool(np.array_equal(x, y))
    narrow = "float32" in (program.dtype, x.dtype.name, y.dtype.name)
    scale = max(1.0, float(np.nan_to_num(np.abs(y).max(initial=0.0))))
    within = (2e-5 if narrow else 1e-11) * scale
    return bool(np.allclose(x, y, rtol=0, atol=within, equal_nan=True))


def check(seed: int) -> list[str]:
    """What is wrong with program `seed`, one line each."""
    program = Program(seed)
    before = settings().interpret
    configure(interpret=seed % COMPILED_EVERY != 0)
    try:
        return failures(program)
    finally:
        configure(interpret=before)


def failures(program: Program) -> list[str]:
    """Where the styles of a program differ."""
    given = Given(program)
    wanted = outcome(eager, program, given)
    if isinstance(wanted, str):
        return [f"eager: {wanted}"]
    oracle = by_numpy(program, given)
    lines = differences(program, "numpy", [*oracle], wanted)
    styles = [STYLES[name] for name in chosen(program)]
    for style in styles:
        found = outcome(style, program, given)
        if isinstance(found, str):
            lines.append(f"{style.__name__}: {found}")
        else:
            lines += differences(program, style.__name__, found, wanted)
    if not program.updates and not program.gradient:
        lines += by_example(program, given)
    return lines


def by_example(program: Program, given: Given) -> list[str]:
    """`vmap` against a Python loop, both of bodies that begin with the first carry each time."""

    def loop(run: Run) -> list[Any]:
        body = run.python()["body"]

        def one_round(xs: Any, carry: Carry) -> tuple[Carry, Any]:
            rows = [body(run.S, i, xs[i], *carry)[-1] for i in range(LENGTH)]
            return carry, rung.stack(rows)

        return run.found(one_round)

    wanted, found = outcome(loop, program, given), outcome(vmapped, program, given)
    if isinstance(wanted, str) or isinstance(found, str):
        if "how many random numbers" in found:
            return []
        return [f"vmap: {found}", f"loop: {wanted}"]
    return differences(program, "vmap", found, wanted)


def outcome(style: Callable[[Run], list[Any]], program: Program, given: Given) -> list[Any] | str:
    """What a style gives, or the error that it raises."""
    try:
        return [np.array(x) for x in style(Run(program, given))]
    except Exception as e:
        place = traceback.extract_tb(e.__traceback__)[-1]
        message = str(e).partition("\n")[0]
        return f"{type(e).__name__}: {message} ({place.filename}:{place.lineno})"


def show(seed: int) -> str:
    """Program `seed` as text."""
    program = Program(seed)
    given = Given(program)
    start = [f"u = {given.u.tolist()}, v = {given.v.tolist()}, s = {given.s!r}, n = {given.count}"]
    start += [f"xs = {[x.tolist() for x in given.xs]}", f"S = {[x.tolist() for x in given.state]}"]
    kinds = f"{program.dtype}, gradient: {program.gradient}, styles: {', '.join(chosen(program))}"
    return "\n".join([program.text("python"), program.text("graph"), kinds, *start])
