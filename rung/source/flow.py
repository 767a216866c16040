"""What the control flow of a transformed function calls: Python where the condition is Python's,
nodes of the graph where it is a tensor."""

from __future__ import annotations

import builtins
import operator
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from rung.core import dtype as dt
from rung.core.errors import DTypeError, ShapeError, SourceError, TraceError
from rung.core.source import Source
from rung.source.state import (
    Again,
    Carries,
    Guess,
    Paths,
    Refusal,
    Site,
    Undefined,
    is_value,
    on_one_path,
)
from rung.tensor import elementwise as e
from rung.tensor.control import branch, scan, while_loop
from rung.tensor.operate import as_tensor, cast_weak
from rung.tensor.shapes import reshape
from rung.tensor.state import TensorState

Function = Callable[..., Any]
State = tuple[Any, ...]
_COMPARE = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
    "==": operator.eq, "!=": operator.ne,
}  # fmt: skip
_EXPRESSION = ("the value",)


@dataclass(frozen=True)
class TensorRange:
    """`range` with a bound that is a tensor."""

    start: Any
    stop: Any
    step: Any

    def more(self, i: Any) -> Any:
        """Whether i is still before the end."""
        if isinstance(self.step, int):
            return i < self.stop if self.step > 0 else i > self.stop
        return e.where(self.step > 0, i < self.stop, i > self.stop)

    def __iter__(self) -> Any:
        raise SourceError(
            "a range up to a tensor is used outside of the head of a for loop",
            fix="write for i in range(…), or use rung.arange with a Python number",
        )


