"""The documents are true: their examples run, and what they name is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rung.kernel.parse import parse_kernel
from rung.kernel.text import kernel_text

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "CHANGELOG.md",
    "docs/architecture.md",
    "docs/array-api.md",
    "docs/jit.md",
    "docs/opinfo.md",
)
NAMED = re.compile(r"`((?:rung|tests|benchmarks|docs|examples)/[\w./]+)`")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"\bmake ([a-z]+)")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    missing = [name for name in NAMED.findall(text) if not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_that_are_named_exist(document: str) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    text = (ROOT / document).read_text()
    assert set(COMMAND.findall(text)) <= {*targets, "a", "an", "the"}


def test_every_folder_has_its_place_in_the_architecture() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    folders = {p.parent.name for p in (ROOT / "rung").glob("*/__init__.py")}
    assert folders
    assert not [f for f in sorted(folders) if f"rung/{f}" not in text]


def output_of(text: str, program: Path) -> str:
    """What a program prints."""
    program.write_text(text)
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_examples_of_the_readme_run(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "README.md").read_text())
    assert len(blocks) >= 4
    last = "\nprint(float(step(x, rung.ones((2, 1)))) > 0)\n"
    printed = output_of("\n".join(blocks) + last, tmp_path / "readme.py")
    assert "[22" in printed and "kernels" in printed
    assert printed.endswith("True\n")


def test_the_example_of_the_array_api_runs(tmp_path: Path) -> None:
    (block,) = BLOCK.findall((ROOT / "docs/array-api.md").read_text())
    assert "-0.70710" in output_of(block, tmp_path / "array_api.py")


def test_the_promises_of_jit_hold(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs/jit.md").read_text())
    assert len(blocks) >= 6
    printed = output_of("\n".join(blocks), tmp_path / "promises.py")
    assert "changed outside: Settings.temperature: 0.5 was 1.0" in printed
    assert "changed outside: global weight" in printed
    assert "changed outside: global rate: 1.25 was 1.0" in printed
    assert "is not known while jit traces sign" in printed


def test_kernels_of_the_architecture_read_back() -> None:
    (text,) = BLOCK.findall((ROOT / "docs/architecture.md").read_text())
    kernel = parse_kernel(text)
    assert parse_kernel(kernel_text(kernel)) is kernel
