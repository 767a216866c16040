"""Vector math: stated accuracy, special values, any number of lanes, every target."""

import ctypes
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from jit import Loaded, compiled_map, map_module, module_for, numpy_type

from rung.codegen.llvm import coefficients, vmath
from rung.codegen.llvm.builder import Function, Param
from rung.codegen.llvm.target import Target, avx2, avx512, emit_assembly, host, neon
from rung.codegen.llvm.types import Val, register_type
from rung.core.errors import LoweringError

Array = np.ndarray
BOOL = {"isnan", "isinf", "isfinite", "signbit"}
TESTED = [(op, dtype) for op in vmath.ACCURACY for dtype in ("f32", "f64")]


def _by_element(function: Callable[[float], float]) -> Callable[[Array], Array]:
    return lambda x: np.array([function(float(v)) for v in x])


REFERENCE: dict[str, Callable[..., Array]] = {
    "erf": _by_element(math.erf),
    "erfc": _by_element(math.erfc),
    "normal_cdf": _by_element(lambda x: 0.5 * math.erfc(-x * math.sqrt(0.5))),
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "atan2": np.arctan2,
    "pow": np.power,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
}
EXACT = {op for op, bounds in vmath.ACCURACY.items() if bounds == (0.0, 0.0)}


def specials(dtype: str) -> Array:
    info = np.finfo(numpy_type(dtype))
    positive = [0.0, math.inf, 1.0, 0.5, 2.0, 3.0, 2.5, 1.5, 0.75, 10.0, 1e10, 1e30, 65536.0]
    positive += [float(info.max), float(info.tiny), float(info.smallest_subnormal)]
    positive += [float(info.tiny) / 8, 88.5, 88.75, 89.2, 104.0, 709.7, 710.2, 745.0, math.pi]
    positive += [1.0 + float(info.eps), 1.0 - float(info.epsneg), math.pi / 2, 1e-5, 33.0]
    with np.errstate(over="ignore"):
        values = np.array(positive).astype(info.dtype)
    return np.concatenate([values, -values, [np.nan]]).astype(info.dtype)


def samples(dtype: str, size: int, seed: int) -> Array:
    """Numbers of all magnitudes, more of those near 1, both signs."""
    rng = np.random.default_rng(seed)
    info = np.finfo(numpy_type(dtype))
    limit = math.log2(float(info.max)) - 0.01
    sign = rng.choice([-1.0, 1.0], 4 * size)
    wide = 2.0 ** rng.uniform(-limit - 20, limit, size)
    middle = 2.0 ** rng.uniform(-12, 9, size)
    near = np.concatenate([rng.uniform(0, 2, size), rng.uniform(0, 100, size)])
    return (np.concatenate([wide, middle, near]) * sign).astype(info.dtype)


def arguments(op: str, dtype: str, size: int) -> list[Array]:
    edge, x = specials(dtype), samples(dtype, size, 1)
    if op in vmath.UNARY:
        turns = (np.arange(-600, 601) * (math.pi / 2)).astype(x.dtype)
        return [np.concatenate([edge, x, turns])]
    left, right = np.meshgrid(edge, edge)
    rng = np.random.default_rng(3)
    base, power = rng.uniform(0.01, 30, size), rng.uniform(-20, 20, size)
    first = np.concatenate([left.ravel(), x, base])
    second = np.concatenate([right.ravel(), samples(dtype, size, 2), power])
    return [first.astype(x.dtype), second.astype(x.dtype)]


def reference(op: str, args: Sequence[Array]) -> Array:
    function = REFERENCE.get(op) or getattr(np, op)
    if op not in EXACT:
        wide = np.float64 if args[0].dtype == np.float32 else np.longdouble
        args = [a.astype(wide) for a in args]
    with np.errstate(all="ignore"):
        return np.asarray(function(*args))


