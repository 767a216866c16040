"""The generator of programs in every style finds what it is made to find."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rung.tensor import bodies, control, transforms
from rung.tensor.leaf import Example, Step
from rung.tensor.operate import as_tensor
from tests.generate import styles

SEEDS = range(1, 40)


def found() -> int:
    """How many of some cases fail."""
    return sum(bool(styles.check(seed)) for seed in SEEDS if seed % styles.COMPILED_EVERY)


def reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers and updates of a body happen once, not in each iteration."""
    monkeypatch.setattr(Step, "keeps", lambda self, tensor: False)


def same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """All examples of `vmap` draw the same."""
    monkeypatch.setattr(Example, "keeps", lambda self, tensor: isinstance(self, Step))


def one_step_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counter after a loop is that before its last iteration."""
    advanced = control.advanced
    monkeypatch.setattr(control, "advanced", lambda v, by: advanced(v, max(by - 1, 0)))
    monkeypatch.setattr(transforms, "advanced", lambda v, by: advanced(v, max(by - 1, 0)))


def strong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python numbers before a loop have the dtype of numbers alone."""
    monkeypatch.setattr(bodies, "weakly", as_tensor)
    monkeypatch.setattr(control, "weakly", as_tensor)


@pytest.mark.parametrize("breakage", [reads_once, same_for_all, one_step_behind, strong_numbers])
def test_what_is_broken_on_purpose_is_found(
    breakage: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    breakage(monkeypatch)
    assert found() > 0
