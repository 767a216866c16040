"""Compilation in parallel, its errors, and loading."""

import ctypes
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rung.core.errors import LoweringError, ShapeError
from rung.core.settings import configure, settings
from rung.kernel.machine import host_machine, neon_machine
from rung.runtime.assemble import assemble
from rung.runtime.cache import object_cache
from rung.runtime.compile import Module, Unit, compile_objects, compile_units
from rung.runtime.loader import link


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path) -> Iterator[Path]:
    before = settings()
    configure(cache_dir=str(tmp_path), cache=True)
    yield tmp_path
    configure(cache_dir=before.cache_dir, cache=before.cache)


def _answer(value: int) -> str:
    return f"define i64 @answer() {{\n  ret i64 {value}\n}}\n"


def _unit(value: int, calls: list[int] | None = None) -> Unit:
    def make() -> Module:
        if calls is not None:
            calls.append(value)
        return Module(_answer(value), ("answer",), note=f"says {value}")

    return Unit(f"answer{value}", make, name=f"answer{value}")


def _ask(library) -> int:
    return ctypes.CFUNCTYPE(ctypes.c_int64)(library.address("answer"))()


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_each_unit_gets_its_own_code(jobs):
    libraries = compile_units([_unit(i) for i in range(20)], jobs)
    assert [_ask(library) for library in libraries] == list(range(20))


def test_equal_units_are_compiled_and_loaded_once():
    calls: list[int] = []
    first, second = compile_units([_unit(7, calls), _unit(7, calls)], jobs=1)
    assert first is second
    assert compile_units([_unit(7, calls)])[0] is first
    assert calls == [7]


def test_text_is_not_asked_for_when_the_object_is_on_disk():
    calls: list[int] = []
    compile_objects([_unit(i, calls) for i in range(3)], host_machine(), jobs=1)
    assert calls == [0, 1, 2]
    libraries = compile_units([_unit(i, calls) for i in range(3)])
    assert calls == [0, 1, 2]
    assert [_ask(library) for library in libraries] == [0, 1, 2]


def test_parallel_objects_equal_serial_ones():
    serial = compile_objects([_unit(i) for i in range(6)], neon_machine(), jobs=1)
    object_cache(neon_machine()).clear()
    assert compile_objects([_unit(i) for i in range(6)], neon_machine(), jobs=3) == serial


@pytest.mark.parametrize("jobs", [1, 2])
def test_symbols_and_note_are_kept_with_the_object(jobs):
    for _ in range(2):  # compiled, then from the cache
        objects = compile_objects([_unit(i) for i in range(4)], neon_machine(), jobs)
        assert [code.note for code in objects] == [f"says {i}" for i in range(4)]
        assert all(code.symbols == ("answer",) for code in objects)
    assert compile_units([_unit(5)])[0].note == "says 5"


def test_damaged_cache_file_is_rebuilt_silently():
    calls: list[int] = []
    compile_units([_unit(3, calls)])
    path = object_cache(host_machine()).path("answer3")
    assert path is not None
    path.write_bytes(path.read_bytes()[:-7])
    assert _ask(compile_units([_unit(3, calls)])[0]) == 3
    assert calls == [3, 3]


@pytest.mark.parametrize("jobs", [1, 2])
def test_invalid_text_is_a_lowering_error(jobs):
    bad = Unit("bad", lambda: Module("define i64 @answer() { ret i32 1 }", ("answer",)))
    with pytest.raises(LoweringError, match="invalid LLVM IR"):
        compile_units([_unit(1), bad], jobs)
    assert object_cache(host_machine()).get("answer1") is not None


@pytest.mark.parametrize("jobs", [1, 2])
def test_our_own_errors_keep_their_type_and_fix(jobs):
    def make() -> Module:
        raise ShapeError("rows differ", fix="transpose it")

    with pytest.raises(ShapeError) as caught:
        compile_units([_unit(1), Unit("k", make)], jobs)
    assert caught.value.message == "rows differ"
    assert caught.value.fix == "transpose it"


def test_a_bug_in_code_generation_shows_its_traceback():
    def make() -> Module:
        raise KeyError("no such axis")

    with pytest.raises(LoweringError, match=r"(?s)in make.*no such axis"):
        compile_units([_unit(1), Unit("k", make)], jobs=2)


def test_death_of_a_compiling_process_names_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parent = os.getpid()

    def make() -> Module:
        if os.getpid() != parent:
            os.kill(os.getpid(), 9)  # as an abort inside LLVM would
        return Module("; the text", ("answer",))

    unit = Unit("deadly", make, name="matmul_3")
    with pytest.raises(LoweringError, match="matmul_3") as caught:
        compile_units([unit, *(_unit(i) for i in range(5))], jobs=2)
    assert caught.value.fix is not None
    assert Path(caught.value.fix.split()[-1]).read_text() == "; the text"
    libraries = compile_units([_unit(i) for i in range(5)])
    assert [_ask(library) for library in libraries] == list(range(5))


