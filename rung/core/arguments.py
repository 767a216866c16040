"""What public functions are given, read by the annotations of their parameters.

    rung.sum(x, axis="rows")
    ArgumentError: sum: axis is 'rows' (str)
      fix: give int | Sequence[int] | None

`checked(function)` is the function behind such a check. What an annotation takes, and as what the
function gets it (a whole number as an int, a sequence of them as a tuple), is one table, `KINDS`;
what it does not know (operands, trees) is checked where it is used. A call costs one look at the
type of each argument that has a known annotation; functions of tensors alone are left as they are.
A number that is more than memory holds, or than C counts to, is an AllocationError of the function
that it was given to.
"""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
import os
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import FunctionType
from typing import Any, Final

import numpy as np

from rung.core.errors import AllocationError, ArgumentError, DomainError, RungError, ShapeError
from rung.core.source import PACKAGE_DIR

NO: Final = object()
"""What a reader gives for an argument that is refused."""
Read = Callable[[Any], Any]
"""(argument) -> as what the function gets it, or NO."""
PACKAGE: Final = __name__.partition(".")[0] + "."
INSIDE: Final = (
    "rung.core", "rung.ir", "rung.ops", "rung.public", "rung.tensor.leaf", "rung.tensor.operate",
    "rung.tensor.precision", "rung.tensor.state",
)  # fmt: skip
"""Modules whose names public ones import, without being of the public interface."""
SPECIAL_METHODS: Final = ("__call__", "__getitem__", "__setitem__", "__delitem__")
TORCH_NAMES: Final = {"axis": "dim", "keepdims": "keepdim"}


@dataclass(frozen=True)
class Reads:
    """What a name in annotations takes, where that is no class."""

    read: Read


Aliases = Mapping[str, str | type | Reads]
"""Names in annotations: of another annotation, of a class, or how they are read."""


def _kind(x: Any) -> str:
    """The kind of the dtype of an array or tensor without dims; empty for all else."""
    if getattr(x, "shape", None) != () or isinstance(x, type | np.ma.MaskedArray):
        return ""
    return str(getattr(getattr(x, "dtype", None), "kind", ""))


def read_int(x: Any) -> Any:
    """A whole number, as Python sees it; a bool stays one."""
    if isinstance(x, int):
        return x
    if isinstance(x, type) or not hasattr(x, "__index__"):
        return NO
    return NO if hasattr(x, "shape") and _kind(x) not in ("i", "u") else operator.index(x)


def _read_count(x: Any) -> Any:
    """A whole number as an int, a bool as 0 or 1."""
    if type(x) is int:
        return x
    found = read_int(x)
    return found if found is NO else int(found)


def read_float(x: Any) -> Any:
    """A real number as it is, since NumPy's scalars have dtypes, but NumPy's bools as Python's,
    with which one can count; fractions and the like as floats, an array of one as its scalar. A
    tensor that holds one stays a tensor."""
    if isinstance(x, float | int | np.floating | np.integer):
        return x
    if isinstance(x, np.bool_):
        return bool(x)
    if isinstance(x, numbers.Real):
        return float(x)
    if isinstance(x, np.void) or _kind(x) not in ("f", "i", "u", "b", "V"):  # a bf16 is a V too
        return NO
    return read_float(x[()]) if isinstance(x, np.ndarray) else x


def read_bool(x: Any) -> Any:
    """True or False, or 1 or 0."""
    if isinstance(x, bool):
        return x
    return bool(x) if isinstance(x, np.bool_) or (type(x) is int and x in (0, 1)) else NO


def those(test: Callable[[Any], bool]) -> Read:
    """Takes what passes a test, as it is."""
    return lambda x: x if test(x) else NO


KINDS: Final[dict[str, Read]] = {
    "int": _read_count,
    "float": read_float,
    "bool": read_bool,
    "str": those(lambda x: isinstance(x, str)),
    "slice": those(lambda x: isinstance(x, slice)),
    "None": those(lambda x: x is None),
    "Path": those(lambda x: isinstance(x, str | os.PathLike)),
    "Scalar": read_float,
    "Callable": those(callable),
    "Mapping": those(lambda x: isinstance(x, Mapping)),
}


class _Unknown(Exception):
    """An annotation that says nothing here."""


