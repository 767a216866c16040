"""Machines that LLVM compiles for, and compilation of IR text to objects and assembly.

Parsing, verification and code generation report what is wrong with the text as `LoweringError`.
LLVM itself ends the process on some ill-typed vector code, so text comes from the builder.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import llvmlite.binding as llvm

from rung.core.errors import LoweringError

_AVX2_FEATURES = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt"
_AVX512_FEATURES = _AVX2_FEATURES + ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"
_CONTEXT_LINES = 3
_DEFINE = re.compile(r"^define .*?@([\w.$]+)\(", re.MULTILINE)
LONG_FUNCTION = 4000
"""Lines from which a function gets the passes of level 1."""


@dataclass(frozen=True, slots=True)
class Target:
    """A CPU as code generation sees it.

    `features` is LLVM's comma-separated list; `vector_bytes` is the width of the vectors that
    schedules should use, `has_masks` says whether lanes can be masked for free.
    """

    triple: str
    cpu: str
    features: str
    arch: str
    vector_bytes: int
    num_vector_registers: int
    has_masks: bool

    def lanes(self, element_bytes: int) -> int:
        """Elements of `element_bytes` in one vector register."""
        return self.vector_bytes // element_bytes

    def has(self, feature: str) -> bool:
        """Whether a feature is switched on by name, such as `"avx512bf16"`."""
        return feature in self.enabled

    @property
    def enabled(self) -> frozenset[str]:
        """The names of the features that are switched on."""
        return _enabled(self.features)

    @property
    def attributes(self) -> str:
        """Function attributes that every definition for this target carries."""
        if self.arch == "x86_64" and self.vector_bytes == 64:
            width = '"prefer-vector-width"="512" "min-legal-vector-width"="512"'
            return f"nounwind {width}"
        return "nounwind"


@cache
def _enabled(features: str) -> frozenset[str]:
    return frozenset(item[1:] for item in features.split(",") if item.startswith("+"))


def avx2() -> Target:
    """x86-64 with 256-bit vectors and FMA (Haswell and later, Zen)."""
    return _x86("x86_64-unknown-linux-gnu", "haswell", _AVX2_FEATURES)


def avx512() -> Target:
    """x86-64 with 512-bit vectors and masks (Skylake servers and later, Zen 4)."""
    return _x86("x86_64-unknown-linux-gnu", "skylake-avx512", _AVX512_FEATURES)


def neon() -> Target:
    """AArch64 with 128-bit vectors (Neoverse N1 and later)."""
    features = "+neon,+fp-armv8,+fullfp16,+dotprod,+lse"
    return _arm("aarch64-unknown-linux-gnu", "neoverse-n1", features)


@cache
def host() -> Target:
    """The CPU that this process runs on."""
    _initialize()
    triple = llvm.get_process_triple()
    cpu = llvm.get_host_cpu_name()
    features = llvm.get_host_cpu_features().flatten()
    if triple.startswith("x86_64"):
        return _x86(triple, cpu, features)
    if triple.startswith(("aarch64", "arm64")):
        return _arm(triple, cpu, features)
    raise LoweringError(f"no code generation for {triple}", fix="use x86-64 or AArch64")


def _x86(triple: str, cpu: str, features: str) -> Target:
    enabled = _enabled(features)
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= enabled:
        return Target(triple, cpu, features, "x86_64", 64, 32, True)
    if {"avx2", "fma"} <= enabled:
        return Target(triple, cpu, features, "x86_64", 32, 16, False)
    return Target(triple, cpu, features, "x86_64", 16, 16, False)


def _arm(triple: str, cpu: str, features: str) -> Target:
    return Target(triple, cpu, features, "aarch64", 16, 32, False)


@cache
def _initialize() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


class _Machines(threading.local):
    """One LLVM target machine for each target in each thread."""

    def __init__(self) -> None:
        self.known: dict[Target, llvm.TargetMachine] = {}


_machines = _Machines()


def target_machine(target: Target) -> llvm.TargetMachine:
    """LLVM's machine for the target: position-independent code, small code model."""
    machine = _machines.known.get(target)
    if machine is None:
        _initialize()
        machine = llvm.Target.from_triple(target.triple).create_target_machine(
            cpu=target.cpu,
            features=target.features,
            opt=3,
            reloc="pic",
            codemodel="small",
            jit=True,
        )
        machine.set_asm_verbosity(False)
        _machines.known[target] = machine
    return machine


