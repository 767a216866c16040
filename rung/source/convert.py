"""From a function to one whose `if`s and loops can become part of a graph.

    while n != 1:                     def test_3(n, steps):
        n = n // 2            →           return n != 1
        steps += 1                    def body_3(n, steps):
                                          n = n // 2
                                          steps += 1
                                          return (n, steps)
                                      n, steps = flow.while_loop(test_3, body_3, (n, steps))

The names of bodies have the number of their line. What a body sets and somebody reads afterwards is
its argument and its result; all else it reads from around it.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from types import FunctionType
from typing import TypeVar

from rung.core.errors import SourceError
from rung.source.jumps import lower_jumps
from rung.source.names import (
    GROWING,
    FreshNames,
    Liveness,
    changed_name,
    parameters,
    rebound,
    writes,
)
from rung.source.reading import Definition, in_scope
from rung.source.state import Refusal, Site

N = TypeVar("N", bound=ast.AST)
_SIGNS = {
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip


class Converter:
    """Transforms one definition: `node` is the new one, `sites` says what each body was."""

    def __init__(self, definition: Definition) -> None:
        self.definition = definition
        self.names = FreshNames(definition.node)
        self.flow = self.names.fresh("flow")
        self.sites: dict[str, Site] = {}
        self.made: set[str] = set()
        self.node = self.function(definition.node)

    def function(self, node: ast.FunctionDef) -> ast.FunctionDef:
        """A function and those within it."""
        _refuse_outer_names(self.definition, node)
        lowered = lower_jumps(self.definition, node, self.names)
        self.made |= lowered.made
        scope = _Scope(self, node, lowered.body)
        body = scope.block(lowered.body, set(parameters(node)))
        first = [self._undefined(node, name) for name in scope.unset]
        place = 1 if ast.get_docstring(node) is not None else 0
        made = copy.copy(node)
        made.body = [*body[:place], *first, *body[place:]]
        return made

    def _undefined(self, at: ast.FunctionDef, name: str) -> ast.stmt:
        value = self.call(at, "undefined", [ast.Constant(name)])
        return located(at, ast.Assign([ast.Name(name, ast.Store())], value))

    def call(self, at: ast.AST, what: str, args: list[ast.expr]) -> ast.expr:
        """`flow.what(*args)`"""
        function = ast.Attribute(ast.Name(self.flow, ast.Load()), what, ast.Load())
        return located(at, ast.Call(function, args, []))

    def is_plain_function(self, name: str) -> bool:
        """Whether a name that is not local means a Python function of the same module."""
        try:
            found = self.definition.resolve(name)
        except KeyError:
            return False
        ours = self.definition.function.__globals__
        return isinstance(found, FunctionType) and found.__globals__ is ours


class _Scope:
    """The statements of one function."""

    def __init__(self, converter: Converter, node: ast.FunctionDef, body: list[ast.stmt]) -> None:
        self.converter = converter
        self.live = Liveness(body)
        self.locals = {*parameters(node), *writes(body, changes=False)} - _declared(body)
        self.expressions = _Expressions(converter, self.locals)
        self.unset: list[str] = []

    def block(self, body: Sequence[ast.stmt], bound: set[str]) -> list[ast.stmt]:
        """Statements; `bound` are the names that have a value, and is brought up to date."""
        made: list[ast.stmt] = []
        for s in body:
            if isinstance(s, ast.If):
                made += self._if(s, bound)
            elif isinstance(s, ast.While):
                made += self._while(s, bound)
            elif isinstance(s, ast.For):
                made += self._for(s, bound)
            elif isinstance(s, ast.FunctionDef):
                made.append(self.converter.function(s))
                bound.add(s.name)
            else:
                made += self._other(s, bound)
        return made

    # ---- statements

    def _if(self, s: ast.If, bound: set[str]) -> list[ast.stmt]:
        names = self._state(s, [*s.body, *s.orelse], bound)
        refusal = _refusal([*s.body, *s.orelse], self.locals)
        test = self.expressions.visit(copy.deepcopy(s.test))
        if refusal is not None:
            name = self._site("if", s, names, refusal)
            text: ast.expr = ast.Constant(name)
            first, second = set(bound), set(bound)
            then, orelse = self.block(s.body, first), self.block(s.orelse, second)
            bound |= first & second
            test = self.converter.call(s.test, "python", [test, text])
            return [located(s, ast.If(test, then, orelse))]
        then_name = self._site("then", s, names, None, _lost(s, names))
        else_name = self.converter.names.fresh(f"else_{s.lineno}")
        bodies = [
            self._body(s, name, names, part, set(bound))
            for name, part in ((then_name, s.body), (else_name, s.orelse))
        ]
        args: list[ast.expr] = [test, _load(then_name), _load(else_name), _tuple(names)]
        return [*bodies, self._result(s, names, self.converter.call(s, "branch", args), bound)]

    def _while(self, s: ast.While, bound: set[str]) -> list[ast.stmt]:
        names = self._state(s, s.body, bound)
        refusal = _refusal(s.body, self.locals)
        test = self.expressions.visit(copy.deepcopy(s.test))
        if refusal is not None:
            text: ast.expr = ast.Constant(self._site("while", s, names, refusal))
            test = self.converter.call(s.test, "python", [test, text])
            return [located(s, ast.While(test, self.block(s.body, set(bound)), []))]
        body_name = self._site("body", s, names, None)
        test_name = self.converter.names.fresh(f"test_{s.lineno}")
        asked: list[ast.stmt] = [located(s.test, ast.Return(test))]
        bodies: list[ast.stmt] = [
            new_function(s, test_name, names, asked),
            self._body(s, body_name, names, s.body, set(bound)),
        ]
        args: list[ast.expr] = [_load(test_name), _load(body_name), _tuple(names)]
        call = self.converter.call(s, "while_loop", args)
        return [*bodies, self._result(s, names, call, bound)]

    def _for(self, s: ast.For, bound: set[str]) -> list[ast.stmt]:
        stops: list[str] = getattr(s, "stops", [])
        target = writes([s.target])
        names = self._state(s, [s.target, *s.body], bound, unless=set(target), also=stops)
        refusal = _refusal(s.body, self.locals)
        if refusal is None and any(
            not isinstance(n, ast.Name | ast.Tuple | ast.List | ast.Starred | ast.expr_context)
            for n in ast.walk(s.target)
        ):
            refusal = Refusal("a loop variable that is no name", s.lineno, "give it a name")
        items = self.expressions.visit(copy.deepcopy(s.iter))
        if refusal is not None:
            return [self._python_for(s, items, names, refusal, bound)]
        body_name = self._site("body", s, names, None)
        simple = isinstance(s.target, ast.Name) and s.target.id not in names
        item = (
            s.target.id
            if simple and isinstance(s.target, ast.Name)
            else (self.converter.names.fresh("item"))
        )
        first: list[ast.stmt] = []
        if not simple:
            first = [located(s, ast.Assign([copy.deepcopy(s.target)], _load(item)))]
        inner = {*bound, *names, *target}
        body = new_function(s, body_name, [item, *names], [*first, *self.block(s.body, inner)])
        _return(s, body, names)
        args: list[ast.expr] = [items, _load(body_name), _tuple(names)]
        if stops:
            args.append(ast.Tuple([ast.Constant(x) for x in stops], ast.Load()))
        call = self.converter.call(s, "for_loop", args)
        return [body, self._result(s, names, call, bound)]

    def _python_for(
        self, s: ast.For, items: ast.expr, names: list[str], refusal: Refusal, bound: set[str]
    ) -> ast.stmt:
        site = ast.Constant(self._site("for", s, names, refusal))
        items = self.converter.call(s.iter, "python", [items, site])
        body = self.block(s.body, {*bound, *writes([s.target])})
        stops: list[str] = getattr(s, "stops", [])
        if stops:
            asked = [self.converter.call(s, "python", [_load(x), site]) for x in stops]
            any_of = asked[0] if len(asked) == 1 else ast.BoolOp(ast.Or(), asked)
            body.append(located(s, ast.If(any_of, [ast.Break()], [])))
        return located(s, ast.For(s.target, items, body, []))

    def _other(self, s: ast.stmt, bound: set[str]) -> list[ast.stmt]:
        if isinstance(s, ast.With | ast.Try | ast.Match):
            made = copy.copy(s)
            bound |= set(writes(s.items)) if isinstance(s, ast.With) else set()
            for inner, old in _parts_of(made, s):
                for part in ("body", "orelse", "finalbody"):
                    if getattr(old, part, None):
                        known = bound if isinstance(s, ast.With) else set(bound)
                        setattr(inner, part, self.block(getattr(old, part), known))
            return [made]
        if isinstance(s, ast.Assert):
            test = self.expressions.visit(copy.deepcopy(s.test))
            message = ast.Tuple([s.msg] if s.msg else [], ast.Load())
            args = [test, _thunk(s, message)]
            return [located(s, ast.Expr(self.converter.call(s, "check", args)))]
        bound |= set(writes([s]))
        made_other: ast.stmt = self.expressions.visit(copy.deepcopy(s))
        for target in _targets(made_other):
            if isinstance(target, ast.Attribute | ast.Subscript) and self._is_outer(target):
                text = [ast.Constant(ast.unparse(target)), ast.Constant(s.lineno)]
                target.value = self.converter.call(target, "place", [target.value, *text])
        return [made_other]

    def _is_outer(self, target: ast.expr) -> bool:
        return changed_name(target) not in self.locals

    # ---- parts of them

    def _state(
        self, s: ast.If | ast.While | ast.For, body: Sequence[ast.AST], bound: set[str],
        unless: set[str] | None = None, also: Sequence[str] = (),
    ) -> list[str]:  # fmt: skip
        """The variables that go through a statement, and into `unset` those without a value."""
        inner = self.live.inside[s] - (unless or set())
        wanted = self.live.after[s] | inner | set(also)
        names = [n for n in writes(body) if n in wanted and n in self.locals]
        for name in names:
            if name not in bound and name not in self.unset:
                self.unset.append(name)
        return names

    def _site(
        self, kind: str, s: ast.stmt, names: list[str], refusal: Refusal | None,
        lost: Refusal | None = None,
    ) -> str:  # fmt: skip
        name = self.converter.names.fresh(f"{kind}_{s.lineno}")
        file = self.converter.definition.file
        word = {ast.If: "if", ast.While: "while loop", ast.For: "for loop"}[type(s)]
        made = frozenset(self.converter.made)
        self.converter.sites[name] = Site(
            file, word, tuple(names), writes([s]), made, refusal, rebound([s]), lost
        )
        return name

    def _body(
        self, s: ast.stmt, name: str, names: list[str], part: Sequence[ast.stmt], bound: set[str]
    ) -> ast.FunctionDef:
        made = new_function(s, name, names, self.block(part, bound | set(names)))
        _return(s, made, names)
        return made

    def _result(self, s: ast.stmt, names: list[str], call: ast.expr, bound: set[str]) -> ast.stmt:
        bound |= set(names)
        if not names:
            return located(s, ast.Expr(call))
        target = ast.Tuple([ast.Name(n, ast.Store()) for n in names], ast.Store())
        return located(s, ast.Assign([target], call))


class _Expressions(ast.NodeTransformer):
    """`and`, `or`, `not`, chained comparisons, `if` expressions, `range`, and calls of functions
    of the same module."""

    def __init__(self, converter: Converter, local: set[str]) -> None:
        self.converter = converter
        self.local = local

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        self.generic_visit(node)
        if all(_is_bool(x) for x in node.values[:-1]):
            return node
        what = "both" if isinstance(node.op, ast.And) else "either"
        rest = [_thunk(x, x) for x in node.values[1:]]
        return self.converter.call(node, what, [node.values[0], *rest])

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        self.generic_visit(node)
        if not isinstance(node.op, ast.Not) or _is_bool(node.operand):
            return node
        return self.converter.call(node, "negation", [node.operand])

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        if len(node.ops) < 2 or any(type(op) not in _SIGNS for op in node.ops):
            return node
        args: list[ast.expr] = [node.left]
        for op, right in zip(node.ops, node.comparators, strict=True):
            args += [ast.Constant(_SIGNS[type(op)]), _thunk(right, right)]
        return self.converter.call(node, "compare", args)

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        self.generic_visit(node)
        if _is_bool(node.test):
            return node
        args = [node.test, _thunk(node.body, node.body), _thunk(node.orelse, node.orelse)]
        return self.converter.call(node, "choose", args)

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id not in self.local:
            name = node.func.id
            if name == "range" and self._is_builtin_range():
                return self.converter.call(node, "range", node.args)
            if self.converter.is_plain_function(name):
                node.func = self.converter.call(node.func, "converted", [node.func])
        return node

    def _is_builtin_range(self) -> bool:
        return self.converter.definition.resolve("range") is range

    def visit_NamedExpr(self, node: ast.NamedExpr) -> ast.expr:
        raise SourceError(
            f"{self.converter.definition.name}: := cannot be transformed",
            source=self.converter.definition.source(node),
            fix="assign the variable in a statement of its own",
        )


# ---- what stays Python


def _refusal(body: Sequence[ast.stmt], local: set[str]) -> Refusal | None:
    """The first statement that cannot become part of a graph."""
    nodes = [n for s in body for n in in_scope(s)]
    nodes.sort(key=lambda n: getattr(n, "lineno", 0))
    in_place = {id(n.target) for n in nodes if isinstance(n, ast.AugAssign)}
    in_place |= {id(t) for n in nodes if isinstance(n, ast.Assign) for t in n.targets
                 if isinstance(t, ast.Subscript)}  # fmt: skip
    for n in nodes:
        # whether it updates a tensor is seen when it is performed (`Flow.place`)
        checked = isinstance(n, ast.Attribute | ast.Subscript) and id(n) in in_place
        found = None if checked else _why_not(n, local)
        if found is not None:
            what, fix = found
            return Refusal(what, getattr(n, "lineno", 0), fix)
    return None


def _targets(s: ast.stmt) -> list[ast.expr]:
    """What a statement assigns to."""
    if isinstance(s, ast.Assign):
        return s.targets
    return [s.target] if isinstance(s, ast.AugAssign) else []


def _why_not(n: ast.AST, local: set[str]) -> tuple[str, str] | None:
    """What a statement does that a graph cannot, and the way out."""
    if isinstance(n, ast.Try):
        return "try", "put the try around the whole statement"
    if isinstance(n, ast.Raise):
        return "raise", "check before, outside of what depends on a tensor, or mark it by a value"
    if isinstance(n, ast.Match):
        return "match", "write it as ifs"
    if isinstance(n, ast.ClassDef):
        return "a class", "define it outside"
    if isinstance(n, ast.Delete):
        return "del", "leave it out"
    if isinstance(n, ast.Import | ast.ImportFrom):
        return "an import", "import at the top of the file"
    if isinstance(n, ast.Global | ast.Nonlocal):
        return f"{type(n).__name__.lower()} {', '.join(n.names)}", "return the value instead"
    if isinstance(n, ast.Attribute) and not isinstance(n.ctx, ast.Load):
        return f"an assignment to {ast.unparse(n)}", "compute a local variable, and assign it after"
    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store) and n.id not in local:
        return f"an assignment to {n.id}, which is not local", "return the value instead"
    if isinstance(n, ast.Subscript) and not isinstance(n.ctx, ast.Load):
        changed = changed_name(n)
        if changed is None or changed not in local:
            return f"an assignment to {ast.unparse(n)}", "update a local variable instead"
    changed = changed_name(n, GROWING - {"assign"}) if isinstance(n, ast.Call) else None
    if changed is not None and changed not in local:
        return f"a change of {changed}, which is not local", "change a local variable instead"
    return None


def _lost(s: ast.If, names: list[str]) -> Refusal | None:
    """A call for its effect alone, where nothing that the `if` sets is read."""
    calls = [n for n in (*s.body, *s.orelse) if isinstance(n, ast.Expr)
             and isinstance(n.value, ast.Call)]  # fmt: skip
    if names or not calls:
        return None
    what = f"a call for its effect ({ast.unparse(calls[0].value):.40})"
    return Refusal(what, calls[0].lineno, "return what it shows, and call it with the result")


def _refuse_outer_names(definition: Definition, node: ast.FunctionDef) -> None:
    for n in ast.walk(node):
        if isinstance(n, ast.Nonlocal):
            raise SourceError(
                f"{definition.name}: nonlocal {', '.join(n.names)} cannot be transformed",
                source=definition.source(n),
                fix="return the value instead",
            )


def _declared(body: Sequence[ast.stmt]) -> set[str]:
    return {x for s in body for n in in_scope(s) if isinstance(n, ast.Global) for x in n.names}


def _is_bool(node: ast.expr) -> bool:
    """Whether an expression is surely Python's: its truth is known while a graph is built."""
    if isinstance(node, ast.Compare):
        return all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("isinstance", "hasattr", "callable", "issubclass")
    return isinstance(node, ast.Constant)