def _split(text: str, mark: str) -> list[str]:
    """The parts of an annotation between marks outside of brackets."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "[(") - (c in "])")
        if c == mark and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()]


def reader(annotation: str, aliases: Aliases) -> Read:
    """What an annotation takes. Raises _Unknown."""
    options = _split(annotation, "|")
    if len(options) > 1:
        return _first_of([reader(option, aliases) for option in options])
    name, _, inner = annotation.partition("[")
    inner = inner.removesuffix("]")
    if inner and name in ("Sequence", "list"):
        return _sequence_of(_or_anything(inner, aliases))
    if inner and name == "Iterable":
        return _iterable_of(_or_anything(inner, aliases))
    if inner and name == "tuple":
        return _tuple_of(_split(inner, ","), aliases)
    known = aliases.get(name)
    if isinstance(known, str):
        return reader(known, aliases)
    if isinstance(known, type):
        return those(lambda x: isinstance(x, known))
    if known is not None:
        return known.read
    if name not in KINDS:
        raise _Unknown(name)
    return KINDS[name]


def _or_anything(annotation: str, aliases: Aliases) -> Read | None:
    try:
        return reader(annotation, aliases)
    except _Unknown:
        return None


def _first_of(readers: list[Read]) -> Read:
    def read(x: Any) -> Any:
        for one in readers:
            found = one(x)
            if found is not NO:
                return found
        return NO

    return read


def is_sequence(x: Any) -> bool:
    """A list, a tuple, a range, or an array or tensor with dims; no text, mapping or set."""
    if isinstance(x, list | tuple):
        return True
    if isinstance(x, str | bytes | bytearray | memoryview | Mapping | type | np.ma.MaskedArray):
        return False
    shape = getattr(x, "shape", None)
    return isinstance(x, Sequence) or (isinstance(shape, tuple) and len(shape) > 0)


def _sequence_of(read: Read | None) -> Read:
    """A sequence stays what it is where all elements do, and else becomes a tuple."""

    def of(x: Any) -> Any:
        if not is_sequence(x):
            return NO
        if read is None:
            return x
        found = tuple(map(read, x))
        if any(v is NO for v in found):
            return NO
        same = isinstance(x, list | tuple) and all(map(operator.is_, x, found))
        return x if same else found

    return of


def _iterable_of(read: Read | None) -> Read:
    """Elements of what can be iterated only once are not looked at."""
    within = _sequence_of(read)

    def of(x: Any) -> Any:
        if isinstance(x, list | tuple):
            return within(x)
        text = isinstance(x, str | bytes | bytearray | type) or getattr(x, "shape", None) == ()
        return x if hasattr(x, "__iter__") and not text else NO

    return of


def _tuple_of(parts: list[str], aliases: Aliases) -> Read:
    if parts[-1] == "...":
        return _sequence_of(_or_anything(parts[0], aliases))
    readers = [reader(part, aliases) for part in parts]

    def of(x: Any) -> Any:
        if not is_sequence(x) or len(x) != len(readers):
            return NO
        found = tuple(read(v) for read, v in zip(readers, x, strict=True))
        return NO if any(v is NO for v in found) else found

    return of


@dataclass(frozen=True)
class _Parameter:
    """A parameter whose annotation says what it takes; `at`: its place, -1 if it has none."""

    name: str
    at: int
    read: Read
    wanted: str


def _parameters(
    function: Callable[..., Any], aliases: Aliases
) -> tuple[list[_Parameter], _Parameter | None]:
    """Those that can be checked, and the one that takes all further positional arguments."""
    found: list[_Parameter] = []
    rest = None
    for at, p in enumerate(inspect.signature(function).parameters.values()):
        annotation = p.annotation if isinstance(p.annotation, str) else ""
        try:
            read = reader(annotation, aliases)
        except _Unknown:
            continue
        if p.kind is p.VAR_POSITIONAL:
            rest = _Parameter(p.name, at, read, annotation)
        elif p.kind is not p.VAR_KEYWORD:
            place = -1 if p.kind is p.KEYWORD_ONLY else at
            found.append(_Parameter(p.name, place, read, annotation))
    return found, rest


def checked(function: Callable[..., Any], aliases: Aliases) -> Callable[..., Any]:
    """`function` with its arguments checked; itself where no annotation says anything."""
    name = function.__name__
    parameters, rest = _parameters(function, aliases)
    if not parameters and rest is None:
        return function
    named = {p.name: p for p in parameters}
    named.update({new: named[old] for old, new in TORCH_NAMES.items() if old in named})
    placed = tuple(p for p in parameters if p.at >= 0)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        count = len(args)
        for p in placed:
            if p.at >= count:
                break
            given = args[p.at]
            found = p.read(given)
            if found is not given:
                if found is NO:
                    raise _wrong(name, args, p, given)
                args = (*args[: p.at], found, *args[p.at + 1 :])
        if rest is not None and count > rest.at:
            args = (*args[: rest.at], *_further(name, args, rest))
        for key, given in kwargs.items():
            known = named.get(key)
            if known is not None:
                found = known.read(given)
                if found is NO:
                    raise _wrong(name, args, known, given)
                kwargs[key] = found
        try:
            return function(*args, **kwargs)
        except (MemoryError, ArithmeticError, ValueError) as error:
            refused = of_numbers(_called(name, args), error)
            if refused is None:
                raise
            raise refused from None

    return call


def of_numbers(name: str, error: Exception) -> RungError | None:
    """The error of `name` for one by which NumPy or Python, called by us, says that memory ends,
    that a number is beyond those of C, or that it cannot be divided by or made whole (0, NaN, an
    infinity). None for all others, those of functions of the user's among them."""
    said = str(error)
    no_whole = isinstance(error, ValueError | OverflowError) and said.startswith("cannot convert")
    unfit = isinstance(error, ZeroDivisionError) or (no_whole and said.endswith("to integer"))
    too_large = isinstance(error, MemoryError | OverflowError) or (
        type(error) is ValueError and any(s in said for s in ("Maximum allowed", "too big"))
    )
    if not (unfit or too_large) or isinstance(error, RungError) or not _is_raised_inside(error):
        return None
    if unfit:
        return DomainError(f"{name}: {said}", fix="give finite numbers, and none of 0 as a divisor")
    return AllocationError(f"{name}: {said}", fix="give smaller sizes")