def emit_object(ir_text: str, target: Target, optimize: bool = True) -> bytes:
    """Compile IR text to an object file.

    Raises `LoweringError` with the place in the text when it does not parse or verify.
    """
    with _parsed(ir_text, target, optimize) as module:
        return bytes(target_machine(target).emit_object(module))


@dataclass(frozen=True, slots=True)
class CompileTimes:
    """Seconds that LLVM takes to read and check a text, for its passes, and for the code, of which
    there are `nbytes`."""

    parse_s: float
    passes_s: float
    code_s: float
    nbytes: int


def compile_times(ir_text: str, target: Target) -> CompileTimes:
    """How long the parts of `emit_object` take; raises as that does."""
    machine = target_machine(target)
    start = time.perf_counter()
    with _parsed(ir_text, target, False) as module:
        parsed = time.perf_counter()
        _optimize(module, machine, ir_text)
        optimized = time.perf_counter()
        nbytes = len(machine.emit_object(module))
        end = time.perf_counter()
    return CompileTimes(parsed - start, optimized - parsed, end - optimized, nbytes)


def emit_assembly(ir_text: str, target: Target, optimize: bool = True) -> str:
    """Compile IR text to assembly text; raises as `emit_object`."""
    with _parsed(ir_text, target, optimize) as module:
        return str(target_machine(target).emit_assembly(module))


def optimized_ir(ir_text: str, target: Target) -> str:
    """The IR text as it enters instruction selection; raises as `emit_object`."""
    with _parsed(ir_text, target, True) as module:
        return str(module)


def verify(ir_text: str, target: Target) -> None:
    """Raise `LoweringError` unless the text parses and verifies."""
    with _parsed(ir_text, target, False):
        pass


@contextmanager
def _parsed(ir_text: str, target: Target, optimize: bool) -> Iterator[llvm.ModuleRef]:
    """The verified module, in a context of its own, both freed in the right order at the end."""
    machine = target_machine(target)
    context = llvm.create_context()
    module = None
    try:
        module = llvm.parse_assembly(ir_text, context)
        module.triple = target.triple
        module.data_layout = str(machine.target_data)
        module.verify()
        if optimize:
            _optimize(module, machine, ir_text)
        yield module
    except RuntimeError as error:
        raise LoweringError(f"invalid LLVM IR: {error}\n{_excerpt(ir_text, str(error))}") from error
    finally:
        if module is not None:
            module.close()
        context.close()


def _optimize(module: llvm.ModuleRef, machine: llvm.TargetMachine, ir_text: str) -> None:
    """Clean up without rethinking: vectors, unrolling and order of sums are as written.

    The passes of level 2 that level 1 lacks (removal of dead stores and of loads that are known)
    take time that grows faster than a function: in a long one there are unrolled tiles, for which
    they do nothing."""
    lengths = _function_lengths(ir_text)
    for function in module.functions:
        if not function.is_declaration:
            level = 1 if lengths.get(function.name, 0) > LONG_FUNCTION else 2
            builder, passes = _passes(machine, level)
            passes.run(function, builder)


def _passes(
    machine: llvm.TargetMachine, level: int
) -> tuple[llvm.PassBuilder, llvm.FunctionPassManager]:
    options = llvm.create_pipeline_tuning_options(speed_level=level)
    options.loop_vectorization = False
    options.slp_vectorization = False
    options.loop_interleaving = False
    options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    return builder, builder.getFunctionPassManager()


def _function_lengths(ir_text: str) -> dict[str, int]:
    """How many lines each function has, by name."""
    starts = [(m.group(1), m.start()) for m in _DEFINE.finditer(ir_text)]
    ends = [at for _, at in starts[1:]] + [len(ir_text)]
    return {
        name: ir_text.count("\n", at, end) for (name, at), end in zip(starts, ends, strict=True)
    }


def _excerpt(ir_text: str, message: str) -> str:
    """The lines around the place that LLVM's message names, or the first ones."""
    lines = ir_text.splitlines()
    place = re.search(r"<string>:(\d+):", message)
    middle = int(place.group(1)) - 1 if place else _mentioned(lines, message)
    first = max(middle - _CONTEXT_LINES, 0)
    chosen = enumerate(lines[first : middle + _CONTEXT_LINES + 1], first)
    return "\n".join(f"{'>' if i == middle else ' '} {i + 1:5d} | {line}" for i, line in chosen)


def _mentioned(lines: list[str], message: str) -> int:
    wanted = {part.strip() for part in message.splitlines() if part.strip()}
    found = (i for i, line in enumerate(lines) if line.strip() in wanted)
    return next(found, 0)
