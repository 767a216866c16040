"""The variables that a branch or a loop sets: which of their parts are tensors in the graph, and
how the values of two paths are made alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from rung.core import dtype as dt
from rung.core.errors import RungError, ShapeError, SourceError
from rung.core.source import Source
from rung.ir.types import TensorType
from rung.tensor import tree
from rung.tensor.creation import zeros
from rung.tensor.operate import as_tensor, cast_weak, common_dtype, copied, weakly
from rung.tensor.state import TensorState


@dataclass(frozen=True)
class Refusal:
    """What in a statement cannot become part of a graph, its line, and what to do instead."""

    what: str
    line: int
    fix: str


@dataclass(frozen=True)
class Site:
    """A statement that may become a node: its variables, with the line that sets each last, and
    those that only the transformation knows (`made`), and those that are given another object
    (`rebound`), not only updated in place. `lost`: a call that must have an effect on a graph."""

    file: str
    kind: str
    names: tuple[str, ...] = ()
    lines: dict[str, int] = field(default_factory=dict)
    made: frozenset[str] = frozenset()
    refusal: Refusal | None = None
    rebound: frozenset[str] = frozenset()
    lost: Refusal | None = None

    def source(self, name: str) -> Source | None:
        """The line that sets a variable, if it is known."""
        return Source(self.file, self.lines[name]) if name in self.lines else None

    def fail(self, error: type[RungError], name: str, text: str, fix: str) -> NoReturn:
        """Raise an error about a variable, on its line."""
        raise error(f"{self.kind}: {name} {text}", source=self.source(name), fix=fix)


class Undefined:
    """In the place of a variable that no statement has set yet; any use of it is an error."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return f"<{self._name} is not set>"

    def __getattr__(self, attribute: str) -> Any:
        raise SourceError(
            f"{self._name} is read, but has no value on this path",
            fix=f"give {self._name} a value before the statement that sets it",
        )

    def _use(self, *_: object) -> Any:
        return self.used

    __bool__ = __call__ = __getitem__ = __iter__ = __len__ = __neg__ = _use
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __matmul__ = __rmatmul__ = _use
    __truediv__ = __rtruediv__ = __pow__ = __rpow__ = __lt__ = __le__ = __gt__ = __ge__ = _use


def is_value(x: object) -> bool:
    """Whether x can differ from run to run in a graph: a tensor, an array or a number."""
    return isinstance(x, TensorState | bool | int | float | np.ndarray | np.generic)


def flatten(x: Any) -> tuple[list[Any], tree.Structure]:
    """The leaves of a variable; a module or another object is one leaf."""
    return tree.flatten(x, lambda node: getattr(type(node), "__by_reference__", False))


def same(a: Any, b: Any) -> bool:
    """Whether two leaves that are no tensors are the same one."""
    if a is b:
        return True
    return type(a) is type(b) and isinstance(a, bool | int | float | str | bytes) and a == b


def owned(tensors: Sequence[Any]) -> list[Any]:
    """The tensors, for a body that may change them in place."""
    return [copied(t) for t in tensors]


class Guess:
    """While a loop is traced on numbers whose dtype is only a guess (`open`), different float types
    are brought together, and that is noted (`used`)."""

    def __init__(self) -> None:
        self.open = 0
        self.used = False

    def together(self, a: TensorType, b: TensorType) -> dt.DType | None:
        """The dtype for two types that differ in their floats alone; None: that is an error."""
        if not self.open or a.shape != b.shape or not (a.dtype.is_float and b.dtype.is_float):
            return None
        self.used = self.used or a.dtype is not b.dtype
        return dt.promote(a.dtype, b.dtype)


# ---- two paths


def on_one_path(state: Sequence[Any]) -> tuple[Any, ...]:
    """The variables for one of two paths: containers of its own, and arrays as tensors."""
    parts = [flatten(x) for x in state]
    return tuple(
        tree.unflatten(kind, [x if _stays_python(x) else as_tensor(x) for x in leaves])
        for leaves, kind in parts
    )


def _stays_python(x: Any) -> bool:
    return not isinstance(x, np.ndarray | np.generic)


