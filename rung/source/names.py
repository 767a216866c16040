"""Which names a piece of Python reads and writes, which values are still wanted after a statement,
and names that are not in use."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence

Names = frozenset[str]
NONE: Names = frozenset()
_FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSION = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
GROWING = frozenset({"append", "extend", "insert", "pop", "clear", "assign"})
"""Methods that change what a name holds, with those whose names end with `_` (`add_`)."""


class FreshNames:
    """Names that a function does not use yet."""

    def __init__(self, *trees: ast.AST) -> None:
        self.used = {name for tree in trees for n in ast.walk(tree) for name in _identifiers(n)}

    def fresh(self, base: str) -> str:
        """`base`, or `base_2`, `base_3`, …"""
        name, number = base, 1
        while name in self.used:
            number += 1
            name = f"{base}_{number}"
        self.used.add(name)
        return name


def _identifiers(node: ast.AST) -> list[str]:
    fields = ("id", "arg", "name", "asname")
    found = [getattr(node, f, None) for f in fields]
    if isinstance(node, ast.Global | ast.Nonlocal):
        found += node.names
    return [name for name in found if isinstance(name, str)]


def reads(*nodes: ast.AST | None) -> Names:
    """The names that are read, those of functions and comprehensions within included."""
    return frozenset(
        n.id
        for node in nodes
        if node is not None
        for n in ast.walk(node)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)
    ) | frozenset(
        n.target.id
        for node in nodes
        if node is not None
        for n in ast.walk(node)
        if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)
    )


def writes(nodes: Iterable[ast.AST], changes: bool = True) -> dict[str, int]:
    """The names that are given a value, in order, each with the line of its last assignment.
    `x[i] = y` and `xs.append(y)` change what x and xs hold, so they count, unless `changes` says
    no."""
    return dict(pair for node in nodes for pair in _written(node, changes))


def _written(node: ast.AST, changes: bool) -> list[tuple[str, int]]:
    line = getattr(node, "lineno", 0)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [(node.name, line)]
    if isinstance(node, ast.Lambda | ast.comprehension):
        return []
    found: list[tuple[str, int]] = []
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        found.append((node.id, line))
    elif isinstance(node, ast.alias):
        found.append(((node.asname or node.name).split(".")[0], line))
    elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
        found.append((node.name, line))
    elif changes and (changed := changed_name(node)) is not None:
        found.append((changed, line))
    for child in ast.iter_child_nodes(node):
        found += _written(child, changes)
    return found


def rebound(nodes: Iterable[ast.AST]) -> Names:
    """The names that are given another object: not by `x += y`, which a tensor does in place."""
    in_place = {id(n.target) for s in nodes for n in ast.walk(s) if isinstance(n, ast.AugAssign)}
    return frozenset(
        n.id
        for s in nodes
        for n in ast.walk(s)
        if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load) and id(n) not in in_place
    )


def changed_name(node: ast.AST, methods: Names | None = None) -> str | None:
    """x where the node is `x[…]` to be stored, or a call of a method that changes x: of `methods`,
    or of any."""
    if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
        held = node.value
        while isinstance(held, ast.Subscript):
            held = held.value
        return held.id if isinstance(held, ast.Name) else None
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        method, held = node.func.attr, node.func.value
        in_place = method.endswith("_") and not method.endswith("__")
        changes = method in methods if methods is not None else method in GROWING or in_place
        return held.id if changes and isinstance(held, ast.Name) else None
    return None


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[str]:
    """The names of the parameters of a function."""
    a = node.args
    extra = [x for x in (a.vararg, a.kwarg) if x is not None]
    return [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, *extra)]


def captured(body: Sequence[ast.stmt]) -> Names:
    """The names that functions within read: these may be wanted at any time."""
    inner = [n for s in body for n in ast.walk(s) if isinstance(n, _FUNCTION)]
    return reads(*inner)


class Liveness:
    """For each statement the names whose values are wanted after it (`after`), and for each `if`
    and loop those wanted where its bodies begin (`inside`). Jumps must have been lowered."""

    def __init__(self, body: Sequence[ast.stmt]) -> None:
        self.after: dict[ast.stmt, Names] = {}
        self.inside: dict[ast.stmt, Names] = {}
        self.start = self.block(body, captured(body))

    def block(self, body: Sequence[ast.stmt], live: Names) -> Names:
        """What is wanted before a block, from what is wanted after it."""
        for s in reversed(body):
            self.after[s] = live
            live = self._before(s, live)
        return live

    def _before(self, s: ast.stmt, live: Names) -> Names:
        if isinstance(s, ast.If):
            self.inside[s] = self.block(s.body, live) | self.block(s.orelse, live)
            return self.inside[s] | reads(s.test)
        if isinstance(s, ast.While):
            return self._loop(s, live | reads(s.test), NONE)
        if isinstance(s, ast.For):
            stops = frozenset(getattr(s, "stops", ()))
            targets = frozenset(writes([s.target]))
            return self._loop(s, live | stops, targets) | reads(s.iter, s.target)
        if isinstance(s, ast.With):
            return self.block(s.body, live) | reads(*s.items)
        if isinstance(s, ast.Try | ast.Match):
            for inner in ast.iter_child_nodes(s):
                self._anywhere(inner, live | reads(s))
            return live | reads(s)
        if isinstance(s, ast.Return):
            return reads(s.value) | captured([s])
        return (live - frozenset(_certain(s))) | reads(s)

    def _loop(self, s: ast.While | ast.For, header: Names, targets: Names) -> Names:
        while True:
            before = header | (self.block(s.body, header) - targets)
            if before == header:
                self.inside[s] = header
                return header
            header = before

    def _anywhere(self, node: ast.AST, live: Names) -> None:
        """Statements of which we do not follow the order: everything is wanted."""
        for n in ast.walk(node):
            if isinstance(n, ast.stmt):
                self.after[n] = self.inside[n] = live | reads(node)


def _certain(s: ast.stmt) -> list[str]:
    """The names to which a simple statement gives a whole new value."""
    if isinstance(s, ast.Assign):
        targets = s.targets
    elif isinstance(s, ast.AugAssign | ast.AnnAssign):
        targets = [s.target]
    elif isinstance(s, ast.FunctionDef | ast.ClassDef):
        return [s.name]
    else:
        return []
    return [
        n.id for t in targets for n in ast.walk(t)
        if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
    ]  # fmt: skip
