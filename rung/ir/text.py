"""Graphs as text: valid Python, one statement per node, with types and the user's lines.

    # source mlp.py = "/home/me/mlp.py"

    @graph
    def mlp(x: f32[64, 784], w: f32[784, 128]):
        # mlp.py:9 [net.0]  h = relu(x @ w)
        v0 = matmul(x, w)       # f32[64,128]
        v1 = full(shape=(64, 128), value=0.0)  # f32[64,128]  relu
        v2 = maximum(v0, v1)    # f32[64,128]  relu
        return v2

A line comment says where the statements below it come from: file, line, module path and, for the
reader alone, the text of the line. The comment behind a statement has the types of the results and
then what made the node from that line (`Source.via`). `rung.ir.parse` reads it back.
"""

from __future__ import annotations

import json
import keyword
import os
import re
from collections.abc import Iterable
from typing import Final

from rung.core.source import NOWHERE, Source
from rung.ir.literal import RESERVED, Printing, fields_text, literal_text, sub_graphs
from rung.ir.node import PARAMETER, Graph, Node, ParameterAttrs, Value

FILE_KEY: Final = re.compile(r"[\w.<>~-]+", re.ASCII)
PLAIN: Final = re.compile(r"[\w.<>/~-]+", re.ASCII)
NO_FILE: Final = "nowhere"
WIDTH: Final = 100
COMMENT_COLUMN: Final = 56


def graph_text(graph: Graph, note: str = "", data: bool = True) -> str:
    """The text of `graph` and the graphs it uses, itself last; `note` becomes a first comment.

    Without `data`, large arrays are named by digest only, which reads back while they are alive.
    Raises GraphError if an attribute has no text form."""
    graphs = [*_used_graphs(graph), graph]
    files = _file_keys(graphs)
    names = _graph_names(graphs)
    header = [f"# {line}" for line in note.splitlines()]
    header += [f"# source {key} = {json.dumps(file)}" for file, key in files.items() if file]
    functions = [_function_lines(g, Printing(names, data, len(g.params)), files) for g in graphs]
    blocks = [header, *functions] if header else functions
    return "\n\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _used_graphs(graph: Graph) -> list[Graph]:
    """The sub-graphs of `graph`, of all depths, used before user."""
    order: dict[Graph, None] = {}

    def visit(g: Graph) -> None:
        for node in g.nodes:
            for sub in sub_graphs(node.attrs):
                if sub not in order:
                    visit(sub)
                    order[sub] = None

    visit(graph)
    return list(order)


def _file_keys(graphs: Iterable[Graph]) -> dict[str, str]:
    """A short unique key for each source file: its base name where that is plain."""
    keys: dict[str, str] = {"": NO_FILE}
    taken = {NO_FILE}
    for graph in graphs:
        for node in graph.nodes:
            file = node.source.file
            if file in keys:
                continue
            base = os.path.basename(file)
            keys[file] = unique(base if FILE_KEY.fullmatch(base) else "file", taken, "~")
    return keys


def unique(name: str, taken: set[str], separator: str = "_") -> str:
    """`name`, or with the first number that makes it new; added to `taken`."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}{separator}{number}", number + 1
    taken.add(found)
    return found


def is_usable(name: str) -> bool:
    """Whether a name can stand in the text as it is."""
    return (
        name.isascii()
        and name.isidentifier()
        and not (keyword.iskeyword(name) or name in RESERVED or re.fullmatch(r"v\d+", name))
    )


def _graph_names(graphs: Iterable[Graph]) -> dict[Graph, str]:
    taken = {node.op.name for g in graphs for node in g.nodes}
    return {g: unique(g.name if is_usable(g.name) else "g", taken) for g in graphs}


# ---- one function


def _function_lines(graph: Graph, printing: Printing, files: dict[str, str]) -> list[str]:
    taken = {node.op.name for node in graph.nodes} | set(printing.graphs.values())
    values, params = _parameters(graph, taken)
    name = printing.graphs[graph]
    decorator = "@graph" if name == graph.name else f"@graph({json.dumps(graph.name)})"
    lines = [decorator, *_signature(name, params)]
    statements: list[tuple[str, str]] = []
    source = NOWHERE
    for node in graph.nodes:
        if node.op is PARAMETER:
            continue
        if not same_line(node.source, source):
            statements.append((_source_comment(node.source, files), ""))
        source = node.source
        statements.append(_statement(node, values, printing))
    statements.append((f"return {', '.join(values[v] for v in graph.outputs) or '()'}", ""))
    column = min(max((len(s) for s, c in statements if c), default=0), COMMENT_COLUMN)
    lines += [f"    {s:<{column}}  {c}" if c else f"    {s}" for s, c in statements]
    return lines


def same_line(a: Source, b: Source) -> bool:
    """Whether two sources are the same line and module path, whatever made the nodes from it."""
    return a.line == b.line and a.file == b.file and a.path == b.path


def _parameters(graph: Graph, taken: set[str]) -> tuple[dict[Value, str], list[str]]:
    """The names of the parameters, and `name: type` for each."""
    values: dict[Value, str] = {}
    texts: list[str] = []
    for number, v in enumerate(graph.params):
        attrs = v.node.attrs
        assert isinstance(attrs, ParameterAttrs)
        usable = is_usable(attrs.name) and attrs.name not in taken
        values[v] = unique(attrs.name if usable else f"p{number}", taken)
        type_text = literal_text(v.type, Printing({}, False, 0))
        if not v.type.shape:
            type_text = v.type.dtype.name
        if values[v] != attrs.name:
            type_text = f"named[{json.dumps(attrs.name)}, {type_text}]"
        texts.append(f"{values[v]}: {type_text}")
    return values, texts


def _signature(name: str, params: list[str]) -> list[str]:
    line = f"def {name}({', '.join(params)}):"
    if len(line) <= WIDTH:
        return [line]
    return [f"def {name}(", *[f"    {p}," for p in params], "):"]


def _statement(node: Node, values: dict[Value, str], printing: Printing) -> tuple[str, str]:
    """The assignment of one node and the comment behind it; names its results in `values`."""
    for r in node.results:
        values[r] = f"v{len(values) - printing.params}"
    targets = ", ".join(values[r] for r in node.results)
    args = [values[v] for v in node.inputs] + fields_text(node.attrs, printing)
    types = ", ".join(str(r.type) for r in node.results)
    via = f"  {quoted(node.source.via)}" if node.source.via else ""
    return f"{targets} = {node.op.name}({', '.join(args)})", f"# {types}{via}"


def _source_comment(source: Source, files: dict[str, str]) -> str:
    place = f"# {files[source.file]}:{source.line}"
    if source.path:
        place += f" [{quoted(source.path)}]"
    text = "".join(c if c.isprintable() else "?" for c in source.text)
    comment = f"{place}  {text}" if text else place
    return comment if len(comment) <= WIDTH - 4 else comment[: WIDTH - 7] + "..."


def quoted(text: str) -> str:
    """The text as it is where it is plain, else as a JSON string."""
    return text if PLAIN.fullmatch(text) else json.dumps(text)
