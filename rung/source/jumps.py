"""`return`, `break` and `continue` as flags, so that only `if`s and loops are left.

    for x in xs:                      did_break = False
        if x > 3:                     for x in xs:              (stops: did_break)
            break              →          if x > 3:
        total += x                            did_break = True
                                          else:
                                              total += x

What follows an `if` of which one side always jumps goes to its other side; else it is guarded by
the flags. A function has one `return` afterwards, its last statement. A `for` says in `stops` which
flags end it, a `while` asks for them in its condition, and no loop has an `else`.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from rung.core.errors import SourceError
from rung.source.names import FreshNames
from rung.source.reading import Definition

N = TypeVar("N", bound=ast.AST)
_INNER = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass
class _Loop:
    """The flags of the loop around a statement."""

    did_break: str = ""
    did_continue: str = ""


@dataclass
class Lowered:
    """The body of a function without jumps; `made` are the names that this added: a flag is always
    set before it is read, and `result` only read where it was set."""

    body: list[ast.stmt]
    made: set[str] = field(default_factory=set)


def lower_jumps(definition: Definition, node: ast.FunctionDef, names: FreshNames) -> Lowered:
    """The body of `node` without jumps. Raises SourceError where one leaves a `try` or `match`."""
    return _Lowering(definition, names).function(node)


def jumps_of(body: Sequence[ast.stmt]) -> set[str]:
    """Which of return, break and continue leave these statements."""
    found: set[str] = set()
    for s in body:
        if isinstance(s, ast.Return | ast.Break | ast.Continue):
            found.add(type(s).__name__.lower())
        elif isinstance(s, ast.While | ast.For | ast.AsyncFor):
            found |= (jumps_of(s.body) & {"return"}) | jumps_of(s.orelse)
        elif not isinstance(s, _INNER):
            for inner in ast.iter_child_nodes(s):
                if isinstance(inner, ast.stmt):
                    found |= jumps_of([inner])
                elif isinstance(inner, ast.ExceptHandler | ast.match_case):
                    found |= jumps_of(inner.body)
    return found


def always_jumps(body: Sequence[ast.stmt]) -> bool:
    """Whether what follows these statements is never reached."""
    if not body:
        return False
    last = body[-1]
    if isinstance(last, ast.If):
        return always_jumps(last.body) and always_jumps(last.orelse)
    if isinstance(last, ast.With):
        return always_jumps(last.body)
    if isinstance(last, ast.While):
        return _is_endless(last) and "break" not in jumps_of(last.body)
    return isinstance(last, ast.Return | ast.Break | ast.Continue | ast.Raise)


def _reached(body: list[ast.stmt]) -> list[ast.stmt]:
    """The statements without those behind a jump."""
    for number, s in enumerate(body):
        if not isinstance(s, _INNER):
            for inner in [s, *getattr(s, "handlers", []), *getattr(s, "cases", [])]:
                for part in ("body", "orelse", "finalbody"):
                    if getattr(inner, part, None):
                        setattr(inner, part, _reached(getattr(inner, part)))
        if always_jumps([s]):
            return body[: number + 1]
    return list(body)


def _is_endless(s: ast.While) -> bool:
    return isinstance(s.test, ast.Constant) and bool(s.test.value)


class _Lowering:
    def __init__(self, definition: Definition, names: FreshNames) -> None:
        self.definition = definition
        self.names = names
        self.flags: set[str] = set()
        self.asked: set[str] = set()
        self.result = ""
        self.did_return = ""

    def function(self, node: ast.FunctionDef) -> Lowered:
        body = _reached(node.body)
        if "return" not in jumps_of(body):
            return Lowered(self._used(self.block(body, _Loop())), self.flags & self.asked)
        last = body[-1]
        if isinstance(last, ast.Return) and "return" not in jumps_of(body[:-1]):
            made = self.block(body[:-1], _Loop())
            return Lowered([*self._used(made), last], self.flags & self.asked)
        if not always_jumps(body):
            body.append(_at(last, ast.Return(ast.Constant(None))))
        self.result, self.did_return = self.names.fresh("result"), self._flag("did_return")
        doc = body[:1] if ast.get_docstring(node) is not None else []
        rest = body[len(doc) :]
        first = _set(rest[0], self.did_return, False)
        made = self._used([*doc, first, *self.block(rest, _Loop())])
        made.append(_at(last, ast.Return(_name(last, self.result))))
        return Lowered(made, (self.flags & self.asked) | {self.result})

    def block(self, body: Sequence[ast.stmt], loop: _Loop) -> list[ast.stmt]:
        """Statements without jumps; what stands behind one that may jump is put where it runs."""
        made: list[ast.stmt] = []
        for number, s in enumerate(body):
            rest = body[number + 1 :]
            if isinstance(s, ast.Return | ast.Break | ast.Continue):
                return [*made, *self._jump(s, loop)]
            kinds = jumps_of([s])
            if isinstance(s, ast.If) and kinds:
                ends, other = always_jumps(s.body), always_jumps(s.orelse)
                then = s.body if ends or not other else [*s.body, *rest]
                orelse = [*s.orelse, *rest] if ends and not other else s.orelse
                made.append(self._if(s, then, orelse, loop))
                if ends or other:
                    return made
            else:
                made += self._statement(s, kinds, loop)
            if kinds and rest:
                flags = self._flags(kinds, loop)
                guarded = self.block(rest, loop)
                return [*made, _at(rest[0], ast.If(self._none_of(s, flags), guarded, []))]
        return made

    def _if(self, s: ast.If, then: list[ast.stmt], orelse: list[ast.stmt], loop: _Loop) -> ast.If:
        body = self.block(then, loop) or [_at(s, ast.Pass())]
        return _at(s, ast.If(s.test, body, self.block(orelse, loop)))

    def _statement(self, s: ast.stmt, kinds: set[str], loop: _Loop) -> list[ast.stmt]:
        if isinstance(s, ast.If):
            return [self._if(s, s.body, s.orelse, loop)]
        if isinstance(s, ast.While | ast.For):
            return self._loop(s, loop)
        if isinstance(s, ast.With):
            return [_at(s, ast.With(s.items, self.block(s.body, loop), s.type_comment))]
        if isinstance(s, ast.Try | ast.Match):
            self._check(s, kinds)
            for inner in [s, *(getattr(s, "handlers", [])), *(getattr(s, "cases", []))]:
                for part in ("body", "orelse", "finalbody"):
                    if getattr(inner, part, None):
                        setattr(inner, part, self.block(getattr(inner, part), loop))
        return [s]

    def _check(self, s: ast.Try | ast.Match, kinds: set[str]) -> None:
        if kinds:
            kind = type(s).__name__.lower()
            raise SourceError(
                f"{self.definition.name}: {' and '.join(sorted(kinds))} inside of {kind}",
                source=self.definition.source(s),
                fix=f"set a variable within the {kind}, and jump behind it",
            )

    def _loop(self, s: ast.While | ast.For, outer: _Loop) -> list[ast.stmt]:
        kinds = jumps_of(s.body)
        loop = _Loop(
            self._flag("did_break") if "break" in kinds else "",
            self._flag("did_continue") if "continue" in kinds else "",
        )
        body = self.block(s.body, loop)
        if loop.did_continue:
            body = [_set(s, loop.did_continue, False), *body]
        stops = [loop.did_break] if loop.did_break else []
        stops += [self.did_return] if "return" in kinds else []
        self.asked.update(stops)
        made: list[ast.stmt] = [_set(s, loop.did_break, False)] if loop.did_break else []
        if isinstance(s, ast.While):
            nots = [self._none_of(s, [flag]) for flag in stops]
            parts = nots if _is_endless(s) and nots else [*nots, s.test]
            test = parts[0] if len(parts) == 1 else _at(s.test, ast.BoolOp(ast.And(), parts))
            made.append(_at(s, ast.While(test, body, [])))
        else:
            loop_node = _at(s, ast.For(s.target, s.iter, body, [], s.type_comment))
            loop_node.stops = stops  # type: ignore[attr-defined]
            made.append(loop_node)
        if s.orelse:
            after = self.block(s.orelse, outer)
            made += [_at(s, ast.If(self._none_of(s, stops), after, []))] if stops else after
        return made

    def _jump(self, s: ast.stmt, loop: _Loop) -> list[ast.stmt]:
        if isinstance(s, ast.Break):
            return [_set(s, loop.did_break, True)]
        if isinstance(s, ast.Continue):
            return [_set(s, loop.did_continue, True)]
        assert isinstance(s, ast.Return)
        value = s.value or _at(s, ast.Constant(None))
        target = _at(s, ast.Name(self.result, ast.Store()))
        return [_at(s, ast.Assign([target], value)), _set(s, self.did_return, True)]

    def _flag(self, base: str) -> str:
        name = self.names.fresh(base)
        self.flags.add(name)
        return name

    def _flags(self, kinds: set[str], loop: _Loop) -> list[str]:
        found = {"break": loop.did_break, "continue": loop.did_continue, "return": self.did_return}
        return [found[k] for k in ("break", "continue", "return") if k in kinds]

    def _none_of(self, at: ast.AST, flags: Sequence[str]) -> ast.expr:
        self.asked.update(flags)
        named = [_name(at, f) for f in flags]
        one = named[0] if len(named) == 1 else _at(at, ast.BoolOp(ast.Or(), named))
        return _at(at, ast.UnaryOp(ast.Not(), one))

    def _used(self, body: list[ast.stmt]) -> list[ast.stmt]:
        """Without the flags for which nobody asks."""
        unused = self.flags - self.asked
        return _without(body, unused) if unused else body


def _without(body: list[ast.stmt], flags: set[str]) -> list[ast.stmt]:
    made: list[ast.stmt] = []
    for s in body:
        if isinstance(s, ast.Assign) and getattr(s.targets[0], "id", None) in flags:
            continue
        for part in ("body", "orelse"):
            if isinstance(s, ast.If | ast.While | ast.For | ast.With) and getattr(s, part, None):
                kept = _without(getattr(s, part), flags)
                setattr(s, part, kept or ([_at(s, ast.Pass())] if part == "body" else []))
        made.append(s)
    return made


def _at(place: ast.AST, node: N) -> N:
    return ast.fix_missing_locations(ast.copy_location(node, place))


def _name(at: ast.AST, name: str) -> ast.expr:
    return _at(at, ast.Name(name, ast.Load()))


def _set(at: ast.AST, name: str, value: bool) -> ast.stmt:
    return _at(at, ast.Assign([ast.Name(name, ast.Store())], ast.Constant(value)))
