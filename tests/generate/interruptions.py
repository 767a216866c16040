"""Programs that are interrupted at random moments: what belongs together changes together or not.

A case is a program with a state (updates of tensors, steps of an optimizer, compiled steps, loops,
gradients, loading), what interrupts it, and when. What interrupts is an exception or a signal
handler that computes, put where Python looks after signals: at the n-th call of a function, or
return of a function in C, within the package (a case depends on its seed alone); or it is a real
signal of a timer. After an exception the state of each group of tensors that one evaluation
changes is that before or after, never both or half; after a handler it is as if the program had run
before it or after it. The program then goes on, and has to get everywhere where it would have got.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import rung
from rung.core.settings import configure, settings
from rung.tensor.state import state as thread

PACKAGE = str(Path(rung.__file__).parent)
WITHIN = (PACKAGE, contextlib.__file__)
"""Where what interrupts is put: blocks of the package begin and end in `contextlib`."""
SIZE = 5
THROWN = "thrown"
State = dict[str, Any]
Expected = dict[str, Any]
Found = dict[str, Any]


class Stop(Exception):
    """What is thrown into a program, beside KeyboardInterrupt."""


@dataclass(frozen=True, eq=False)
class Program:
    """`make()` a state; `step(state)` changes it, and `after(expected)` says how. `groups`: the
    names that change together."""

    name: str
    make: Callable[[], State]
    step: Callable[[State], None]
    after: Callable[[Expected], Expected]
    groups: tuple[tuple[str, ...], ...]


def values(state: State) -> Found:
    """The tensors of a state as arrays."""
    found = {k: np.array(v) for k, v in state.items() if isinstance(v, rung.Tensor)}
    if "optimizer" in state:
        kept = state["optimizer"].state_dict()["state"][0]
        found |= {"m": np.array(kept["momentum_buffer"]), "n": np.array(kept["step"])}
    return found


def filled(value: float, size: int = SIZE) -> Any:
    """A tensor in memory of its own."""
    return (rung.zeros(size) + value).realize()


# ---- programs


def lazy_make() -> State:
    return {"a": filled(1), "b": filled(2), "c": filled(3)}


def lazy_step(s: State) -> None:
    a, b, c = s["a"], s["b"], s["c"]
    a.assign(a * 2 + 1)
    b += 1
    c.assign(c + a)
    c.realize()


def lazy_after(e: Expected) -> Expected:
    a = e["a"] * 2 + 1
    return {"a": a, "b": e["b"] + 1, "c": e["c"] + a}


@cache
def compiled(name: str, interpret: bool) -> Callable[..., Any]:
    """A function of a program, compiled for this way to run."""
    return rung.jit({"advance": _advance, "held": _advance_held, "loop": _loop}[name])


def function(name: str) -> Callable[..., Any]:
    """The function for the way to run that is set."""
    return compiled(name, settings().interpret)


def _advance(a: Any, b: Any) -> Any:
    a *= 2
    b += a
    return b * 1


def jit_make() -> State:
    return {"a": filled(1), "b": filled(2)}


def jit_step(s: State) -> None:
    function("advance")(s["a"], s["b"])


def jit_after(e: Expected) -> Expected:
    return {"a": e["a"] * 2, "b": e["b"] + e["a"] * 2}


HELD_A, HELD_B = filled(1), filled(3)


def _advance_held(x: Any) -> Any:
    HELD_A.assign(HELD_A + x)
    HELD_B.assign(HELD_A * 3)
    return x + 1


def held_make() -> State:
    HELD_A.fill_(1)
    HELD_B.fill_(3)
    HELD_B.realize()
    return {"a": HELD_A, "b": HELD_B}


def held_step(s: State) -> None:
    function("held")(rung.ones(SIZE))


def held_after(e: Expected) -> Expected:
    return {"a": e["a"] + 1, "b": (e["a"] + 1) * 3}


def _loop(a: Any, n: Any) -> None:
    a.assign(rung.fori_loop(0, 4, lambda i, x: x * 1.5 + 1, a * 1))
    n += 1


def loop_make() -> State:
    return {"a": filled(1), "n": filled(0, 1)}


def loop_step(s: State) -> None:
    function("loop")(s["a"], s["n"])


def loop_after(e: Expected) -> Expected:
    a = e["a"]
    for _ in range(4):
        a = a * 1.5 + 1
    return {"a": a, "n": e["n"] + 1}


def while_step(s: State) -> None:
    a, n = s["a"], s["n"]
    found = rung.while_loop(lambda c: c[1].sum() < 3, lambda c: (c[0] + 2, c[1] + 1), (a, n * 0))
    a.assign(found[0])
    n += 1
    n.realize()


def while_after(e: Expected) -> Expected:
    return {"a": e["a"] + 6, "n": e["n"] + 1}


def host_make() -> State:
    return {"a": (rung.eye(3) * 2).realize(), "n": filled(0, 1)}


def host_step(s: State) -> None:
    a, n = s["a"], s["n"]
    a.assign(rung.linalg.inv(a) * 8)
    n += 1
    n.realize()


def host_after(e: Expected) -> Expected:
    return {"a": np.linalg.inv(e["a"]) * 8, "n": e["n"] + 1}


def gradient_make() -> State:
    return {"w": rung.nn.Parameter(filled(2)), "g": filled(0)}


def gradient_step(s: State) -> None:
    w, g = s["w"], s["g"]
    w.grad = None
    (w * w * 3).sum().backward()
    with rung.no_grad():
        g.assign(g + w.grad)
        w.assign(w - w.grad * 0.125)
    g.realize()


def gradient_after(e: Expected) -> Expected:
    return {"g": e["g"] + 6 * e["w"], "w": e["w"] - 0.75 * e["w"]}


@cache
def trained(interpret: bool) -> State:
    """A parameter, its optimizer, and a compiled step of that."""
    w = rung.nn.Parameter(filled(2))
    optimizer = rung.optim.SGD([w], lr=0.5, momentum=0.5)

    def train() -> Any:
        optimizer.zero_grad()
        loss = w.sum()
        loss.backward()
        optimizer.step()
        return loss

    step = rung.jit(train)
    for _ in range(2):
        step()
    return {"w": w, "optimizer": optimizer, "step": step}


def optimizer_make() -> State:
    return trained(settings().interpret)


def optimizer_step(s: State) -> None:
    s["step"]()


def optimizer_after(e: Expected) -> Expected:
    speed = e["m"] * 0.5 + 1
    return {"w": e["w"] - 0.5 * speed, "m": speed, "n": e["n"] + 1}


def loading_make() -> State:
    return {"a": filled(1), "b": filled(1)}


def loading_step(s: State) -> None:
    model = rung.nn.Module()
    model.register_buffer("a", s["a"])
    given = {"a": np.asarray(s["a"]) + 1}
    s["a"].assign(model.state_dict()["a"] + 0)
    s["a"].assign(given["a"])
    s["a"].realize()


def loading_after(e: Expected) -> Expected:
    return {"a": e["a"] + 1, "b": e["b"]}


PROGRAMS = (
    Program("lazy", lazy_make, lazy_step, lazy_after, (("a",), ("b",), ("c",))),
    Program("jit", jit_make, jit_step, jit_after, (("a", "b"),)),
    Program("held", held_make, held_step, held_after, (("a", "b"),)),
    Program("loop", loop_make, loop_step, loop_after, (("a", "n"),)),
    Program("while", loop_make, while_step, while_after, (("a",), ("n",))),
    Program("host", host_make, host_step, host_after, (("a",), ("n",))),
    Program("gradient", gradient_make, gradient_step, gradient_after, (("w",), ("g",))),
    Program("optimizer", optimizer_make, optimizer_step, optimizer_after, (("w", "m", "n"),)),
    Program("loading", loading_make, loading_step, loading_after, (("a",), ("b",))),
)


# ---- what interrupts

Action = Callable[[], None]


class Countdown:
    """Acts when `count` events have come: lines of the package, or calls and returns of functions
    in C, as Python looks after signals there."""

    def __init__(
        self, count: int, act: Action, again: int = 0, outside: bool = False
    ) -> None:
        self.outside = outside  # not while a function is recorded, which would record what it does
        self.left = count
        self.act = act
        self.again = again
        self.seen = 0

    def event(self) -> None:
        self.seen += 1
        self.left -= 1
        if self.left == 0 and self.outside and (thread.trace is not None or thread.mapping):
            self.left = 1
        if self.left == 0:
            self.left, self.again = self.again, 0
            self.act()

    def trace(self, frame: Any, event: str, argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(WITHIN):
            return None
        if event == "line":
            self.event()
        return self.trace

    def profile(self, frame: Any, event: str, argument: Any) -> None:
        inside = frame.f_code.co_filename.startswith(WITHIN)
        if inside and event in ("call", "c_return"):
            self.event()


@contextmanager
def watched(countdown: Countdown, lines: bool) -> Iterator[None]:
    """The countdown sees the events inside."""
    before = sys.gettrace() if lines else sys.getprofile()
    put = sys.settrace if lines else sys.setprofile
    put(countdown.trace if lines else countdown.profile)
    try:
        yield
    finally:
        put(before)


@contextmanager
def lost() -> Iterator[None]:
    """What Python cannot raise, since it struck within a destructor or a weak reference, is lost
    without a word: for the program that is no interruption."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda found: None if _is_thrown(found.exc_value) else before(found)
    try:
        yield
    finally:
        sys.unraisablehook = before


