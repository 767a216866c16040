"""Targets and compilation: presets, errors in the text, clean-up without rewriting."""

import pytest
from jit import module_for

from rung.codegen.llvm.builder import Function, Param
from rung.codegen.llvm.target import (
    Target,
    avx2,
    avx512,
    emit_assembly,
    emit_object,
    host,
    neon,
    optimized_ir,
    target_machine,
    verify,
)
from rung.core.errors import LoweringError


def sum_of(target: Target, unroll: int = 1) -> str:
    module = module_for(target)
    f = Function(module, "f", [Param("i64", "n"), Param("ptr", "x")], "float")
    n, x = f.params
    with f.loop(0, n, carried=[f.const("float", 0.0)], unroll=unroll) as loop:
        loop.next(f.add(loop.carried[0], f.load("float", f.gep(x, loop.index, "float"))))
    f.ret(loop.results[0])
    return module.text()


def test_presets() -> None:
    assert (avx2().vector_bytes, avx2().num_vector_registers, avx2().has_masks) == (32, 16, False)
    assert (avx512().vector_bytes, avx512().has_masks) == (64, True)
    assert (neon().arch, neon().lanes(4), neon().num_vector_registers) == ("aarch64", 4, 32)
    assert avx512().has("avx512dq") and not avx2().has("avx512dq")
    assert "512" in avx512().attributes and "512" not in avx2().attributes


def test_host_is_one_of_the_known_kinds() -> None:
    target = host()
    assert target is host()
    assert target.arch in ("x86_64", "aarch64")
    assert target.vector_bytes in (16, 32, 64)
    assert target_machine(target) is target_machine(target)


@pytest.mark.parametrize("target", [avx2(), avx512(), neon()], ids=lambda t: t.cpu)
def test_objects_are_elf_of_the_machine(target: Target) -> None:
    code = emit_object(sum_of(target), target)
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == (62 if target.arch == "x86_64" else 183)


def test_compilation_is_deterministic() -> None:
    assert emit_object(sum_of(host()), host()) == emit_object(sum_of(host()), host())


def test_clean_up_neither_vectorizes_nor_unrolls() -> None:
    text = optimized_ir(sum_of(avx512()), avx512())
    assert text.count("fadd") == 1
    assert "x float>" not in text


def test_clean_up_can_be_left_out() -> None:
    module = module_for(host())
    f = Function(module, "f", [Param("i64", "x")], "i64")
    (x,) = f.params
    place = f.alloca("i64")
    f.store(x, place)
    f.ret(f.load("i64", place))
    text = module.text()
    assert "alloca" not in optimized_ir(text, host())
    raw, clean = (emit_assembly(text, host(), optimize) for optimize in (False, True))
    assert len(raw.splitlines()) > len(clean.splitlines())


def test_text_that_does_not_parse() -> None:
    text = "define void @f(i32 %x) {\n  %y = add i64 %x, 1\n  ret void\n}\n"
    with pytest.raises(LoweringError) as caught:
        emit_object(text, host())
    message = caught.value.message
    assert "'%x' defined with type 'i32' but expected 'i64'" in message
    assert ">     2 |   %y = add i64 %x, 1" in message


def test_text_that_does_not_verify() -> None:
    text = (
        "define i32 @f(i1 %c) {\nentry:\n  br i1 %c, label %a, label %b\n"
        "a:\n  %z = add i32 1, 2\n  br label %b\nb:\n  ret i32 %z\n}\n"
    )
    with pytest.raises(LoweringError) as caught:
        verify(text, host())
    assert "Instruction does not dominate all uses!" in caught.value.message
    assert ">     5 |   %z = add i32 1, 2" in caught.value.message
