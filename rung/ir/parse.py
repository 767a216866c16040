"""Text of graphs back to graphs: `parse_graph(graph_text(g), ops) is g`.

The text is read as a syntax tree and never executed, so that text from anywhere is safe to read.
Only what `rung.ir.text` prints is taken; all else is a ParseError with line and column.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

from rung.core.errors import GraphError, ParseError
from rung.core.source import NOWHERE, Source
from rung.ir.literal import Names, error, parse_error, read_record, read_type, record_types
from rung.ir.node import Graph, Value, make_graph, parameter, provenance
from rung.ir.op import NO_ATTRS, Attrs, Op
from rung.ir.text import NO_FILE
from rung.ir.types import TensorType

_FILE: Final = re.compile(r"# source (\S+) = (\".*\")\s*")
_PLACE: Final = re.compile(r"\s*# (\S+):(\d{1,9})(?= |$)(?: \[)?")
_TYPES: Final = re.compile(r"# ((?:[a-z]+\d*\[[\d,]*\](?:, )?)+)(?:  +(\S.*))?")
_MAX_CHARS: Final = 64 * 1024 * 1024


def parse_graph(text: str, ops: Mapping[str, Op]) -> Graph:
    """The last graph of `text`; `ops` has the op of each name. Raises ParseError."""
    graphs = parse_graphs(text, ops)
    if not graphs:
        raise parse_error(1, 1, "there is no graph in the text", "write @graph above a function")
    return graphs[-1]


def parse_graphs(text: str, ops: Mapping[str, Op]) -> list[Graph]:
    """All graphs of `text`, in order; each may use those before it. Raises ParseError."""
    module = _syntax_tree(text)
    reader = _Reader(text, ops)
    return [reader.graph(statement) for statement in module.body]


def _syntax_tree(text: str) -> ast.Module:
    if len(text) > _MAX_CHARS:
        raise parse_error(1, 1, f"the text is longer than {_MAX_CHARS} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as e:
        raise parse_error(e.lineno or 1, e.offset or 1, f"not Python: {e.msg}") from None
    except (ValueError, RecursionError, MemoryError, OverflowError) as e:
        raise parse_error(1, 1, f"not Python: {e or type(e).__name__}") from None


@dataclass(frozen=True)
class _Trailing:
    """What the comment behind a statement says: `types` of the results, and `via`."""

    types: str | None
    via: str


class _Reader:
    """Reads the functions of one text."""

    def __init__(self, text: str, ops: Mapping[str, Op]) -> None:
        self.lines = _split_lines(text)
        self.ops = ops
        self.names = Names(_records(ops))
        self.files = self._files()

    def _files(self) -> dict[str, str]:
        files = {NO_FILE: ""}
        for number, line in enumerate(self.lines, 1):
            match = _FILE.fullmatch(line)
            if match:
                files[match[1]] = _json_text(match[2], number, match.start(2) + 1)
        return files

    # ---- functions

    def graph(self, function: ast.stmt) -> Graph:
        if not isinstance(function, ast.FunctionDef):
            raise error(function, "only functions with @graph may stand here")
        name = self._graph_name(function)
        if function.name in self.names.graphs:
            raise error(function, f"{function.name} is defined twice")
        values: dict[str, Value] = {}
        params = self._params(function, values)
        outputs = self._body(function, values)
        try:
            graph = make_graph(name, params, outputs)
        except GraphError as e:
            raise error(function, e.message) from None
        self.names.graphs[function.name] = graph
        return graph

    def _graph_name(self, function: ast.FunctionDef) -> str:
        decorators = function.decorator_list
        mark = decorators[0] if len(decorators) == 1 else None
        if isinstance(mark, ast.Name) and mark.id == "graph":
            return function.name
        if isinstance(mark, ast.Call) and isinstance(mark.func, ast.Name):
            name = mark.args[0] if len(mark.args) == 1 and not mark.keywords else None
            text = name.value if isinstance(name, ast.Constant) else None
            if mark.func.id == "graph" and isinstance(text, str):
                return text
        raise error(function, f"{function.name} is not marked with @graph")

    def _params(self, function: ast.FunctionDef, values: dict[str, Value]) -> list[Value]:
        a = function.args
        if a.posonlyargs or a.kwonlyargs or a.vararg or a.kwarg or a.defaults:
            raise error(function, "parameters are plain names with types")
        if function.returns is not None:
            raise error(function.returns, "a graph has no annotation of its result")
        params: list[Value] = []
        for arg in a.args:
            if arg.annotation is None:
                raise error(arg, f"parameter {arg.arg} has no type", "for example f32[2, 3]")
            name, type = _parameter_type(arg.arg, arg.annotation)
            values[arg.arg] = parameter(len(params), name, type)
            params.append(values[arg.arg])
        return params

    def _body(self, function: ast.FunctionDef, values: dict[str, Value]) -> list[Value]:
        source, line = NOWHERE, function.lineno
        for statement in function.body:
            for number in range(line + 1, statement.lineno):
                source = self._place(number) or source
            line = statement.end_lineno or statement.lineno
            if isinstance(statement, ast.Return):
                if statement is not function.body[-1]:
                    raise error(statement, "nothing may follow return")
                return _returned(statement, values)
            self._assign(statement, values, source)
        raise error(function, f"{function.name} has no return")

    def _place(self, number: int) -> Source | None:
        """The source that a whole-line comment states, or None if it states none."""
        line = self.lines[number - 1].rstrip()
        match = _PLACE.match(line)
        if match is None:
            return None
        path = ""
        if match[0].endswith("["):
            path = _bracketed(line, match.end(), number)
        key = match[1]
        return Source(self.files.get(key, key), int(match[2]), path)

    # ---- statements

    def _assign(self, statement: ast.stmt, values: dict[str, Value], place: Source) -> None:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            raise error(statement, "expected `name = op(...)` or return")
        targets = _targets(statement.targets[0])
        for target in targets:
            if target.id in values:
                raise error(target, f"{target.id} is assigned twice")
        trailing = self._trailing(statement)
        source = replace(place, via=trailing.via) if trailing.via else place
        results = self._call(statement.value, values, source)
        if len(targets) != len(results):
            raise error(statement, f"{len(results)} results, but {len(targets)} names")
        types = ", ".join(str(r.type) for r in results)
        if trailing.types is not None and trailing.types != types:
            raise error(statement, f"the comment says {trailing.types}, but this is {types}")
        values.update((t.id, r) for t, r in zip(targets, results, strict=True))

    def _trailing(self, statement: ast.stmt) -> _Trailing:
        number = statement.end_lineno or statement.lineno
        raw = self.lines[number - 1].encode()[statement.end_col_offset or 0 :]
        match = _TYPES.fullmatch(raw.decode(errors="replace").strip())
        if match is None:
            return _Trailing(None, "")
        via = match[2] or ""
        if via.startswith('"'):
            via = _json_text(via, number, 1)
        return _Trailing(match[1], via)

    def _call(self, call: ast.expr, values: dict[str, Value], source: Source) -> Sequence[Value]:
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise error(call, "expected a call of an op")
        op = self.ops.get(call.func.id)
        if op is None:
            raise self._unknown_op(call.func)
        inputs = [_operand(arg, values) for arg in call.args]
        attrs = self._attrs(op, call)
        try:
            with provenance(source):
                return op.build(inputs, attrs)
        except ParseError:
            raise
        except GraphError as e:
            raise error(call, e.message) from None
        except Exception as e:  # type rules may fail in any way on attributes that make no sense
            message = getattr(e, "message", None) or f"{op.name}: {type(e).__name__}: {e}"
            raise error(call, message, None) from None

    def _attrs(self, op: Op, call: ast.Call) -> Attrs:
        if op.attrs is Attrs:
            for k in call.keywords:
                raise error(k, f"{op.name} has no attribute {k.arg!r}")
            return NO_ATTRS
        try:
            attrs: Attrs = read_record(op.attrs, call, self.names)
            hash(attrs)
        except ParseError:
            raise
        except Exception as e:  # checks of a record's own
            message = getattr(e, "message", None) or f"{op.name}: {type(e).__name__}: {e}"
            raise error(call, message) from None
        return attrs

    def _unknown_op(self, name: ast.Name) -> ParseError:
        near = difflib.get_close_matches(name.id, self.ops, 1)
        return error(name, f"unknown op {name.id!r}", near[0] if near else None)


def _split_lines(text: str) -> list[str]:
    """Lines as Python counts them (str.splitlines knows more line ends)."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _records(ops: Mapping[str, Op]) -> dict[str, type]:
    records: dict[str, type] = {}
    for attrs in {op.attrs for op in ops.values()}:
        records.update(record_types(attrs))
    return records