def _is_thrown(error: BaseException | None) -> bool:
    return error is not None and error.args == (THROWN,)


@contextmanager
def timer(seconds: float, act: Action) -> Iterator[None]:
    """A signal comes after so many seconds."""
    before = signal.signal(signal.SIGALRM, lambda *_: act())
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def throwing(kind: type[BaseException]) -> Action:
    """Raise an exception of this kind."""

    def act() -> None:
        raise kind(THROWN)

    return act


# ---- checking


def wrong_groups(program: Program, found: Found, options: Sequence[Expected]) -> list[str]:
    """What is in none of the states that are possible; all of a group has to be of one."""
    lines = []
    for group in program.groups:
        if not any(all(np.allclose(found[n], o[n], 1e-5) for n in group) for o in options):
            shown = {n: found[n].ravel()[:2].tolist() for n in group}
            wanted = [{n: np.ravel(o[n])[:2].tolist() for n in group} for o in options]
            lines.append(f"{program.name}: {shown} is none of {wanted}")
    return lines


def run_on(program: Program, state: State, expected: Expected) -> list[str]:
    """A step without an interruption, from whatever there is."""
    now = {**expected, **values(state)}
    program.step(state)
    return [f"later, {w}" for w in wrong_groups(program, values(state), [program.after(now)])]


