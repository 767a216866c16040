"""From the steps of a function to the statements of its derivative: forward, then backward."""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.autodiff.steps import Block, Branch, Loop, Node, Plain, Step, Steps, Term
from rung.autodiff.tape import Path, Plan, nodes_of, plan_tape
from rung.source.names import reads

HELPERS = (
    "add_at", "inside", "left_factor", "plus", "right_factor", "seed", "set_at", "share",
    "split_like", "spread", "unbroadcast", "unpermuted", "zeros_like",
)  # fmt: skip
_DEFAULTS = (None, False)


@dataclass
class Sweeps:
    """The statements of both sweeps, the names of the gradients, and those of the helpers."""

    forward: list[ast.stmt]
    backward: list[ast.stmt]
    gradients: list[str]
    helpers: dict[str, str]


def sweeps_of(steps: Steps, params: Sequence[str], wanted: Sequence[str]) -> Sweeps:
    """Both sweeps of a function, for the parameters `wanted`."""
    needed: dict[str, Path] = {}
    tape, helpers = steps.names.fresh("tape"), {h: steps.names.fresh(h) for h in HELPERS}
    cotangents: dict[str, str] = {}
    while True:
        plan = plan_tape(steps.block, list(params), needed)
        writer = _Writer(steps, plan, tape, helpers, cotangents)
        backward = writer.backward(wanted)
        if all(needed.get(name) == path for name, path in writer.reads.items()):
            break
        needed |= writer.reads
    first = [_set(n, ast.Constant(None)) for n in plan.unset]
    if plan.is_used:
        first.append(_set(tape, ast.List([], ast.Load())))
    forward = [*first, *writer.forward(steps.block)]
    return Sweeps(forward, backward, [writer.cotangent(p) for p in wanted], helpers)