def _parameter_type(name: str, annotation: ast.expr) -> tuple[str, TensorType]:
    """The true name and the type of a parameter: `f32[2]` or `named["h.0.w", f32[2]]`."""
    if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.value, ast.Name):
        return name, read_type(annotation)
    if annotation.value.id != "named":
        return name, read_type(annotation)
    pair = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else []
    text = pair[0].value if len(pair) == 2 and isinstance(pair[0], ast.Constant) else None
    if not isinstance(text, str):
        raise error(annotation, "is not a named type", 'for example named["w", f32[2]]')
    return text, read_type(pair[1])


def _targets(target: ast.expr) -> list[ast.Name]:
    items = target.elts if isinstance(target, ast.Tuple) else [target]
    names = [item for item in items if isinstance(item, ast.Name)]
    if len(names) != len(items) or len({n.id for n in names}) != len(names):
        raise error(target, "results are given to different plain names")
    return names


def _operand(arg: ast.expr, values: dict[str, Value]) -> Value:
    if not isinstance(arg, ast.Name):
        raise error(arg, "an operand is a name; attributes are given by name")
    if arg.id not in values:
        raise error(arg, f"unknown value {arg.id!r}")
    return values[arg.id]


def _returned(statement: ast.Return, values: dict[str, Value]) -> list[Value]:
    value = statement.value
    if value is None:
        raise error(statement, "return what? write return () for no outputs")
    return [_operand(e, values) for e in (value.elts if isinstance(value, ast.Tuple) else [value])]


def _bracketed(line: str, start: int, number: int) -> str:
    """The module path from `start` up to its bracket, plain or as a JSON string."""
    if line.startswith('"', start):
        try:
            path, _ = json.JSONDecoder().raw_decode(line, start)
        except ValueError:
            _fail_string(number, start + 1)
        return str(path)
    return line[start:].partition("]")[0]


def _json_text(text: str, line: int, column: int) -> str:
    try:
        value: Any = json.loads(text)
    except ValueError:
        _fail_string(line, column)
    if not isinstance(value, str):
        _fail_string(line, column)
    return value


def _fail_string(line: int, column: int) -> NoReturn:
    raise parse_error(line, column, "is not a string in double quotes")