_events: dict[tuple[str, bool, bool], int] = {}


def events_of(program: Program, lines: bool) -> int:
    """How many events a step of the program has, once everything is compiled."""
    key = (program.name, lines, settings().interpret)
    if key not in _events:
        state = program.make()
        program.step(state)
        countdown = Countdown(-1, lambda: None)
        with watched(countdown, lines):
            program.step(state)
        _events[key] = countdown.seen
    return _events[key]


def check_thrown(program: Program, rng: np.random.Generator) -> list[str]:
    """An exception at some event, sometimes another one soon after it."""
    lines = False  # a line may begin between the end of a `with` block and the release of its lock
    kind = (KeyboardInterrupt, Stop, MemoryError)[rng.integers(3)]
    events = events_of(program, lines)
    state = program.make()
    before: Expected = values(state)
    again = int(rng.integers(1, 40)) if rng.integers(4) == 0 else 0
    countdown = Countdown(int(rng.integers(1, events + 2)), throwing(kind), again)
    try:
        with watched(countdown, lines):
            program.step(state)
    except kind:
        pass
    return _settled(program, state, before)


def check_timer(program: Program, rng: np.random.Generator) -> list[str]:
    """An exception from the handler of a real signal, at a random time of the step."""
    events_of(program, lines=False)
    state = program.make()
    before: Expected = values(state)
    try:
        with timer(float(rng.uniform(2e-5, 2e-3)), throwing(Stop)):
            program.step(state)
            time.sleep(1e-5)  # an event waits in Python, with a lock that an exception breaks
    except Stop:
        pass
    return _settled(program, state, before)


