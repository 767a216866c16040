"""The machine that kernels are scheduled for: a record, found on the host or given by name."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm

from rung.core.errors import DeviceError

_CPU_FILES = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, slots=True)
class Machine:
    """What schedules and code generation may know of a CPU; sizes in bytes, per core unless said.

    Nothing in here is measured, so equal machines get equal kernels; `rung.runtime.roof` measures.
    """

    name: str  # "host", "avx512", "avx2", "neon"
    arch: str  # "x86_64" or "aarch64"
    triple: str  # LLVM target triple
    cpu: str  # LLVM processor name
    features: str  # LLVM feature text: "+avx2,-avx512f,..."
    cores: int  # cores that this process may keep busy
    vector_bytes: int  # widest vector register
    num_vector_registers: int
    has_masks: bool  # masked loads and stores at no extra cost (AVX-512)
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int  # shared by all cores
    fma_per_cycle: int  # fused multiply-adds of full vector width that start per cycle
    clock_ghz: float  # nominal
    dram_gbs: float  # nominal bandwidth of memory, 10^9 bytes a second, all cores together
    line_bytes: int = 64

    def has(self, feature: str) -> bool:
        """Whether LLVM's `feature`, such as `avx512bf16` or `dotprod`, is there."""
        return f"+{feature}" in self.features.split(",")

    def lanes(self, itemsize: int) -> int:
        """Elements of `itemsize` bytes in one vector register."""
        return self.vector_bytes // itemsize

    def peak_gflops(self, itemsize: int = 4) -> float:
        """Nominal 10^9 floating-point operations a second of one core (an FMA counts two)."""
        return 2.0 * self.lanes(itemsize) * self.fma_per_cycle * self.clock_ghz


_AVX2 = "+sse4.2,+popcnt,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt"
_AVX512 = _AVX2 + ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"
_AVX512_DOT = _AVX512 + ",+avx512vnni,+avx512bf16,+avx512vbmi"


def avx512_machine(cores: int = 2) -> Machine:
    """A server of the AVX-512 kind with bf16 and int8 dot products (Zen 4 numbers)."""
    return Machine(
        name="avx512",
        arch="x86_64",
        triple="x86_64-unknown-linux-gnu",
        cpu="x86-64-v4",
        features=_AVX512_DOT,
        cores=cores,
        vector_bytes=64,
        num_vector_registers=32,
        has_masks=True,
        l1d_bytes=32 << 10,
        l2_bytes=1 << 20,
        l3_bytes=32 << 20,
        fma_per_cycle=1,
        clock_ghz=3.6,
        dram_gbs=30.0,
    )


def avx2_machine(cores: int = 2) -> Machine:
    """A PC of the AVX2 + FMA kind (Haswell to Zen 3)."""
    return Machine(
        name="avx2",
        arch="x86_64",
        triple="x86_64-unknown-linux-gnu",
        cpu="x86-64-v3",
        features=_AVX2,
        cores=cores,
        vector_bytes=32,
        num_vector_registers=16,
        has_masks=False,
        l1d_bytes=32 << 10,
        l2_bytes=512 << 10,
        l3_bytes=16 << 20,
        fma_per_cycle=2,
        clock_ghz=3.5,
        dram_gbs=25.0,
    )


def neon_machine(cores: int = 2) -> Machine:
    """An AArch64 server (Neoverse N1): 128-bit NEON with int8 dot products."""
    return Machine(
        name="neon",
        arch="aarch64",
        triple="aarch64-unknown-linux-gnu",
        cpu="neoverse-n1",
        features="+neon,+fullfp16,+dotprod",
        cores=cores,
        vector_bytes=16,
        num_vector_registers=32,
        has_masks=False,
        l1d_bytes=64 << 10,
        l2_bytes=1 << 20,
        l3_bytes=32 << 20,
        fma_per_cycle=2,
        clock_ghz=2.5,
        dram_gbs=30.0,
    )


def machine_named(name: str) -> Machine:
    """The machine that the setting `target` names: host, avx512, avx2 or neon.

    Raises DeviceError for another name.
    """
    makers: dict[str, Callable[[], Machine]] = {
        "host": host_machine,
        "avx512": avx512_machine,
        "avx2": avx2_machine,
        "neon": neon_machine,
    }
    if name not in makers:
        raise DeviceError(f"unknown machine {name!r}", fix="give " + ", ".join(makers))
    return makers[name]()


