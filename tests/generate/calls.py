"""Wrong calls of the whole public interface.

A call that is right (`tests/generate/api.py`) with one or two arguments made wrong, left out or
added. What may come of it: a value; a `RungError` with a message; a `TypeError` that names the
function's argument, or by which Python refuses the call. Nothing else: no error of an inner
function or of NumPy, no warning, no hang.

`python -m tests.generate.calls` prints which part of the interface is covered.
"""

from __future__ import annotations

import contextlib
import datetime
import decimal
import fractions
import io
import math
import os
import pathlib
import random
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

import rung
from rung.core.errors import RungError
from rung.core.settings import configure, settings
from tests.generate import api, methods
from tests.generate import given as given_values
from tests.generate.api import Base
from tests.generate.given import Make, t

SECONDS = 10
MORE_MEMORY = 1 << 31
"""What a case may take beside what the process has, in bytes."""
DEEP: Any = 1.0
for _ in range(200):
    DEEP = [DEEP]
ITSELF: list[Any] = []
ITSELF.append(ITSELF)


def _generator() -> Iterator[int]:
    yield 1


class Odd:
    """An object of a user's."""


class Failing:
    """An object whose conversions fail."""

    def __index__(self) -> int:
        raise RungError("no index")

    __float__ = __array__ = __len__ = __iter__ = __bool__ = __index__  # type: ignore[assignment]


NUMBERS: list[Any] = [
    0,
    1,
    -1,
    2,
    3,
    -3,
    5,
    7,
    100,
    -100,
    2**31,
    -(2**31) - 1,
    2**40,
    2**63,
    2**64,
    10**30,
    -(10**30),
    0.0,
    -0.0,
    0.5,
    1.5,
    -0.5,
    2.0,
    -2.0,
    1e-300,
    1e300,
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    1j,
    decimal.Decimal("1.5"),
    fractions.Fraction(1, 3),
    np.float32(0.5),
    np.float64(-1.5),
    np.float16(2),
    np.int8(-3),
    np.int64(2),
    np.uint64(2**63),
    np.bool_(True),
    np.complex64(1j),
    np.float32(math.nan),
    np.datetime64("2020-01-01"),
]
OBJECTS: list[Any] = [
    None,
    "",
    "x",
    "1",
    "sum",
    "f32",
    "abc" * 50,
    b"",
    b"x",
    [],
    {},
    (),
    {"a": 1},
    set(),
    {1, 2},
    frozenset(),
    Odd(),
    Odd,
    Failing(),
    int,
    len,
    Ellipsis,
    slice(None),
    slice(0, 2),
    range(3),
    range(0),
    NotImplemented,
    datetime.date(2020, 1, 1),
    np.dtype("f4"),
    np.float32,
    ValueError("x"),
    DEEP,
    ITSELF,
    rung.float32,
    rung.int8,
    rung.bool,
    Make(_generator),
    Make(lambda: iter([1, 2])),
    Make(Odd),
    pathlib.Path("none"),
    memoryview(b"ab"),
    bytearray(b"ab"),
    lambda: None,
    lambda *a: "x",
    lambda *a: a,
    math,
    Make(lambda: object()),
]
SEQUENCES: list[Any] = [
    [1],
    (1,),
    (2, 3),
    [2, 3],
    (0,),
    (0, 0),
    (-1,),
    (-1, -1),
    (0, 1),
    (1, 0),
    (1, 1),
    (1, 2, 3),
    (0, 1, 2),
    (3, 4),
    (4, 3),
    (2**40,),
    (2**40, 2**40),
    (2**63,),
    (10**30,),
    [1.5],
    (1.5, 2),
    (math.nan,),
    ("a",),
    ["1", "2"],
    [None],
    (None, None),
    [[1, 2], [3]],
    [[1], [2, 3]],
    [[]],
    [[], []],
    ((1, 2), (3, 4)),
    [True, False],
    (True,),
    [1j],
    [{}],
    [Odd()],
    [[1, 2], "x"],
    (1, "a"),
    ([1], [2]),
    tuple(range(70)),
    (-(2**63),),
    [set()],
    np.array([1, 2]),
    np.array(3),
    np.zeros(0),
    np.zeros((2, 0)),
    np.array(["a"]),
    np.array([1 + 2j]),
    np.array([Odd()], object),
    np.array([None, 1], object),
    np.array([1.5, math.nan]),
    np.zeros((3, 4), ">f4"),
    np.zeros(3, "M8[s]"),
    np.zeros(2, [("a", "f4")]),
    np.zeros((1,) * 40),
    np.ma.array([1, 2], mask=[0, 1]),
    np.arange(12.0).reshape(3, 4)[::-1, ::2],
]
TENSORS: list[Any] = [
    t(),
    t(0),
    t(1),
    t(3),
    t(5),
    t(3, 4),
    t(4, 3),
    t(2, 3, 4),
    t(0, 4),
    t(3, 0),
    t(2, 2, 2, 2, 2, 2),
    t(3, dtype="i64"),
    t(3, 4, dtype="i64"),
    t(dtype="i64"),
    t(3, dtype="bool"),
    t(3, 4, dtype="bool"),
    t(3, dtype="u8"),
    t(3, dtype="f64"),
    t(3, 4, dtype="f64"),
    *[
        Make(lambda value=value, dtype=dtype: rung.asarray(value, dtype=dtype))
        for value, dtype in [
            (1.0, "f16"),
            ([1.0, 2.0], "bf16"),
            ([math.nan, 1.0, -1.0], "f32"),
            (math.nan, "f32"),
            (-1, "i64"),
            (7, "i64"),
            ([-1, 5, 2], "i64"),
            ([100, -100, 0], "i64"),
            (1.5, "f32"),
            (2**40, "i64"),
            ([-1.0, -2.0, -3.0], "f32"),
            ([math.inf, -math.inf, 0.0], "f64"),
            ([[math.nan] * 4] * 3, "f32"),
            ([[-1, 9, 3, 0]] * 3, "i64"),
            ([], "i64"),
            ([3, 4], "i64"),
            ([0, 0, 0], "u64"),
            ([0, 0, 0], "i8"),
        ]
    ],
    Make(lambda: rung.Tensor([1.0, 2.0, 3.0], requires_grad=True)),
    Make(lambda: [rung.ones(3), rung.ones(2)]),
    Make(lambda: [rung.ones(3), "x"]),
    Make(lambda: (rung.ones(2), None)),
    Make(lambda: {"a": rung.ones(2)}),
]
WRAPPERS = (
    "core/arguments.py",
    "nn/module.py",
    "tensor/custom.py",
    "tensor/in_place.py",
    "tensor/precision.py",
    "tensor/operate.py",
)
"""Where functions are called that stand behind others."""
USERS = (api.__file__, given_values.__file__, methods.__file__)
"""Functions there are the user's, whose errors are the user's own."""
ARITY = re.compile(r"positional argument|keyword argument|multiple values|positional-only")
POOLS = (NUMBERS, OBJECTS, SEQUENCES, TENSORS)
NAMES = ("dtype", "axis", "dim", "out", "device", "keepdim", "nonsense", "")