def _settled(program: Program, state: State, before: Expected) -> list[str]:
    found = values(state)
    after = {**before, **program.after(before)}
    bad = wrong_groups(program, found, [before, after])
    return bad or run_on(program, state, {**before, **found})


def check_handler(program: Program, rng: np.random.Generator) -> list[str]:
    """A signal handler that computes: something of its own, a look at the state, or a step."""
    what = ("own", "look", "step")[rng.integers(3)]
    if program.name == "gradient" and what == "step":
        what = "look"  # the same line makes the same graph, which the first backward() lets go
    events = events_of(program, lines=False)
    state = program.make()
    before: Expected = values(state)
    own: list[Any] = []
    other = filled(1)

    def act() -> None:
        nonlocal other
        if what == "own":
            other += 1
            own.append(np.asarray(other * 2))
        elif what == "look":
            own.append(values(state))
        else:
            with rung.enable_grad():  # the modes of the thread are those of what was interrupted
                program.step(state)

    countdown = Countdown(int(rng.integers(1, events + 2)), act, outside=True)
    with watched(countdown, lines=False):
        program.step(state)
    if what == "own":
        bad = [] if not own or own[0].tolist() == [4.0] * SIZE else [f"handler: {own[0]}"]
    elif what == "look":
        options = [before, program.after(before)]
        bad = [f"handler: {w}" for w in own for w in wrong_groups(program, w, options)]
    else:
        return []  # of two steps at once each tensor is whole, but which come together is open
    return bad + wrong_groups(program, values(state), [{**before, **program.after(before)}])


def check_fork(program: Program, rng: np.random.Generator) -> list[str]:
    """A fork while other threads compute: the child computes the same."""
    stop = threading.Event()

    def compute() -> None:
        x = filled(1, 2000)
        while not stop.is_set():
            x.assign((x * 1.5).sum() * 0 + x)
            x.realize()

    threads = [threading.Thread(target=compute, daemon=True) for _ in range(2)]
    events_of(program, lines=False)
    state = program.make()
    before: Expected = values(state)
    for t in threads:
        t.start()
    try:
        threading.Event().wait(float(rng.uniform(0, 2e-3)))
        child = os.fork()
        if child == 0:
            _in_child(program, state, before)
        _, status = os.waitpid(child, 0)
    finally:
        stop.set()
        for t in threads:
            t.join()
    program.step(state)
    bad = wrong_groups(program, values(state), [{**before, **program.after(before)}])
    return bad + ([f"{program.name}: the child ended with {status}"] if status else [])


def _in_child(program: Program, state: State, before: Expected) -> None:
    try:
        signal.alarm(20)
        program.step(state)
        bad = wrong_groups(program, values(state), [{**before, **program.after(before)}])
        os._exit(bool(bad))
    finally:
        os._exit(3)


KINDS: dict[str, Callable[[Program, np.random.Generator], list[str]]] = {
    "thrown": check_thrown,
    "timer": check_timer,
    "handler": check_handler,
    "fork": check_fork,
}
SHARES = (0.6, 0.12, 0.26, 0.02)
COMPILED = 0.5
"""The share of the cases that run machine code."""


def draw(seed: int) -> tuple[Program, str, bool, np.random.Generator]:
    """The program, what interrupts it, and whether it is compiled."""
    rng = np.random.default_rng(seed)
    program = PROGRAMS[rng.integers(len(PROGRAMS))]
    kind = str(rng.choice(list(KINDS), p=SHARES))
    return program, kind, bool(rng.random() < COMPILED), rng


def check(seed: int) -> list[str]:
    """What is wrong with case `seed`, one line each."""
    program, kind, compiled, rng = draw(seed)
    before = settings().interpret
    configure(interpret=not compiled)
    try:
        with lost():
            return [f"{kind}: {line}" for line in KINDS[kind](program, rng)]
    finally:
        configure(interpret=before)


def show(seed: int) -> str:
    """Case `seed` as text."""
    program, kind, compiled, _ = draw(seed)
    how = "compiled" if compiled else "interpreted"
    return f"{program.name}, {how}, interrupted by: {kind} ({KINDS[kind].__doc__})"