def test_what_a_stuck_process_leaves_is_compiled_here():
    """As one is whose lock of malloc was held by another thread."""
    parent = os.getpid()

    def make() -> Module:
        if os.getpid() != parent:
            threading.Event().wait()
        return Module(_answer(77), ("answer",))

    units = [Unit("stuck", make), *(_unit(i) for i in range(4))]
    assert [_ask(library) for library in compile_units(units, jobs=2)] == [77, 0, 1, 2, 3]


def test_threads_in_libraries_survive_the_forks():
    """OpenBLAS ends its threads at a fork, also those a product of another thread waits for."""
    end = threading.Event()
    counts = [0, 0]

    def multiply(number: int) -> None:
        a = np.ones((300, 300), np.float32)
        while not end.is_set():
            a @ a
            counts[number] += 1

    threads = [threading.Thread(target=multiply, args=(n,), daemon=True) for n in range(2)]
    for thread in threads:
        thread.start()
    for round in range(10):
        compile_units([_unit(200 + 10 * round + i) for i in range(3)], jobs=2)
    before = list(counts)
    time.sleep(2)
    end.set()
    assert all(now > then for now, then in zip(counts, before, strict=True))


def test_a_single_unit_can_be_isolated():
    parent = os.getpid()

    def make() -> Module:
        return Module(_answer(int(os.getpid() != parent)), ("answer",))

    assert _ask(compile_units([Unit("here", make)])[0]) == 0
    assert _ask(compile_units([Unit("apart", make)], isolate=True)[0]) == 1


def test_compiling_leaves_no_process_and_no_descriptor():
    before = len(os.listdir("/proc/self/fd"))
    compile_units([_unit(i) for i in range(100, 110)], jobs=3)
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


MATH = ["exp", "log", "sin", "cos", "tan", "tanh", "erf", "expm1", "log1p", "cbrt", "lgamma"]


@pytest.mark.parametrize("suffix", ["", "f"])
def test_calls_into_the_math_library_resolve(suffix):
    kind, c_kind = ("float", ctypes.c_float) if suffix else ("double", ctypes.c_double)
    lines = []
    for name in MATH:
        lines.append(f"declare {kind} @{name}{suffix}({kind})")
        lines.append(f"define {kind} @my_{name}({kind} %x) {{")
        lines.append(f"  %y = call {kind} @{name}{suffix}({kind} %x)\n  ret {kind} %y\n}}")
    lines.append(f"declare {kind} @pow{suffix}({kind}, {kind})")
    lines.append(f"define {kind} @my_pow({kind} %x) {{")
    lines.append(f"  %y = call {kind} @pow{suffix}({kind} %x, {kind} 2.5)\n  ret {kind} %y\n}}")
    symbols = [f"my_{name}" for name in (*MATH, "pow")]
    library = link([assemble("\n".join(lines), host_machine())], symbols)
    libm = ctypes.CDLL("libm.so.6")
    for name in MATH:
        mine = ctypes.CFUNCTYPE(c_kind, c_kind)(library.address(f"my_{name}"))
        theirs = getattr(libm, name + suffix)
        theirs.restype, theirs.argtypes = c_kind, [c_kind]
        assert mine(0.3) == theirs(0.3), name
    power = ctypes.CFUNCTYPE(c_kind, c_kind)(library.address("my_pow"))
    assert power(4.0) == 32.0


def test_memory_functions_resolve():
    text = """
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
define void @copy(ptr %to, ptr %from, i64 %n) {
  call void @llvm.memset.p0.i64(ptr %to, i8 7, i64 100, i1 false)
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %n, i1 false)
  ret void
}
"""
    library = link([assemble(text, host_machine())], ["copy"])
    copy = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)
    target = ctypes.create_string_buffer(100)
    copy(library.address("copy"))(target, b"hello", 5)
    assert target.raw[:6] == b"hello\x07"
    assert target.raw[99] == 7


def test_constant_tables_and_several_objects_in_one_library():
    table = """
@table = private constant [3 x i64] [i64 5, i64 6, i64 7]
define i64 @nth(i64 %i) {
  %at = getelementptr [3 x i64], ptr @table, i64 0, i64 %i
  %v = load i64, ptr %at
  ret i64 %v
}
"""
    machine = host_machine()
    library = link([assemble(table, machine), assemble(_answer(9), machine)], ["nth", "answer"])
    nth = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(library.address("nth"))
    assert [nth(i) for i in range(3)] == [5, 6, 7]
    assert _ask(library) == 9
    assert library.symbols == ("nth", "answer")


def test_missing_symbols_are_typed_errors():
    image = assemble(_answer(1), host_machine())
    with pytest.raises(LoweringError, match="link"):
        link([image], ["question"])
    with pytest.raises(LoweringError, match="no symbol 'other'"):
        link([image], ["answer"]).address("other")
    call = "declare void @no_such_function()\ndefine void @f() {\n"
    call += "  call void @no_such_function()\n  ret void\n}\n"
    with pytest.raises(LoweringError, match="does not link"):
        link([assemble(call, host_machine())], ["f"])