# ---- new nodes


def located(place: ast.AST, node: N) -> N:
    """A new node, on the line of an old one: on its first, since Python counts a call of a method
    to the last line of what stands before the parenthesis."""
    made: ast.AST = ast.copy_location(node, place)
    if isinstance(made, ast.expr | ast.stmt):
        made.end_lineno, made.end_col_offset = made.lineno, made.col_offset
    return ast.fix_missing_locations(node)


def _load(name: str) -> ast.expr:
    return ast.Name(name, ast.Load())


def _tuple(names: Sequence[str]) -> ast.expr:
    return ast.Tuple([_load(n) for n in names], ast.Load())


def _thunk(at: ast.AST, value: ast.expr) -> ast.expr:
    return located(at, ast.Lambda(_arguments([]), value))


def _arguments(names: Sequence[str]) -> ast.arguments:
    return ast.arguments([], [ast.arg(n) for n in names], None, [], [], None, [])


def new_function(
    at: ast.AST, name: str, names: Sequence[str], body: list[ast.stmt]
) -> ast.FunctionDef:
    """`def name(*names): body`"""
    made = ast.FunctionDef(name, _arguments(names), body, [], None, None)
    made.type_params = []  # type: ignore[attr-defined]  # a field from Python 3.12 on
    return located(at, made)


def _return(at: ast.AST, function: ast.FunctionDef, names: Sequence[str]) -> None:
    function.body = [n for n in function.body if not isinstance(n, ast.Pass)]
    function.body.append(located(at, ast.Return(_tuple(names))))


def _parts_of(made: ast.stmt, old: ast.stmt) -> list[tuple[ast.AST, ast.AST]]:
    """A statement and the parts of it that have bodies, each with its copy."""
    found: list[tuple[ast.AST, ast.AST]] = [(made, old)]
    for field in ("handlers", "cases"):
        if hasattr(old, field):
            copies = [copy.copy(x) for x in getattr(old, field)]
            setattr(made, field, copies)
            found += zip(copies, getattr(old, field), strict=True)
    return found