def _is_raised_inside(error: BaseException) -> bool:
    """Whether the innermost frame outside of NumPy is ours."""
    tb, last = error.__traceback__, ""
    while tb is not None:
        name = tb.tb_frame.f_code.co_filename
        last = last if name.startswith(_NUMPY) else name
        tb = tb.tb_next
    return last.startswith(PACKAGE_DIR)


_NUMPY: Final = (os.path.dirname(np.__file__) + os.sep, "numpy/")
"""Where its files are, and what names those that it has compiled."""


def _further(name: str, args: Sequence[Any], rest: _Parameter) -> list[Any]:
    """The arguments from the place of `rest` on."""
    found = [rest.read(x) for x in args[rest.at :]]
    for x, given in zip(found, args[rest.at :], strict=True):
        if x is NO:
            raise _wrong(name, args, rest, given)
    return found


def _wrong(name: str, args: Sequence[Any], parameter: _Parameter, x: Any) -> ArgumentError:
    return ArgumentError(
        f"{_called(name, args)}: {parameter.name} is {described(x)}", fix=f"give {parameter.wanted}"
    )


def _called(name: str, args: Sequence[Any]) -> str:
    """What the user calls a function: the class, where that is its constructor or the call of an
    instance."""
    own = name in ("__init__", "__call__", "forward") and args
    return type(args[0]).__name__ if own else name


def read_ints(name: str, key: str, given: Sequence[Any]) -> list[int]:
    """Whole numbers. Raises ArgumentError for one that is none."""
    found = [read_int(x) for x in given]
    for x, value in zip(given, found, strict=True):
        if value is NO:
            raise ArgumentError(f"{name}: {key} holds {described(x)}", fix="give whole numbers")
    return [int(x) for x in found]


def between(name: str, low: float, high: float, **given: Any) -> None:
    """Raise DomainError for a number that is not in [low, high], NaN among them. Tensors, which may
    not be known yet, are not looked at."""
    for key, x in given.items():
        if isinstance(x, float | int | np.number) and not low <= _plain(x) <= high:
            raise DomainError(f"{name}: {key}={x}", fix=f"give a number from {low} to {high}")


def _plain(x: Any) -> Any:
    """As a number of Python, which can be compared with bounds that its dtype does not reach."""
    return x.item() if isinstance(x, np.generic) else x


def at_least(name: str, low: float, **given: Any) -> None:
    """Raise DomainError for a number below `low`, or NaN."""
    for key, x in given.items():
        if isinstance(x, float | int | np.number) and not _plain(x) >= low:
            raise DomainError(f"{name}: {key}={x}", fix=f"give a number of at least {low}")


