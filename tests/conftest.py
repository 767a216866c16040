"""Options and fixtures of all tests."""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("RUNG_TIER", "fused")  # what a test looks at once shall be compiled
GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write the golden texts instead of comparing"
    )


def pytest_configure(config: pytest.Config) -> None:
    """A program that was started in the background ignores Ctrl-C, which some tests press."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: the text must be that of `tests/golden/<name>`."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        wanted = path.read_text() if path.exists() else ""
        if text != wanted:
            lines = difflib.unified_diff(
                wanted.splitlines(), text.splitlines(), name, "now", "", ""
            )
            again = f"pytest --update-golden {request.node.nodeid.partition('::')[0]}"
            pytest.fail("\n".join(lines) + f"\nif this is right: {again}", pytrace=False)

    return check


# ---- how many generated operator cases were run, in this process or in the workers

_counted: Counter[str] = Counter()


def _own_counts() -> dict[str, int]:
    module = sys.modules.get("test_records")
    return dict(module.counts) if module is not None else {}


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker sends what it has counted; a run without workers keeps it."""
    output = getattr(session.config, "workeroutput", None)
    if output is None:
        _counted.update(_own_counts())
    else:
        output["operator_cases"] = _own_counts()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Add what a worker has counted."""
    _counted.update(getattr(node, "workeroutput", {}).get("operator_cases", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line with the numbers."""
    if _counted:
        text = ", ".join(f"{n} {kind}" for kind, n in sorted(_counted.items()))
        terminalreporter.write_line(f"operator cases: {text}")
