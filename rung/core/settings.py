"""All settings, in one typed place. Each comes from the environment variable `RUNG_<NAME>`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from rung.core.errors import SettingsError


def _default_cache_dir() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return str(Path(base) / "rung")


@dataclass(frozen=True, slots=True)
class Settings:
    """Process-wide settings; `help` of each field says what it does."""

    threads: int = field(default=0, metadata={"help": "worker threads; 0 = usable cores"})
    debug: int = field(default=0, metadata={"help": "0 silent … 5 everything, level by level"})
    cache_dir: str = field(
        default_factory=_default_cache_dir, metadata={"help": "where compiled objects are kept"}
    )
    cache: bool = field(default=True, metadata={"help": "keep compiled objects on disk"})
    cache_mb: int = field(default=1024, metadata={"help": "size limit of the object cache, MiB"})
    spin_us: int = field(default=50, metadata={"help": "how long idle workers spin, then sleep"})
    target: str = field(
        default="host", metadata={"help": "host, avx512, avx2 or neon (others only emit)"}
    )
    verify: bool = field(default=False, metadata={"help": "verify the graph after every pass"})
    interpret: bool = field(
        default=False, metadata={"help": "run graphs by the NumPy interpreter instead of compiling"}
    )
    compile_jobs: int = field(default=0, metadata={"help": "parallel compiles; 0 = usable cores"})


def _parse(name: str, text: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return {"0": False, "1": True, "false": False, "true": True}[text.lower()]
        return type(default)(text)  # type: ignore[call-arg]
    except (KeyError, ValueError):
        kind = "0 or 1" if isinstance(default, bool) else type(default).__name__
        message = f"RUNG_{name.upper()}={text!r} is not valid"
        raise SettingsError(message, fix=f"give {kind}") from None


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Settings from `RUNG_*` variables. An unknown one is an error that names the nearest."""
    known = {f.name: f for f in fields(Settings)}
    base = Settings()
    values: dict[str, object] = {}
    for variable, text in environ.items():
        if not variable.startswith("RUNG_"):
            continue
        name = variable[5:].lower()
        if name not in known:
            raise SettingsError(
                f"unknown setting {variable}",
                fix="known: " + ", ".join(f"RUNG_{n.upper()}" for n in known),
            )
        values[name] = _parse(name, text, getattr(base, name))
    return replace(base, **values)  # type: ignore[arg-type]


_current: list[Settings] = []


def settings() -> Settings:
    """The settings in force; the environment is read at first use."""
    if not _current:
        _current.append(read_settings(os.environ))
    return _current[0]


def configure(**changes: object) -> Settings:
    """Change settings for this process, e.g. `configure(threads=1)`; returns the new ones."""
    unknown = changes.keys() - {f.name for f in fields(Settings)}
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(sorted(unknown))}")
    new = replace(settings(), **changes)  # type: ignore[arg-type]
    _current[:] = [new]
    return new
