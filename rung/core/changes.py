"""Counters of changes: whether any of many things has changed is one comparison."""

from __future__ import annotations


class Changes:
    """How often things of a kind have been changed in this process."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


MODULES = Changes()
"""Attributes of modules (`rung.nn.Module`) that were set or deleted."""
FOLLOWED = Changes()
"""Tensors of which `requires_grad` was set."""
