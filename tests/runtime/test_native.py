"""The native runtime's IR: valid for every target, and complete."""

import llvmlite.binding as llvm
import pytest

from rung.kernel.machine import avx2_machine, neon_machine
from rung.runtime.assemble import assemble
from rung.runtime.native import SYMBOLS, native_ir

TRIPLES = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "arm64-apple-darwin24.0.0"]


@pytest.mark.parametrize("triple", TRIPLES)
def test_text_parses_and_defines_all_symbols(triple):
    module = llvm.parse_assembly(native_ir(triple), llvm.create_context())
    module.verify()
    defined = {f.name for f in module.functions if not f.is_declaration}
    assert set(SYMBOLS) <= defined
    assert "$" not in native_ir(triple)


def test_object_code_for_other_architectures():
    for machine in (avx2_machine(), neon_machine()):
        image = assemble(native_ir(machine.triple), machine)
        assert image.startswith(b"\x7fELF")


def test_futex_number_is_that_of_the_architecture():
    assert "@syscall(i64 202," in native_ir(TRIPLES[0])
    assert "@syscall(i64 98," in native_ir(TRIPLES[1])
    assert "@syscall" not in native_ir(TRIPLES[2])
