"""What `simplify` does: constants, algebra and movement, each bit of the result kept."""

from __future__ import annotations

from typing import Final

from rung.ir.passes import Pass, rewriting
from rung.ir.rule import RuleSet
from rung.rules import algebra, fold, movement

SIMPLIFY: Final = RuleSet("simplify", (*algebra.RULES, *movement.RULES, *fold.RULES))

simplify: Final[Pass] = rewriting("simplify", SIMPLIFY)
