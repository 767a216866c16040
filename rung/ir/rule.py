"""Rewrite rules and the one driver that applies them.

A rule is a named pair of pure functions over pattern variables: what is looked for, and what stands
in its place. The pattern is traced once, by calling it with variables in place of values; the
replacement is called with the values that were found. The docstring shows the rewrite:

    @rule(lambda x: negative(negative(x)))
    def double_negative(x):
        \"\"\"-(-x)  →  x\"\"\"
        return x

Operands of a commutative op (by its `facts`) match in either order. What a pattern cannot say is
a structural rule, a function from a node to the values that replace its results, or None.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, cast

from rung.core.errors import GraphError
from rung.core.source import Source
from rung.ir import op as op_module
from rung.ir.node import (
    PARAMETER,
    Graph,
    Node,
    Value,
    make_graph,
    make_node,
    provenance,
    topological_order,
)
from rung.ir.op import NO_ATTRS, Attrs, Op

# ---- patterns


@dataclass(frozen=True, eq=False)
class Variable:
    """Matches any value for which `test` holds; the same variable twice, the same value. `sample`
    makes a value of a wanted type that passes the test, for tests of the rules."""

    name: str
    test: Callable[[Value], bool] | None = None
    sample: Callable[[Any], Value] | None = None


@dataclass(frozen=True, eq=False)
class Apply:
    """Matches the result of `op` on operands that match; `attrs` None stands for any."""

    op: Op
    operands: tuple[Pattern, ...]
    attrs: Attrs | None


Pattern = Variable | Apply
Found = dict[Variable, Value]
Build = Callable[..., Any]


def trace_pattern(pattern: Build, variables: Sequence[Variable]) -> Pattern:
    """The pattern that the function builds from variables in place of values."""
    kept = op_module._maker[0]
    op_module._maker[0] = cast(Any, _make_pattern)
    try:
        return cast(Pattern, pattern(*variables))
    finally:
        op_module._maker[0] = kept


def _make_pattern(op: Op, operands: tuple[Any, ...], attrs: Attrs) -> tuple[Apply]:
    any_attrs = attrs is NO_ATTRS and op.attrs is not Attrs
    return (Apply(op, operands, None if any_attrs else attrs),)


def orders(pattern: Pattern) -> list[Pattern]:
    """The pattern with the operands of commutative ops in each order."""
    if isinstance(pattern, Variable):
        return [pattern]
    found: list[Pattern] = []
    for operands in product(*map(orders, pattern.operands)):
        found.append(Apply(pattern.op, operands, pattern.attrs))
        if pattern.op.facts.commutative and len(operands) == 2 and operands[0] is not operands[1]:
            found.append(Apply(pattern.op, operands[::-1], pattern.attrs))
    return found


def match(pattern: Pattern, value: Value, found: Found) -> bool:
    """Whether `value` matches; `found` gets the values of the variables."""
    if isinstance(pattern, Variable):
        known = found.get(pattern)
        if known is not None:
            return known is value
        if pattern.test is not None and not pattern.test(value):
            return False
        found[pattern] = value
        return True
    node = value.node
    if node.op is not pattern.op or (pattern.attrs is not None and node.attrs != pattern.attrs):
        return False
    if len(node.inputs) != len(pattern.operands):
        return False
    return all(match(p, v, found) for p, v in zip(pattern.operands, node.inputs, strict=True))


# ---- rules


@dataclass(frozen=True, eq=False)
class Rule:
    """A rewrite. `apply` gives the values that replace the results of a node, or None; it is tried
    on nodes of the ops `roots` (empty = every op). New nodes are marked as made by `via`.

    `pattern`, `variables`, `replacement` and `where` are those of a pattern rule; else None."""

    name: str
    doc: str
    roots: tuple[Op, ...]
    apply: Callable[[Node], Sequence[Value] | None]
    via: str
    pattern: Pattern | None = None
    variables: tuple[Variable, ...] = ()
    replacement: Build | None = None
    where: Build | None = None

    def __repr__(self) -> str:
        return f"<rule {self.name}>"


def rule(pattern: Build, *, where: Build | None = None) -> Callable[[Build], Rule]:
    """Decorator: the function is the replacement of what `pattern` describes. Both (and the
    condition `where`) take variables of the same names; a parameter of `pattern` with a `Variable`
    as its default stands for that variable and is passed on too."""
    variables = tuple(
        p.default if isinstance(p.default, Variable) else Variable(name)
        for name, p in inspect.signature(pattern).parameters.items()
    )
    root = trace_pattern(pattern, variables)
    if not isinstance(root, Apply):
        raise GraphError("rule: the pattern is a variable, so it matches everything")
    alternatives = orders(root)

    def make(replacement: Build) -> Rule:
        def apply(node: Node) -> Sequence[Value] | None:
            for alternative in alternatives:
                found: Found = {}
                if match(alternative, node.results[0], found):
                    values = [found[v] for v in variables]
                    if where is None or where(*values):
                        new = replacement(*values)
                        return None if new is None else (new,)
            return None

        name = replacement.__name__
        doc = inspect.getdoc(replacement) or ""
        return Rule(name, doc, (root.op,), apply, name, root, variables, replacement, where)

    return make


def structural(*roots: Op, via: str | None = None) -> Callable[[Build], Rule]:
    """Decorator: a function from a node of one of the ops `roots` (none given = every op) to what
    replaces it: a value, several for the results of the node, or None. `via` is what the new nodes
    are marked with: by default the rule's name, "" for nothing."""

    def make(function: Build) -> Rule:
        def apply(node: Node) -> Sequence[Value] | None:
            new = function(node)
            return (new,) if isinstance(new, Value) else cast("Sequence[Value] | None", new)

        name = function.__name__
        made_by = name if via is None else via
        return Rule(name, inspect.getdoc(function) or "", roots, apply, made_by)

    return make


