"""A function as steps of one operation each, for the reverse sweep.

    h = rung.tanh(x @ w + b)       →      v0 = x @ w
                                          v1 = v0 + b
                                          h = rung.tanh(v1)

Only what depends on the arguments to differentiate by (what is *active*) is taken apart. Functions
of the user are put in the place of their calls.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, NoReturn

from rung.autodiff import formulas
from rung.autodiff.activity import Activity
from rung.autodiff.formulas import Formula
from rung.core.errors import GradientError
from rung.core.source import Source
from rung.source.jumps import lower_jumps
from rung.source.names import NONE, FreshNames, Liveness, Names, parameters, reads, writes
from rung.source.reading import Definition, definition


@dataclass(frozen=True, eq=False)
class Term:
    """What an operation adds to the cotangent of an operand: a formula, and what its names stand
    for. `index`: the operand was read at an index, and gets it there."""

    operand: str
    template: ast.expr
    names: dict[str, ast.expr]
    wide: bool = False
    index: ast.expr | None = None


@dataclass(eq=False)
class Block:
    """Nodes that are performed one after the other."""

    nodes: list[Node] = field(default_factory=list)


@dataclass(eq=False)
class Step:
    """`target = value`, one operation."""

    target: str
    value: ast.expr
    terms: list[Term]
    uses_result: bool = False


@dataclass(eq=False)
class Plain:
    """A statement through which no derivative passes."""

    statement: ast.stmt


@dataclass(eq=False)
class Branch:
    """`flag = bool(test)`, and the branch that it says."""

    flag: str
    test: ast.expr
    then: Block
    otherwise: Block


@dataclass(eq=False)
class Loop:
    """A `for` (with a target and what it goes through) or a `while` (with a test). `trips` is the
    number of iterations where only the run knows it; a `for` ends early by one of `stops`."""

    body: Block
    target: ast.expr | None = None
    items: ast.expr | None = None
    test: ast.expr | None = None
    trips: str = ""
    stops: tuple[str, ...] = ()


Node = Step | Plain | Branch | Loop


@dataclass(eq=False)
class Steps:
    """A function in steps; `outside` says what the names mean that it reads from around it."""

    block: Block
    result: ast.expr
    active: set[str]
    names: FreshNames
    outside: dict[str, Any]
    temporaries: set[str]


def steps_of(found: Definition, wanted: Sequence[str]) -> Steps:
    """The steps of a function, differentiated by the parameters `wanted`. Raises GradientError for
    what has no formula."""
    return _Flattening(found).function(wanted)


class _Flattening:
    def __init__(self, found: Definition) -> None:
        self.found = found
        self.names = FreshNames(found.node)
        self.local = set(parameters(found.node)) | set(writes(found.node.body, changes=False))
        self.outside: dict[str, Any] = {}
        self.activity = Activity(self._resolve)
        self.blocks = [Block()]
        self.inside = [found.function]
        self.temporaries: set[str] = set()
        self.live_after: dict[ast.stmt, Names] = {}

    def function(self, wanted: Sequence[str]) -> Steps:
        lowered = lower_jumps(self.found, self.found.node, self.names)
        self.local |= lowered.made
        self._know(self.found, self.found.node)
        self.activity.active |= set(wanted)
        result = self._body(lowered.body)
        if result is None:
            self._refuse(self.found.node, f"{self.found.name} returns nothing", "return a number")
        atom = self._atom(result)
        return Steps(
            self.blocks[0], atom, self.activity.active, self.names, self.outside, self.temporaries
        )

    def _body(self, body: list[ast.stmt]) -> ast.expr | None:
        """Statements, of which the last may be a return: what it returns."""
        self.activity.spread(body)
        self.live_after |= Liveness(body).after
        last = body[-1]
        for s in body[:-1] if isinstance(last, ast.Return) else body:
            self._statement(s)
        return last.value if isinstance(last, ast.Return) else None

    # ---- names

    def _know(self, found: Definition, node: ast.FunctionDef) -> dict[str, str]:
        """Note what the outer names of a function mean; those that must be renamed."""
        renamed: dict[str, str] = {}
        local = set(parameters(node)) | set(writes(node.body, changes=False))
        defaults = [d for d in (*node.args.defaults, *node.args.kw_defaults) if d is not None]
        for name in sorted(reads(*node.body, *defaults) - local):
            try:
                value = found.resolve(name)
            except KeyError:
                continue
            new = name
            hidden = len(self.inside) > 1 and name in self.local
            if hidden or self.outside.get(name, value) is not value:
                new = renamed[name] = self.names.fresh(f"{found.name}_{name}")
            self.names.used.add(new)
            self.outside[new] = value
        return renamed

    def _resolve(self, node: ast.expr) -> Any:
        """The object that `name` or `name.attribute` means outside of the function, or None."""
        if isinstance(node, ast.Name):
            return None if node.id in self.local else self.outside.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self._resolve(node.value)
            return None if owner is None else getattr(owner, node.attr, None)
        return None

    def _temporary(self) -> str:
        number = 0
        while f"v{number}" in self.names.used:
            number += 1
        self.temporaries.add(f"v{number}")
        return self._new(f"v{number}")

    def _new(self, base: str) -> str:
        name = self.names.fresh(base)
        self.local.add(name)
        return name

    def _refuse(self, node: ast.AST, what: str, fix: str) -> NoReturn:
        file = getattr(node, "file", self.found.file)
        raise GradientError(
            f"grad_source: {what}", source=Source(file, getattr(node, "lineno", 0)), fix=fix
        )

    def _is_active(self, node: ast.expr | None) -> bool:
        return node is not None and self.activity.is_active(node)

    def _emit(self, node: Node) -> None:
        self.blocks[-1].nodes.append(node)

    # ---- statements

    def _statement(self, s: ast.stmt) -> None:
        if isinstance(s, ast.Assign):
            for target in s.targets:
                self._assign(target, s.value, s)
        elif isinstance(s, ast.AnnAssign) and s.value is not None:
            self._assign(s.target, s.value, s)
        elif isinstance(s, ast.AugAssign):
            old = copy.deepcopy(s.target)
            for n in ast.walk(old):
                if hasattr(n, "ctx"):
                    n.ctx = ast.Load()
            value = _placed(s, ast.BinOp(_as_expr(old), s.op, s.value))
            self._assign(s.target, value, s)
        elif isinstance(s, ast.If):
            flag = self._new("branch")
            then, otherwise = self._block(s.body), self._block(s.orelse)
            self._emit(Branch(flag, s.test, then, otherwise))
        elif isinstance(s, ast.While):
            trips = self._new("trips")
            self._emit(Loop(self._block(s.body), test=s.test, trips=trips))
        elif isinstance(s, ast.For):
            self._for(s)
        elif isinstance(s, ast.Expr) and isinstance(s.value, ast.Call):
            self._call_statement(s, s.value)
        elif not isinstance(s, ast.Pass | ast.Expr):
            self._plain(s)

    def _plain(self, s: ast.stmt) -> None:
        changed = sorted(set(writes([s])) & self.activity.active)
        function = isinstance(s, ast.FunctionDef | ast.ClassDef)
        inner = sorted(reads(s) & self.activity.active) if function else []
        if changed or inner:
            kind = type(s).__name__.lower().removesuffix("def")
            self._refuse(
                s, f"{kind} with {(changed or inner)[0]}, on which the derivative depends",
                "define the function outside and pass what it needs" if function else
                f"keep what is differentiated out of the {kind}",
            )  # fmt: skip
        self._emit(Plain(s))

    def _block(self, body: list[ast.stmt]) -> Block:
        self.blocks.append(Block())
        for s in body:
            self._statement(s)
        return self.blocks.pop()

    def _call_statement(self, s: ast.Expr, call: ast.Call) -> None:
        method = call.func
        appends = isinstance(method, ast.Attribute) and method.attr == "append"
        held = method.value if appends and isinstance(method, ast.Attribute) else None
        if isinstance(held, ast.Name) and held.id in self.local and len(call.args) == 1:
            kept = _placed(s, ast.Starred(held, ast.Load()))
            grown = _placed(s, ast.List([kept, call.args[0]], ast.Load()))
            self._assign(ast.Name(held.id, ast.Store()), grown, s)
        else:
            self._plain(s)

    def _assign(self, target: ast.expr, value: ast.expr, s: ast.stmt) -> None:
        if isinstance(target, ast.Name):
            self._set(target.id, value, s)
        elif isinstance(target, ast.Tuple | ast.List):
            self._unpack(target, value, s)
        elif isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            name = _placed(s, ast.Name(target.value.id, ast.Load()))
            args: list[ast.expr] = [name, _index(target.slice), value]
            call = _placed(s, ast.Call(ast.Name("set_at", ast.Load()), args, []))
            self._set(target.value.id, call, s)
        elif self._is_active(value):
            self._refuse(
                s, f"an assignment to {ast.unparse(target)}", "assign to a variable, and return it"
            )
        else:
            self._emit(Plain(_placed(s, ast.Assign([target], value))))

    def _set(self, name: str, value: ast.expr, s: ast.stmt) -> None:
        if self._is_active(value):
            self._operation(value, name)
        elif name in self.activity.active:
            self._emit(Step(name, value, []))
        else:
            self._emit(Plain(_placed(s, ast.Assign([ast.Name(name, ast.Store())], value))))

    def _unpack(self, target: ast.Tuple | ast.List, value: ast.expr, s: ast.stmt) -> None:
        starred = any(isinstance(t, ast.Starred) for t in target.elts)
        if not self._is_active(value) and not set(writes([target])) & self.activity.active:
            self._emit(Plain(_placed(s, ast.Assign([target], value))))
            return
        if starred:
            self._refuse(s, "* in an assignment", "name each variable")
        pair = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
        if pair and isinstance(value, ast.Tuple | ast.List):
            taken = set(writes([target]))
            atoms = [self._kept(e, taken) for e in value.elts]
            for t, atom in zip(target.elts, atoms, strict=True):
                self._assign(t, atom, s)
            return
        whole = self._atom(value) if self._is_active(value) else value
        for i, t in enumerate(target.elts):
            part = ast.Subscript(copy.deepcopy(whole), ast.Constant(i), ast.Load())
            self._assign(t, _placed(s, part), s)

    def _kept(self, value: ast.expr, taken: set[str]) -> ast.expr:
        """A value that stays when the variables `taken` change."""
        if isinstance(value, ast.Constant):
            return value
        if not self._is_active(value):
            name = self._temporary()
            self._emit(Plain(_placed(value, ast.Assign([ast.Name(name, ast.Store())], value))))
            return ast.Name(name, ast.Load())
        if isinstance(value, ast.Name) and value.id not in taken:
            return value
        return self._computed(value)

    def _for(self, s: ast.For) -> None:
        after = self.live_after.get(s, NONE)
        if self._is_active(s.iter):
            s = self._by_index(s)
        items, target = s.iter, s.target
        inside = set(writes(s.body))
        targets = set(writes([target]))
        body_first: list[ast.stmt] = []
        if targets & (inside | after) or not isinstance(target, ast.Name | ast.Tuple):
            item = self._new("item")
            body_first = [_placed(s, ast.Assign([target], ast.Name(item, ast.Load())))]
            target = ast.Name(item, ast.Store())
        simple = isinstance(items, ast.Name) or (
            isinstance(items, ast.Call) and self._resolve(items.func) is range
        )
        if not simple or reads(items) & (inside | targets):
            name = self._new("items")
            listed = ast.Call(ast.Name("list", ast.Load()), [items], [])
            self._emit(Plain(_placed(s, ast.Assign([ast.Name(name, ast.Store())], listed))))
            items = ast.Name(name, ast.Load())
        stops = tuple(getattr(s, "stops", ()))
        trips = self._new("trips") if stops else ""
        body = self._block([*body_first, *s.body])
        self._emit(Loop(body, target=target, items=items, trips=trips, stops=stops))

    def _by_index(self, s: ast.For) -> ast.For:
        """`for row in rows` as `for i in range(len(rows)): row = rows[i]`, also with zip and
        enumerate."""
        index = self._new("i")
        first: list[ast.stmt] = []
        parts: list[tuple[ast.expr, ast.expr]] = [(s.target, s.iter)]
        call = s.iter if isinstance(s.iter, ast.Call) else None
        what = None if call is None else self._resolve(call.func)
        if call is not None and what is enumerate and len(call.args) == 1:
            if isinstance(s.target, ast.Tuple) and len(s.target.elts) == 2:
                number: ast.expr = _placed(s, ast.Name(index, ast.Load()))
                first = [_placed(s, ast.Assign([s.target.elts[0]], number))]
                parts = [(s.target.elts[1], call.args[0])]
        elif call is not None and what is zip and isinstance(s.target, ast.Tuple):
            parts = list(zip(s.target.elts, call.args, strict=False))
        rows = [self._row_names(items) for _, items in parts]
        for (target, _), name in zip(parts, rows, strict=True):
            row = ast.Subscript(name, ast.Name(index, ast.Load()), ast.Load())
            first.append(_placed(s, ast.Assign([target], row)))
        count = ast.Call(ast.Name("len", ast.Load()), [rows[0]], [])
        steps = ast.Call(ast.Name("range", ast.Load()), [count], [])
        self.outside["range"] = range
        made = ast.For(ast.Name(index, ast.Store()), steps, [*first, *s.body], [])
        made.stops = getattr(s, "stops", ())  # type: ignore[attr-defined]
        return _placed(s, made)  # type: ignore[no-any-return]

    def _row_names(self, items: ast.expr) -> ast.expr:
        if isinstance(items, ast.Name):
            return items
        if self._is_active(items):
            return self._computed(items)
        return self._kept(items, set())

    # ---- expressions

    def _atom(self, node: ast.expr) -> ast.expr:
        """A name, or an expression without derivative that can be written again."""
        if not self._is_active(node):
            calls = any(isinstance(n, ast.Call) for n in ast.walk(node))
            return self._kept(node, set()) if calls else node
        return node if isinstance(node, ast.Name) else self._computed(node)

    def _computed(self, node: ast.expr) -> ast.Name:
        name = self._temporary()
        self._operation(node, name)
        return ast.copy_location(ast.Name(name, ast.Load()), node)

    def _operation(self, node: ast.expr, target: str) -> None:
        """`target = node`, where node is active."""
        self.activity.active.add(target)
        if isinstance(node, ast.Name):
            term = Term(node.id, ast.Name("d", ast.Load()), {})
            self._emit(Step(target, node, [term]))
        elif isinstance(node, ast.BinOp):
            self._binary(node, target)
        elif isinstance(node, ast.UnaryOp) and type(node.op) in formulas.OPERATORS:
            operand = self._atom(node.operand)
            known = formulas.FORMULAS[formulas.OPERATORS[type(node.op)]]
            self._step(target, _placed(node, ast.UnaryOp(node.op, operand)), known, [operand], node)
        elif isinstance(node, ast.Attribute) and node.attr in formulas.ATTRIBUTES:
            operand = self._atom(node.value)
            value = _placed(node, ast.Attribute(operand, node.attr, ast.Load()))
            self._step(target, value, formulas.ATTRIBUTES[node.attr], [operand], node)
        elif isinstance(node, ast.Subscript):
            self._item(node, target)
        elif isinstance(node, ast.Tuple | ast.List | ast.Dict):
            self._collection(node, target)
        elif isinstance(node, ast.IfExp):
            flag = self._new("branch")
            branches = []
            for part in (node.body, node.orelse):
                assign = _placed(node, ast.Assign([ast.Name(target, ast.Store())], part))
                branches.append(self._block([assign]))
            self._emit(Branch(flag, node.test, branches[0], branches[1]))
        elif isinstance(node, ast.Call):
            self._call(node, target)
        else:
            self._refuse(
                node, f"{ast.unparse(node):.40} has no formula",
                "write it as assignments, loops and ifs of operations that have one",
            )  # fmt: skip

    def _binary(self, node: ast.BinOp, target: str) -> None:
        name = formulas.OPERATORS.get(type(node.op))
        if name is None:
            self._refuse(node, f"{ast.unparse(node):.40} has no formula", "compute with floats")
        known = formulas.FORMULAS[name]
        if isinstance(node.op, ast.Pow) and isinstance(node.right, ast.Constant):
            known = _power(node.right.value)
        operands = [self._atom(node.left), self._atom(node.right)]
        value = _placed(node, ast.BinOp(operands[0], node.op, operands[1]))
        self._step(target, value, known, operands, node)

    def _item(self, node: ast.Subscript, target: str) -> None:
        if self._is_active(node.slice):
            self._refuse(node, "an index that is differentiated", "cast the index to an integer")
        whole = self._atom(node.value)
        assert isinstance(whole, ast.Name)
        index = _index(node.slice)
        if any(isinstance(n, ast.Call) for n in ast.walk(index)):
            index = self._kept(index, set())
        value = _placed(node, ast.Subscript(whole, index, ast.Load()))
        term = Term(whole.id, ast.Name("d", ast.Load()), {}, index=index)
        self._emit(Step(target, value, [term]))

    def _collection(self, node: ast.Tuple | ast.List | ast.Dict, target: str) -> None:
        terms: list[Term] = []
        if isinstance(node, ast.Dict):
            keys = node.keys
            values = [self._atom(v) for v in node.values]
            value: ast.expr = ast.Dict(keys, values)
            places = [None if k is None else ast.unparse(k) for k in keys]
        else:
            starred = isinstance(node.elts[0], ast.Starred) and len(node.elts) == 2
            if starred and isinstance(node.elts[0], ast.Starred):
                values = [self._atom(node.elts[0].value), self._atom(node.elts[1])]
                value = ast.List([ast.Starred(values[0], ast.Load()), values[1]], ast.Load())
                places = [":-1", "-1"]
            else:
                values = [self._atom(e) for e in node.elts]
                value = type(node)(values, ast.Load())
                places = [str(i) for i in range(len(values))]
        for v, place in zip(values, places, strict=True):
            if place is None:
                self._refuse(node, "** in a dict", "write out the keys")
            if isinstance(v, ast.Name) and v.id in self.activity.active:
                template = ast.parse(f"d[{place}]", mode="eval").body
                terms.append(Term(v.id, template, {}))
        self._emit(Step(target, _placed(node, value), terms))

    # ---- calls

    def _call(self, node: ast.Call, target: str) -> None:
        if any(isinstance(a, ast.Starred) for a in node.args):
            self._refuse(node, "* in a call", "write out the arguments")
        called = self._resolve(node.func)
        text = ast.unparse(node.func)
        if text == "set_at" and called is None:
            known: tuple[str, Formula] | None = ("set_at", formulas.FORMULAS["set_at"])
        else:
            known = None if called is None else formulas.formula_of(called)
        given = list(node.args)
        if called is None and known is None and isinstance(node.func, ast.Attribute):
            method = formulas.formula_of_method(node.func.attr)
            known = None if method is None else (node.func.attr, method)
            given.insert(0, node.func.value)
        if known is not None:
            self._known_call(node, target, *known, given)
        elif isinstance(called, FunctionType) and not called.__module__.startswith("rung."):
            self._inline(node, target, called)
        else:
            self._refuse(
                node, f"{text} has no formula",
                "write it with functions that have one (see rung/autodiff/formulas.py), or use "
                "rung.grad",
            )  # fmt: skip

    def _known_call(
        self, node: ast.Call, target: str, name: str, known: Formula, given: list[ast.expr]
    ) -> None:
        method = len(given) > len(node.args)
        atoms = [self._atom(a) for a in given]
        if name in ("permute", "permute_dims") and method and len(atoms) > 2:
            atoms[1:] = [ast.Tuple(atoms[1:], ast.Load())]
        words = {k.arg: self._atom(k.value) for k in node.keywords if k.arg is not None}
        rest = atoms[1:] if method else atoms
        function = node.func
        if method and isinstance(node.func, ast.Attribute):
            function = ast.Attribute(atoms[0], node.func.attr, ast.Load())
        keywords = [ast.keyword(k, v) for k, v in words.items()]
        value = _placed(node, ast.Call(function, rest, keywords))
        self._step(target, value, known, atoms, node, words, name)

    def _step(
        self, target: str, value: ast.expr, known: Formula, given: list[ast.expr], node: ast.expr,
        words: dict[str, ast.expr] | None = None, name: str = "",
    ) -> None:  # fmt: skip
        """The step of an operation with a formula."""
        bound = self._bound(known, given, words or {}, node, name)
        terms: list[Term] = []
        operands = {k: v for k, v in bound.items() if k in known.adjoints}
        for param, operand in bound.items():
            if not (isinstance(operand, ast.Name) and operand.id in self.activity.active):
                continue
            if param not in known.adjoints:
                self._refuse(node, f"{name} has no formula for {param}", f"keep {param} constant")
            others = [v for k, v in operands.items() if k != param]
            wide = known.wide and not all(_is_number(v) or _same(v, operand) for v in others)
            terms.append(Term(operand.id, known.adjoints[param], bound, wide))
        uses = any("y" in reads(t.template) for t in terms)
        if uses and any(t.operand == target for t in terms):
            made = self._temporary()
            self.activity.active.add(made)
            self._emit(Step(made, value, terms, uses))
            value = _placed(node, ast.Name(made, ast.Load()))
            terms, uses = [Term(made, ast.Name("d", ast.Load()), {})], False
        self._emit(Step(target, value, terms, uses))

    def _bound(
        self, known: Formula, given: list[ast.expr], words: dict[str, ast.expr], node: ast.expr,
        name: str,
    ) -> dict[str, ast.expr]:  # fmt: skip
        """What each parameter of a formula stands for."""
        free = name in formulas.FREE
        names = list(known.params)
        found: dict[str, ast.expr] = dict(zip(names, given, strict=False))
        if len(given) > len(names) and not free:
            self._refuse(node, f"{name} with {len(given)} arguments has no formula", "give fewer")
        for word, value in words.items():
            param = {"dim": "axis", "keepdim": "keepdims"}.get(word, word)
            if param in names:
                found[param] = value
            elif not free:
                self._refuse(node, f"{name} with {word} has no formula", f"leave {word} out")
        for param, default in known.params.items():
            if param not in found:
                if default is None:
                    self._refuse(node, f"{name} without {param}", f"give {param}")
                found[param] = ast.parse(default, mode="eval").body
        return found

    def _inline(self, node: ast.Call, target: str, called: FunctionType) -> None:
        """The statements of a function in the place of its call."""
        if called in self.inside:
            self._refuse(node, f"{called.__name__} calls itself", "write it as a loop")
        found = definition(called, "grad_source")
        inner = found.node
        if inner.args.vararg or inner.args.kwarg or any(k.arg is None for k in node.keywords):
            self._refuse(node, f"{found.name} takes * or **", "name the parameters")
        self.inside.append(called)
        given = self._arguments(node, found)
        changed = writes(inner.body)
        same = {p: v.id for p, v in given if isinstance(v, ast.Name) and p not in changed}
        local = (*parameters(inner), *writes(inner.body, changes=False))
        new = {n: same[n] if n in same else self._new(n) for n in local}
        new.update(self._know(found, inner))
        _rename(inner, new, found.file)
        for param, value in [g for g in given if g[0] not in same]:
            self._set(new[param], value, _placed(node, ast.Pass()))
        lowered = lower_jumps(found, inner, self.names)
        self.local |= lowered.made
        result = self._body(lowered.body)
        self.inside.pop()
        if result is None:
            self._refuse(node, f"{found.name} returns nothing", "return what it computes")
        self._set(target, result, _placed(node, ast.Pass()))

    def _arguments(self, node: ast.Call, found: Definition) -> list[tuple[str, ast.expr]]:
        args = found.node.args
        names = [a.arg for a in (*args.posonlyargs, *args.args)]
        given: dict[str, ast.expr] = dict(zip(names, node.args, strict=False))
        given |= {k.arg: k.value for k in node.keywords if k.arg is not None}
        first = len(names) - len(args.defaults)
        defaults = dict(zip(names[first:], args.defaults, strict=True))
        pairs = zip(args.kwonlyargs, args.kw_defaults, strict=True)
        defaults |= {a.arg: d for a, d in pairs if d is not None}
        missing = [n for n in names if n not in given and n not in defaults]
        if missing:
            self._refuse(node, f"{found.name} without {missing[0]}", f"give {missing[0]}")
        order = [*names, *(a.arg for a in args.kwonlyargs)]
        return [(n, given[n] if n in given else defaults[n]) for n in order]


# ---- parts


def _placed(place: ast.AST, node: Any) -> Any:
    made = ast.fix_missing_locations(ast.copy_location(node, place))
    if hasattr(place, "file"):
        made.file = place.file
    return made


def _as_expr(node: ast.AST) -> ast.expr:
    assert isinstance(node, ast.expr)
    return node


def _index(node: ast.expr) -> ast.expr:
    """An index as an expression of its own: `1:3` as slice(1, 3)."""
    if isinstance(node, ast.Slice):
        parts = [p if p is not None else ast.Constant(None)
                 for p in (node.lower, node.upper, node.step)]  # fmt: skip
        parts = parts[:2] if node.step is None else parts
        return _placed(node, ast.Call(ast.Name("slice", ast.Load()), parts, []))  # type: ignore[no-any-return]
    if isinstance(node, ast.Tuple):
        return ast.Tuple([_index(e) for e in node.elts], ast.Load())
    return node


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.UnaryOp):
        return _is_number(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, int | float)


def _same(a: ast.expr, b: ast.Name) -> bool:
    return isinstance(a, ast.Name) and a.id == b.id


def _power(n: Any) -> Formula:
    """The formula of x ** n for a number n."""
    adjoint = {1: "d", 2: "d * 2 * a"}.get(n, f"d * {n} * a ** {n - 1}")
    return formulas.formula("a, b", a=adjoint)


def _rename(node: ast.FunctionDef, new: dict[str, str], file: str) -> None:
    for n in ast.walk(node):
        n.file = file  # type: ignore[attr-defined]
        if isinstance(n, ast.Name):
            n.id = new.get(n.id, n.id)
        elif isinstance(n, ast.arg):
            n.arg = new.get(n.arg, n.arg)