@dataclass(frozen=True)
class Case:
    """What is called, and what was made wrong."""

    of: Base
    given: dict[str, Any]
    extra: tuple[Any, ...]
    changed: tuple[str, ...]


def case(seed: int) -> Case | None:
    """The case of a seed; None where the function has no call that is known to be right."""
    rng = random.Random(seed)
    names = api.targets()
    of = api.base(names[seed % len(names)])
    if of is None:
        return None
    given, changed = dict(of.given), []
    own = _own(of)
    for _ in range(rng.choice((1, 1, 1, 2))):
        name = rng.choice(_changeable(of, own))
        changed.append(name)
        if name == own:
            given[name] = rng.choice(_objects(of))
            continue
        given[name] = _wrong(rng, given.get(name))
    extra: tuple[Any, ...] = ()
    arity = rng.random()
    if arity < 0.04 and given:
        name = rng.choice(list(given))
        if name != own:
            given.pop(name)
    elif arity < 0.06:
        extra = tuple(rng.choice(rng.choice(POOLS)) for _ in range(rng.choice((1, 3, 9))))
    elif arity < 0.08:
        given[rng.choice(NAMES)] = rng.choice(NUMBERS)
    return Case(of, given, extra, tuple(changed))


def _parameters(of: Base) -> list[str]:
    return [p.name for p in of.parameters]


def _changeable(of: Base, own: str) -> list[str]:
    """Parameters that are given wrong values: of methods all but the object, unless there are
    others of its class to take."""
    names = _parameters(of)
    if own and not _objects(of):
        names.remove(own)
    return names or ["nothing"]


def _own(of: Base) -> str:
    """The parameter that is the object, of a method."""
    known = api.of_classes().get(of.name)
    return _parameters(of)[0] if of.name.startswith("Tensor.") or (known and known[2]) else ""


def _objects(of: Base) -> list[Any]:
    if of.name.startswith("Tensor."):
        return api.TENSORS[:7]
    return methods.FIRST.get(of.name.rpartition(".")[0], [])


def _wrong(rng: random.Random, right: Any) -> Any:
    """A value from the pools, or the right one with a part of it wrong."""
    if isinstance(right, list | tuple) and right and rng.random() < 0.5:
        parts = list(right)
        if rng.random() < 0.3:
            parts = parts[:-1] if rng.random() < 0.5 else [*parts, *parts]
        else:
            parts[rng.randrange(len(parts))] = rng.choice(rng.choice(POOLS))
        return type(right)(parts)
    return rng.choice(rng.choice(POOLS))


# ---- what came of it


class Hang(BaseException):
    """A case takes too long."""


def _too_long(*_: object) -> None:
    raise Hang


