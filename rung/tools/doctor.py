"""`rung doctor`: the machine that was found, what it can do, and what is in force."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from rung.core.settings import Settings, settings
from rung.kernel.machine import Machine, host_machine, machine_named
from rung.runtime.cache import object_cache
from rung.runtime.pool import pool
from rung.runtime.roof import Roof, roof

PACKAGES = ("rung", "numpy", "ml_dtypes", "llvmlite", "opt_einsum", "rich", "typer")
EXTRAS = ("scikit-learn", "safetensors", "torch", "jax")
FEATURES = ("avx2", "fma", "avx512f", "avx512bf16", "avx512vnni", "neon", "fullfp16", "dotprod")

Lines = list[tuple[str, str]]


def size_text(nbytes: float) -> str:
    """`32 KiB`, `1 MiB`"""
    for unit in ("B", "KiB", "MiB"):
        if nbytes < 1024:
            return f"{nbytes:.4g} {unit}"
        nbytes /= 1024
    return f"{nbytes:.4g} GiB"


def machine_lines(machine: Machine) -> Lines:
    """What code is made for."""
    found = [f for f in FEATURES if machine.has(f)]
    masks = ", with masks" if machine.has_masks else ""
    return [
        ("target", f"{machine.cpu}, {machine.triple}"),
        (
            "vectors",
            f"{8 * machine.vector_bytes} bits, {machine.num_vector_registers} registers{masks}",
        ),
        ("features", ", ".join(found) or "none that rung uses"),
        ("cores", f"{machine.cores} usable, {pool().threads} threads in use"),
        ("clock", f"{machine.clock_ghz:.2f} GHz"),
        (
            "caches",
            f"L1 data {size_text(machine.l1d_bytes)}, L2 {size_text(machine.l2_bytes)} a core, "
            f"L3 {size_text(machine.l3_bytes)}",
        ),
    ]


def roof_lines(found: Roof) -> Lines:
    """What was measured."""
    return [
        ("peak, 1 thread", f"{found.fma_one_gflops:.1f} GFLOP/s of f32 multiply-adds"),
        (f"peak, {found.threads} threads", f"{found.fma_all_gflops:.1f} GFLOP/s"),
        (
            "memory read",
            f"{found.read_one_gbs:.1f} GB/s on 1 thread, {found.read_all_gbs:.1f} on all",
        ),
        (
            "memory copy",
            f"{found.copy_one_gbs:.1f} GB/s on 1 thread, {found.copy_all_gbs:.1f} on all",
        ),
    ]


def version_lines(names: Sequence[str]) -> Lines:
    """Versions of packages."""
    found: Lines = []
    for name in names:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            found.append((name, "not installed"))
    return found


def cache_lines(machine: Machine) -> Lines:
    """Where compiled objects are kept, and how much there is."""
    folder = object_cache(machine).folder
    if folder is None:
        return [("object cache", "off (RUNG_CACHE=0): kept in memory only")]
    sizes = [p.stat().st_size for p in folder.glob("*/*.o")] if folder.is_dir() else []
    limit = size_text(settings().cache_mb << 20)
    state = "" if writable(folder) else ", cannot be written to"
    return [
        ("object cache", f"{folder}{state}"),
        ("in it", f"{len(sizes)} objects, {size_text(sum(sizes))} of at most {limit}"),
    ]


def writable(folder: Path) -> bool:
    """Whether files can be made in a folder, or the folder itself."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".probe"
        probe.touch()
        probe.unlink()
    except OSError:
        return False
    return True


def setting_lines() -> list[tuple[str, str, str]]:
    """Each setting: its variable, its value (marked where it is not the default), what it does."""
    now, default = settings(), Settings()
    found = []
    for f in fields(Settings):
        value = getattr(now, f.name)
        mark = "" if value == getattr(default, f.name) else "  (changed)"
        found.append((f"RUNG_{f.name.upper()}", f"{value}{mark}", str(f.metadata.get("help", ""))))
    return found


def sections(fresh: bool) -> dict[str, Lines]:
    """All but the settings, by heading."""
    machine = host_machine()
    found = {"machine": machine_lines(machine), "measured": roof_lines(roof(fresh))}
    if settings().target != "host":
        found["target that code is emitted for"] = machine_lines(machine_named(settings().target))
    python = ("python", f"{platform.python_version()} ({platform.system()})")
    found["versions"] = [python, *version_lines(PACKAGES)]
    found["used where they are there"] = version_lines(EXTRAS)
    found["cache"] = cache_lines(machine)
    return found


def command(
    measure: Annotated[bool, typer.Option(help="measure the machine again")] = True,
) -> None:
    """Say what machine was found, what it can do, versions, cache and settings."""
    console = Console()
    for heading, lines in sections(measure).items():
        console.print(f"[bold]{heading}[/]")
        for name, value in lines:
            console.print(f"  {name:<16} {value}", markup=False, highlight=False, soft_wrap=True)
    table = Table(title="settings", title_justify="left", box=None, show_header=False)
    for line in setting_lines():
        table.add_row(*line)
    console.print(table)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor")(command)
