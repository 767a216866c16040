"""The definition of a Python function as a syntax tree, with the lines of its file."""

from __future__ import annotations

import ast
import builtins
import copy
import linecache
import os
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from rung.core.errors import SourceError
from rung.core.source import Source

Def = ast.FunctionDef | ast.AsyncFunctionDef
_Found = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


@dataclass(frozen=True, eq=False)
class Definition:
    """A function and its `def`, a copy that may be changed; a lambda is written as one."""

    function: FunctionType
    node: ast.FunctionDef

    @property
    def name(self) -> str:
        """The name of the function."""
        return self.node.name

    @property
    def file(self) -> str:
        """The file that it was read from."""
        return self.function.__code__.co_filename

    def source(self, node: ast.AST) -> Source:
        """The place of a part of it."""
        return Source(self.file, getattr(node, "lineno", self.node.lineno))

    def outside(self) -> dict[str, Any]:
        """What the names mean that it reads from the functions around it (those that have a value
        by now)."""
        names, cells = self.function.__code__.co_freevars, self.function.__closure__ or ()
        found: dict[str, Any] = {}
        for name, cell in zip(names, cells, strict=True):
            try:
                found[name] = cell.cell_contents
            except ValueError:
                continue  # a function further below, or itself
        return found

    def resolve(self, name: str) -> Any:
        """What a name that is not local means. Raises KeyError."""
        for names in (self.outside(), self.function.__globals__, vars(builtins)):
            if name in names:
                return names[name]
        raise KeyError(name)


def definition(function: object, what: str) -> Definition:
    """The definition of a Python function; `what` is to be done with it. Raises SourceError."""
    name = getattr(function, "__name__", type(function).__name__)
    if not isinstance(function, FunctionType):
        raise SourceError(
            f"{what}: {name} is {type(function).__name__}, not a function written in Python",
            fix="put it directly above the def, below other decorators",
        )
    code = function.__code__
    found = _find(code, "".join(linecache.getlines(code.co_filename, function.__globals__)))
    if found is None:
        raise SourceError(
            f"{what}: the source of {name} is not to be found in {code.co_filename}",
            fix="write it in a file, and import that again after a change",
        )
    node = copy.deepcopy(found)
    if isinstance(node, ast.Lambda):
        node = _as_def(node)
    if isinstance(node, ast.AsyncFunctionDef) or _suspends(node):
        raise SourceError(
            f"{what}: {name} is a generator or a coroutine",
            source=Source(code.co_filename, node.lineno),
            fix="return a list or a tuple in place of yielding",
        )
    node.decorator_list = []
    _write_defaults(node.args, function)
    return Definition(function, node)


def is_literal(value: object) -> bool:
    """Whether the text of a value means it again."""
    if isinstance(value, tuple):
        return all(is_literal(v) for v in value)
    finite = isinstance(value, float) and value - value == 0
    return value is None or isinstance(value, bool | int | str) or finite


def _write_defaults(args: ast.arguments, function: FunctionType) -> None:
    """Defaults as what they were when the function was made, where that can be written."""
    for i, value in enumerate(function.__defaults__ or ()):
        if is_literal(value):
            args.defaults[i] = _literal(value, args.defaults[i])
    for i, arg in enumerate(args.kwonlyargs):
        old, values = args.kw_defaults[i], function.__kwdefaults__ or {}
        if old is not None and is_literal(values.get(arg.arg)):
            args.kw_defaults[i] = _literal(values[arg.arg], old)


def _literal(value: object, old: ast.expr) -> ast.expr:
    made = ast.parse(repr(value), mode="eval").body
    return ast.fix_missing_locations(ast.copy_location(made, old))


def _find(code: CodeType, text: str) -> _Found | None:
    starting = _starts(text, os.path.basename(code.co_filename)).get(code.co_firstlineno, [])
    if code.co_name != "<lambda>":
        return next((n for n in starting if getattr(n, "name", "") == code.co_name), None)
    lambdas = [n for n in starting if isinstance(n, ast.Lambda)]
    if len(lambdas) < 2:
        return lambdas[0] if lambdas else None
    places = [(p[0], p[2]) for p in code.co_positions() if p[0] and p[3]]
    inner = [n for n in lambdas if all(_covers(n.body, line, col) for line, col in places)]
    return min(inner, key=lambda n: n.end_col_offset or 0, default=None)


def _covers(node: ast.expr, line: int | None, column: int | None) -> bool:
    place = (line or 0, column or 0)
    last = (node.end_lineno or 0, node.end_col_offset or 0)
    return (node.lineno, node.col_offset) <= place <= last


@lru_cache(maxsize=64)
def _starts(text: str, name: str) -> dict[int, list[_Found]]:
    """The functions of a file by the line on which they start, decorators included."""
    found: dict[int, list[_Found]] = {}
    try:
        tree = ast.parse(text)
    except SyntaxError as e:
        raise SourceError(f"{name} has changed and does not parse: {e}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found.setdefault(first, []).append(node)
        elif isinstance(node, ast.Lambda):
            found.setdefault(node.lineno, []).append(node)
    return found


def _as_def(node: ast.Lambda) -> ast.FunctionDef:
    body: list[ast.stmt] = [ast.copy_location(ast.Return(node.body), node.body)]
    made = ast.FunctionDef("lambda_", node.args, body, [], None, None)
    made.type_params = []  # type: ignore[attr-defined]  # a field from Python 3.12 on
    return ast.copy_location(made, node)


def _suspends(node: ast.FunctionDef) -> bool:
    return any(
        isinstance(n, ast.Yield | ast.YieldFrom | ast.Await) for s in node.body for n in in_scope(s)
    )


def in_scope(node: ast.AST) -> list[ast.AST]:
    """The node and all below it that runs when it does: not what functions in it contain."""
    found, stack = [], [node]
    while stack:
        n = stack.pop()
        found.append(n)
        if not isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            stack += ast.iter_child_nodes(n)
    return found