class RuleSet:
    """Rules under a name, indexed by root op; earlier ones are tried first."""

    def __init__(self, name: str, rules: Iterable[Rule]) -> None:
        self.name = name
        self.rules = tuple(rules)
        names = [r.name for r in self.rules]
        if len(set(names)) != len(names):
            raise GraphError(f"rule set {name}: two rules have the same name: {sorted(names)}")
        self._by_op: dict[Op, tuple[Rule, ...]] = {}

    def of(self, op: Op) -> tuple[Rule, ...]:
        """The rules to try on nodes of `op`."""
        found = self._by_op.get(op)
        if found is None:
            found = tuple(r for r in self.rules if not r.roots or op in r.roots)
            self._by_op[op] = found if op is not PARAMETER else ()
            return self._by_op[op]
        return found

    def __add__(self, other: RuleSet) -> RuleSet:
        return RuleSet(f"{self.name}+{other.name}", (*self.rules, *other.rules))


# ---- the driver


@dataclass
class RuleCount:
    """How often a rule was tried and hit, and the time that took."""

    tries: int = 0
    hits: int = 0
    seconds: float = 0.0


Counts = dict[str, RuleCount]


def rewrite(
    graph: Graph, rules: RuleSet, fuel: int | None = None, counts: Counts | None = None
) -> Graph:
    """`graph` with `rules` applied until none applies. `counts` is added to, by rule name.

    Raises GraphError when a rule changes a type, when rules undo each other, and after `fuel` hits
    (by default 100 per node)."""
    outputs = rewrite_values(graph.outputs, rules, fuel, counts)
    return make_graph(graph.name, graph.params, outputs)


def rewrite_values(
    values: Sequence[Value], rules: RuleSet, fuel: int | None = None, counts: Counts | None = None
) -> list[Value]:
    """The values that `values` become; see `rewrite`."""
    if fuel is None:
        fuel = 1000 + 100 * len(topological_order(values))
    return _Rewriting(rules, fuel, {} if counts is None else counts).run(values)


def _made_by(r: Rule, source: Source) -> Source:
    """The source of what the rule makes from a node. A rule stands in `via` once, so that rules
    that undo each other come back to the very same node, and are found out."""
    return source.with_via(r.via) if r.via and r.via not in source.via.split("/") else source


@dataclass
class _Rewriting:
    """One run over a graph. A node is settled when its operands are, and no rule applies to it; a
    node that was rewritten settles as its replacement does. Operands settle first, so one walk
    reaches the fixpoint."""

    rules: RuleSet
    fuel: int
    counts: Counts
    settled: set[Node] = field(default_factory=set)
    begun: set[Node] = field(default_factory=set)
    becoming: dict[Node, Sequence[Value]] = field(default_factory=dict)
    moved: dict[Value, Value] = field(default_factory=dict)
    last: str = ""

    def run(self, values: Sequence[Value]) -> list[Value]:
        stack = [v.node for v in reversed(values)]
        settled, begun = self.settled, self.begun
        while stack:
            node = stack[-1]
            if node in settled:
                stack.pop()
            elif node in self.becoming:
                self._finish(node)
            elif node not in begun:
                begun.add(node)
                self._push(stack, node.inputs)
            else:
                new = self._step(node)
                if new is None:
                    settled.add(node)
                else:
                    self.becoming[node] = new
                    self._push(stack, new)
        return [self.moved.get(v, v) for v in values]

    def _push(self, stack: list[Node], values: Sequence[Value]) -> None:
        for v in reversed(values):
            node = v.node
            if node not in self.settled:
                if node in self.begun:
                    raise GraphError(
                        f"rules {self.rules.name}: {self.last} makes {node!r} from itself",
                        source=node.source,
                        fix="the rules undo each other, or a replacement contains its pattern",
                    )
                stack.append(node)

    def _finish(self, node: Node) -> None:
        for old, new in zip(node.results, self.becoming[node], strict=True):
            self.moved[old] = self.moved.get(new, new)
        self.settled.add(node)

    def _step(self, node: Node) -> Sequence[Value] | None:
        """What the node becomes in one step: on new operands, or by a rule; None if it is final."""
        moved = self.moved
        if moved and any(v in moved for v in node.inputs):
            inputs = tuple(moved.get(v, v) for v in node.inputs)
            with provenance(node.source):
                return make_node(node.op, inputs, node.attrs)
        for r in self.rules.of(node.op):
            new = self._try(r, node)
            if new is not None:
                return new
        return None

    def _try(self, r: Rule, node: Node) -> Sequence[Value] | None:
        start = time.perf_counter()
        with provenance(_made_by(r, node.source)):
            new = r.apply(node)
        count = self.counts.get(r.name)
        if count is None:
            count = self.counts[r.name] = RuleCount()
        count.tries += 1
        hit = new is not None and any(a is not b for a, b in zip(new, node.results, strict=False))
        if hit:
            assert new is not None
            count.hits += 1
            self._check(r, node, new)
        count.seconds += time.perf_counter() - start
        return new if hit else None

    def _check(self, r: Rule, node: Node, new: Sequence[Value]) -> None:
        self.last = r.name
        self.fuel -= 1
        if self.fuel < 0:
            raise GraphError(
                f"rules {self.rules.name}: out of fuel at {r.name}: the rules do not end",
                source=node.source,
            )
        types = tuple(v.type for v in new)
        if types != node.types:
            raise GraphError(
                f"rule {r.name}: {node!r} becomes {', '.join(map(str, types))}, another type",
                source=node.source,
            )
