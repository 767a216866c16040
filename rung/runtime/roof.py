"""The machine's roof, measured: fused multiply-adds per second and bytes per second."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np

from rung.core.settings import settings
from rung.kernel.machine import Machine, host_machine
from rung.runtime.compile import Module, Unit, compile_units
from rung.runtime.executable import Executable, Input, Stage, StageFlags
from rung.runtime.loader import Library
from rung.runtime.memory import Block
from rung.runtime.pool import pool

_STREAM_BYTES = 64 << 20
_TILE_BYTES = 1 << 18
_FMA_STEPS = 40_000  # per tile, about 0.1 ms
_REPEATS = 12
_SYMBOLS = ("fma_peak", "stream_read", "stream_copy")


@dataclass(frozen=True, slots=True)
class Roof:
    """Best of several measurements. GFLOP/s are of f32 FMA (2 each), GB/s are 10^9 bytes.

    `copy` counts the bytes read plus the bytes written; buffers are 64 MiB. `one` is one thread,
    `all` the threads of the pool.
    """

    threads: int
    fma_one_gflops: float
    fma_all_gflops: float
    read_one_gbs: float
    read_all_gbs: float
    copy_one_gbs: float
    copy_all_gbs: float

    def least_us(self, flops: float, nbytes: float) -> float:
        """The shortest time in microseconds that f32 work of this size could take, all threads."""
        by_compute = flops / self.fma_all_gflops
        by_memory = nbytes / max(self.read_all_gbs, self.copy_all_gbs)
        return max(by_compute, by_memory) / 1e3


def roof(fresh: bool = False) -> Roof:
    """The roof of this machine with the pool's threads: from disk, or measured now (< 1 s). With
    `fresh` it is measured again, and the better of each figure is kept."""
    path = _path(host_machine(), pool().threads)
    known = _read(path)
    if known is not None and not fresh:
        return known
    found = measure_roof()
    if known is not None:
        found = Roof(**{k: max(v, getattr(known, k)) for k, v in asdict(found).items()})
    _write(path, found)
    return found


def measure_roof() -> Roof:
    """Measure the roof now. Takes well under a second on an idle machine."""
    machine = host_machine()
    threads = pool().threads
    source, target = Block(_STREAM_BYTES), Block(_STREAM_BYTES)
    source.data[:] = 1
    target.data[:] = 2
    values = np.full((64, machine.vector_bytes // 4), 0.5, np.float32)
    values_at = values.ctypes.data
    streams = [source.address, target.address]
    fma_flops = 2.0 * machine.lanes(4) * _accumulators(machine) * _FMA_STEPS
    tiles = _STREAM_BYTES // _TILE_BYTES
    fma_one = _best_us("fma_peak", [values_at], 1, True)
    fma_all = _best_us("fma_peak", [values_at], threads, False)
    read = [_best_us("stream_read", streams, tiles, alone) for alone in (True, False)]
    copy = [_best_us("stream_copy", streams, tiles, alone) for alone in (True, False)]
    return Roof(
        threads=threads,
        fma_one_gflops=fma_flops / fma_one / 1e3,
        fma_all_gflops=fma_flops * threads / fma_all / 1e3,
        read_one_gbs=_STREAM_BYTES / read[0] / 1e3,
        read_all_gbs=_STREAM_BYTES / read[1] / 1e3,
        copy_one_gbs=2 * _STREAM_BYTES / copy[0] / 1e3,
        copy_all_gbs=2 * _STREAM_BYTES / copy[1] / 1e3,
    )


def _best_us(symbol: str, pointers: list[int], grid: int, alone: bool) -> float:
    args = tuple(Input(i) for i in range(len(pointers)))
    stage = Stage(_library().address(symbol), args, grid, StageFlags.BARRIER)
    program = Executable([stage], num_inputs=len(args), alone=alone)
    return min(program.profile(pointers)[0] for _ in range(_REPEATS))


@cache
def _library() -> Library:
    machine = host_machine()
    text = roof_ir(machine)
    key = hashlib.sha256(text.encode()).hexdigest()
    return compile_units([Unit(key, lambda: Module(text, _SYMBOLS), "roof")])[0]


def _accumulators(machine: Machine) -> int:
    """Enough independent chains to hide the latency of an FMA, few enough not to spill."""
    return 24 if machine.num_vector_registers == 32 else 12


def roof_ir(machine: Machine) -> str:
    """LLVM IR of the three kernels that `measure_roof` times."""
    return _fma_ir(machine) + _stream_ir(machine, copy=False) + _stream_ir(machine, copy=True)


def _fma_ir(machine: Machine) -> str:
    lanes = machine.lanes(4)
    vector, count = f"<{lanes} x float>", _accumulators(machine)
    chains = range(count)
    load = "\n".join(
        f"  %p{i} = getelementptr {vector}, ptr %values, i64 {i}\n"
        f"  %s{i} = load volatile {vector}, ptr %p{i}, align 4"
        for i in range(count + 2)
    )
    phis = "\n".join(
        f"  %c{i} = phi {vector} [%s{i}, %entry], [%d{i}, %step], [%d{i}, %next]" for i in chains
    )
    steps = "\n".join(
        f"  %d{i} = call {vector} @llvm.fma.v{lanes}f32("
        f"{vector} %s{count}, {vector} %s{count + 1}, {vector} %c{i})"
        for i in chains
    )
    stores = "\n".join(f"  store volatile {vector} %d{i}, ptr %scratch, align 4" for i in chains)
    return f"""
