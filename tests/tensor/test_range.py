"""Values near the ends of what a dtype holds: functions of several operations on 16-bit floats,
norms of huge and tiny values, integers and floats where division has no value."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rung
import rung.nn.functional as F
from rung.core.settings import configure

Array = np.ndarray[Any, Any]
HALF = {"f16": np.dtype(np.float16), "bf16": np.dtype(ml_dtypes.bfloat16)}
LABELS = np.array([2, 0, 4])


@pytest.fixture(params=(True, False), ids=("interpreted", "compiled"))
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """By the references, and in machine code."""
    configure(interpret=request.param)
    yield
    configure(interpret=False)


def ulps(found: Array, exact: Array, dtype: np.dtype[Any]) -> float:
    """The largest distance in units in the last place of `dtype`."""
    info = ml_dtypes.finfo(dtype)
    size = np.maximum(np.abs(exact), float(info.smallest_normal))
    unit = 2.0 ** np.floor(np.log2(size)) * float(info.eps)
    return float(np.max(np.abs(found.astype(np.float64) - exact) / unit))


# ---- 16-bit floats

HALF_CASES: dict[str, Callable[..., Any]] = {
    "norm": lambda x, y: rung.linalg.vector_norm(x),
    "norm of rows": lambda x, y: rung.linalg.vector_norm(x, axis=1),
    "norm 3": lambda x, y: rung.linalg.vector_norm(x, axis=1, ord=3),
    "norm -2": lambda x, y: rung.linalg.vector_norm(x, axis=1, ord=-2),
    "matrix_norm": lambda x, y: rung.linalg.matrix_norm(x),
    "matrix_norm 2": lambda x, y: rung.linalg.matrix_norm(x, ord=2),
    "normalize": lambda x, y: F.normalize(x),
    "cosine_similarity": F.cosine_similarity,
    "std": lambda x, y: rung.std(x, axis=1),
    "std_mean": lambda x, y: rung.std_mean(x, axis=1)[0],
    "nll_loss": lambda x, y: F.nll_loss(x, LABELS),
    "kl_div": lambda x, y: F.kl_div(x / 8, abs(y / 8)),
    "mse_loss": lambda x, y: F.mse_loss(x / 8, y / 8),
    "huber_loss": lambda x, y: F.huber_loss(x / 8, y / 8, delta=300.0),
    "smooth_l1_loss": lambda x, y: F.smooth_l1_loss(x, y, beta=300.0),
    "gaussian_nll_loss": lambda x, y: F.gaussian_nll_loss(x, y, abs(x)) / 64,
    "poisson_nll_loss": lambda x, y: F.poisson_nll_loss(abs(x), abs(y), False) / 64,
    "bce": lambda x, y: F.binary_cross_entropy(rung.sigmoid(x / 512), rung.sigmoid(y)),
    "bce with logits": F.binary_cross_entropy_with_logits,
    "layer_norm": lambda x, y: F.layer_norm(x, 5),
    "rms_norm": lambda x, y: F.rms_norm(x, 5),
    "group_norm": lambda x, y: F.group_norm(x, 1),
    "batch_norm": lambda x, y: F.batch_norm(x, None, None, training=True),
    "instance_norm": lambda x, y: F.instance_norm(x.reshape(1, 3, 5)),
    "local_response_norm": lambda x, y: F.local_response_norm(x.reshape(1, 3, 5), 2),
    "pairwise_distance": F.pairwise_distance,
    "cdist": rung.cdist,
    "dist": rung.dist,
    "triplet": lambda x, y: F.triplet_margin_loss(x, y, -x, margin=700.0),
    "logsumexp": lambda x, y: rung.logsumexp(x, axis=1),
    "attention": lambda x, y: F.attention(x[None], y[None], x[None], causal=True),
    "logcumsumexp": lambda x, y: rung.logcumsumexp(x, axis=1),
    "hypot": rung.hypot,
    "lp_pool": lambda x, y: F.lp_pool1d(abs(x).reshape(1, 3, 5), 2, 2),
    "avg_pool": lambda x, y: F.avg_pool1d(x.reshape(1, 3, 5), 3),
    "interpolate": lambda x, y: F.interpolate(x.reshape(1, 3, 5), size=7, mode="linear"),
    "lerp": lambda x, y: rung.lerp(x, y, 0.3),
    "addcdiv": lambda x, y: rung.addcdiv(x, y * 60, y, value=2.0),
    "xlogy": lambda x, y: rung.xlogy(x, abs(y)),
    "logit": lambda x, y: rung.logit(rung.sigmoid(x / 512)),
    "logaddexp2": rung.logaddexp2,
    "deg2rad": lambda x, y: rung.deg2rad(x),
    "round": lambda x, y: x.round(2),
    "ldexp": lambda x, y: rung.ldexp(x / 512, np.int32(16)) / 64,
    "selu": lambda x, y: F.selu(x / 512),
    "softsign": lambda x, y: F.softsign(x),
    "tanhshrink": lambda x, y: F.tanhshrink(x / 512),
    "glu": lambda x, y: F.glu(x[:, :4] / 512),
    "ndtr": lambda x, y: rung.special.ndtr(x / 512),
    "quantile": lambda x, y: rung.quantile(x, 0.3),
    "trapezoid": lambda x, y: rung.trapezoid(x, dx=20.0) / 20,
    "corrcoef": lambda x, y: rung.corrcoef(x),
    "nanmean": lambda x, y: rung.nanmean(x),
    "masked std": lambda x, y: rung.masked.std(x, axis=1),
    "masked normalize": lambda x, y: rung.masked.normalize(x, 2.0, 1),
}  # fmt: skip
SHRINKING = {"poisson_nll_loss", "xlogy", "kl_div", "gaussian_nll_loss", "bce", "logit", "round",
             "ldexp", "addcdiv", "matrix_norm 2", "bce with logits", "corrcoef",
             "selu", "tanhshrink", "glu", "ndtr", "trapezoid"}  # fmt: skip
"""What is more than one function of the package, so that results in between are rounded too."""


def half_operands(dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """Values of some hundred, whose squares overflow in f16."""
    rng = np.random.default_rng(3)
    x, y = (rng.uniform(200, 500, (3, 5)) * rng.choice((-1, 1), (3, 5)) for _ in range(2))
    return x.astype(dtype), y.astype(dtype)


def run(f: Callable[..., Any], dtype: str, *arrays: Array) -> Array:
    return np.asarray(f(*[rung.asarray(a, dtype=dtype) for a in arrays]))


def slope(f: Callable[..., Any], dtype: str, *arrays: Array) -> Array:
    """The gradient of the sum of the results by the first operand."""
    return run(lambda x, y: rung.grad(lambda v: f(v, y).sum())(x), dtype, *arrays)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("name", HALF_CASES)
def test_ordinary_half_precision_is_as_good_as_its_own_rounding(name: str, half: str) -> None:
    """To one unit in the last place of the format where it is one function."""
    f, dtype = HALF_CASES[name], HALF[half]
    given = half_operands(dtype)
    found = run(f, half, *given)
    assert found.dtype == dtype
    exact = run(f, "f64", *given)
    assert np.isfinite(exact).all() and np.abs(exact).max() < 60000
    if name in SHRINKING:
        np.testing.assert_allclose(found.astype(np.float64), exact, 8 * 2.0**-8, 1e-2)
    else:
        assert ulps(found, exact, dtype) <= 1


SLOPES = ("norm", "norm 3", "normalize", "cosine_similarity", "std", "layer_norm", "rms_norm",
          "group_norm", "pairwise_distance", "logsumexp", "hypot", "cdist", "softsign")  # fmt: skip


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("name", SLOPES)
def test_derivatives_of_half_precision(name: str, half: str) -> None:
    dtype = HALF[half]
    given = half_operands(dtype)
    found, exact = (slope(HALF_CASES[name], d, *given) for d in (half, "f64"))
    size = max(float(np.abs(exact).max()), 1e-4)
    assert found.dtype == dtype and np.isfinite(found).all()
    error = np.abs(found.astype(np.float64) - exact).max()
    assert error <= 4 * float(ml_dtypes.finfo(dtype).eps) * size


@pytest.mark.parametrize(
    ("name", "at", "expected"),
    [("atan", 300.0, 1 / (1 + 300.0**2)), ("acosh", 300.0, 1 / 300.0), ("tan", 1.5, 199.85)],
)
def test_slopes_of_half_precision_do_not_overflow_between(
    name: str, at: float, expected: float
) -> None:
    x = rung.asarray(np.float16(at))
    found = rung.grad(getattr(rung, name))(x)
    assert found.dtype is rung.float16
    assert float(found) == pytest.approx(expected, rel=4e-3)


def test_the_product_of_half_precision_has_a_derivative() -> None:
    x = rung.asarray(np.array([300.0, 300.0, 4e-2, 0.25], np.float16))
    exact = np.prod(np.asarray(x, np.float64)) / np.asarray(x, np.float64)
    np.testing.assert_allclose(np.asarray(rung.grad(rung.prod)(x), np.float64), exact, 2e-3)


def test_lists_and_arrays_of_half_precision() -> None:
    """Also operands that are arrays; the common dtype decides that of the result."""
    x = np.full(5, 300.0, np.float16)
    assert float(F.mse_loss(x, -x, reduction="none")[0]) == float("inf")
    assert F.mse_loss(x, x.astype(np.float32)).dtype is rung.float32
    assert F.mse_loss(x, x.astype(ml_dtypes.bfloat16)).dtype is rung.float32
    assert rung.asarray(x).add(np.arange(5, dtype=np.int16), alpha=2).dtype is rung.float32
    assert rung.asarray(x).add(np.arange(5, dtype=np.int8), alpha=2).dtype is rung.float16


# ---- huge and tiny values

SIZES = {"f32": (1e30, 1e-30, 1e-38), "f64": (1e300, 1e-300, 1e-200)}
SCALED: dict[str, Callable[[Any], Any]] = {
    "norm": lambda x: rung.linalg.vector_norm(x, axis=-1),
    "norm 3": lambda x: rung.linalg.vector_norm(x, axis=-1, ord=3),
    "norm -1.5": lambda x: rung.linalg.vector_norm(x, axis=-1, ord=-1.5),
    "fro": rung.linalg.matrix_norm,
    "std": lambda x: rung.std(x, axis=-1),
    "cdist": lambda x: rung.cdist(x, -x),
    "pairwise": lambda x: F.pairwise_distance(x, -x, eps=0.0),
}
"""Functions of which f(c x) = c f(x)."""


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("name", SCALED)
@pytest.mark.parametrize(("dtype", "size"), [(d, s) for d, some in SIZES.items() for s in some])
def test_huge_and_tiny_values_have_norms(name: str, dtype: str, size: float) -> None:
    f, eps = SCALED[name], 2.0**-50 if dtype == "f64" else 2.0**-21
    x = np.array([[1.0, -2.0, 3.0], [0.5, 2.5, 1.0], [3.0, 1.0, -1.0]])
    expected = run(f, "f64", x)
    np.testing.assert_allclose(run(f, dtype, x * size) / size, expected, eps)
    moved = run(lambda v: rung.grad(lambda w: f(w).sum())(v), dtype, x * size)
    np.testing.assert_allclose(
        moved, run(lambda v: rung.grad(lambda w: f(w).sum())(v), "f64", x), 8 * eps, 8 * eps
    )


NORMALIZATIONS = ("layer_norm", "rms_norm", "group_norm", "batch_norm", "normalize")


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("dtype", ("f32", "bf16"))
@pytest.mark.parametrize("size", (1e17, 1e30, 2e36))
@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_normalizations_of_huge_values(name: str, size: float, dtype: str) -> None:
    x = np.array([[1.0, -2.0, 3.0, 5.0], [0.5, 2.5, 1.0, -1.0]])
    f = HALF_CASES[name] if name not in ("layer_norm", "rms_norm") else None
    normed = (lambda v: f(v, v)) if f else lambda v: getattr(F, name)(v, 4)
    huge = rung.asarray(x * size, dtype=dtype)
    exact = normed(huge.astype("f64"))
    tolerance = 1e-6 if dtype == "f32" else 1e-2
    np.testing.assert_allclose(np.asarray(normed(huge), np.float64), exact, tolerance, tolerance)
    weight = rung.asarray([[1.0, 2.0, -3.0, 1.0]])

    def moved(v: Any) -> Array:
        found = rung.grad(lambda w: (normed(w) * weight.astype(w.dtype)).sum())(v)
        return np.asarray(found, np.float64) * size

    np.testing.assert_allclose(moved(huge), moved(huge.astype("f64")), 5e-2, 5 * tolerance)


def test_losses_of_huge_vectors() -> None:
    x = rung.asarray(np.full((1, 4), 1e30, np.float32))
    assert float(F.cosine_similarity(x, x)[0]) == pytest.approx(1)
    assert float(F.cosine_embedding_loss(x, -x, np.array([1]))) == pytest.approx(2)
    one = rung.asarray(np.float32(1e30))
    assert float(F.gaussian_nll_loss(one, -one, one)) == pytest.approx(2e30)


# ---- division and shifts without a value


def pairs(values: Array) -> tuple[Array, Array]:
    a, b = np.meshgrid(values, values)
    return a.ravel().copy(), b.ravel().copy()


def same(found: Any, expected: Array) -> None:
    """Equal, of one dtype, zeros by their sign."""
    array = np.asarray(found)
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)
    if expected.dtype.kind == "f":
        zeros = expected == 0
        np.testing.assert_array_equal(np.signbit(array[zeros]), np.signbit(expected[zeros]))


QUOTIENTS = (
    (rung.floor_divide, np.floor_divide), (rung.remainder, np.remainder), (rung.fmod, np.fmod),
)  # fmt: skip


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("name", ("float16", "float32", "float64"))
def test_quotients_of_floats_are_those_of_numpy(name: str) -> None:
    info = np.finfo(name)
    positive = [0, 0.1, 1, 2.5, 3, 7, info.max, info.tiny, info.smallest_subnormal, np.inf]
    a, b = pairs(np.array([*positive, *(-x for x in positive), np.nan], name))
    for ours, numpys in QUOTIENTS:
        with np.errstate(all="ignore"):
            same(ours(rung.asarray(a), rung.asarray(b)), numpys(a, b))


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize("name", ("int8", "uint8", "int32", "uint32", "int64", "uint64"))
def test_integers_at_their_ends_are_those_of_numpy(name: str) -> None:
    info = np.iinfo(name)
    ends = {info.min, info.min + 1, 0, 1, 2, 3, 7, info.max // 2 + 1, info.max - 1, info.max}
    values = np.array(sorted(ends | ({-1} if info.min else set())), name)
    a, b = pairs(values)
    shifts = np.array(sorted({0, 1, info.bits - 1, info.bits, info.max} | ends & {-1}), name)
    x, by = (v.ravel().copy() for v in np.meshgrid(values, shifts))
    with np.errstate(all="ignore"):
        for ours, numpys in QUOTIENTS:
            same(ours(rung.asarray(a), rung.asarray(b)), numpys(a, b))
            for n in values.tolist():  # numbers that the compiler knows
                same(ours(rung.asarray(values), n), numpys(values, np.array(n, name)))
        same(rung.asarray(x) << rung.asarray(by), x << by)
        same(rung.asarray(x) >> rung.asarray(by), x >> by)
        for n in shifts.tolist():
            same(rung.asarray(values) >> n, values >> np.array(n, name))
            same(rung.asarray(values) << n, values << np.array(n, name))
        if not info.min:
            same(rung.asarray(a) ** rung.asarray(b), a**b)


# ---- what decides a dtype

NUMBERS: tuple[tuple[Any, ...], ...] = ((0.0, 1.0, 2.0, 3.0, 0.5, -1.0), (0, 1, 2, 3, -1))
MANY = ("split", "chunk")


def dtypes(result: Any) -> tuple[str, ...]:
    if isinstance(result, tuple | list):
        return tuple(d for r in result for d in dtypes(r))
    return (result.dtype.name if isinstance(result, rung.Tensor) else type(result).__name__,)


def with_number(
    f: Callable[..., Any], x: rung.Tensor, needed: int, place: int | str, number: Any
) -> Any:
    """`f` of x for its `needed` operands, with the number at `place`."""
    operands = [number if i == place else x for i in range(needed)]
    return f(*operands, **({place: number} if isinstance(place, str) else {}))


def by_number(
    call: Callable[[Any], Any], numbers: tuple[Any, ...]
) -> dict[Any, tuple[str, ...]]:
    found = {}
    for n in numbers:
        try:
            found[n] = dtypes(call(n))
        except Exception:  # which calls are right is not what is asked here
            continue
    return found


@pytest.mark.parametrize("dtype", ("i32", "u8", "f16", "f32"))
@pytest.mark.parametrize("module", (rung, F, rung.linalg, rung.special), ids=lambda m: m.__name__)
def test_no_dtype_depends_on_a_value(module: ModuleType, dtype: str) -> None:
    """Every number that a public function takes, positional or by name, given as several floats,
    then as several integers: one dtype for each kind."""
    x = rung.asarray(np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]), dtype=dtype)
    configure(interpret=True)
    tried = 0
    for name, f in vars(module).items():
        if name.startswith("_") or inspect.isclass(f) or not callable(f) or "split" in name:
            continue
        try:
            params = list(inspect.signature(f).parameters.values())
        except (TypeError, ValueError):
            continue
        needed = sum(p.default is p.empty and p.kind < 2 for p in params)
        named = [p.name for p in params if type(p.default) in (int, float) and p.kind > 0]
        places = [*named, *range(1, min(needed, 3))]
        for numbers in NUMBERS:
            for place in places:
                found = by_number(partial(with_number, f, x, needed, place), numbers)
                tried += len(found) > 1
                assert len(set(found.values())) <= 1 or name in MANY, (name, found)
    configure(interpret=False)
    assert tried > (100 if module is rung else 5)


def test_an_integer_to_a_whole_float_power_is_a_float() -> None:
    x = rung.asarray([3, 4])
    for n in (0.0, 1.0, 2.0, 3.0, -1.0, 0.5):
        assert (x**n).dtype is (x * n).dtype is rung.float32
    assert (x**2.0).tolist() == [9.0, 16.0]
    assert (x**2).dtype is rung.int64