@cache
def host_machine() -> Machine:
    """The machine this process runs on, from its CPU, caches, affinity and CPU quota."""
    triple = llvm.get_process_triple()
    arch = "aarch64" if triple.startswith(("aarch64", "arm64")) else "x86_64"
    features = llvm.get_host_cpu_features().flatten()
    cpu = llvm.get_host_cpu_name()
    model = replace(
        _model(arch, features),
        name="host",
        triple=triple,
        cpu=cpu,
        features=features,
        cores=usable_cores(),
        clock_ghz=_clock_ghz(),
    )
    if model.vector_bytes == 64:
        model = replace(model, fma_per_cycle=_fma_per_cycle_512(cpu))
    l1d, l2, l3 = _cache_sizes()
    return replace(
        model,
        l1d_bytes=l1d or model.l1d_bytes,
        l2_bytes=l2 or model.l2_bytes,
        l3_bytes=l3 or l2 or model.l3_bytes,
    )


def _model(arch: str, features: str) -> Machine:
    on = features.split(",")
    if arch == "aarch64":
        return neon_machine()
    if "+avx512f" in on and "+avx512vl" in on and "+avx512bw" in on and "+avx512dq" in on:
        return avx512_machine()
    if "+avx2" in on and "+fma" in on:
        return avx2_machine()
    return replace(avx2_machine(), vector_bytes=16)


def _fma_per_cycle_512(cpu: str) -> int:
    """Zen 4 and Intel's client cores start one 512-bit FMA a cycle; server cores and Zen 5 two."""
    one = {"znver4", "icelake-client", "tigerlake", "rocketlake", "cannonlake"}
    return 1 if cpu in one else 2


def usable_cores() -> int:
    """Physical cores this process may keep busy: affinity mask, SMT siblings and CPU quota."""
    if hasattr(os, "sched_getaffinity"):
        cpus = sorted(os.sched_getaffinity(0))
    else:
        cpus = list(range(os.cpu_count() or 1))
    cores = len({_siblings(cpu) for cpu in cpus})
    quota = _cgroup_quota()
    return max(1, min(cores, int(quota)) if quota else cores)


def _siblings(cpu: int) -> str:
    path = _CPU_FILES / f"cpu{cpu}" / "topology" / "thread_siblings_list"
    return _read(path) or str(cpu)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _cgroup_quota(root: Path = Path("/sys/fs/cgroup"), own: str | None = None) -> float | None:
    """CPUs' worth of time that the control groups (v1 or v2) grant, the least on the way up."""
    text = _read(Path("/proc/self/cgroup")) if own is None else own
    quotas: list[float] = []
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            quotas += _quotas_up(root, path)
        elif "cpu" in controllers.split(","):
            quotas += _quotas_up(root / "cpu", path)
    return min(quotas, default=None)


def _quotas_up(root: Path, path: str) -> Iterable[float]:
    folder = root / path.lstrip("/")
    for level in (folder, *folder.parents):
        words = _read(level / "cpu.max").split()
        if not words:
            limits = (_read(level / f"cpu.cfs_{word}_us") for word in ("quota", "period"))
            words = [limit for limit in limits if limit]
        if len(words) == 2 and words[0].isdigit():
            yield int(words[0]) / int(words[1])
        if level == root:
            return


def _cache_sizes() -> tuple[int, int, int]:
    """Bytes of L1 data, L2 and L3 as sysfs tells them; 0 where it does not."""
    sizes = {1: 0, 2: 0, 3: 0}
    for index in sorted(_CPU_FILES.glob("cpu0/cache/index*")):
        level, size = _read(index / "level"), _read(index / "size")
        if _read(index / "type") == "Instruction" or not level.isdigit() or not size:
            continue
        sizes[int(level)] = _bytes_of(size)
    return sizes[1], sizes[2], sizes[3]


def _bytes_of(size: str) -> int:
    units = {"K": 10, "M": 20, "G": 30}
    return int(size[:-1]) << units[size[-1]] if size[-1] in units else int(size)


def _clock_ghz() -> float:
    khz = _read(_CPU_FILES / "cpu0" / "cpufreq" / "cpuinfo_max_freq")
    if khz.isdigit():
        return int(khz) / 1e6
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("cpu MHz"):
            mhz = float(line.split(":")[1])
            return mhz / 1e3 if math.isfinite(mhz) and mhz > 0 else 3.0
    return 3.0 if platform.system() != "Darwin" else 3.2
