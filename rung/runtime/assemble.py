"""LLVM IR text to object code."""

from __future__ import annotations

from functools import cache

import llvmlite.binding as llvm

from rung.core.errors import LoweringError
from rung.kernel.machine import Machine


def assemble(text: str, machine: Machine) -> bytes:
    """Object code of an LLVM IR module. Raises LoweringError for text that is not valid IR."""
    target = _target_machine(machine)
    try:
        module = llvm.parse_assembly(text, llvm.create_context())
        module.verify()
    except RuntimeError as error:
        raise LoweringError(f"invalid LLVM IR: {error}") from None
    module.triple = machine.triple
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = False
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    image: bytes = target.emit_object(module)
    return image


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def _target_machine(machine: Machine) -> llvm.TargetMachine:
    _initialize()
    target = llvm.Target.from_triple(machine.triple)
    return target.create_target_machine(
        cpu=machine.cpu, features=machine.features, opt=3, reloc="pic", codemodel="small", jit=True
    )