@dataclass
class _Writer:
    steps: Steps
    plan: Plan
    tape: str
    helpers: dict[str, str]
    cotangents: dict[str, str]
    reads: dict[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.path: Path = (self.steps.block,)
        self.lists = _collections(self.steps.block)

    def cotangent(self, name: str) -> str:
        """The name of the cotangent of a variable: `d_x`."""
        if name not in self.cotangents:
            self.cotangents[name] = self.steps.names.fresh(f"d_{name}")
        return self.cotangents[name]

    def helper(self, name: str, *args: ast.expr) -> ast.expr:
        """A call of a function of `rung.autodiff.adjoint`."""
        return ast.Call(_load(self.helpers[name]), list(args), [])

    # ---- forward

    def forward(self, block: Block) -> list[ast.stmt]:
        """The statements of the function, with what is put on the tape."""
        made: list[ast.stmt] = []
        for node in block.nodes:
            made += [self._push([name]) for name in self.plan.before.get(node, [])]
            made += self._forward(node)
        kept = self.plan.at_end.get(block, [])
        return [*made, self._push(kept)] if kept else made

    def _forward(self, node: Node) -> list[ast.stmt]:
        if isinstance(node, Step):
            return [_set(node.target, self._known(node.value))]
        if isinstance(node, Plain):
            return [self._known(node.statement)]
        if isinstance(node, Branch):
            test = ast.Call(_load("bool"), [node.test], [])
            then = self.forward(node.then) or [ast.Pass()]
            branch = ast.If(_load(node.flag), then, self.forward(node.otherwise))
            return [_set(node.flag, test), branch]
        return self._forward_loop(node)

    def _forward_loop(self, node: Loop) -> list[ast.stmt]:
        count: list[ast.stmt] = []
        made: list[ast.stmt] = []
        if node.trips:
            made = [_set(node.trips, ast.Constant(0))]
            count = [ast.AugAssign(ast.Name(node.trips, ast.Store()), ast.Add(), ast.Constant(1))]
        body = [*count, *self.forward(node.body)] or [ast.Pass()]
        if node.test is not None:
            return [*made, ast.While(node.test, body, [])]
        assert node.target is not None and node.items is not None
        if node.stops:
            flags = [_load(s) for s in node.stops]
            stop = flags[0] if len(flags) == 1 else ast.BoolOp(ast.Or(), list(flags))
            body.append(ast.If(stop, [ast.Break()], []))
        return [*made, ast.For(node.target, node.items, body, [])]

    def _known(self, node: Any) -> Any:
        """With the helpers under the names that they have here."""
        return _Renamed(self.helpers).visit(copy.deepcopy(node))

    # ---- the tape

    def _push(self, names: Sequence[str]) -> ast.stmt:
        append = ast.Attribute(_load(self.tape), "append", ast.Load())
        return ast.Expr(ast.Call(append, [_together(names, ast.Load())], []))

    def _pop(self, names: Sequence[str]) -> ast.stmt:
        pop = ast.Attribute(_load(self.tape), "pop", ast.Load())
        return ast.Assign([_together(names, ast.Store())], ast.Call(pop, [], []))

    # ---- backward

    def backward(self, wanted: Sequence[str]) -> list[ast.stmt]:
        """The statements from the cotangent of the result to those of the parameters."""
        result, active = self.steps.result, self.steps.active
        zero = set(active)
        made: list[ast.stmt] = []
        if isinstance(result, ast.Name) and result.id in active:
            self._reads(result)
            made = [_set(self.cotangent(result.id), self.helper("seed", result))]
            zero.discard(result.id)
        made += self._block(self.steps.block, zero)
        return [*made, *self._zeros([w for w in wanted if w in zero], zero)]

    def _block(self, block: Block, zero: set[str]) -> list[ast.stmt]:
        """A block backwards; `zero` are the variables whose cotangent is zero and not set yet."""
        outer, self.path = self.path, (*self.path, block) if block is not self.path[0] else (block,)
        kept = self.plan.at_end.get(block, [])
        made: list[ast.stmt] = [self._pop(kept)] if kept else []
        for node in reversed(block.nodes):
            if isinstance(node, Step):
                made += self._step(node, zero)
            elif isinstance(node, Branch):
                made += self._branch(node, zero) + self._restored(node)
            elif isinstance(node, Loop):
                made += self._loop(node, zero) + self._restored(node)
            else:
                made += self._restored(node)
        self.path = outer
        return made

    def _restored(self, node: Node) -> list[ast.stmt]:
        return [self._pop([name]) for name in reversed(self.plan.before.get(node, []))]

    def _step(self, node: Step, zero: set[str]) -> list[ast.stmt]:
        restored = self._restored(node)
        if node.target in zero:
            return restored
        own = [t for t in node.terms if t.operand == node.target]
        made: list[ast.stmt] = []
        for term in node.terms:
            if term not in own:
                made += self._add(term, node, zero)
        if own:
            total = self._term(own[0], node)
            for term in own[1:]:
                total = ast.BinOp(total, ast.Add(), self._term(term, node))
            made.append(_set(self.cotangent(node.target), total))
        else:
            zero.add(node.target)
        return [*made, *restored] if node.uses_result else [*restored, *made]

    def _add(self, term: Term, node: Step, zero: set[str]) -> list[ast.stmt]:
        name = self.cotangent(term.operand)
        first = term.operand in zero
        zero.discard(term.operand)
        if term.index is not None:
            self._reads(term.index)
            whole = self._zero(term.operand) if first else _load(name)
            more = _load(self.cotangent(node.target))
            return [_set(name, self.helper("add_at", whole, term.index, more))]
        value = self._term(term, node)
        if first:
            return [_set(name, value)]
        if term.operand in self.lists or isinstance(node.value, ast.Name):
            return [_set(name, self.helper("plus", _load(name), value))]
        return [_set(name, ast.BinOp(_load(name), ast.Add(), value))]

    def _term(self, term: Term, node: Step) -> ast.expr:
        """A formula with what its names stand for."""
        if term.index is not None:
            zero = self._zero(term.operand)
            self._reads(term.index)
            own = _load(self.cotangent(node.target))
            return self.helper("add_at", zero, term.index, own)
        named = {**term.names, "y": _load(node.target)}
        read = reads(term.template) - {"d"}
        for name in read & set(named):
            self._reads(named[name])
        named["d"] = _load(self.cotangent(node.target))
        found = _Filled(named, self.helpers).visit(copy.deepcopy(term.template))
        if term.wide:
            self._reads(_load(term.operand))
            found = self.helper("unbroadcast", found, _load(term.operand))
        return found  # type: ignore[no-any-return]

    def _branch(self, node: Branch, zero: set[str]) -> list[ast.stmt]:
        self._reads(_load(node.flag))
        first, second = set(zero), set(zero)
        then, otherwise = self._block(node.then, first), self._block(node.otherwise, second)
        then += self._zeros(sorted(first - second), first)
        otherwise += self._zeros(sorted(second - first), second)
        zero.clear()
        zero |= first & second
        if not then and not otherwise:
            return []
        if not then:
            return [ast.If(ast.UnaryOp(ast.Not(), _load(node.flag)), otherwise, [])]
        return [ast.If(_load(node.flag), then, otherwise)]

    def _loop(self, node: Loop, zero: set[str]) -> list[ast.stmt]:
        before = set(zero)
        while True:
            after = set(before)
            body = self._block(node.body, after)
            if before <= after:
                break
            before &= after
        first = self._zeros(sorted(zero - before), set())
        body += self._zeros(sorted(after - before), after)
        zero.clear()
        zero |= before
        if not body:
            return []
        return [*first, ast.For(*self._head(node), body, [])]

    def _head(self, node: Loop) -> tuple[ast.expr, ast.expr]:
        trips = _load(node.trips) if node.trips else None
        if trips is not None:
            self._reads(trips)
        if node.items is None or node.target is None:
            assert trips is not None
            return ast.Name("_", ast.Store()), ast.Call(_load("range"), [trips], [])
        self._reads(node.items)
        items = node.items
        if trips is not None:
            items = ast.Subscript(items, ast.Slice(None, trips, None), ast.Load())
        return node.target, ast.Call(_load("reversed"), [items], [])

    def _zeros(self, names: Sequence[str], zero: set[str]) -> list[ast.stmt]:
        zero.difference_update(names)
        return [_set(self.cotangent(n), self._zero(n)) for n in names]

    def _zero(self, name: str) -> ast.expr:
        self._reads(_load(name))
        return self.helper("zeros_like", _load(name))

    def _reads(self, node: ast.expr) -> None:
        """Note that the reverse sweep reads the variables of an expression here."""
        for name in reads(node):
            known = self.reads.get(name, self.path)
            count = sum(1 for a, b in zip(known, self.path, strict=False) if a is b)
            self.reads[name] = self.path[:count]


class _Filled(ast.NodeTransformer):
    """A formula with expressions in the place of its names; last arguments that are defaults are
    left out."""

    def __init__(self, names: dict[str, ast.expr], helpers: dict[str, str]) -> None:
        self.names = names
        self.helpers = helpers

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self.names:
            return copy.deepcopy(self.names[node.id])
        return _load(self.helpers.get(node.id, node.id))

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        while node.args and _is_default(node.args[-1]):
            node.args.pop()
        node.keywords = [k for k in node.keywords if not _is_default(k.value)]
        return node


class _Renamed(ast.NodeTransformer):
    def __init__(self, helpers: dict[str, str]) -> None:
        self.helpers = helpers

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "set_at":
            node.func = _load(self.helpers["set_at"])
        return node


def _is_default(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and any(node.value is d for d in _DEFAULTS)


def _collections(block: Block) -> set[str]:
    """Variables that hold tuples, lists or dicts: their cotangents are added leaf by leaf."""
    kinds = ast.Tuple | ast.List | ast.Dict
    return {n.target for n in nodes_of(block) if isinstance(n, Step) and isinstance(n.value, kinds)}


def _load(name: str) -> ast.Name:
    return ast.Name(name, ast.Load())


def _set(name: str, value: ast.expr) -> ast.stmt:
    return ast.Assign([ast.Name(name, ast.Store())], value)


def _together(names: Sequence[str], context: ast.expr_context) -> ast.expr:
    if len(names) == 1:
        return ast.Name(names[0], context)
    return ast.Tuple([ast.Name(n, context) for n in names], context)
