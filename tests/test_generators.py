"""A few thousand cases of each generator; `make fuzz KIND=… CASES=…` runs as many as wanted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from rung.core.settings import configure, settings
from tests.fuzz import failures, generator

CHUNK = 50
CASES: dict[str, int] = {
    "calls": 1850,
    "files": 600,
    "extremes": 2000,
    "operands": 3000,
    "sums": 500,
    "styles": 250,
    "sizes": 50,
    "indices": 1000,
    "interruptions": 500,
}
"""How many of each kind the suite runs; random graphs have a file of their own."""


@pytest.fixture(autouse=True)
def in_this_process() -> Iterator[None]:
    """Compile here: the cases are small, and the suite runs on all cores already."""
    before = settings()
    configure(cache=False, compile_jobs=1)
    yield
    configure(cache=before.cache, compile_jobs=before.compile_jobs)


@pytest.mark.parametrize(
    ("name", "first"),
    [(name, at) for name, count in CASES.items() for at in range(0, count, CHUNK)],
)
def test_generated_cases(name: str, first: int) -> None:
    """`CHUNK` cases of one kind."""
    found = generator(name)
    for seed in range(first, first + CHUNK):
        lines = failures(found, seed)
        assert not lines, "\n".join((*lines, f"python -m tests.fuzz {name} --seed {seed}"))
