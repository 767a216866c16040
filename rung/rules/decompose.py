"""Composites and ops that are always rewritten become primitives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rung.ir.node import Node, Value
from rung.ir.passes import Pass, rewriting
from rung.ir.rule import Rule, RuleSet, structural
from rung.ir.verify import primitive
from rung.ops.composite import CompositeAttrs
from rung.ops.gradient import stop_gradient


def decomposition(keep: frozenset[str] = frozenset()) -> Rule:
    """The rule that puts the body in place of every op that has one, but for the composites (or
    ops) named in `keep`. The new nodes are marked with the name of the composite."""

    @structural(via="")
    def decompose_op(node: Node) -> Sequence[Value] | None:
        """softmax(x)  →  divide(exp(x - max x), …)"""
        if node.op.decompose is None:
            return None
        attrs = node.attrs
        name = attrs.name if isinstance(attrs, CompositeAttrs) else node.op.name
        return None if name in keep else node.op.decompose(node.attrs, node.inputs)

    return decompose_op


@structural(stop_gradient)
def drop_stop_gradient(node: Node) -> Value:
    """stop_gradient(x)  →  x        (after differentiation)"""
    return node.inputs[0]


DECOMPOSE: Final = RuleSet("decompose", (decomposition(), drop_stop_gradient))

decompose: Final[Pass] = rewriting("decompose", DECOMPOSE, establishes=(primitive,))


def decompose_except(keep: frozenset[str]) -> Pass:
    """The pass for a back end that claims the composites named in `keep` as wholes."""
    rules = RuleSet("decompose", (decomposition(keep), drop_stop_gradient))
    return rewriting("decompose", rules)