class Paths:
    """The variables after each of two branches, as tensors of equal types and what is constant."""

    def __init__(self, site: Site, guess: Guess) -> None:
        self.site = site
        self.guess = guess
        self._structures: list[tree.Structure] = []
        self._constants: list[Any] = []

    def alike(self, results: Sequence[Sequence[Any]]) -> list[list[Any]]:
        """For each branch the tensors that differ; the branches are (false, true)."""
        self._structures, self._constants = [], []
        found: list[list[Any]] = [[], []]
        for name, other, then in zip(self.site.names, *results, strict=True):
            for pair in self._leaves(name, other, then):
                constant = len(pair) == 1
                self._constants.append(pair[0] if constant else _TENSOR)
                for tensors, t in zip(found, () if constant else pair, strict=False):
                    tensors.append(t)
        return found

    def variables(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """The variables, with the tensors that the branches have given."""
        given = iter(tensors)
        leaves = iter([next(given) if c is _TENSOR else c for c in self._constants])
        return tuple(
            tree.unflatten(s, [next(leaves) for _ in range(s.num_leaves)]) for s in self._structures
        )

    def _leaves(self, name: str, other: Any, then: Any) -> list[tuple[Any, ...]]:
        """(constant,) or (false, true) for each leaf of a variable."""
        missing = isinstance(other, Undefined), isinstance(then, Undefined)
        if any(missing) and not all(missing):
            if name not in self.site.made:
                self._only_once(name, missing[1])
            then, other = (_zeros(other), other) if missing[1] else (then, _zeros(then))
        (a, kind), (b, theirs) = flatten(other), flatten(then)
        if kind != theirs:
            self._differ(name, theirs, kind)
        self._structures.append(kind)
        return [self._leaf(name, x, y) for x, y in zip(a, b, strict=True)]

    def _leaf(self, name: str, a: Any, b: Any) -> tuple[Any, ...]:
        if same(a, b) or (isinstance(a, Undefined) and isinstance(b, Undefined)):
            return (a,)
        if not (is_value(a) and is_value(b)):
            self.site.fail(
                SourceError, name, f"is {b!r:.40} on one path and {a!r:.40} on the other",
                "only tensors and numbers can depend on a tensor",
            )  # fmt: skip
        x, y = weakly(a), weakly(b)
        dtype = common_dtype((x, y))
        x, y = (cast_weak(t, dtype) if t._weak else t for t in (x, y))
        if (wide := self.guess.together(x._type, y._type)) is not None:
            x, y = x.astype(wide), y.astype(wide)
        if x._type != y._type:
            self.site.fail(
                ShapeError, name, f"is {y._type} on one path and {x._type} on the other",
                "both paths must give it the same shape and dtype",
            )  # fmt: skip
        return x, y

    def _only_once(self, name: str, then_is_missing: bool) -> NoReturn:
        where = "in the else part" if then_is_missing else "if the condition holds"
        self.site.fail(
            SourceError, name, f"is only set {where}, and the condition is a tensor",
            f"give {name} a value before the if, or on both paths",
        )  # fmt: skip

    def _differ(self, name: str, then: tree.Structure, other: tree.Structure) -> NoReturn:
        empty = [s for s in (then, other) if s.kind is type(None)]
        if name in self.site.made and empty:
            raise SourceError(
                f"{self.site.kind}: one path returns a value and another returns None",
                source=self.site.source(name),
                fix="return values of one structure on all paths",
            )
        self.site.fail(
            SourceError, name, f"is {then} on one path and {other} on the other",
            "both paths must give it one structure",
        )  # fmt: skip


_TENSOR = object()


def _zeros(like: Any) -> Any:
    """Zeros in the place of a value that is never looked at."""
    leaves, structure = flatten(like)
    return tree.unflatten(structure, [_zero(x) if is_value(x) else x for x in leaves])


def _zero(x: Any) -> Any:
    if isinstance(x, TensorState):
        found = zeros(x.shape, dtype=x.dtype)
        found._weak = x._weak
        return found
    return x if isinstance(x, bool | int | float) else x * 0


# ---- one iteration after another


class Again(Exception):
    """A loop must be traced again, with other values of its variables before it, or without a
    guess (`sure`)."""

    def __init__(self, make: Callable[[], tuple[Any, ...]], sure: bool = False) -> None:
        self.make = make
        self.sure = sure


class Carries:
    """The variables of a loop: tensors that are carried, and what stays as it is. A tensor that a
    body only updates in place stays what it is, and the loop updates it; `other` are the places of
    those that an earlier trace has found to be given another object."""

    def __init__(
        self, site: Site, state: Sequence[Any], guess: Guess, other: set[tuple[int, int]]
    ) -> None:
        self.site = site
        self.guess = guess
        self.other = other
        self.guessing = False
        self.state = tuple(state)
        self.parts = [flatten(x) for x in state]
        self.places = [
            (v, i)
            for v, (leaves, _) in enumerate(self.parts)
            for i, x in enumerate(leaves)
            if is_value(x) and not self._stays(v, i, x)
        ]

    def _stays(self, v: int, i: int, x: Any) -> bool:
        plain = isinstance(x, TensorState) and not x._weak
        return plain and self.site.names[v] not in self.site.rebound and (v, i) not in self.other

    @property
    def guesses(self) -> bool:
        """Whether a number before the loop may turn out to have another dtype."""
        return any(weakly(self.parts[v][0][i])._weak for v, i in self.places)

    def start(self) -> list[Any]:
        """The tensors before the first iteration."""
        return [weakly(self.parts[v][0][i]) for v, i in self.places]

    def variables(self, tensors: Sequence[Any]) -> tuple[Any, ...]:
        """The variables, with these tensors in their places."""
        parts = [(list(leaves), structure) for leaves, structure in self.parts]
        for (v, i), t in zip(self.places, owned(tensors), strict=True):
            parts[v][0][i] = t
        return tuple(tree.unflatten(structure, leaves) for leaves, structure in parts)

    def tensors(self, state: Sequence[Any]) -> list[Any]:
        """The tensors after an iteration. Raises ShapeError and SourceError where a variable is
        not what it was, Again where other values at the start make it so."""
        carried = set(self.places)
        found: dict[tuple[int, int], Any] = {}
        for v, (name, new) in enumerate(zip(self.site.names, state, strict=True)):
            leaves, structure = flatten(new)
            before, kind = self.parts[v]
            if isinstance(self.state[v], Undefined) and not isinstance(new, Undefined):
                self._define(v, name, leaves, structure)
            if structure != kind:
                self.site.fail(
                    SourceError, name, f"is {kind} before an iteration and {structure} after it",
                    "a loop over tensors keeps the structure of its variables: for a list that "
                    "grows, fill a tensor of the final size by index",
                )  # fmt: skip
            for i, (old, x) in enumerate(zip(before, leaves, strict=True)):
                if (v, i) in carried:
                    found[v, i] = self._leaf(v, i, name, old, x)
                elif isinstance(old, TensorState) and old is not x:
                    self.other.add((v, i))
                    raise Again(lambda: self.state)
                elif not (same(old, x) or isinstance(old, Undefined)):
                    self.site.fail(
                        SourceError, name, f"is {old!r:.40} before an iteration and {x!r:.40} "
                        "after it", "only tensors and numbers can change in a loop over tensors",
                    )  # fmt: skip
        if self.guessing and self.guess.open == 1 and self.guess.used:
            raise Again(lambda: self.state, sure=True)  # types do not come together: say where
        return [found[place] for place in self.places]

    def _leaf(self, v: int, i: int, name: str, old: Any, new: Any) -> Any:
        if not is_value(new):
            text = f"is a number or tensor before an iteration and {new!r:.40} after it"
            self.site.fail(SourceError, name, text, "keep it a tensor")
        start, after = weakly(old), weakly(new)
        was = start._type
        if after._weak and dt.weak_beside(after.dtype, was.dtype) is was.dtype:
            return cast_weak(after, was.dtype)
        fits = dt.weak_beside(was.dtype, after.dtype) is after.dtype
        if start._weak and after.dtype is not was.dtype and after.shape == () and fits:
            raise Again(lambda: self._replaced(v, i, cast_weak(start, after.dtype, after._weak)))
        if self.guess.together(after._type, was) is not None and after._type != was:
            wide = dt.promote(after.dtype, was.dtype)
            if wide is was.dtype:
                return after.astype(wide)
            raise Again(lambda: self._replaced(v, i, as_tensor(old).astype(wide)))
        if after._type != was:
            self.site.fail(
                ShapeError, name, f"is {was} before an iteration and {after._type} after it",
                f"give {name} its final shape and dtype before the loop",
            )  # fmt: skip
        return after

    def _replaced(self, v: int, i: int, tensor: Any) -> tuple[Any, ...]:
        leaves, structure = self.parts[v]
        new = tree.unflatten(structure, [*leaves[:i], tensor, *leaves[i + 1 :]])
        return (*self.state[:v], new, *self.state[v + 1 :])

    def _define(self, v: int, name: str, leaves: list[Any], structure: tree.Structure) -> NoReturn:
        """A variable without a value before the loop: zeros where nobody can see them."""
        if name not in self.site.made:
            self.site.fail(
                SourceError, name, "is only set inside of the loop, which may be performed no time",
                f"give {name} a value of its shape and dtype before the loop",
            )  # fmt: skip
        types = [as_tensor(x)._type if is_value(x) else None for x in leaves]

        def make() -> tuple[Any, ...]:
            zero = [
                x if t is None else zeros(t.shape, dtype=t.dtype)
                for x, t in zip(leaves, types, strict=True)
            ]
            return (*self.state[:v], tree.unflatten(structure, zero), *self.state[v + 1 :])

        raise Again(make)
