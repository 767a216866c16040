"""The generators of wrong calls and broken files find what is broken on purpose, and the first
knows the public interface."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from rung.core import arguments
from rung.core.settings import configure, settings
from rung.nn import safetensors
from rung.tensor import random
from tests.fuzz import failures
from tests.generate import api, calls, files

SEEDS = range(150)


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    before = settings()
    configure(interpret=True, cache=False)
    yield
    configure(interpret=before.interpret, cache=before.cache)


def fails(error: BaseException) -> Any:
    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError()])
def test_internal_errors_are_found(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(calls.check(seed) for seed in SEEDS)
    monkeypatch.setattr(arguments, "described", fails(error))
    found = [line for seed in SEEDS for line in calls.check(seed)]
    assert len(found) > 10
    assert all(type(error).__name__ in line for line in found)


def test_a_hang_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(*_: Any) -> None:
        while True:
            pass

    names = api.targets()
    seeds = [names.index("random.uniform") + k * len(names) for k in range(20)]
    monkeypatch.setattr(calls, "SECONDS", 0.2)
    monkeypatch.setattr(random, "check_span", forever)
    assert any("hangs" in line for seed in seeds for line in calls.check(seed))


def test_errors_of_readers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(files.check(seed) for seed in SEEDS)
    monkeypatch.setattr(safetensors, "_check_ranges", fails(IndexError("x")))
    assert sum(bool(failures(files, seed)) for seed in SEEDS) > 3


def test_the_public_interface_is_covered() -> None:
    print(f"\n{calls.coverage()}")
    with calls.confined(300):
        configure(interpret=True)
        assert [n for n in api.targets() if api.base(n) is None] == []


def test_a_case_depends_on_its_seed_alone() -> None:
    with calls.confined(300):
        configure(interpret=True)
        first = [calls.show(s) for s in range(40)]
        assert [calls.show(s) for s in reversed(range(40))] == first[::-1]
