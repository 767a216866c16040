"""Every function that takes tensors on repeated, aliased, broadcast, empty, strided, 0-d operands:
value, forward and reverse derivative, both orders of second ones, and `vmap`.

What is right is what the function gives for separate contiguous tensors of equal contents; the
gradient of a repeated operand is the sum of theirs, reverse the transpose of forward, forward over
reverse equal to reverse over forward, and `vmap` a loop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import rung
from rung.core.errors import RungError
from rung.core.settings import configure, settings
from rung.tensor import tree
from tests.generate.operand_cases import CALLS, LEFT_OUT, OWNERS, Call

Array = np.ndarray[Any, Any]
FLOATS = "fpusgwl"
MODES = ("value", "forward", "reverse", "second", "map", "map of reverse")
EXAMPLES = 2
COMPILED = 40
"""One case of so many is compiled; the others run by NumPy."""
SPECIAL = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 40.0, -40.0)
"""Kinks, ends and saturated values, which some cases have: a derivative there may be any of those
that the sides give, but is the same in forward and reverse mode."""


@dataclass
class Case:
    """A call, the arrays of its operands, which of these are one object, how they are laid out."""

    call: Call
    mode: str
    dims: dict[str, int]
    kinds: list[str] = field(default_factory=list)
    arrays: list[Array] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """For each operand the number of the object that it is."""
    layouts: list[str] = field(default_factory=list)
    mapped: list[int | None] = field(default_factory=list)
    compiled: bool = False

    @property
    def objects(self) -> list[int]:
        """The operands that stand for the distinct objects."""
        return sorted(set(self.places))

    def moving(self) -> list[int]:
        """The objects that are floats."""
        return [i for i in self.objects if self.kinds[i][0] in FLOATS]


# ---- drawing

SEVERAL = [number for number, call in enumerate(CALLS) if len(call.spec.split()) > 1]


def call_of(seed: int) -> Call:
    """The calls in turn, those of several operands, which can be one tensor, three times."""
    number = seed % (len(CALLS) + 2 * len(SEVERAL))
    if number < len(CALLS):
        return CALLS[number]
    return CALLS[SEVERAL[(number - len(CALLS)) % len(SEVERAL)]]


def draw_case(seed: int) -> Case:
    """The case of a seed."""
    rng = np.random.default_rng(seed)
    call = call_of(seed)
    modes = [m for m in MODES if not any(call.lacks(word) for word in _needs(m))]
    case = Case(call, str(rng.choice(modes)), _dims(call.spec, rng))
    case.compiled = int(rng.integers(COMPILED)) == 0
    base = tuple(int(rng.choice([1, 2, 3])) for _ in range(int(rng.integers(0, 3))))
    if rng.random() < 0.06 and base:
        base = (0, *base[1:])
    shapes = []
    for text in call.spec.split():
        kind, _, rest = text.partition("[")
        case.kinds.append(kind)
        shapes.append(_shape(rest.rstrip("]"), case.dims, base, rng))
    _alias(case, shapes, rng)
    copies = EXAMPLES if case.mode.startswith("map") else 1
    special = case.mode != "second" and rng.random() < 0.15
    for i, (kind, shape) in enumerate(zip(case.kinds, shapes, strict=True)):
        if case.places[i] != i:
            case.arrays.append(case.arrays[case.places[i]])
            continue
        drawn = [_values(kind, shape, case.dims, rng) for _ in range(copies)]
        if special and kind == "f":
            drawn = [
                np.where(rng.random(shape) < 0.5, rng.choice(SPECIAL, shape), a) for a in drawn
            ]
        case.arrays.append(np.stack(drawn) if copies > 1 else drawn[0])
    _map(case, rng)
    layouts = [*LAYOUTS, *ARRAYS] if case.mode == "value" and call.plain else [*LAYOUTS]
    case.layouts = [str(rng.choice(layouts)) for _ in case.arrays]
    return case


def _needs(mode: str) -> list[str]:
    needs = {"value": [], "map": ["map"], "map of reverse": ["map", "derive"]}
    return needs.get(mode, ["derive"])


def _dims(spec: str, rng: np.random.Generator) -> dict[str, int]:
    """Lengths of the letters: often all equal, so that operands can be one tensor, at times 0."""
    letters = "ABCDEHKMNOST"
    if rng.random() < 0.5:
        lengths = dict.fromkeys(letters, int(rng.choice([2, 3])))
    else:
        lengths = {x: int(rng.choice([1, 2, 3, 4])) for x in letters}
    used = [x for x in letters if x in spec]
    if used and rng.random() < 0.12:
        lengths[str(rng.choice(used))] = 0
    return lengths


def _shape(
    text: str, dims: dict[str, int], base: tuple[int, ...], rng: np.random.Generator
) -> tuple[int, ...]:
    found: list[int] = []
    for token in filter(None, text.split(",")):
        if token == "*":
            kept = base[int(rng.integers(0, len(base) + 1)) :] if rng.random() < 0.4 else base
            found += [1 if rng.random() < 0.15 else n for n in kept]
        else:
            times = token.rstrip("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
            letter = token[len(times) :]
            found.append(int(times or 1) * (dims[letter] if letter else 1))
    return tuple(found)


def _alias(case: Case, shapes: list[tuple[int, ...]], rng: np.random.Generator) -> None:
    """Let operands of equal shapes and fitting kinds be one object, more often than not."""
    case.places = list(range(len(shapes)))
    if rng.random() < 0.35:
        return
    for i in range(1, len(shapes)):
        for j in range(i):
            if case.places[j] != j or shapes[i] != shapes[j] or rng.random() < 0.2:
                continue
            kinds = {case.kinds[i], case.kinds[j]}
            if len(kinds) == 1 or (kinds < set(FLOATS) and "f" in kinds):
                (kind,) = kinds - {"f"} or kinds
                group = [k for k, place in enumerate(case.places) if place == j]
                for k in (*group, i):
                    case.kinds[k] = kind
                case.places[i] = j
                break


def _values(
    kind: str, shape: tuple[int, ...], dims: dict[str, int], rng: np.random.Generator
) -> Array:
    if kind.startswith("<"):
        return rng.integers(0, max(dims[kind[1:]], 1), shape)
    if kind == "b":
        return rng.random(shape) < 0.5
    if kind in "inm":
        low = {"i": -3, "n": 0, "m": 1}[kind]
        return np.asarray(rng.integers(low, 4 if kind == "i" else 6, shape))
    if kind in "wl":
        square = rng.standard_normal(shape)
        if kind == "l":
            return np.tril(square) * 0.5 + 2 * np.eye(shape[-1])
        return square @ np.swapaxes(square, -1, -2) + np.diag(1.0 + np.arange(shape[-1]))
    low, high = {"p": (0.5, 2), "u": (0.1, 0.9), "s": (-0.9, 0.9), "g": (1.1, 3)}.get(
        kind, (-2.5, 2.5)
    )
    drawn_shape = shape
    if shape and rng.random() < 0.08:  # one row, repeated
        at = int(rng.integers(len(shape)))
        drawn_shape = (*shape[:at], min(shape[at], 1), *shape[at + 1 :])
    return np.broadcast_to(rng.uniform(low, high, drawn_shape), shape)


def _map(case: Case, rng: np.random.Generator) -> None:
    """Which objects `vmap` maps; an object that it does not map keeps its first example."""
    case.mapped = [None] * len(case.places)
    if not case.mode.startswith("map"):
        return
    chosen = [i for i in case.objects if rng.random() < 0.75]
    chosen = chosen or [case.objects[0]]
    for i, place in enumerate(case.places):
        if place in chosen:
            case.mapped[i] = case.mapped[place] if place < i else int(rng.integers(0, 2))
            if case.mapped[i] and case.arrays[i].ndim < 2:
                case.mapped[i] = 0
            if place == i and case.mapped[i]:
                case.arrays[i] = np.moveaxis(case.arrays[i], 0, -1)
                case.mapped[i] = case.arrays[i].ndim - 1
            elif place < i:
                case.arrays[i] = case.arrays[place]
        else:
            case.arrays[i] = case.arrays[i][0]


# ---- layouts


def _sliced(a: Array) -> Any:
    """A part of a larger tensor."""
    if not a.ndim:
        return rung.tensor(np.stack([a, a]))[1]
    wide = np.pad(a, [(1, 2)] * a.ndim, mode="constant")
    return rung.tensor(wide)[tuple(slice(1, 1 + n) for n in a.shape)]


def _strided(a: Array) -> Array:
    return np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a


def _transposed(a: Array) -> Array:
    return np.asarray(np.array(a.T, order="C").T)


def _reversed(a: Array) -> Array:
    turned = (slice(None, None, -1),) * a.ndim
    return np.asarray(np.array(a[turned], order="C")[turned])


def _read_only(a: Array) -> Array:
    found = a.copy()
    found.setflags(write=False)
    return found


LAYOUTS: dict[str, Callable[[Array], Any]] = {
    "plain": lambda a: rung.tensor(a.copy()),
    "as drawn": rung.asarray,
    "strided": lambda a: rung.asarray(_strided(a)),
    "transposed": lambda a: rung.asarray(_transposed(a)),
    "reversed": lambda a: rung.asarray(_reversed(a)),
    "read only": lambda a: rung.asarray(_read_only(a)),
    "sliced": _sliced,
    "turned": lambda a: rung.permute_dims(
        rung.tensor(np.array(a.T, order="C")), tuple(range(a.ndim))[::-1]
    ),
    "pending": lambda a: rung.where(rung.tensor(a == a), rung.tensor(a.copy()), a),
}  # type: ignore[assignment]


ARRAYS: dict[str, Callable[[Array], Array]] = {
    "array": lambda a: a,
    "strided array": _strided,
    "reversed array": _reversed,
    "transposed array": _transposed,
}
"""Operands that are arrays of NumPy; functions take these too."""


def laid_out(case: Case) -> list[Any]:
    """The operands, those of one place the same object."""
    ways: dict[str, Callable[[Array], Any]] = {**LAYOUTS, **ARRAYS}
    made = {i: ways[case.layouts[i]](case.arrays[i]) for i in case.objects}
    return [made[place] for place in case.places]


def apart(case: Case) -> list[Any]:
    """Separate contiguous tensors of the same contents."""
    return [rung.tensor(np.array(a, order="C")) for a in case.arrays]


# ---- checks


def check(seed: int) -> list[str]:
    """What is wrong with case `seed`."""
    case = draw_case(seed)
    with np.errstate(all="ignore"):
        try:
            with interpreted(True):
                wanted = RUN[case.mode](case, apart(case), False)
        except RungError as e:
            return _refused(case, e)
        with interpreted(not case.compiled):
            found = RUN[case.mode](case, laid_out(case), True)
    return [f"{case.call.name} {case.mode}: {line}" for line in _differences(found, wanted)]


@contextmanager
def interpreted(on: bool) -> Iterator[None]:
    """Graphs are run by NumPy, or compiled."""
    before = settings().interpret
    configure(interpret=on)
    try:
        yield
    finally:
        configure(interpret=before)


def _refused(case: Case, error: RungError) -> list[str]:
    """A refusal is right for empty operands alone, and then of any layout."""
    if all(a.size for a in case.arrays):
        return [f"{case.call.name} {case.mode}: refused: {str(error).partition(chr(10))[0]}"]
    try:
        with interpreted(True):
            RUN[case.mode](case, laid_out(case), True)
    except RungError:
        return []
    return [f"{case.call.name} {case.mode}: separate operands are refused, these are not"]


def _differences(found: list[Array], wanted: list[Array]) -> list[str]:
    if len(found) != len(wanted):
        return [f"{len(found)} results, not {len(wanted)}"]
    lines = []
    for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
        if a.dtype != b.dtype or a.shape != b.shape:
            lines.append(f"{number} is {a.dtype}{list(a.shape)}, not {b.dtype}{list(b.shape)}")
        elif a.dtype.kind != "f":
            if not np.array_equal(a, b):
                lines.append(f"{number} is {a.ravel()[:6]}, not {b.ravel()[:6]}")
        elif not np.allclose(a, b, 1e-8, 1e-9 * (1 + _largest(b)), equal_nan=True):
            lines.append(f"{number} is {a.ravel()[:6]}, not {b.ravel()[:6]}")
    return lines


def _largest(a: Array) -> float:
    finite = np.abs(a[np.isfinite(a)])
    return float(finite.max()) if finite.size else 0.0


def outputs(case: Case, operands: Sequence[Any]) -> list[Any]:
    """The leaves of the result."""
    return [x for x in tree.leaves(case.call.build(*operands)) if x is not None]


def _plain(x: Any) -> Array:
    return x.numpy() if isinstance(x, rung.Tensor) else np.asarray(x)


def _function(case: Case, operands: list[Any], alike: bool) -> tuple[Callable[..., Any], list[int]]:
    """The float results as a function of the float operands: of the objects where operands are
    `alike`, else of each place. With the operands that move."""
    moving = set(case.moving())
    numbers = [
        i for i, place in enumerate(case.places) if place in moving and (not alike or place == i)
    ]

    def function(*moved: Any) -> list[Any]:
        given = dict(zip(numbers, moved, strict=True))
        filled = [
            given.get(case.places[i] if alike else i, operands[i]) for i in range(len(operands))
        ]
        return [x for x in outputs(case, filled) if isinstance(x, rung.Tensor) and x.dtype.is_float]

    return function, numbers


def _directions(case: Case, shapes: Sequence[tuple[int, ...]], salt: int) -> list[Any]:
    """Random tensors, the same for the same shapes."""
    rng = np.random.default_rng([salt, len(case.kinds)])
    return [rung.tensor(np.asarray(rng.standard_normal(s))) for s in shapes]


def _tangents(case: Case, numbers: list[int]) -> list[Any]:
    """A direction for each object, given to all its places."""
    objects = case.moving()
    shapes = [case.arrays[i].shape for i in objects]
    by_object = dict(zip(objects, _directions(case, shapes, 1), strict=True))
    return [by_object[case.places[i]] for i in numbers]


def _by_object(case: Case, numbers: list[int], gradients: Sequence[Any]) -> list[Array]:
    """Gradients, those of one object added up."""
    totals: dict[int, Array] = {}
    for i, g in zip(numbers, gradients, strict=True):
        place = case.places[i]
        totals[place] = totals[place] + _plain(g) if place in totals else _plain(g)
    return [totals[i] for i in case.moving()]


# ---- modes: (case, operands, whether objects are shared) -> what is compared


def _value(case: Case, operands: list[Any], alike: bool) -> list[Array]:
    if alike and case.compiled and not case.call.lacks("map"):
        return [_plain(x) for x in rung.jit(lambda *x: outputs(case, x))(*operands)]
    return [_plain(x) for x in outputs(case, operands)]


def _forward(case: Case, operands: list[Any], alike: bool) -> list[Array]:
    function, numbers = _function(case, operands, alike)
    _, moved = rung.jvp(function, [operands[i] for i in numbers], _tangents(case, numbers))
    return [_plain(t) for t in moved]


def _reverse(case: Case, operands: list[Any], alike: bool) -> list[Array]:
    """Gradients by object; for shared ones also that they are the transpose of forward."""
    function, numbers = _function(case, operands, alike)
    primals = [operands[i] for i in numbers]
    results, pull_back = rung.vjp(function, *primals)
    cts = _directions(case, [r.shape for r in results], 2)
    gradients = pull_back(cts)
    if alike:
        tangents = _tangents(case, numbers)
        _, moved = rung.jvp(function, primals, tangents)
        ahead = sum(float((_plain(c) * _plain(t)).sum()) for c, t in zip(cts, moved, strict=True))
        pairs = list(zip(gradients, tangents, strict=True))
        back = sum(float((_plain(g) * _plain(t)).sum()) for g, t in pairs)
        size = sum(float(np.abs(_plain(g) * _plain(t)).sum()) for g, t in pairs)
        size += sum(
            float(np.abs(_plain(c) * _plain(t)).sum()) for c, t in zip(cts, moved, strict=True)
        )
        known = all(a.size for a in case.arrays) and np.isfinite(ahead)
        if known and not abs(ahead - back) <= 1e-8 * (1 + size):
            raise AssertionError(f"reverse {back} is not the transpose of forward {ahead}")
    return _by_object(case, numbers, gradients)


def _second(case: Case, operands: list[Any], alike: bool) -> list[Array]:
    """Forward over reverse; for shared objects, reverse over forward."""
    function, numbers = _function(case, operands, alike)
    primals, tangents = [operands[i] for i in numbers], _tangents(case, numbers)
    results = function(*primals)
    cts = _directions(case, [r.shape for r in results], 2)

    def gradient(*x: Any) -> Any:
        return rung.vjp(function, *x)[1](cts)

    def slope(*x: Any) -> Any:
        moved = rung.jvp(function, x, tangents)[1]
        return sum(((c * t).sum() for c, t in zip(cts, moved, strict=True)), rung.tensor(0.0))

    if alike and case.dims["A"] % 2:
        found = rung.grad(slope, argnums=tuple(range(len(primals))))(*primals)
    else:
        _, found = rung.jvp(gradient, primals, tangents)
    return _by_object(case, numbers, found)


def _one(case: Case, operands: list[Any], example: int) -> list[Any]:
    return [
        x if m is None else x[(slice(None),) * m + (example,)]
        for x, m in zip(operands, case.mapped, strict=True)
    ]


def _map_value(case: Case, operands: list[Any], alike: bool) -> list[Array]:
    """`vmap` of shared objects; a loop over separate ones."""
    return _mapped(case, operands, alike, lambda given: outputs(case, given))


def _map_reverse(case: Case, operands: list[Any], alike: bool) -> list[Array]:
    def gradients(given: list[Any]) -> list[Any]:
        function, numbers = _function(case, given, True)
        results, pull_back = rung.vjp(function, *[given[i] for i in numbers])
        found = pull_back(_directions(case, [r.shape for r in results], 2))
        return list(found)

    return _mapped(case, operands, alike, gradients)


def _mapped(
    case: Case, operands: list[Any], alike: bool, function: Callable[[list[Any]], list[Any]]
) -> list[Array]:
    if not alike:
        each = [[_plain(x) for x in function(_one(case, operands, k))] for k in range(EXAMPLES)]
        return [np.stack(parts) for parts in zip(*each, strict=True)]
    numbers = case.objects

    def one(*given: Any) -> list[Any]:
        by_object = dict(zip(numbers, given, strict=True))
        return function([by_object[place] for place in case.places])

    axes = tuple(case.mapped[i] for i in numbers)
    found = rung.vmap(one, in_axes=axes)(*[operands[i] for i in numbers])
    return [_plain(x) for x in found]


RUN: dict[str, Callable[[Case, list[Any], bool], list[Array]]] = {
    "value": _value,
    "forward": _forward,
    "reverse": _reverse,
    "second": _second,
    "map": _map_value,
    "map of reverse": _map_reverse,
}


# ---- what a reader sees, and what is covered


def show(seed: int) -> str:
    """Case `seed`."""
    case = draw_case(seed)
    lines = [f"{case.call.name}({case.call.spec}) {case.mode}{' compiled' * case.compiled}"]
    for i, a in enumerate(case.arrays):
        what = f"x{case.places[i]}" if case.places[i] != i else f"x{i} = {a!r}"
        lines.append(f"operand {i}: {case.kinds[i]} {case.layouts[i]} {case.mapped[i]} {what}")
    return "\n".join(lines)


def public_functions() -> dict[str, Any]:
    """Every public function that takes tensors, by its first name."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for prefix, owner in OWNERS.items():
        names = getattr(owner, "__all__", None) or [n for n in dir(owner) if n[0] != "_"]
        for name in names:
            function = getattr(owner, name)
            if prefix and not _belongs(owner, function):
                continue
            if _takes_tensors(function) and id(function) not in seen:
                seen.add(id(function))
                found[prefix + name] = function
    return found


def _belongs(owner: Any, function: Any) -> bool:
    listed = vars(owner) if isinstance(owner, type) else getattr(owner, "__all__", None)
    return listed is not None or getattr(function, "__module__", "") == owner.__name__


def _takes_tensors(function: Any) -> bool:
    if isinstance(function, type) or not callable(function):
        return False
    texts = getattr(function, "__annotations__", {})
    given = [str(t) for name, t in texts.items() if name != "return"]
    return any("Operand" in t or "Tensor" in t for t in given)


def uncovered() -> list[str]:
    """Functions without a case and without a reason."""
    from tests.generate.operand_cases import function_named

    covered = {id(function_named(c.name)) for c in CALLS}
    covered |= {id(f) for n in LEFT_OUT if (f := function_named(n)) is not None}
    return [name for name, function in public_functions().items() if id(function) not in covered]
