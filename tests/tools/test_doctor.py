"""doctor: what it finds, and that it survives what it does not find."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rung.core.settings import Settings, configure, settings
from rung.kernel.machine import avx2_machine, host_machine
from rung.runtime.roof import roof
from rung.tools import doctor
from rung.tools.cli import make_app


@pytest.fixture
def cache_in(tmp_path: Path) -> Iterator[Path]:
    """The object cache in a folder of the test."""
    before = settings().cache_dir
    configure(cache_dir=str(tmp_path))
    yield tmp_path
    configure(cache_dir=before)


def test_the_command(cache_in: Path) -> None:
    result = CliRunner().invoke(make_app(), ["doctor"], catch_exceptions=False)
    assert result.exit_code == 0
    machine = host_machine()
    for text in (machine.cpu, machine.triple, "GFLOP/s", "GB/s", str(cache_in), "llvmlite"):
        assert text in result.output
    for f in fields(Settings):
        assert f"RUNG_{f.name.upper()}" in result.output


def test_machine_lines() -> None:
    lines = dict(doctor.machine_lines(avx2_machine()))
    assert lines["vectors"] == "256 bits, 16 registers"
    assert lines["features"] == "avx2, fma"
    assert lines["caches"] == "L1 data 32 KiB, L2 512 KiB a core, L3 16 MiB"


def test_measured_again_keeps_the_better_figures(cache_in: Path) -> None:
    first = roof()
    again = roof(fresh=True)
    assert all(getattr(again, f.name) >= getattr(first, f.name) for f in fields(first))
    assert roof() == again


def test_cache_lines(cache_in: Path) -> None:
    assert dict(doctor.cache_lines(host_machine()))["in it"].startswith("0 objects")
    configure(cache=False)
    try:
        ((_, text),) = doctor.cache_lines(host_machine())
        assert "memory only" in text
    finally:
        configure(cache=True)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert not doctor.writable(tmp_path / "file" / "below")
    assert doctor.writable(tmp_path / "new")


def test_versions() -> None:
    found = dict(doctor.version_lines(["numpy", "no_such_package_at_all"]))
    assert found["no_such_package_at_all"] == "not installed"
    assert found["numpy"][0].isdigit()


def test_changed_settings_are_marked(cache_in: Path) -> None:
    lines = {name: value for name, value, _ in doctor.setting_lines()}
    assert lines["RUNG_CACHE_DIR"].endswith("(changed)")
    assert not lines["RUNG_VERIFY"].endswith("(changed)")


@pytest.mark.parametrize(
    ("nbytes", "text"), [(0, "0 B"), (1023, "1023 B"), (32768, "32 KiB"), (5 << 29, "2.5 GiB")]
)
def test_size_text(nbytes: int, text: str) -> None:
    assert doctor.size_text(nbytes) == text