declare {vector} @llvm.fma.v{lanes}f32({vector}, {vector}, {vector})
define void @fma_peak(ptr %args, i64 %begin, i64 %end, ptr %scratch) nounwind {{
entry:
  %values = load ptr, ptr %args, align 8
{load}
  br label %step
step:
  %tile = phi i64 [%begin, %entry], [%tile, %step], [%tile1, %next]
  %k = phi i64 [0, %entry], [%k1, %step], [0, %next]
{phis}
{steps}
  %k1 = add i64 %k, 1
  %more = icmp ult i64 %k1, {_FMA_STEPS}
  br i1 %more, label %step, label %next
next:
  %tile1 = add i64 %tile, 1
  %again = icmp ult i64 %tile1, %end
  br i1 %again, label %step, label %done
done:
{stores}
  ret void
}}
"""


def _stream_ir(machine: Machine, copy: bool) -> str:
    vector, width = f"<{machine.vector_bytes // 8} x i64>", machine.vector_bytes
    ways = range(8)
    loads = "\n".join(
        f"  %p{i} = getelementptr i8, ptr %from, i64 %o{i}\n"
        f"  %v{i} = load {vector}, ptr %p{i}, align 64"
        for i in ways
    )
    offsets = "\n".join(f"  %o{i} = add i64 %at, {i * width}" for i in ways)
    phis = "\n".join(
        f"  %a{i} = phi {vector} [zeroinitializer, %entry], [%b{i}, %loop]" for i in ways
    )
    if copy:
        work = "\n".join(
            f"  %q{i} = getelementptr i8, ptr %to, i64 %o{i}\n"
            f"  store {vector} %v{i}, ptr %q{i}, align 64"
            for i in ways
        )
        phis = result = ""
    else:
        work = "\n".join(f"  %b{i} = xor {vector} %a{i}, %v{i}" for i in ways)
        result = "\n".join(f"  store volatile {vector} %b{i}, ptr %scratch, align 64" for i in ways)
    return f"""
define void @stream_{"copy" if copy else "read"}(
    ptr %args, i64 %begin, i64 %end, ptr %scratch) nounwind {{
entry:
  %from = load ptr, ptr %args, align 8
  %to_at = getelementptr ptr, ptr %args, i64 1
  %to = load ptr, ptr %to_at, align 8
  %first = mul i64 %begin, {_TILE_BYTES}
  %last = mul i64 %end, {_TILE_BYTES}
  br label %loop
loop:
  %at = phi i64 [%first, %entry], [%next, %loop]
{phis}
{offsets}
{loads}
{work}
  %next = add i64 %at, {8 * width}
  %more = icmp ult i64 %next, %last
  br i1 %more, label %loop, label %done
done:
{result}
  ret void
}}
"""


def _path(machine: Machine, threads: int) -> Path | None:
    chosen = settings()
    if not chosen.cache:
        return None
    parts = (
        machine.cpu,
        machine.features,
        str(machine.clock_ghz),
        str(threads),
        os.uname().nodename,
    )
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    return Path(chosen.cache_dir) / "roof" / f"{name}.json"


def _read(path: Path | None) -> Roof | None:
    """What is on disk, if it is whole and makes sense."""
    if path is None:
        return None
    try:
        values = json.loads(path.read_text())
        found = Roof(**{field.name: values[field.name] for field in fields(Roof)})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    numbers = list(asdict(found).values())
    good = all(isinstance(value, int | float) and value > 0 for value in numbers)
    return found if good else None


def _write(path: Path | None, found: Roof) -> None:
    if path is None:
        return
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(found), indent=1))
        os.replace(temporary, path)
