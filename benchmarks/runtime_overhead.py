"""What the runtime costs by itself: barrier, call, wake-up, stage, load, parallel compile.

    python benchmarks/runtime_overhead.py

Best of several short bursts, one line per figure.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable

import numpy as np

from rung.core.settings import configure
from rung.kernel.machine import host_machine
from rung.runtime.assemble import assemble
from rung.runtime.compile import Module, ObjectCode, Unit, compile_objects
from rung.runtime.executable import Executable, Output, Stage, StageFlags
from rung.runtime.loader import link
from rung.runtime.memory import Memory, aligned_empty
from rung.runtime.pool import pool

NOTHING = "define void @nothing(ptr %args, i64 %begin, i64 %end, ptr %scratch) {\n  ret void\n}\n"
NUM_KERNELS = 40


def best_us(action: Callable[[], object], count: int, bursts: int = 15) -> float:
    """Least mean time of one action, in microseconds, over bursts of `count`."""
    best = float("inf")
    for _ in range(bursts):
        start = time.perf_counter()
        for _ in range(count):
            action()
        best = min(best, (time.perf_counter() - start) / count)
    return best * 1e6


def show(what: str, value: float, unit: str) -> None:
    """One line of the report."""
    print(f"{what:<52} {value:10.2f} {unit}")


def calls(nothing: int) -> None:
    """Empty programs, from Python."""
    outputs = tuple(Output(i) for i in range(3))
    addresses = [np.zeros(8).ctypes.data] * 3
    stage = Stage(nothing, outputs, 2)
    alone = Executable([stage], num_outputs=3, alone=True)
    together = Executable([stage], num_outputs=3)
    show("run(), 3 pointers, caller alone", best_us(lambda: alone.run(addresses), 2000), "us")
    show("run(), 3 pointers, all threads", best_us(lambda: together.run(addresses), 2000), "us")
    naps = []
    for _ in range(30):
        time.sleep(0.002)
        start = time.perf_counter()
        together.run(addresses)
        naps.append(time.perf_counter() - start)
    show("run() when the workers sleep, best", min(naps) * 1e6, "us")
    show("run() when the workers sleep, median", sorted(naps)[15] * 1e6, "us")


def stages(nothing: int) -> None:
    """Programs of 200 empty stages."""
    for flags, what in ((StageFlags.BARRIER, "with barrier"), (StageFlags.NONE, "no barrier")):
        program = Executable([Stage(nothing, (), 2, flags)] * 200)
        show(f"stage, {what}", best_us(lambda p=program: p.run([]), 100) * 1e3 / 200, "ns")


def kernel_text(number: int) -> str:
    """A kernel of 30 KB of IR: four unrolled steps of a 14 x 2 vector outer product."""
    rows, columns, steps = 14, 2, 4
    vector = "<16 x float>"
    lines = [
        f"declare {vector} @llvm.fma.v16f32({vector}, {vector}, {vector})",
        f"define void @k{number}(ptr noalias %a, ptr noalias %b, ptr noalias %c, i64 %n) {{",
        "entry:\n  br label %loop\nloop:",
        "  %k = phi i64 [0, %entry], [%k1, %loop]",
        "  %pa = phi ptr [%a, %entry], [%pa1, %loop]",
        "  %pb = phi ptr [%b, %entry], [%pb1, %loop]",
    ]
    tile = [(i, j) for i in range(rows) for j in range(columns)]
    for i, j in tile:
        lines.append(
            f"  %c{i}_{j}_0 = phi {vector} [zeroinitializer, %entry], [%c{i}_{j}_{steps}, %loop]"
        )
    for u in range(steps):
        for j in range(columns):
            lines.append(
                f"  %q{j}_{u} = getelementptr float, ptr %pb, i64 {(u * columns + j) * 16}"
            )
            lines.append(f"  %b{j}_{u} = load {vector}, ptr %q{j}_{u}, align 4")
        for i in range(rows):
            lines.append(f"  %p{i}_{u} = getelementptr float, ptr %pa, i64 {u * rows + i}")
            lines.append(f"  %s{i}_{u} = load float, ptr %p{i}_{u}, align 4")
            lines.append(f"  %t{i}_{u} = insertelement {vector} poison, float %s{i}_{u}, i64 0")
            lines.append(
                f"  %a{i}_{u} = shufflevector {vector} %t{i}_{u}, {vector} poison, "
                "<16 x i32> zeroinitializer"
            )
            lines.extend(
                f"  %c{i}_{j}_{u + 1} = call {vector} @llvm.fma.v16f32({vector} %a{i}_{u}, "
                f"{vector} %b{j}_{u}, {vector} %c{i}_{j}_{u})"
                for j in range(columns)
            )
    lines += [
        f"  %pa1 = getelementptr float, ptr %pa, i64 {steps * rows}",
        f"  %pb1 = getelementptr float, ptr %pb, i64 {steps * columns * 16}",
        "  %k1 = add i64 %k, 1\n  %more = icmp ult i64 %k1, %n",
        "  br i1 %more, label %loop, label %done\ndone:",
    ]
    for i, j in tile:
        lines.append(f"  %o{i}_{j} = getelementptr float, ptr %c, i64 {(i * columns + j) * 16}")
        lines.append(f"  store {vector} %c{i}_{j}_{steps}, ptr %o{i}_{j}, align 4")
    return "\n".join([*lines, "  ret void\n}\n"])


def compiles() -> None:
    """40 kernels from nothing, serial and parallel, and loading their objects."""
    units = [
        Unit(f"k{i}", lambda i=i: Module(kernel_text(i), (f"k{i}",))) for i in range(NUM_KERNELS)
    ]
    show("size of one kernel's IR", len(kernel_text(0)) / 1024, "KiB")
    objects: list[ObjectCode] = []
    for jobs in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            configure(cache_dir=folder)
            start = time.perf_counter()
            objects = compile_objects(units, host_machine(), jobs)
            show(
                f"{NUM_KERNELS} kernels from nothing, {jobs} process(es)",
                (time.perf_counter() - start) * 1e3,
                "ms",
            )
            start = time.perf_counter()
            compile_objects(units, host_machine(), jobs)
            show(f"{NUM_KERNELS} kernels from the cache", (time.perf_counter() - start) * 1e3, "ms")
    start = time.perf_counter()
    kept = [link([code.image], code.symbols) for code in objects]
    show("load of one object", (time.perf_counter() - start) / len(kept) * 1e3, "ms")


def memory() -> None:
    """Output arrays."""
    kind = np.dtype(np.float32)
    show("memory for f32[64, 10]", best_us(lambda: Memory(2560), 1000), "us")
    for what in ("first", "second"):
        start = time.perf_counter()
        aligned_empty((4096, 4096), kind)[:] = 1
        show(f"{what} fill of a 64 MiB array", (time.perf_counter() - start) * 1e3, "ms")


def main() -> None:
    """Print the report."""
    library = link([assemble(NOTHING, host_machine())], ["nothing"])
    nothing = library.address("nothing")
    show("threads", pool().threads, "")
    calls(nothing)
    stages(nothing)
    compiles()
    memory()


if __name__ == "__main__":
    main()
