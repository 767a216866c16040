"""All settings, in one typed place. Each comes from the environment variable `RUNG_<NAME>`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path

from rung.core.errors import SettingsError


def _default_cache_dir() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base) / "rung")


@dataclass(frozen=True, slots=True)
class Settings:
    """Process-wide settings; `help` of each field says what it does."""

    threads: int = field(
        default=0, metadata={"help": "worker threads; 0 = usable cores", "most": 1024}
    )
    debug: int = field(
        default=0,
        metadata={
            "help": "on stderr: 1 what is compiled and why, 2 graphs, 3 kernels, 4 LLVM IR, 5 code",
            "most": 5,
        },
    )
    cache_dir: str = field(
        default_factory=_default_cache_dir, metadata={"help": "where compiled objects are kept"}
    )
    cache: bool = field(default=True, metadata={"help": "keep compiled objects on disk"})
    cache_mb: int = field(default=1024, metadata={"help": "size limit of the object cache, MiB"})
    spin_us: int = field(default=50, metadata={"help": "how long idle workers spin, then sleep"})
    target: str = field(
        default="host",
        metadata={
            "help": "host, avx512, avx2 or neon (others only emit)",
            "choices": ("host", "avx512", "avx2", "neon"),
        },
    )
    verify: bool = field(default=False, metadata={"help": "verify the graph after every pass"})
    interpret: bool = field(
        default=False, metadata={"help": "run graphs by the NumPy interpreter instead of compiling"}
    )
    tier: str = field(
        default="auto",
        metadata={
            "help": "how programs without jit run: eager (op by op), fused (compiled at the first "
            "look), or auto: eager at first, and fused when they have come often",
            "choices": ("auto", "eager", "fused"),
        },
    )
    compile_jobs: int = field(
        default=0, metadata={"help": "parallel compiles; 0 = usable cores", "most": 1024}
    )


MOST = 2**31 - 1
_FIELDS = {f.name: f for f in fields(Settings)}


def _parse(name: str, text: str) -> object:
    kind = type(getattr(Settings(), name))
    try:
        if kind is bool:
            return {"0": False, "1": True, "false": False, "true": True}[text.lower()]
        return kind(text)
    except (KeyError, ValueError):
        raise _not_valid(f"RUNG_{name.upper()}={text!r}", name) from None


def _check(given: str, name: str, value: object) -> None:
    """Raise SettingsError unless `value` is one that the setting can have."""
    found, kind = _FIELDS[name].metadata, type(getattr(Settings(), name))
    right = type(value) is kind
    if right and isinstance(value, int):
        right = 0 <= value <= found.get("most", MOST)
    if right and isinstance(value, str):
        right = value in found["choices"] if "choices" in found else bool(value)
    if not right:
        raise _not_valid(given, name)


def _not_valid(given: str, name: str) -> SettingsError:
    found, kind = _FIELDS[name].metadata, type(getattr(Settings(), name))
    wanted = "a path"
    if kind is bool:
        wanted = "0 or 1" if given.startswith("RUNG_") else "True or False"
    if kind is int:
        wanted = f"a whole number from 0 to {found.get('most', MOST)}"
    if "choices" in found:
        wanted = "one of " + ", ".join(found["choices"])
    return SettingsError(f"{given} is not valid", fix=f"give {wanted}; it is: {found['help']}")


def _unknown(given: str, prefix: str) -> SettingsError:
    names = [prefix + (n.upper() if prefix else n) for n in _FIELDS]
    near = get_close_matches(given, names, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return SettingsError(f"unknown setting {given}", fix=f"{hint}known: {', '.join(names)}")


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Settings from `RUNG_*` variables. An unknown one is an error that names the nearest."""
    values: dict[str, object] = {}
    for variable, text in environ.items():
        if not variable.startswith("RUNG_"):
            continue
        name = variable[5:].lower()
        if name not in _FIELDS or variable != variable.upper():
            raise _unknown(variable, "RUNG_")
        values[name] = _parse(name, text)
        _check(f"{variable}={text!r}", name, values[name])
    return replace(Settings(), **values)  # type: ignore[arg-type]


_current: list[Settings] = []


def settings() -> Settings:
    """The settings in force; the environment is read at first use."""
    if not _current:
        _current.append(read_settings(os.environ))
    return _current[0]


def configure(**changes: object) -> Settings:
    """Change settings for this process, e.g. `configure(threads=1)`; returns the new ones."""
    for name, value in changes.items():
        if name not in _FIELDS:
            raise _unknown(name, "")
        _check(f"{name}={value!r}", name, value)
    old = settings()
    new = replace(old, **changes)  # type: ignore[arg-type]
    _current[:] = [new]
    for follow in _followers:
        follow(old, new)
    return new


_followers: list[Callable[[Settings, Settings], None]] = []


def follow_settings(follow: Callable[[Settings, Settings], None]) -> None:
    """Have `follow` called with the old and the new settings at each change."""
    _followers.append(follow)
