"""LLVM IR text to object code for a Machine."""

from __future__ import annotations

from rung.codegen.llvm.target import Target, emit_object
from rung.kernel.machine import Machine


def assemble(text: str, machine: Machine) -> bytes:
    """Object code of an LLVM IR module. Raises LoweringError for text that is not valid IR."""
    return emit_object(text, target_of(machine))


def target_of(machine: Machine) -> Target:
    """What code generation has to know of the machine."""
    return Target(
        triple=machine.triple,
        cpu=machine.cpu,
        features=machine.features,
        arch=machine.arch,
        vector_bytes=machine.vector_bytes,
        num_vector_registers=machine.num_vector_registers,
        has_masks=machine.has_masks,
    )
