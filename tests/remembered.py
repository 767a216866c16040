"""What the package remembers of how things are built, forgotten: for tests that change rules."""

from __future__ import annotations

from rung.tensor import composed, operate, state
from rung.transform import remembered


def forget() -> None:
    """From now on everything is built anew."""
    remembered._rule.cache_clear()
    operate._known.clear()
    state._built.clear()
    for bodies in composed.remembered:
        bodies.clear()
