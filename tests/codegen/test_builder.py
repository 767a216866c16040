"""The text builder: what it writes verifies on every target and computes what it says."""

import ctypes
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from jit import Loaded, compiled_map, module_for, numpy_type

from rung.codegen.llvm.builder import Function, Param
from rung.codegen.llvm.module import Module
from rung.codegen.llvm.target import (
    Target,
    avx2,
    avx512,
    emit_assembly,
    emit_object,
    host,
    neon,
    optimized_ir,
)
from rung.codegen.llvm.types import (
    Val,
    constant,
    constant_int,
    constant_vector,
    dtype_constant,
    mangle,
    memory_type,
    register_type,
    split_type,
    type_bytes,
    vector,
)
from rung.core.errors import LoweringError

DTYPES = ["bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f16", "bf16", "f32", "f64"]
TARGETS = [avx2(), avx512(), neon()]


# -- types and constants


def test_types_as_text() -> None:
    assert split_type("<16 x float>") == ("float", 16)
    assert vector("i64", 1) == "i64"
    assert mangle("<4 x ptr>") == "v4p0"
    assert type_bytes("<8 x half>") == 16
    assert (memory_type("bool", 4), register_type("bool", 4)) == ("<4 x i8>", "<4 x i1>")


@pytest.mark.parametrize(
    ("type", "value", "text"),
    [
        ("float", 0.1, "0x3FB99999A0000000"),
        ("float", 1e300, "0x7FF0000000000000"),
        ("double", -0.0, "0x8000000000000000"),
        ("half", 1.5, "0xH3E00"),
        ("i8", 255, "-1"),
        ("i1", 1, "true"),
        ("<2 x i16>", 40000, "splat (i16 -25536)"),
    ],
)
def test_constants(type: str, value: float, text: str) -> None:
    assert constant(type, value) == Val(type, text)


def test_a_bf16_is_its_bits() -> None:
    assert dtype_constant("bf16", 1.00390625) == Val("i16", str(0x3F80))
    assert dtype_constant("f32", 1.5) == constant("float", 1.5)


def test_negative_zero_is_not_zero() -> None:
    assert constant("float", 0.0) != constant("float", -0.0)


def test_constant_int() -> None:
    assert constant_int(constant("i64", -7)) == -7
    assert constant_int(constant("float", 1.0)) is None
    assert constant_int(Val("i64", "%x")) is None
    assert constant_vector("i1", [True, False]).name == "<i1 true, i1 false>"


# -- conversions