@contextlib.contextmanager
def confined(seconds: float | None = None) -> Iterator[None]:
    """In an empty folder, with bounds of time and memory, settings put back, nothing printed."""
    before, folder = settings(), os.getcwd()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[0])
    old = signal.signal(signal.SIGALRM, _too_long)
    with tempfile.TemporaryDirectory() as empty, contextlib.redirect_stdout(io.StringIO()):
        os.chdir(empty)
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_MEMORY, hard))
        signal.setitimer(signal.ITIMER_REAL, SECONDS if seconds is None else seconds)
        try:
            try:
                yield
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        finally:  # also where time is up just now
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
            signal.signal(signal.SIGALRM, old)
            os.chdir(folder)
            configure(**asdict(before))


def check(seed: int) -> list[str]:
    """What is wrong with case `seed`."""
    before = settings().interpret
    configure(interpret=True)
    try:
        with confined(), warnings.catch_warnings():
            warnings.simplefilter("error")
            for module in (r"rung\.ops\.", r"tests\.generate\.given"):
                warnings.filterwarnings("ignore", category=RuntimeWarning, module=module)
            found = case(seed)
            line = None if found is None else problem(found)
    except Hang:
        return [f"hangs: more than {SECONDS} s, before the call"]
    finally:
        configure(interpret=before)
    return [] if line is None else [f"{found.of.name}({text(found)}): {line}"]  # type: ignore[union-attr]


def problem(of: Case) -> str | None:
    """What is wrong with what came of a call, in a line."""
    try:
        args, kwargs = api.arguments(of.of, of.given)
    except Exception:
        return None  # the wrong argument itself cannot be made
    try:
        api.settled(of.of.function(*args, *map(api.made, of.extra), **kwargs))
    except RungError as error:
        return None if error.message.strip() else "an error without a message"
    except Hang:
        return f"hangs: more than {SECONDS} s"
    except TypeError as error:
        return None if _names_an_argument(of, error) else _described(error)
    except (Exception, MemoryError) as error:
        inner = traceback.extract_tb(error.__traceback__)[-1].filename
        return None if inner in USERS else _described(error)
    return None


def _names_an_argument(of: Case, error: TypeError) -> bool:
    """Whether Python has refused the call, the user's function has failed, or the message names an
    argument of the function."""
    frames = traceback.extract_tb(error.__traceback__)
    if "/rung/" not in frames[-1].filename:
        return True  # in the call itself, or in a function that was given
    said = str(error)
    if frames[-1].filename.endswith(WRAPPERS) and ARITY.search(said):
        return True
    words = said.replace("`", " ").replace("'", " ").replace(":", " ").replace(",", " ").split()
    parts = [x if isinstance(x, list | tuple) else (x,) for x in of.given.values()]
    given = {getattr(x, "__name__", "") for part in parts for x in part}
    refused = "argument" in said and any(f"{name}()" in said for name in given if name)
    return refused or any(name in words for name in _parameters(of.of))


def _described(error: BaseException) -> str:
    place = traceback.extract_tb(error.__traceback__)
    ours = [f for f in place if "/rung/" in f.filename] or list(place)
    at = f"{ours[-1].filename.partition('/rung/')[2] or ours[-1].filename}:{ours[-1].lineno}"
    said = str(error).strip().partition("\n")[0][:120]
    return f"{type(error).__name__}: {said} ({at})"


def text(of: Case) -> str:
    """The arguments, those that were made wrong written out."""
    parts = []
    for name, x in of.given.items():
        parts.append(f"{name}={shown(x) if name in of.changed or name not in of.of.given else '…'}")
    return ", ".join([*parts, *map(shown, of.extra)])


def shown(x: Any) -> str:
    """An argument in few characters."""
    if x is DEEP or x is ITSELF:
        return "[[[…]]]"
    if isinstance(x, list | tuple) and any(isinstance(v, Make) for v in x):
        return f"[{', '.join(map(shown, x))}]"
    with contextlib.suppress(Exception):
        x = api.made(x)
    try:
        said = re.sub(r" at 0x[0-9a-f]+", "", " ".join(repr(x).split()))
    except Exception as error:
        said = f"<{type(x).__name__}, whose repr raises {type(error).__name__}>"
    return said if len(said) <= 70 else said[:67] + "…"


def show(seed: int) -> str:
    """Case `seed` as a call."""
    found = case(seed)
    return "no call" if found is None else f"{found.of.name}({text(found)})"


def coverage() -> str:
    """Which part of the public interface has a call that is right."""
    with confined(300):
        names = api.targets()
        configure(interpret=True)
        without = [n for n in names if api.base(n) is None]
    lines = [
        f"{len(names) - len(without)} of {len(names)} functions, methods and classes are called"
    ]
    lines += [f"    without a call that is right: {n}" for n in without]
    lines += [f"    left out: {n}: {why}" for n, why in api.LEFT_OUT.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    print(coverage())
    sys.exit()