def above(name: str, low: float, **given: Any) -> None:
    """Raise DomainError for a number that is not above `low`, or NaN."""
    for key, x in given.items():
        if isinstance(x, float | int | np.number) and not _plain(x) > low:
            raise DomainError(f"{name}: {key}={x}", fix=f"give a number above {low}")


def one_of(name: str, names: Collection[str], **given: str) -> None:
    """Raise DomainError for a text that is none of `names`."""
    for key, x in given.items():
        if x not in names:
            text = ", ".join(f'"{n}"' for n in names)
            raise DomainError(f"{name}: {key}={x!r}", fix=f"give one of {text}")


MAX_RANK: Final = 32
"""As in NumPy before 2.0, whose functions of several arrays still stop there."""


def check_lengths(name: str, lengths: Sequence[int]) -> None:
    """Raise ShapeError or AllocationError for lengths that no tensor has."""
    if len(lengths) > MAX_RANK:
        raise ShapeError(f"{name}: a tensor of {len(lengths)} dims", fix=f"at most {MAX_RANK} dims")
    if min(lengths, default=0) < 0:
        raise ShapeError(f"{name}: shape {list(lengths)} has a negative length")
    if prod(lengths) >= 1 << 60 or max(lengths, default=0) >= 1 << 60:
        raise AllocationError(f"{name}: shape {list(lengths)} is more than any memory holds")


MOST_PARTS: Final = 1 << 20
"""Layers, pieces, keys and the like that one call makes."""


def check_parts(name: str, low: int, **given: int) -> None:
    """Raise DomainError for a number of things to make, one by one, that is below `low`, and
    AllocationError for one that no loop comes to the end of."""
    at_least(name, low, **given)
    for key, count in given.items():
        if count > MOST_PARTS:
            raise AllocationError(f"{name}: {key}={count}", fix=f"give at most {MOST_PARTS}")


class host_arrays:
    """Context manager around NumPy's making of arrays of sizes that a user gave. Raises
    AllocationError."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, MemoryError | ArithmeticError | ValueError):
            refused = of_numbers(self.name, error)
            if refused is not None:
                raise refused from None


def described(x: Any) -> str:
    """An argument in a message: its value where that is short, and its type."""
    kind = type(x).__name__
    try:
        said = " ".join(repr(x).split())
    except Exception:
        return f"of type {kind}"
    if len(said) > 60:
        said = said[:57] + "…"
    return f"{said} ({kind})"


def check_namespace(names: dict[str, Any], aliases: Aliases, called: Aliases) -> None:
    """Put checked functions in the place of the public ones in `names` and where they are defined,
    so that each stays one object. Classes of ours get a checked `__init__`, and checked public
    methods whose annotations mean `called`."""
    for key, x in list(names.items()):
        if key.startswith("_") or not _is_ours(x):
            continue
        if isinstance(x, type):
            for kind in x.__mro__:
                if _is_ours(kind):
                    check_methods(kind, aliases, ("__init__",))
                    check_methods(kind, called)
                    check_methods(kind, called, SPECIAL_METHODS)
        elif isinstance(x, FunctionType):
            names[key] = _replaced(x, aliases)


def _is_ours(x: Any) -> bool:
    module = str(getattr(x, "__module__", None) or "")
    return module.startswith(PACKAGE) and not module.startswith(INSIDE)


def check_methods(kind: type, aliases: Aliases, names: Collection[str] = ()) -> None:
    """Check the arguments of methods of a class and of what is assigned to its properties: of those
    given, or of all public ones."""
    for key, x in list(vars(kind).items()):
        wanted = key in names if names else not key.startswith("_")
        if wanted and isinstance(x, FunctionType):
            setattr(kind, key, _replaced(x, aliases))
        elif wanted and isinstance(x, property) and isinstance(x.fset, FunctionType):
            setattr(kind, key, x.setter(_replaced(x.fset, aliases)))


_made: dict[Any, Callable[..., Any]] = {}
_behind: dict[Any, Any] = {}


def unchecked(function: Any) -> Any:
    """The function behind a checked one; any other object as it is."""
    return _behind.get(function, function) if inspect.isfunction(function) else function


def _replaced(function: FunctionType, aliases: Aliases) -> Callable[..., Any]:
    """The checked function, made once, also in the module of its definition."""
    if function not in _made:
        made = checked(function, aliases)
        _made[function] = _made[made] = made
        _behind[made] = function
        home = vars(sys.modules[function.__module__])
        if home.get(function.__name__) is function:
            home[function.__name__] = made
    return _made[function]