def cast_samples(dtype: str) -> np.ndarray:
    kind = numpy_type(dtype)
    if dtype == "bool":
        return np.array([False, True])
    if dtype[0] in "iu":
        info = np.iinfo(kind)
        corners = [info.min, info.max, info.max // 2, info.max // 3, 0, 1, 5, 100, info.min + 1]
        bits = [b for k in range(8, info.bits - 1) for b in ((1 << k) - 1, (1 << k) + 1)]
        return np.array(corners + bits, kind)
    values = [0.0, -0.0, 1.0, -1.5, 2.5, 65504.0, 65520.0, 1e-7, 6e-8, 3e-8, 1e-40, 3.0e38]
    values += [np.inf, -np.inf, np.nan, 1.0009765625, 1.00048828125, 1.0004882812500002, 127.5]
    values += [1 + 2.0**-8, 1 + 2.0**-8 + 2.0**-30, 1 + 3 * 2.0**-8, 1e300, 1e-300, 100.25]
    values += list(np.random.default_rng(0).normal(0, 1000, 40))
    with np.errstate(over="ignore", under="ignore"):
        return np.array(values).astype(kind)


def expected_cast(x: np.ndarray, source: str, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Values that can be compared, and what they become."""
    kind = numpy_type(target)
    fits = np.ones(len(x), bool)
    if target != "bool" and target[0] in "iu" and source[-2:] in ("16", "32", "64"):
        info = np.iinfo(kind)
        if "f" in source:
            wide = x.astype(np.longdouble)
            fits = np.isfinite(wide) & (wide >= info.min) & (wide <= info.max)
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        return fits, x.astype(kind)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("lanes", [1, 8])
def test_casts_agree_with_numpy(source: str, lanes: int) -> None:
    x = cast_samples(source)
    for target in DTYPES:

        def body(f: Function, args: Sequence[Val], target: str = target) -> Val:
            return f.cast(args[0], source, target)

        got = compiled_map(body, [source], target, lanes)(x)
        fits, want = expected_cast(x, source, target)
        same = (got == want) | ((got != got) & (want != want))
        wrong = np.flatnonzero(fits & ~same)
        told = [(x[i], got[i], want[i]) for i in wrong[:3]]
        assert not len(wrong), f"{source} to {target}: {told}"


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.cpu)
def test_casts_need_no_runtime_library(target: Target) -> None:
    for source, wanted in itertools.product(DTYPES, DTYPES):
        module = module_for(target)
        f = Function(module, "f", [Param("ptr", "x"), Param("ptr", "y")])
        x, y = f.params
        for lanes in (1, target.lanes(4)):
            value = f.load_dtype(source, lanes, x)
            f.store_dtype(wanted, f.cast(value, source, wanted), f.gep(y, lanes * 8))
        f.ret()
        text = emit_assembly(module.text(), target)
        assert "__" not in text and "@PLT" not in text, f"{source} to {wanted}"


# -- control flow


def native(module: Module, name: str, result: object, *args: object) -> tuple[Loaded, object]:
    loaded = Loaded(module, host(), name)
    return loaded, ctypes.CFUNCTYPE(result, *args)(loaded.address)


@pytest.mark.parametrize("static", [False, True])
def test_loop_carries_values(static: bool) -> None:
    module = module_for(host())
    f = Function(module, "f", [Param("i64", "n")], "i64")
    for_bound = f.index(10) if static else f.params[0]
    with f.loop(0, for_bound, 3, carried=[f.index(0), f.index(1)]) as outer:
        total, product = outer.carried
        outer.next(f.add(total, outer.index), f.mul(product, f.index(2)))
    f.ret(f.add(f.mul(outer.results[0], f.index(1000)), outer.results[1]))
    _loaded, call = native(module, "f", ctypes.c_int64, ctypes.c_int64)
    for n in (10,) if static else (0, 1, 3, 4, 10):
        turns = range(0, n, 3)
        assert call(n) == sum(turns) * 1000 + 2 ** len(turns)


def test_nested_loops_and_choices() -> None:
    module = module_for(host())
    f = Function(module, "f", [Param("i64", "n"), Param("ptr", "out")])
    n, out = f.params
    with f.loop(0, n) as i, f.loop(0, n) as j:
        where = f.gep(out, f.add(f.mul(i.index, n), j.index), "i64")
        below = f.compare("lt", i.index, j.index)
        (value,) = f.if_else(below, lambda: [f.index(1)], lambda: [f.neg(f.index(2))])
        f.store(value, where)
        with f.if_(f.compare("eq", i.index, j.index), likely=False):
            f.store(f.index(0), where)
    f.ret()
    _loaded, call = native(module, "f", None, ctypes.c_int64, ctypes.c_void_p)
    result = np.full((5, 5), 9)
    call(5, result.ctypes.data)
    i, j = np.indices((5, 5))
    np.testing.assert_array_equal(result, np.where(i == j, 0, np.where(i < j, 1, -2)))


def test_misuse_is_refused() -> None:
    f = Function(Module(), "f", [Param("i64", "n"), Param("float", "x")])
    n, x = f.params
    with pytest.raises(LoweringError, match="add: operand types differ: i64 and i32"):
        f.add(n, constant("i32", 1))
    with pytest.raises(LoweringError, match="select: operand types differ"):
        f.select(f.compare("eq", n, n), n, x)
    with (
        pytest.raises(LoweringError, match=r"next\(\) was not called"),
        f.loop(0, n, carried=[x]),
    ):
        pass
    with (
        pytest.raises(LoweringError, match="carries 1 values, not 2"),
        f.loop(0, n, carried=[x]) as loop,
    ):
        loop.next(x, x)
    g = Function(Module(), "g")
    g.ret()
    with pytest.raises(LoweringError, match="ends twice"):
        g.ret()


# -- memory


def test_masked_tail() -> None:
    module = module_for(host())
    f = Function(module, "f", [Param("i64", "n"), Param("ptr", "x"), Param("ptr", "y")])
    n, x, y = f.params
    mask = f.lane_mask(16, n)
    value = f.masked_load("<16 x float>", x, mask, passthru=f.const("<16 x float>", 7.0))
    f.masked_store(f.add(value, value), y, mask)
    f.store(value, f.gep(y, 16, "float"))
    f.ret()
    _loaded, call = native(module, "f", None, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
    source = np.arange(16, dtype=np.float32)
    for count in (0, 5, 16):
        out = np.full(32, -1, np.float32)
        call(count, source.ctypes.data, out.ctypes.data)
        lane = np.arange(16)
        np.testing.assert_array_equal(out[:16], np.where(lane < count, 2 * source, -1))
        np.testing.assert_array_equal(out[16:], np.where(lane < count, source, 7))


def test_constant_masks_simplify() -> None:
    f = Function(Module(), "f", [Param("ptr", "x")])
    (x,) = f.params
    none = f.masked_load("<4 x float>", x, f.lane_mask(4, 0))
    assert none.name == "zeroinitializer"
    f.masked_store(none, x, f.lane_mask(4, f.index(0)))
    f.masked_load("<4 x float>", x, f.lane_mask(4, 4))
    text = f.text()
    assert "masked" not in text and text.count("load <4 x float>") == 1


@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_gather_and_scatter(lanes: int) -> None:
    module = module_for(host())
    f = Function(module, "f", [Param("ptr", n) for n in ("x", "where", "y")])
    x, where, y = f.params
    index = f.load(vector("i32", lanes), where)
    value = f.gather(vector("double", lanes), f.gep(x, index, "double"))
    f.scatter(f.neg(value), f.gep(y, index, "double"))
    f.ret()
    _loaded, call = native(module, "f", None, *[ctypes.c_void_p] * 3)
    order = np.random.default_rng(0).permutation(lanes).astype(np.int32)
    source, out = np.arange(lanes, dtype=float), np.zeros(lanes)
    call(source.ctypes.data, order.ctypes.data, out.ctypes.data)
    np.testing.assert_array_equal(out, -source)


@pytest.mark.parametrize("lanes", [2, 3, 5, 8, 16])
def test_reduce_is_a_fixed_tree(lanes: int) -> None:
    def tree(v: np.ndarray) -> np.float32:
        if len(v) == 1:
            return v[0]
        low = 1 << (len(v) - 1).bit_length() - 1
        if 2 * low == len(v):
            return tree(v[:low] + v[low:])
        return tree(v[:low]) + tree(v[low:])

    for target in (host(), *([avx2()] if host().arch == "x86_64" else [])):
        module = module_for(target)
        f = Function(module, "f", [Param("ptr", "x")], "float")
        f.ret(f.reduce("add", f.load(vector("float", lanes), f.params[0])))
        loaded = Loaded(module, target, "f")
        call = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_void_p)(loaded.address)
        for seed in range(20):
            x = np.random.default_rng(seed).normal(size=lanes).astype(np.float32)
            assert np.float32(call(x.ctypes.data)) == tree(x)


def test_reduce_other_operations() -> None:
    x = np.array([3, -9, 5, 7, 2, -1, 8, 4], np.int32)
    wanted = {"add": 19, "mul": 3 * -9 * 5 * 7 * 2 * -1 * 8 * 4, "smax": 8, "smin": -9}
    wanted |= {"and": 0, "or": -1, "xor": int(np.bitwise_xor.reduce(x))}
    for op, value in wanted.items():
        module = module_for(host())
        f = Function(module, "f", [Param("ptr", "x")], "i32")
        f.ret(f.reduce(op, f.load("<8 x i32>", f.params[0])))
        _loaded, call = native(module, "f", ctypes.c_int32, ctypes.c_void_p)
        assert call(x.ctypes.data) == value, op


def test_maximum_keeps_nan_and_orders_zeros() -> None:
    pairs = np.array(list(itertools.product([np.nan, 0.0, -0.0, 1.0, -np.inf], repeat=2)))
    x, y = (np.ascontiguousarray(column) for column in pairs.T)
    low = compiled_map(lambda f, a: f.minimum(*a), ["f64", "f64"], "f64", 4)(x, y)
    high = compiled_map(lambda f, a: f.maximum(*a), ["f64", "f64"], "f64", 4)(x, y)
    np.testing.assert_array_equal(low, np.minimum(x, y))
    np.testing.assert_array_equal(high, np.maximum(x, y))
    zeros = (x == 0) & (y == 0)
    assert (np.signbit(low) == (np.signbit(x) | np.signbit(y)))[zeros].all()
    assert (np.signbit(high) == (np.signbit(x) & np.signbit(y)))[zeros].all()


def test_shuffles_and_concat() -> None:
    module = module_for(host())
    f = Function(module, "f", [Param("ptr", "x"), Param("ptr", "y")])
    x, y = f.params
    v = f.load("<4 x i32>", x)
    both = f.concat(f.shuffle(v, [3, 2, 1, 0]), f.splat(f.extract(v, 1), 4))
    f.store(f.insert(both, constant("i32", 99), 7), y)
    f.store(f.shuffle(v, [2]), f.gep(y, 8, "i32"))
    f.ret()
    _loaded, call = native(module, "f", None, ctypes.c_void_p, ctypes.c_void_p)
    source, out = np.array([10, 11, 12, 13], np.int32), np.zeros(9, np.int32)
    call(source.ctypes.data, out.ctypes.data)
    assert out.tolist() == [13, 12, 11, 10, 11, 11, 11, 99, 12]


def test_atomics() -> None:
    module = module_for(host())
    f = Function(module, "f", [Param("ptr", "x")], "i64")
    (x,) = f.params
    before = f.atomic_rmw("add", x, f.index(5))
    old, done = f.compare_exchange(x, f.index(12), f.index(40))
    f.fence()
    f.atomic_store(f.add(f.atomic_load("i64", x), f.resize(done, "i64", signed=False)), x)
    f.ret(f.add(before, old))
    _loaded, call = native(module, "f", ctypes.c_int64, ctypes.c_void_p)
    x = np.array([7])
    assert call(x.ctypes.data) == 7 + 12
    assert x[0] == 41


def test_alloca_sits_in_the_entry_block() -> None:
    module = module_for(host())
    f = Function(module, "f", [Param("i64", "n")], "i64")
    (n,) = f.params
    with f.loop(0, n) as loop:
        f.store(loop.index, f.alloca("i64", 2))
    f.ret(n)
    lines = module.text().splitlines()
    at = next(i for i, line in enumerate(lines) if "alloca" in line)
    assert lines[at - 1] == "entry:"
    emit_object(module.text(), host())


# -- modules


def test_declarations_and_metadata_are_written_once() -> None:
    module = Module()
    f = Function(module, "f", [Param("float", "x")], "float")
    y = f.fma(f.params[0], f.params[0], f.params[0])
    f.ret(f.fma(y, y, y))
    assert module.text().count("declare") == 1
    assert module.metadata("!{i32 1}") == module.metadata("!{i32 1}")


def test_disjoint_buffers_allow_keeping_loads() -> None:
    """Without scopes the second load has to be repeated after the store."""
    loads = []
    for scoped in (False, True):
        module = module_for(host())
        f = Function(module, "f", [Param("ptr", "args")], "float")
        first, second = module.alias_scopes(["x", "y"]) if scoped else ("", "")
        x, y = (f.load("ptr", f.gep(f.params[0], k, "ptr")) for k in (0, 1))
        a = f.load("float", x, meta=first)
        f.store(f.neg(a), y, meta=second)
        f.ret(f.add(a, f.load("float", x, meta=first)))
        loads.append(optimized_ir(module.text(), host()).count("load float"))
    assert loads == [2, 1]


def test_assembly_names_the_lines_of_the_user() -> None:
    module = module_for(host())
    f = Function(module, "f", [Param("float", "x")], "float", debug=("/home/me/train.py", 40))
    f.location("/home/me/train.py", 41)
    y = f.mul(f.params[0], f.params[0])
    f.location("/home/me/model.py", 7)
    f.ret(f.neg(f.intrinsic("sqrt", y)))
    text = emit_assembly(module.text(), host())
    assert '"/home/me" "train.py"' in text
    assert '"/home/me" "model.py"' in text
    assert ".loc\t1 41" in text and ".loc\t2 7" in text
