"""The graph passes, in order, from what the user wrote to what fusion takes."""

from __future__ import annotations

from typing import Final

from rung.ir.passes import Pass, cse
from rung.rules.decompose import decompose
from rung.rules.loops import loops
from rung.rules.ranges import drop_proven_checks
from rung.rules.simplify import simplify

PIPELINE: Final[tuple[Pass, ...]] = (drop_proven_checks, decompose, simplify, cse, loops)
"""Derivatives are taken before. Equal computations of different lines are merged last, so that
simplifying does not have to look for them. What is known of positions is seen best first: an
argmax is later a few reductions."""