class Flow:
    """The control flow of one transformed function. `sites` says for each name of a body what it
    was; loops have at most `limit` iterations."""

    def __init__(
        self, file: str, sites: dict[str, Site], limit: int | None, convert: Function
    ) -> None:
        self.file = file
        self.sites = sites
        self.limit = limit
        self.converted = convert
        self.guess = Guess()

    def undefined(self, name: str) -> Undefined:
        """A variable that has no value yet."""
        return Undefined(name)

    # ---- branches

    def branch(self, test: Any, then: Function, otherwise: Function, state: State) -> State:
        """`then(*state)` if the test holds, else `otherwise(*state)`: the variables after it."""
        if not isinstance(test, TensorState):
            return then(*state) if test else otherwise(*state)  # type: ignore[no-any-return]
        return self._graph_branch(self.sites[then.__name__], truth(test), then, otherwise, state)

    def _graph_branch(
        self, site: Site, test: Any, then: Function, otherwise: Function, state: State
    ) -> State:
        if site.refusal is not None:
            raise _refused(site)
        paths = Paths(site, self.guess)
        both = [lambda f=f: f(*on_one_path(state)) for f in (otherwise, then)]
        name, index = f"{site.kind} {then.__name__}", test.astype(dt.int32)
        with _graph.inside():
            found = branch(name, index, both, (), paths.alike, idle=lambda: _idle(site))
        return paths.variables(found)

    def choose(self, test: Any, then: Function, otherwise: Function) -> Any:
        """`a if test else b`."""
        if not isinstance(test, TensorState):
            return then() if test else otherwise()
        site = Site("", "if expression", _EXPRESSION)
        both: list[Function] = [lambda f=f: (f(),) for f in (then, otherwise)]
        return self._graph_branch(site, truth(test), both[0], both[1], ())[0]

    # ---- loops

    def while_loop(self, test: Function, body: Function, state: State) -> State:
        """`state = body(*state)` while `test(*state)`, in Python until the test is a tensor."""
        while not isinstance(asked := test(*state), TensorState):
            if not asked:
                return state
            state = body(*state)
        return self._graph_while(self.sites[body.__name__], test, body, state, self.limit)

    def _graph_while(
        self, site: Site, test: Function, body: Function, state: State, limit: int | None
    ) -> State:
        if site.refusal is not None:
            raise _refused(site)

        def run(carries: Carries) -> State:
            def step(tensors: Sequence[Any]) -> list[Any]:
                return carries.tensors(body(*carries.variables(tensors)))

            def condition(tensors: Sequence[Any]) -> Any:
                return truth(as_tensor(test(*carries.variables(tensors))))

            step.__name__ = body.__name__
            return carries.variables(while_loop(condition, step, carries.start(), limit=limit))

        return self._settled(site, state, run)

    def for_loop(self, items: Any, body: Function, state: State, stop: Sequence[str] = ()) -> State:
        """`state = body(item, *state)` for each item, until one of the flags `stop` is set."""
        site = self.sites[body.__name__]
        flags = [site.names.index(name) for name in stop]
        if isinstance(items, TensorRange):
            return self._range(site, items, body, state, flags, self.limit)
        if isinstance(items, TensorState):
            return self._rows(site, items, body, state, flags)
        rest = iter(items)
        for done, item in enumerate(rest, 1):
            state = body(item, *state)
            stopped = _any_of([state[f] for f in flags])
            if isinstance(stopped, TensorState):
                if isinstance(items, builtins.range):
                    return self._rest_of_range(site, items[done:], body, state, flags)
                return self._unrolled(site, rest, body, state, flags)
            if stopped:
                break
        return state

    def _range(
        self, site: Site, items: TensorRange, body: Function, state: State, flags: list[int],
        limit: int | None,
    ) -> State:  # fmt: skip
        index = replace(site, names=("the index", *site.names))
        bounds = [x for x in (items.start, items.stop, items.step) if isinstance(x, TensorState)]
        dtype = bounds[0].dtype if bounds else dt.int64
        for t in bounds:
            if t.shape != () or not t.dtype.is_integer:
                raise DTypeError(f"range of {t._type}", fix="give scalar integers")
            dtype = dt.promote(dtype, t.dtype)

        def test(i: Any, *now: Any) -> Any:
            return e.logical_and(items.more(i), e.logical_not(_tensor_flag(now, flags)))

        def step(i: Any, *now: Any) -> State:
            return (i + items.step, *body(i, *now))

        step.__name__ = body.__name__
        begin = (cast_weak(as_tensor(items.start), dtype), *state)
        return self._graph_while(index, test, step, begin, limit)[1:]

    def _rest_of_range(
        self, site: Site, items: range, body: Function, state: State, flags: list[int]
    ) -> State:
        if not items:
            return state
        bounds = TensorRange(items.start, items.stop, items.step)
        return self._range(site, bounds, body, state, flags, len(items))

    def _rows(
        self, site: Site, items: Any, body: Function, state: State, flags: list[int]
    ) -> State:
        if not items.shape:
            raise ShapeError(f"{site.kind}: {items._type} has no rows to go through")
        if site.refusal is not None:
            raise _refused(site)
        if flags:
            inner = _named(lambda i, *now: body(items[i], *now), body)
            return self._rest_of_range(site, builtins.range(len(items)), inner, state, flags)

        def run(carries: Carries) -> State:
            def step(tensors: Any, row: Any) -> tuple[list[Any], None]:
                return carries.tensors(body(row, *carries.variables(tensors))), None

            return carries.variables(scan(_named(step, body), carries.start(), items)[0])

        return self._settled(site, state, run)

    def _unrolled(
        self, site: Site, rest: Iterable[Any], body: Function, state: State, flags: list[int]
    ) -> State:
        """The rest of a Python loop, each iteration under the condition that none has stopped."""
        for item in rest:
            stopped = _tensor_flag(state, flags)
            go = _named(lambda *now, item=item: body(item, *now), body)
            state = self._graph_branch(site, e.logical_not(stopped), go, lambda *now: now, state)
        return state

    def _settled(self, site: Site, state: State, run: Callable[[Carries], State]) -> State:
        """A loop, traced again where a number before it must have another dtype."""
        sure = False
        other: set[tuple[int, int]] = set()
        for _ in builtins.range(4 + 3 * len(state)):
            carries = Carries(site, state, self.guess, other)
            carries.guessing = guessing = carries.guesses and not sure
            self.guess.open += guessing
            try:
                with _graph.inside():
                    return run(carries)
            except Again as again:
                state, sure = again.make(), sure or again.sure
            finally:
                self.guess.open -= guessing
                self.guess.used &= self.guess.open > 0
        raise SourceError(f"{site.kind}: the dtypes of its variables change with each iteration")

    def range(self, *bounds: Any) -> Any:
        """`range`, also up to a tensor."""
        if not any(isinstance(b, TensorState) for b in bounds) or len(bounds) > 3:
            return builtins.range(*bounds)
        start, stop, step = (0, bounds[0], 1) if len(bounds) == 1 else (*bounds, 1)[:3]
        return TensorRange(start, stop, step)

    # ---- what stays Python

    def place(self, held: Any, text: str, line: int) -> Any:
        """What `held.name += x`, `held[i] += x` and `held[i] = x` change: in the body of a branch
        or loop on a tensor, only tensors, which are updated in place."""
        if not _graph.open or isinstance(held, TensorState):
            return held
        return _Checked(held, text, Source(self.file, line))

    def python(self, test: Any, name: str) -> Any:
        """A condition, or what a loop goes through, that must not be a tensor: SourceError."""
        if isinstance(test, TensorState | TensorRange):
            raise _refused(self.sites[name])
        return test

    def check(self, test: Any, message: Function) -> None:
        """`assert test, message()`."""
        try:
            holds = bool(truth(test)) if isinstance(test, TensorState) else bool(test)
        except TraceError:
            raise SourceError(
                "assert on a tensor whose value is not known while the graph is built",
                fix="assert outside of the branch, loop or jit, or leave it out",
            ) from None
        if not holds:
            raise AssertionError(*message())

    # ---- logic

    def both(self, first: Any, *rest: Function) -> Any:
        """`first and rest() and …`"""
        for then in rest:
            if isinstance(first, TensorState):
                first = _logical(e.logical_and, first, then())
            elif first:
                first = then()
            else:
                return first
        return first

    def either(self, first: Any, *rest: Function) -> Any:
        """`first or rest() or …`"""
        for then in rest:
            if isinstance(first, TensorState):
                first = _logical(e.logical_or, first, then())
            elif not first:
                first = then()
            else:
                return first
        return first

    def negation(self, x: Any) -> Any:
        """`not x`"""
        return e.logical_not(truth(x)) if isinstance(x, TensorState) else not x

    def compare(self, first: Any, *rest: Any) -> Any:
        """`first < second <= third`: the operators as texts, what is right of them as functions."""
        found: Any = True
        for sign, right in zip(rest[::2], rest[1::2], strict=True):
            second = right()
            one = _COMPARE[sign](first, second)
            if isinstance(found, TensorState):
                found = _logical(e.logical_and, found, one)
            elif isinstance(one, TensorState) or one:
                found = one
            else:
                return one
            first = second
        return found