def ulp_errors(value: Array, exact: Array, scale: Array) -> Array:
    """|value - exact| in units in the last place of `scale`; inf where the kind differs."""
    info = np.finfo(value.dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(value.dtype)
        size = np.clip(np.abs(scale), info.tiny, info.max).astype(value.dtype)
        size = np.where(np.isnan(size), info.tiny, size)
        wide = np.longdouble
        errors = np.abs(value.astype(wide) - exact.astype(wide)) / np.spacing(size).astype(wide)
        border = np.abs(exact.astype(wide)) >= wide(info.max) * (1 - wide(info.eps))
    same = (value == rounded) & (np.signbit(value) == np.signbit(rounded))
    same |= np.isnan(value) & np.isnan(rounded)
    kind = (np.isnan(value) != np.isnan(rounded)) | ((value == 0) & (exact == 0))
    kind |= np.isinf(value) & np.isinf(rounded)
    errors = np.where(np.isfinite(errors), errors, np.inf)
    errors = np.where(np.isinf(value) != np.isinf(rounded), np.where(border, 1, np.inf), errors)
    return np.where(same, np.minimum(errors, 0.5), np.where(kind, np.inf, errors)).astype(float)


def compiled(op: str, dtype: str, lanes: int, target: Target) -> Callable[..., Array]:
    dtypes = [dtype] * (1 if op in vmath.UNARY else 2)
    result = "bool" if op in BOOL else dtype

    def body(f: Function, args: Sequence[Val]) -> Val:
        return vmath.emit(f, op, dtype, lanes, args)

    return compiled_map(body, dtypes, result, lanes, target)


def check(op: str, dtype: str, lanes: int, target: Target, size: int = 4000) -> None:
    args = arguments(op, dtype, size)
    value = compiled(op, dtype, lanes, target)(*args)
    exact = reference(op, args)
    if op in BOOL:
        np.testing.assert_array_equal(value, exact)
        return
    scale = exact
    if op == "logaddexp":
        scale = np.maximum(np.abs(exact), np.maximum(np.abs(args[0]), np.abs(args[1])))
    if op == "normal_cdf":
        scale = np.ones_like(exact)
    errors = ulp_errors(value, exact, scale)
    bound = vmath.ACCURACY[op][0 if dtype == "f32" else 1]
    if op in EXACT:
        same = (value == exact) & (np.signbit(value) == np.signbit(exact))
        errors = np.where(same | (np.isnan(value) & np.isnan(exact)), 0.0, np.inf)
    worst = int(np.argmax(errors))
    inputs = [a[worst] for a in args]
    told = f"{op}{inputs} = {exact[worst]}, got {value[worst]}: {errors[worst]:.2f} ulp"
    assert errors[worst] <= bound, told


def portable() -> Target:
    """This machine without AVX-512: what AVX2 and NEON run."""
    return avx2() if host().arch == "x86_64" else host()


@pytest.mark.parametrize(("op", "dtype"), TESTED)
def test_accuracy(op: str, dtype: str) -> None:
    check(op, dtype, host().lanes(4 if dtype == "f32" else 8), host())


@pytest.mark.parametrize(("op", "dtype"), TESTED)
def test_accuracy_portable(op: str, dtype: str) -> None:
    if "avx2" not in host().enabled and host().arch == "x86_64":
        pytest.skip("needs AVX2")
    check(op, dtype, portable().lanes(4 if dtype == "f32" else 8), portable())


ODD = ["sinh", "asinh", "tanh", "atanh", "sin", "tan", "asin", "atan", "expm1", "log1p"]


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("op", ODD)
def test_what_is_its_argument_near_zero(op: str, dtype: str) -> None:
    smallest = np.finfo(numpy_type(dtype)).smallest_subnormal
    x = smallest * np.array([1, 2, 3, 5, 1001, -1, -7], smallest.dtype)
    for target in (host(), portable()):
        value = compiled(op, dtype, target.lanes(x.itemsize), target)(x)
        np.testing.assert_array_equal(value, x)


@pytest.mark.parametrize("lanes", [1, 2, 3, 4, 32, 64])
@pytest.mark.parametrize("op", ["exp", "log1p", "rsqrt", "sin", "pow", "fmod"])
def test_any_number_of_lanes(op: str, lanes: int) -> None:
    check(op, "f32", lanes, host(), size=500)


def test_every_function_states_its_accuracy() -> None:
    assert set(vmath.ACCURACY) == set(vmath.UNARY) | set(vmath.BINARY)


def test_results_do_not_depend_on_lanes() -> None:
    x = samples("f32", 500, 4)
    for op in ("exp", "tanh", "log", "sin"):
        wide, single = (compiled(op, "f32", lanes, host())(x) for lanes in (16, 1))
        np.testing.assert_array_equal(wide, single)


def _loop_assembly(op: str, target: Target, lanes: int, dtype: str = "f32") -> str:
    def body(f: Function, args: Sequence[Val]) -> Val:
        return vmath.emit(f, op, dtype, lanes, args)

    dtypes = [dtype] * (1 if op in vmath.UNARY else 2)
    result = "bool" if op in BOOL else dtype
    return emit_assembly(map_module(target, body, dtypes, result, lanes).text(), target)


@pytest.mark.parametrize(
    ("target", "needed", "forbidden"),
    [
        (avx2(), ("vfmadd", "%ymm"), "%zmm"),
        (avx512(), ("vfmadd", "%zmm", "vscalefps"), "call"),
        (neon(), ("fmla", ".4s"), "\tbl\t"),
    ],
    ids=["avx2", "avx512", "neon"],
)
def test_exp_uses_vector_fma(target: Target, needed: tuple[str, ...], forbidden: str) -> None:
    text = _loop_assembly("exp", target, target.lanes(4))
    assert all(word in text for word in needed)
    assert forbidden not in text


@pytest.mark.parametrize("target", [avx2(), avx512(), neon()], ids=lambda t: t.cpu)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_only_stated_functions_call_libm(target: Target, dtype: str) -> None:
    """Calls in the text are the stated ones; `fmod` and large angles sit on rare paths."""
    rare = {"fmod": "fmod", "remainder": "fmod", "floor_divide": "fmod"}
    rare |= {op: op for op in ("sin", "cos", "tan")} if dtype == "f64" else {}
    for op in vmath.ACCURACY:
        text = _loop_assembly(op, target, target.lanes(4 if dtype == "f32" else 8), dtype)
        lines = (line.split() for line in text.splitlines())
        calls = {w[1].split("@")[0] for w in lines if w and w[0] in ("callq", "bl")}
        allowed = {rare.get(op, ""), rare.get(op, "") + "f", f"rung.{rare.get(op)}_any"}
        allowed.add(vmath.LIBM_F64.get(op, "") if dtype == "f64" else "")
        outlined = {c for c in calls if c.strip('"').startswith("rung.")}
        assert calls - outlined <= allowed, f"{op} {dtype}: {calls}"


def test_emit_refuses_what_it_does_not_know() -> None:
    f = Function(module_for(host()), "f", [Param("float", "x")])
    with pytest.raises(LoweringError, match="no vector math for gamma"):
        vmath.emit(f, "gamma", "f32", 1, f.params)
    with pytest.raises(LoweringError, match="exp: no vector math in f16"):
        vmath.emit(f, "exp", "f16", 1, f.params)


def test_scalar_function_by_value() -> None:
    module = module_for(host())
    f = Function(module, "f", [Param(register_type("f64"), "x")], "double")
    f.ret(vmath.emit(f, "log", "f64", 1, f.params))
    loaded = Loaded(module, host(), "f")
    native = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(loaded.address)
    assert native(math.e) == pytest.approx(1.0, abs=1e-16)


@pytest.mark.parametrize(("name", "dtype"), [("EXP", "f32"), ("LOG_ODD", "f64"), ("SIN", "f32")])
def test_coefficients_come_from_the_fitter(name: str, dtype: str) -> None:
    from rung.codegen.llvm import fit

    (spec,) = [spec for spec in fit.FITS if spec.name == name]
    rounded, error = fit.fit(spec, dtype)
    assert tuple(rounded) == getattr(coefficients, name)[dtype]
    assert error < (2.0**-26 if dtype == "f32" else 2.0**-56)


@pytest.mark.parametrize("k", [0, 1, 17, 31])
def test_tables_come_from_the_fitter(k: int) -> None:
    from rung.codegen.llvm import fit

    row, error = fit.fit_erf_entry(k)
    assert row == [power[k] for power in coefficients.ERF_TABLE]
    assert error < 2.0**-26
    row, error = fit.fit_normal_entry(k)
    assert row == [power[k] for power in coefficients.NORMAL_TABLE]
    assert error < 2.0**-25.9


def test_first_entry_of_the_table_of_erf_is_told_by_the_constant_terms() -> None:
    """Its result is `d + d (...)`, the others' `constant + d (...)`: the greater of the two."""
    from rung.codegen.llvm import fit

    points, constants = coefficients.ERF_TABLE[:2]
    assert points[0] == constants[0] == 0.0
    for k in range(1, fit.TABLE_SIZE):
        end = fit.entry_start(k + 1)
        assert end - points[k] < constants[k]


def erf_arguments() -> Array:
    """Each 997th f32 number from 2**-30 to 4, borders of entries, what ends at 1."""
    from rung.codegen.llvm import fit

    first, last = (int(np.float32(v).view(np.int32)) for v in (2.0**-30, 4.0))
    spread = np.arange(first, last, 997, np.int32)
    starts = [float(fit.entry_start(k)) for k in range(1, fit.TABLE_SIZE)]
    borders = np.array([*starts, 0.875, 3.93, 3.95], np.float32).view(np.int32)
    near = (borders[:, None] + np.arange(-50, 51, dtype=np.int32)).ravel()
    return np.sort(np.concatenate([spread, near]).astype(np.int32)).view(np.float32)


@pytest.mark.parametrize("target", [host(), portable()], ids=["host", "portable"])
def test_erf(target: Target) -> None:
    """As accurate as stated over all magnitudes, odd, 1 from where it rounds to 1 on; rising, to
    within the last place of near neighbours on what is portable."""
    x = erf_arguments()
    y = compiled("erf", "f32", target.lanes(4), target)(x)
    assert ulp_errors(y, reference("erf", [x]), y).max() <= vmath.ACCURACY["erf"][0]
    assert np.all(np.diff(y) >= 0)
    assert np.all(y <= 1) and np.all(y[x >= 3.95] == 1)
    edge = np.array([0.0, 1e-45, 2e-42, 1e-38, 1e30, np.inf, np.nan, 4.0], np.float32)
    edge.view(np.int32)[-1] = 0x7FC00001  # a NaN that has more bits
    found = compiled("erf", "f32", target.lanes(4), target)(edge)
    assert np.isnan(found[-2:]).all()
    assert ulp_errors(found, reference("erf", [edge]), found).max() <= 0.5
    for values, results in ((x, y), (edge, found)):
        below = compiled("erf", "f32", target.lanes(4), target)(-values)
        assert np.array_equal(below.view(np.int32)[:-2], (-results).view(np.int32)[:-2])


@pytest.mark.skipif(not host().has("avx512f"), reason="no AVX-512 here")
def test_erf_by_table() -> None:
    """The same in every width, and within less than the portable form is."""
    x = erf_arguments()
    wide = compiled("erf", "f32", 16, host())(x)
    for lanes in (1, 4, 8, 32):
        assert wide.tobytes() == compiled("erf", "f32", lanes, host())(x).tobytes()
    assert ulp_errors(wide, reference("erf", [x]), wide).max() < 0.9
