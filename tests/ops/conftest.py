"""Prints how many generated operator cases were run."""

from __future__ import annotations

import sys

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    module = sys.modules.get("test_records")
    counts = module.counts if module is not None else {}
    if counts:
        text = ", ".join(f"{n} {kind}" for kind, n in sorted(counts.items()))
        terminalreporter.write_line(f"operator cases: {text}")
