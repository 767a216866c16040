"""Which variables and expressions depend on the arguments to differentiate by."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

from rung.autodiff import formulas
from rung.source.names import writes

_CONSTANT = (ast.Constant, ast.Compare, ast.JoinedStr, ast.Slice)


class Activity:
    """The variables that are active; `resolve` gives what an outer name means."""

    def __init__(self, resolve: Callable[[ast.expr], Any]) -> None:
        self.active: set[str] = set()
        self.resolve = resolve

    def is_active(self, node: ast.expr) -> bool:
        """Whether a derivative passes through an expression."""
        if isinstance(node, ast.Name):
            return node.id in self.active
        if isinstance(node, _CONSTANT) or (
            isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)
        ):
            return False
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
            return False
        if isinstance(node, ast.Attribute):
            return node.attr not in formulas.CONSTANT_ATTRIBUTES and self.is_active(node.value)
        if isinstance(node, ast.Subscript):
            return self.is_active(node.value)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.IfExp):
            return self.is_active(node.body) or self.is_active(node.orelse)
        if isinstance(node, ast.Lambda | ast.ListComp | ast.GeneratorExp | ast.DictComp):
            return any(isinstance(n, ast.Name) and n.id in self.active for n in ast.walk(node))
        return any(self.is_active(n) for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr))

    def _call(self, node: ast.Call) -> bool:
        called = self.resolve(node.func)
        if called is not None and formulas.is_constant(called):
            return False
        given = [*node.args, *(k.value for k in node.keywords)]
        if called is None and isinstance(node.func, ast.Attribute):
            if node.func.attr in formulas.CONSTANT_METHODS:
                return False
            given.append(node.func.value)
        return any(self.is_active(a) for a in given)

    def spread(self, body: Sequence[ast.stmt]) -> None:
        """Mark what statements make active, as often as that changes anything."""
        count = -1
        while count != len(self.active):
            count = len(self.active)
            for s in body:
                self._statement(s)

    def _statement(self, s: ast.stmt) -> None:
        if isinstance(s, ast.Assign | ast.AnnAssign | ast.AugAssign) and s.value is not None:
            for target in s.targets if isinstance(s, ast.Assign) else [s.target]:
                self._assign(target, s.value)
        elif isinstance(s, ast.For):
            self._for(s)
        elif isinstance(s, ast.Expr) and isinstance(s.value, ast.Call):
            call = s.value
            if any(self.is_active(a) for a in call.args):
                self.active |= set(writes([call]))
        for part in ("body", "orelse"):
            if not isinstance(s, ast.FunctionDef | ast.ClassDef):
                for inner in getattr(s, part, []):
                    self._statement(inner)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        both = isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List)
        if both and len(target.elts) == len(value.elts):  # type: ignore[attr-defined]
            for t, v in zip(target.elts, value.elts, strict=True):  # type: ignore[attr-defined]
                self._assign(t, v)
        elif self.is_active(value):
            self.active |= set(writes([target]))

    def _for(self, s: ast.For) -> None:
        call = s.iter
        what = self.resolve(call.func) if isinstance(call, ast.Call) else None
        several = what in (enumerate, zip) and isinstance(s.target, ast.Tuple)
        if several and isinstance(call, ast.Call) and isinstance(s.target, ast.Tuple):
            targets = s.target.elts[1:] if what is enumerate else s.target.elts
            for t, items in zip(targets, call.args, strict=False):
                self._assign(t, items)
        else:
            self._assign(s.target, s.iter)