# ---- parts


def truth(test: Any) -> Any:
    """A tensor as a scalar bool. Raises ShapeError for one with several elements."""
    if test.size != 1:
        raise ShapeError(
            f"the truth of a tensor {test._type} with {test.size} elements is ambiguous",
            fix="use all() or any(), or rung.where to choose for each element",
        )
    scalar = test if test.shape == () else reshape(test, ())
    return scalar if scalar.dtype is dt.bool_ else scalar != 0


def _logical(op: Function, a: Any, b: Any) -> Any:
    if not is_value(b):
        b = bool(b)
    return op(truth(as_tensor(a)), truth(as_tensor(b)))


def _any_of(flags: Sequence[Any]) -> Any:
    """Whether one of some flags is set, a tensor if it depends on one."""
    tensors = [f for f in flags if isinstance(f, TensorState)]
    if any(f for f in flags if not isinstance(f, TensorState)):
        return True
    found = tensors[0] if tensors else False
    for t in tensors[1:]:
        found = e.logical_or(found, t)
    return found


def _tensor_flag(state: Sequence[Any], flags: Sequence[int]) -> Any:
    found = _any_of([state[f] for f in flags])
    return found if isinstance(found, TensorState) else as_tensor(found)


def _named(function: Function, like: Function) -> Function:
    function.__name__ = like.__name__
    return function


class _Graph(threading.local):
    """How many bodies of branches and loops on tensors are being performed."""

    open: int = 0

    @contextmanager
    def inside(self) -> Iterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


_graph = _Graph()


class _Checked:
    """An object or container whose tensors may be updated in place, and nothing else."""

    __slots__ = ("_held", "_source", "_text")

    def __init__(self, held: Any, text: str, source: Source) -> None:
        object.__setattr__(self, "_held", held)
        object.__setattr__(self, "_text", text)
        object.__setattr__(self, "_source", source)

    def _check(self, old: Any, new: Any) -> None:
        if old is not new or not isinstance(old, TensorState):
            raise SourceError(
                f"an assignment to {self._text} cannot become part of a graph",
                source=self._source,
                fix="update a tensor in place (+=, assign), or compute a local variable and "
                "assign it after the statement",
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._held, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._check(getattr(self._held, name, None), value)

    def __getitem__(self, key: Any) -> Any:
        return self._held[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        try:
            old = self._held[key]
        except (KeyError, IndexError):
            old = None
        self._check(old, value)


def _idle(site: Site) -> None:
    if site.lost is not None:
        raise _refused(site, site.lost)


def _refused(site: Site, refusal: Refusal | None = None) -> SourceError:
    refusal = refusal or site.refusal
    assert refusal is not None
    return SourceError(
        f"{site.kind} on a tensor: {refusal.what} cannot become part of a graph",
        source=Source(site.file, refusal.line),
        fix=refusal.fix,
    )
