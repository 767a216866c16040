"""The Python array API standard 2024.12: names, signatures, promotion, special cases, errors."""

from __future__ import annotations

import ast
import copy
import inspect
from collections.abc import Callable, Iterator
from math import e, inf, nan, pi
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.errors import (
    AxisError,
    DeviceError,
    DTypeError,
    IndexingError,
    InterchangeError,
    RungError,
    ShapeError,
    TraceError,
)
from rung.core.settings import configure
from tests.tensor.array_api_signatures import ARRAY, INFO, LINALG, NAMESPACE

Standard = inspect.Signature
Parameter = inspect.Parameter
Run = Callable[[], object]


@pytest.fixture(params=(True, False), ids=("interpreted", "compiled"))
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is told about values holds of the interpreter and of machine code."""
    configure(interpret=request.param)
    yield
    configure(interpret=False)


@pytest.fixture
def interpreted() -> Iterator[None]:
    """What is told about the front end alone needs no machine code."""
    configure(interpret=True)
    yield
    configure(interpret=False)


# ---- names and signatures


def standard(line: str) -> tuple[str, Standard]:
    """`name(x, /, *, axis=None)` as a name and a signature."""
    name, arguments = line.split("(", 1)
    given = ast.parse(f"lambda {arguments[:-1]}: 0", mode="eval").body
    assert isinstance(given, ast.Lambda)
    function = eval(compile(ast.Expression(given), name, "eval"), {})
    return name, inspect.signature(function)


def check_signature(found: Callable[..., object], wanted: Standard) -> None:
    """Every call that the standard allows means the same to `found`, which may take more."""
    ours = inspect.signature(found).parameters
    places = list(ours)
    for place, (name, parameter) in enumerate(wanted.parameters.items()):
        if name == "self":
            continue
        assert name in ours, f"{name} is missing"
        own = ours[name]
        assert own.default == parameter.default or parameter.default is Parameter.empty
        if parameter.kind is Parameter.KEYWORD_ONLY:
            assert own.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
        else:
            assert own.kind is parameter.kind, f"{name} is {own.kind.description}"
            assert places[place] == name
    extra = [p for n, p in ours.items() if n not in wanted.parameters and n != "self"]
    assert all(
        p.default is not Parameter.empty or p.kind is Parameter.VAR_POSITIONAL for p in extra
    )


@pytest.mark.parametrize("line", NAMESPACE.splitlines())
def test_signatures_of_the_namespace(line: str) -> None:
    name, wanted = standard(line)
    check_signature(getattr(rung, name), wanted)


@pytest.mark.parametrize("line", LINALG.splitlines())
def test_signatures_of_linalg(line: str) -> None:
    name, wanted = standard(line)
    assert name in rung.linalg.__all__
    check_signature(getattr(rung.linalg, name), wanted)


@pytest.mark.parametrize("line", INFO.splitlines())
def test_signatures_of_the_inspection(line: str) -> None:
    name, wanted = standard(line)
    check_signature(getattr(rung.__array_namespace_info__(), name), wanted)


@pytest.mark.parametrize("line", ARRAY.splitlines())
def test_methods_of_a_tensor_take_what_the_standard_gives(line: str) -> None:
    name, wanted = standard(line)
    ours = list(inspect.signature(getattr(rung.Tensor, name)).parameters.values())
    given = list(wanted.parameters.values())
    positional = [p for p in given if p.kind is Parameter.POSITIONAL_ONLY]
    assert len([p for p in ours if p.default is Parameter.empty]) <= len(positional)
    keywords = {p.name: p.default for p in given if p.kind is Parameter.KEYWORD_ONLY}
    assert {p.name: p.default for p in ours if p.name in keywords} == keywords


ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
BITWISE = ("and", "or", "xor", "lshift", "rshift")


@pytest.mark.parametrize("operator", ARITHMETIC + BITWISE)
def test_operators_have_their_reflected_and_in_place_forms(operator: str) -> None:
    assert all(hasattr(rung.Tensor, f"__{form}{operator}__") for form in ("", "r", "i"))


def test_attributes_and_constants() -> None:
    x = rung.zeros((2, 3))
    assert (x.dtype, x.device, x.ndim, x.shape, x.size) == (rung.float32, "cpu", 2, (2, 3), 6)
    assert x.T.shape == x.mT.shape == (3, 2)
    assert (rung.e, rung.inf, rung.pi, rung.newaxis) == (e, inf, pi, None) and rung.nan != rung.nan


# ---- the namespace about itself


def test_a_tensor_knows_its_namespace() -> None:
    x = rung.zeros(2)
    assert x.__array_namespace__() is x.__array_namespace__(api_version="2024.12") is rung
    assert rung.__array_api_version__ == "2024.12"
    with pytest.raises(RungError, match=r"1999\.12.*\n.*\n.*use one of"):
        x.__array_namespace__(api_version="1999.12")


def test_inspection() -> None:
    info = rung.__array_namespace_info__()
    assert info.devices() == [info.default_device()] == ["cpu"]
    assert info.capabilities()["data-dependent shapes"] is True
    assert info.default_dtypes(device="cpu")["indexing"] is rung.int64
    assert info.dtypes(kind="real floating") == {"float32": rung.float32, "float64": rung.float64}
    assert set(info.dtypes(kind=("bool", "signed integer"))) == {
        "bool", "int8", "int16", "int32", "int64"
    }  # fmt: skip
    assert len(info.dtypes()) == 11
    with pytest.raises(DeviceError, match="cuda"):
        info.dtypes(device="cuda")


def test_devices() -> None:
    x = rung.zeros(2)
    assert x.to_device("cpu") is x
    with pytest.raises(DeviceError, match="cuda"):
        x.to_device("cuda")
    with pytest.raises(DeviceError, match="no streams"):
        x.to_device("cpu", stream=1)
    for make in (rung.zeros_like, rung.ones_like, rung.empty_like):
        assert make(x, device="cpu").shape == (2,)
        with pytest.raises(DeviceError, match="tpu"):
            make(x, device="tpu")


# ---- promotion

BITS = (8, 16, 32, 64)
PROMOTIONS = {("bool", "bool"): "bool", ("float32", "float64"): "float64"}
PROMOTIONS |= {(f"{k}{a}", f"{k}{b}"): f"{k}{max(a, b)}" for k in ("int", "uint")
               for a in BITS for b in BITS}  # fmt: skip
PROMOTIONS |= {(f"int{a}", f"uint{b}"): f"int{max(a, 2 * b)}" for a in BITS for b in BITS[:3]}
PROMOTIONS |= {(f"float{a}", f"float{a}"): f"float{a}" for a in BITS[2:]}


@pytest.mark.parametrize("pair", PROMOTIONS)
def test_promotion(pair: tuple[str, str]) -> None:
    a, b = (getattr(rung, n) for n in pair)
    wanted = getattr(rung, PROMOTIONS[pair])
    x, y = rung.zeros(2, a), rung.zeros((), b)
    assert rung.result_type(a, b) is rung.result_type(y, x) is rung.result_type(a, y) is wanted
    function = rung.logical_or if wanted is rung.bool else rung.add
    assert function(x, y).dtype is wanted and function(y, x).dtype is wanted
    assert rung.can_cast(a, wanted) and rung.can_cast(y, wanted)
    assert rung.can_cast(a, b) is (wanted is b)
    assert rung.where(rung.zeros(2, rung.bool), x, y).dtype is wanted
    assert rung.concat([x, rung.zeros(1, b)]).dtype is wanted


@pytest.mark.parametrize("name", ("int8", "uint16", "int64", "float32", "float64"))
def test_python_numbers_take_the_dtype_of_a_tensor(name: str) -> None:
    dtype = getattr(rung, name)
    x = rung.ones(2, dtype)
    assert (x + 1).dtype is (2 * x).dtype is (x // 2).dtype is dtype
    assert rung.result_type(x, 1) is rung.result_type(True, dtype) is dtype
    assert rung.where(x > 0, x, 0).dtype is rung.clip(x, 0, 3).dtype is dtype
    if dtype.is_integer:
        with pytest.raises(DTypeError, match="does not fit"):
            x + rung.iinfo(dtype).max + 2**64


def test_what_sums_are_made_in() -> None:
    for sign, wide in (("int", rung.int64), ("uint", rung.uint64)):
        x = rung.ones((2, 2), getattr(rung, f"{sign}8"))
        found = (rung.sum(x), rung.prod(x), rung.cumulative_sum(x, axis=0), rung.linalg.trace(x))
        assert all(f.dtype is wide for f in found)
    x = rung.ones(2, rung.float64)
    assert rung.sum(x).dtype is rung.float64
    assert rung.sum(x, dtype=rung.float32).dtype is rung.float32
    assert rung.vecdot(rung.ones(2, rung.int8), rung.ones(2, rung.int16)).dtype is rung.int16


def test_limits() -> None:
    assert (rung.iinfo(rung.uint8).min, rung.iinfo(rung.zeros(1, rung.int16)).max) == (0, 32767)
    found = rung.finfo(rung.float32)
    assert (found.bits, found.eps, found.dtype) == (32, 2.0**-23, rung.float32)
    assert isinstance(found.max, float) and found.smallest_normal == 2.0**-126
    with pytest.raises(DTypeError, match="finfo of i32"):
        rung.finfo(rung.int32)


# ---- special cases

UNARY = [
    ("abs", [(-0.0, 0.0), (-inf, inf), (nan, nan)]),
    ("acos", [(1.5, nan), (1.0, 0.0)]),
    ("acosh", [(0.5, nan), (1.0, 0.0), (inf, inf)]),
    ("asin", [(-1.5, nan), (-0.0, -0.0)]),
    ("asinh", [(-0.0, -0.0), (-inf, -inf)]),
    ("atan", [(-0.0, -0.0), (inf, pi / 2)]),
    ("atanh", [(1.0, inf), (-1.0, -inf), (2.0, nan), (-0.0, -0.0)]),
    ("ceil", [(-0.5, -0.0), (inf, inf)]),
    ("cos", [(-0.0, 1.0), (inf, nan)]),
    ("cosh", [(-0.0, 1.0), (-inf, inf)]),
    ("exp", [(-inf, 0.0), (inf, inf), (-0.0, 1.0)]),
    ("expm1", [(-inf, -1.0), (-0.0, -0.0)]),
    ("floor", [(-0.0, -0.0), (-inf, -inf)]),
    ("log", [(-1.0, nan), (-0.0, -inf), (1.0, 0.0), (inf, inf)]),
    ("log10", [(-1.0, nan), (0.0, -inf), (1.0, 0.0)]),
    ("log1p", [(-2.0, nan), (-1.0, -inf), (-0.0, -0.0)]),
    ("log2", [(-1.0, nan), (0.0, -inf), (8.0, 3.0)]),
    ("reciprocal", [(-0.0, -inf), (-inf, -0.0)]),
    ("round", [(0.5, 0.0), (1.5, 2.0), (-0.5, -0.0), (inf, inf)]),
    ("sign", [(0.0, 0.0), (-0.0, 0.0), (-3.0, -1.0), (-inf, -1.0), (nan, nan)]),
    ("sin", [(-0.0, -0.0), (inf, nan)]),
    ("sinh", [(-0.0, -0.0), (-inf, -inf)]),
    ("sqrt", [(-1.0, nan), (-0.0, -0.0), (inf, inf)]),
    ("tan", [(-0.0, -0.0), (-inf, nan)]),
    ("tanh", [(-0.0, -0.0), (-inf, -1.0)]),
    ("trunc", [(-0.5, -0.0), (-inf, -inf)]),
]
BINARY = [
    ("atan2", [(0.0, -0.0, pi), (-0.0, 0.0, -0.0), (-0.0, -1.0, -pi), (inf, -inf, 3 * pi / 4)]),
    ("copysign", [(nan, -1.0, nan), (1.0, -0.0, -1.0), (-3.0, 0.0, 3.0), (0.0, -inf, -0.0)]),
    ("divide", [(0.0, -0.0, nan), (1.0, -0.0, -inf), (inf, inf, nan), (-1.0, inf, -0.0)]),
    ("floor_divide", [
        (inf, 2.0, nan), (inf, -2.0, nan), (-inf, 2.0, nan), (inf, inf, nan), (-1.0, -0.0, inf),
        (1.0, -inf, -1.0), (-1.0, inf, -1.0), (1.0, inf, 0.0), (-7.0, 2.0, -4.0), (1.0, 0.0, inf),
    ]),
    ("hypot", [(inf, nan, inf), (nan, -inf, inf), (nan, 1.0, nan), (0.0, -0.0, 0.0)]),
    ("logaddexp", [(nan, 1.0, nan), (inf, 1.0, inf), (-inf, -inf, -inf)]),
    ("maximum", [(nan, 1.0, nan), (1.0, nan, nan), (-inf, 1.0, 1.0)]),
    ("minimum", [(nan, 1.0, nan), (inf, 1.0, 1.0)]),
    ("nextafter", [(nan, 1.0, nan), (1.0, 1.0, 1.0), (0.0, -0.0, -0.0)]),
    ("pow", [
        (nan, 0.0, 1.0), (1.0, nan, 1.0), (-1.0, inf, 1.0), (0.5, inf, 0.0), (-0.0, -3.0, -inf),
        (-0.0, -2.0, inf), (-inf, 3.0, -inf), (-8.0, 0.5, nan), (2.0, -inf, 0.0),
    ]),
    ("remainder", [
        (5.0, -3.0, -1.0), (-5.0, 3.0, 1.0), (1.0, inf, 1.0), (1.0, -inf, -inf), (inf, 1.0, nan),
        (1.0, 0.0, nan), (-0.0, 1.0, 0.0), (0.0, -1.0, -0.0),
    ]),
]  # fmt: skip


def same(found: rung.Tensor, expected: list[float]) -> None:
    """Equal, zeros by their sign; what is not a special value to a few units in the last place."""
    array, wanted = np.asarray(found), np.asarray(expected, found.dtype.numpy)
    np.testing.assert_allclose(array, wanted, 4e-7)
    zeros = wanted == 0
    np.testing.assert_array_equal(np.signbit(array[zeros]), np.signbit(wanted[zeros]))


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("dtype", (rung.float32, rung.float64), ids=str)
@pytest.mark.parametrize(("name", "cases"), UNARY, ids=[name for name, _ in UNARY])
def test_special_cases_of_one_operand(
    name: str, cases: list[tuple[float, float]], dtype: rung.DType
) -> None:
    given, expected = zip(*cases, strict=True)
    same(getattr(rung, name)(rung.asarray(given, dtype)), list(expected))


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("dtype", (rung.float32, rung.float64), ids=str)
@pytest.mark.parametrize(("name", "cases"), BINARY, ids=[name for name, _ in BINARY])
def test_special_cases_of_two_operands(
    name: str, cases: list[tuple[float, float, float]], dtype: rung.DType
) -> None:
    a, b, expected = zip(*cases, strict=True)
    same(getattr(rung, name)(rung.asarray(a, dtype), rung.asarray(b, dtype)), list(expected))


@pytest.mark.usefixtures("both_ways")
def test_special_cases_of_clip_and_reductions() -> None:
    x = rung.asarray([nan, -inf, 1.0, 5.0])
    same(rung.clip(x, 0.0, rung.asarray([1.0, 1.0, nan, 3.0])), [nan, 0.0, nan, 3.0])
    same(rung.max(x), nan)  # type: ignore[arg-type]
    same(rung.mean(rung.zeros(0)), nan)  # type: ignore[arg-type]
    same(rung.var(rung.ones(1), correction=1.0), nan)  # type: ignore[arg-type]
    assert bool(rung.all(rung.zeros(0))) and not bool(rung.any(rung.zeros(0)))
    assert rung.signbit(rung.asarray([-0.0, 0.0, -inf])).tolist() == [True, False, True]


# ---- integers

EXTREMES = {name: (np.iinfo(name).min, np.iinfo(name).max) for name in
            (f"{kind}{n}" for kind in ("int", "uint") for n in BITS)}  # fmt: skip


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("name", EXTREMES)
def test_integers_divide_as_in_python(name: str) -> None:
    low, high = EXTREMES[name]
    given = sorted({low, low + 1, 0, 1, 2, 7, high - 1, high} | ({-1, -7} if low else set()))
    pairs = [(a, b) for a in given for b in given if b and (a, b) != (low, -1)]
    x, y = (rung.asarray(np.array(v, name)) for v in zip(*pairs, strict=True))
    assert (x // y).tolist() == [a // b for a, b in pairs]
    assert (x % y).tolist() == [a % b for a, b in pairs]


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("name", EXTREMES)
def test_powers_of_integers_are_exact(name: str) -> None:
    low, high = EXTREMES[name]
    bases = [-3, -2, -1, 0, 1, 2, 3, 7] if low else [0, 1, 2, 3, 7]
    pairs = [(b, n) for b in bases for n in (0, 1, 2, 3, 4, 7, 13, 22, 39, 62, 63, 64, 100, 101)]
    pairs = [(b, n) for b, n in pairs if low <= b**n <= high]
    x, y = (rung.asarray(np.array(v, name)) for v in zip(*pairs, strict=True))
    assert rung.pow(x, y).tolist() == (x**y).tolist() == [b**n for b, n in pairs]
    for n in (0, 4, 5, 6, 7, 62, 100):
        fitting = [b for b in bases if low <= b**n <= high]
        found = rung.asarray(np.array(fitting, name)) ** n
        assert found.tolist() == [b**n for b in fitting] and found.dtype is x.dtype


@pytest.mark.usefixtures("both_ways")
def test_powers_of_integers_that_are_no_integers_go_towards_zero() -> None:
    x = rung.asarray([-2, -1, 1, 2, 5])
    assert (x**-1).tolist() == [0, -1, 1, 0, 0]
    assert rung.pow(x, rung.asarray([-2, -2, -3, -1, -64])).tolist() == [0, 1, 1, 0, 0]
    with pytest.raises(DTypeError, match="pow of bool"):
        rung.pow(rung.ones(2, rung.bool), rung.ones(2, rung.bool))


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("name", EXTREMES)
def test_shifts(name: str) -> None:
    low, high = EXTREMES[name]
    bits = rung.iinfo(getattr(rung, name)).bits
    x, y = (
        rung.asarray(np.array(v, name)) for v in ([low, high, high, 1], [bits - 1, 1, 0, bits - 1])
    )
    assert (x >> y).tolist() == [low >> (bits - 1), high >> 1, high, 0]
    assert (rung.ones(2, x.dtype) << rung.asarray(np.array([0, bits - 2], name))).tolist() == [
        1, 1 << (bits - 2)
    ]  # fmt: skip


# ---- making and moving


@pytest.mark.usefixtures("interpreted")
def test_asarray_copies_as_told() -> None:
    array = np.arange(4)
    assert np.shares_memory(rung.asarray(array, copy=False).numpy(), array)
    assert not np.shares_memory(rung.asarray(array, copy=True).numpy(), array)
    assert rung.asarray(memoryview(array)).tolist() == [0, 1, 2, 3]
    for wrong in (array[::2], [1, 2], 3):
        with pytest.raises(InterchangeError, match="leave copy=False out"):
            rung.asarray(wrong, copy=False)
    x = rung.asarray(array)
    assert rung.asarray(x) is rung.asarray(x, copy=False) is x
    with pytest.raises(ValueError, match="without a copy"):
        rung.asarray(x, dtype=rung.float32, copy=False)


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "make",
    [
        rung.array,
        lambda x: rung.asarray(x, copy=True),
        lambda x: rung.astype(x, x.dtype),
        lambda x: rung.reshape(x, x.shape, copy=True),
        lambda x: rung.from_dlpack(x, copy=True),
        copy.copy,
    ],
)
def test_a_copy_is_updated_alone(make: Callable[[rung.Tensor], rung.Tensor]) -> None:
    x = rung.asarray([1.0, 2.0])
    y = make(x)
    y += 1
    assert (x.tolist(), y.tolist()) == ([1.0, 2.0], [2.0, 3.0])


def test_a_copy_passes_derivatives() -> None:
    found = rung.grad(lambda x: (rung.asarray(x, copy=True) ** 2).sum())(rung.asarray([3.0]))
    assert found.tolist() == [6.0]


@pytest.mark.usefixtures("interpreted")
def test_exact_ranges() -> None:
    top = 2**63
    assert rung.arange(top, top + 3, dtype=rung.uint64).tolist() == [top, top + 1, top + 2]
    assert rung.arange(5, -1, -2).tolist() == [5, 3, 1]
    assert rung.arange(np.int64(3)).dtype is rung.arange(rung.asarray(3)).dtype is rung.int64
    assert rung.arange(2.5).tolist() == [0.0, 1.0, 2.0] and rung.arange(1.0, 0.0).shape == (0,)
    assert rung.arange(2**60, 2**60 + 2).tolist() == [2**60, 2**60 + 1]
    for k in (2**63, -(2**63), 2**70):
        inside = float(k > 0)
        assert rung.eye(2, k=k).tolist() == [[0.0, 0.0], [0.0, 0.0]]
        assert rung.tril(rung.ones((2, 2)), k=k).tolist() == [[inside, inside]] * 2
        assert rung.triu(rung.ones((2, 2)), k=k).tolist() == [[1 - inside, 1 - inside]] * 2
    for stop in (0.1, 1 / 3, 1e300):
        assert rung.linspace(-stop, stop, 7, dtype=rung.float64)[-1].item() == stop
    assert rung.linspace(3, 3, 1).tolist() == [3.0] and rung.linspace(0, 1, 0).shape == (0,)


@pytest.mark.usefixtures("both_ways")
def test_diff() -> None:
    x = np.random.default_rng(0).integers(-9, 10, (3, 5))
    t, row, column = rung.asarray(x), np.ones((1, 5), int), np.full((3, 2), 4)
    for axis in (0, 1):
        for n in (0, 1, 2, 6):
            wanted = np.diff(x, n, axis)
            assert rung.diff(t, axis=axis, n=n).tolist() == wanted.tolist()
    found = rung.diff(t, axis=0, prepend=rung.asarray(row), append=rung.asarray(row))
    assert found.tolist() == np.diff(x, axis=0, prepend=row, append=row).tolist()
    assert rung.diff(t, append=column).tolist() == np.diff(x, append=column).tolist()


@pytest.mark.usefixtures("both_ways")
def test_cumulative_functions_with_the_initial_value() -> None:
    x = rung.asarray([[1, 2, 3], [4, 5, 6]], dtype=rung.int8)
    found = rung.cumulative_sum(x, axis=1, include_initial=True)
    assert found.tolist() == [[0, 1, 3, 6], [0, 4, 9, 15]] and found.dtype is rung.int64
    assert rung.cumulative_prod(x, axis=0, include_initial=True).tolist() == [
        [1, 1, 1], [1, 2, 3], [4, 10, 18]
    ]  # fmt: skip


@pytest.mark.usefixtures("interpreted")
def test_one_shift_along_several_axes() -> None:
    a = np.arange(12).reshape(3, 4)
    for axis in ((0, 1), (1,), (0, 0), (1, -1)):
        assert rung.roll(rung.asarray(a), 1, axis=axis).tolist() == np.roll(a, 1, axis).tolist()
    assert rung.roll(rung.asarray(a), 5).tolist() == np.roll(a, 5).tolist()


@pytest.mark.usefixtures("interpreted")
def test_repeats_of_each_element() -> None:
    x = rung.asarray([[1, 2], [3, 4]])
    assert rung.repeat(x, rung.asarray([0, 2]), axis=0).tolist() == [[3, 4], [3, 4]]
    assert rung.repeat(x, rung.asarray([2])).tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    with pytest.raises(ShapeError, match="one for each element"):
        rung.repeat(x, rung.asarray([1, 2, 3]), axis=0)
    with pytest.raises(DTypeError, match="give integers"):
        rung.repeat(x, rung.asarray([1.0]))


# ---- searching and sets


@pytest.mark.usefixtures("both_ways")
def test_searchsorted_agrees_with_sort() -> None:
    x = rung.asarray([1.0, 3.0, 3.0, nan])
    v = rung.asarray([0.0, 3.0, 9.0, nan])
    assert rung.searchsorted(x, v).tolist() == [0, 1, 3, 3]
    assert rung.searchsorted(x, v, side="right").tolist() == [0, 3, 3, 4]
    mixed = rung.asarray([3.0, nan, 1.0, 3.0])
    found = rung.searchsorted(mixed, v, sorter=rung.argsort(mixed))
    assert found.tolist() == [0, 1, 3, 3] and found.dtype is rung.int64
    with pytest.raises(RungError, match='"left" or "right"'):
        rung.searchsorted(x, v, side="middle")


@pytest.mark.usefixtures("both_ways")
def test_unique() -> None:
    x = rung.asarray([[2.0, nan, 0.0], [-0.0, nan, 2.0]])
    values, indices, inverse, counts = rung.unique_all(x)
    assert np.array_equal(values, [0.0, 2.0, nan, nan], equal_nan=True)
    assert indices.tolist() == [2, 0, 1, 4]
    assert inverse.tolist() == [[1, 2, 0], [0, 3, 1]] and inverse.shape == x.shape
    assert counts.tolist() == [2, 2, 1, 1]
    assert rung.unique_counts(x).counts.tolist() == counts.tolist()
    assert rung.unique_inverse(x).inverse_indices.tolist() == inverse.tolist()
    assert rung.unique_values(rung.asarray([3, 1, 3])).tolist() == [1, 3]
    assert rung.unique_inverse(rung.asarray(3)).inverse_indices.shape == ()


def test_derivatives_pass_the_values_of_unique() -> None:
    x = rung.tensor([3.0, 1.0, 3.0], requires_grad=True)
    (rung.unique_values(x) * rung.asarray([10.0, 100.0])).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [100.0, 10.0, 0.0]


DATA_DEPENDENT: list[Callable[[rung.Tensor], Any]] = [
    rung.unique_all,
    rung.unique_counts,
    rung.unique_inverse,
    rung.unique_values,
    rung.nonzero,
    lambda x: rung.repeat(x, x),
    lambda x: x[x > 0],
    lambda x: x[x[0] > 0],
]


@pytest.mark.parametrize("function", DATA_DEPENDENT)
def test_shapes_that_depend_on_values_are_errors_inside_jit(
    function: Callable[[rung.Tensor], Any],
) -> None:
    with pytest.raises(TraceError, match="not known while jit traces"):
        rung.jit(function)(rung.asarray([1, 0, 2]))


# ---- indexing by bools


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(
    "index",
    [True, False, (0, True), (True, 0), (slice(None), False), (..., True), (None, True, 1),
     ([0, 2], True), (slice(0, 2), True, slice(1, 3))],
    ids=str,
)  # fmt: skip
def test_a_bool_stands_for_a_new_dim(index: Any) -> None:
    a = np.arange(12).reshape(3, 4)
    found, wanted = rung.asarray(a)[index], a[index]
    assert found.shape == wanted.shape and found.tolist() == wanted.tolist()


@pytest.mark.usefixtures("interpreted")
def test_a_mask_may_have_no_elements_along_a_dim() -> None:
    x = rung.asarray([[1, 2], [3, 4]])
    for shape in ((0,), (0, 2), (2, 0), (0, 0)):
        mask = rung.zeros(shape, rung.bool)
        assert x[mask].shape == (0, *x.shape[len(shape) :])
        x[mask] = 9
    assert x.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(IndexingError, match="does not fit"):
        x[rung.zeros((1, 2), rung.bool)]


@pytest.mark.usefixtures("interpreted")
def test_assignment_through_a_bool() -> None:
    x = rung.asarray([1, 2])
    x[rung.asarray(False)] = 9
    assert x.tolist() == [1, 2]
    x[True] = rung.asarray([3, 4])
    assert x.tolist() == [3, 4]


# ---- linalg


@pytest.mark.usefixtures("both_ways")
def test_norms() -> None:
    a = np.random.default_rng(0).standard_normal((2, 3, 4))
    x = rung.asarray(a)
    for order in (inf, -inf, 0, 1, -1, 2, -2, 3, 0.5):
        wanted = np.linalg.vector_norm(a, axis=(0, 2), ord=order)
        np.testing.assert_allclose(rung.linalg.vector_norm(x, axis=(0, 2), ord=order), wanted)
    for kind in ("fro", "nuc", 1, -1, 2, -2, inf, -inf):
        wanted = np.linalg.matrix_norm(a, ord=kind, keepdims=True)  # type: ignore[call-overload]
        np.testing.assert_allclose(rung.linalg.matrix_norm(x, ord=kind, keepdims=True), wanted)


@pytest.mark.usefixtures("both_ways")
def test_cross_diagonal_and_trace() -> None:
    a = np.random.default_rng(0).integers(-5, 6, (2, 3, 4))
    b = np.random.default_rng(1).integers(-5, 6, (3, 1))
    x, y = rung.asarray(a), rung.asarray(b)
    found = rung.linalg.cross(x, y, axis=-2)
    assert found.tolist() == np.cross(a, np.broadcast_to(b, (3, 4)), axis=-2).tolist()
    for offset in range(-4, 6):
        wanted = np.linalg.diagonal(a, offset=offset)
        assert rung.linalg.diagonal(x, offset=offset).tolist() == wanted.tolist()
        assert rung.linalg.trace(x, offset=offset).tolist() == wanted.sum(-1).tolist()


class _Refusing:
    """An object that does not hand its memory out."""

    def __dlpack__(self, **options: object) -> object:
        raise BufferError("no such memory")

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


X = rung.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
V = rung.asarray([1.0, 2.0])
WRONG: list[tuple[type[Exception], str, Run]] = [
    (ShapeError, "differ in length", lambda: rung.vecdot(X, V[:1])),
    (AxisError, "count it from the end", lambda: rung.vecdot(X, V, axis=0)),
    (AxisError, "out of range", lambda: rung.vecdot(X, V, axis=-3)),
    (ShapeError, "not three elements", lambda: rung.linalg.cross(V, V)),
    (RungError, '"fro", "nuc", 1, -1, 2', lambda: rung.linalg.matrix_norm(X, ord="max")),
    (DTypeError, "cast to a float dtype", lambda: rung.linalg.vector_norm(rung.ones(2, rung.int8))),
    (ShapeError, "fewer than two dims", lambda: rung.linalg.trace(V)),
    (ShapeError, "not negative", lambda: rung.diff(V, n=-1)),
    (DTypeError, "numeric dtype", lambda: rung.diff(V > 0)),
    (DTypeError, "imag of bool", lambda: rung.imag(V > 0)),
    (ShapeError, "has no dims", lambda: rung.nonzero(rung.asarray(1.0))),
    (RungError, '"xy" or "ij"', lambda: rung.meshgrid(V, V, indexing="yx")),
    (IndexingError, "assign through it alone", lambda: X.__setitem__((True, 0), 1.0)),
    (AxisError, "2 shifts along 1 axes", lambda: rung.roll(X, (1, 2), axis=0)),
    (AxisError, "2 shifts along 1 axes", lambda: rung.roll(X, (1, 2))),
    (ShapeError, "negative length", lambda: rung.eye(2, -1)),
    (AxisError, "differ in number", lambda: rung.moveaxis(X, (0, 1), 0)),
    (ShapeError, "num=-1", lambda: rung.linspace(0, 1, -1)),
    (IndexingError, "at most 1 indices", lambda: V[True, 0, 1]),
    (DTypeError, "is no index", lambda: [1, 2][V[0]]),  # type: ignore[call-overload]
    (InterchangeError, "leave stream out", lambda: V.__dlpack__(stream=1)),
    (BufferError, "not on device", lambda: V.__dlpack__(dl_device=(2, 0))),
    (InterchangeError, "has no bf16", lambda: rung.ones(1, rung.bfloat16).__dlpack__()),
    (InterchangeError, "__dlpack__", lambda: rung.from_dlpack([1, 2])),
    (InterchangeError, "no such memory", lambda: rung.asarray(_Refusing())),
    (DeviceError, "cuda", lambda: rung.from_dlpack(V, device="cuda")),
]


@pytest.mark.usefixtures("interpreted")
@pytest.mark.parametrize(("kind", "text", "run"), WRONG, ids=[text for _, text, _ in WRONG])
def test_errors_say_what_is_wrong(kind: type[Exception], text: str, run: Run) -> None:
    with pytest.raises(kind, match=text):
        run()


# ---- interchange and numbers


@pytest.mark.usefixtures("interpreted")
def test_dlpack_keywords() -> None:
    x = rung.asarray([1.0, 2.0])
    assert x.__dlpack_device__() == (1, 0)
    assert "versioned" in repr(x.__dlpack__(max_version=(1, 0), dl_device=(1, 0)))
    assert "versioned" not in repr(x.__dlpack__(copy=True))
    array = np.from_dlpack(x)
    assert np.shares_memory(array, x.numpy())
    assert np.shares_memory(rung.from_dlpack(array, device="cpu", copy=False).numpy(), array)
    assert not np.shares_memory(rung.from_dlpack(array, copy=True).numpy(), array)
    every_other = np.arange(6)[::2]
    assert rung.from_dlpack(every_other).tolist() == [0, 2, 4]
    with pytest.raises(InterchangeError, match="without a copy"):
        rung.from_dlpack(every_other, copy=False)


@pytest.mark.usefixtures("interpreted")
def test_python_numbers_of_a_tensor() -> None:
    assert complex(rung.asarray(2.5)) == 2.5 + 0j and complex(rung.asarray(True)) == 1
    assert int(rung.asarray(-2.7)) == -2 and float(rung.asarray(3)) == 3.0
    assert [10, 11][rung.asarray(1)] == 11 and bool(rung.asarray(nan))


@pytest.mark.usefixtures("both_ways")
def test_updates_in_place() -> None:
    x = rung.asarray([1, 2, 3], dtype=rung.uint8)
    x <<= 3
    x >>= rung.asarray(1, dtype=rung.uint8)
    assert x.tolist() == [4, 8, 12] and x.dtype is rung.uint8
    y = rung.asarray([[0.0, 1.0], [1.0, 0.0]])
    y @= rung.asarray([[1.0, 2.0], [3.0, 4.0]])
    assert y.tolist() == [[3.0, 4.0], [1.0, 2.0]]
