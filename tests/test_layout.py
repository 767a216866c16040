"""The layout of the code: imports go down, sizes, docstrings, number of settings."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache, cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from rung.core.settings import Settings

ROOT = Path(__file__).parent.parent / "rung"
LAYERS = (
    "core", "ir", "ops", "rules", "transform", "shard", "kernel", "chip", "codegen", "runtime",
    "tensor", "source", "autodiff", "nn", "optim", "data", "models", "dist", "infer", "interop",
    "tools",
)  # fmt: skip
TOP = len(LAYERS)
"""Modules that lie in the package itself, such as `rung/__init__.py`, may import every layer."""
MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 60
MAX_SETTINGS = 20
GRAPH_KINDS = {"Expr", "Read", "Call", "Value", "Node"}
BOUNDED = {
    "codegen/llvm/roll.py:_copies": "along a loop nest",
    "codegen/llvm/roll.py:_copy": "along a loop nest",
    "ir/expr.py:ifloordiv": "the divisor grows or falls at each step",
    "ir/expr.py:imod": "the divisor falls at each step",
    "ir/expr.py:compare": "the coefficients fall at each step",
    "ir/node.py:make_node": "once, with the default attributes",
    "ir/rule.py:match": "along a pattern",
    "kernel/element.py:leaf": "reads within the position of a read of one op",
    "kernel/group_nest.py:leaf": "a read within a position counts POSITION_DEPTH times",
    "kernel/loop_steps.py:_with_extent": "along a loop nest",
    "kernel/memory_steps.py:leaf": "a read within a position counts POSITION_DEPTH times",
    "kernel/naming.py:leaf": "a read within a position counts POSITION_DEPTH times",
    "kernel/reduce_steps.py:_retarget": "along a loop nest",
    "kernel/rewrite.py:leaf": "a read within a position counts POSITION_DEPTH times",
    "ops/elementwise.py:quotient": "seven levels",
    "ops/check.py:holds_check": "graphs within graphs",
    "runtime/script.py:may_fail": "graphs within graphs",
    "tensor/checkpoint.py:_has_product": "composites within composites",
    "tensor/decompositions.py:_solved": "once for each kind of factor",
    "tensor/picking.py:_added": "once, with the operands cast",
    "transform/grad.py:vjp_node": "composites within composites",
}
"""Functions over expressions and nodes that call themselves, and what bounds how deep. The length
of a graph never does: such functions have a stack of their own."""
CODE = {tokenize.OP, tokenize.NAME, tokenize.NUMBER, tokenize.STRING}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class Module:
    """A source file of the package."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def place(self) -> str:
        """`rung/ir/node.py`"""
        return str(self.path.relative_to(ROOT.parent))

    @cached_property
    def name(self) -> str:
        """`rung.ir.node`"""
        parts = self.path.relative_to(ROOT.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def layer(self) -> int:
        return layer_of(self.name)


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        found.append(Module(path, text, ast.parse(text)))
    return tuple(found)


@cache
def known_names() -> frozenset[str]:
    """The names of all our modules."""
    return frozenset(m.name for m in modules())


def layer_of(name: str) -> int:
    """Height of a module, by name; those of the package itself are the highest."""
    parts = name.split(".")
    return LAYERS.index(parts[1]) if len(parts) > 1 and parts[1] in LAYERS else TOP


def imports(module: Module, node: ast.AST) -> Iterator[str]:
    """Names of our own modules that an import statement brings in."""
    known = known_names()
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"{module.place}:{node.lineno}: a relative import"
        base = node.module or ""
        names = [f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names]
    yield from (n for n in dict.fromkeys(names) if n.split(".")[0] == "rung")


def only_for_types(tree: ast.Module) -> set[ast.AST]:
    """The nodes below `if TYPE_CHECKING:`, which are not there when the program runs."""
    guarded = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")
    ]
    return {inner for g in guarded for s in g.body for inner in ast.walk(s)}


def fail_with(offenders: list[str]) -> None:
    if offenders:
        pytest.fail("\n".join(offenders), pytrace=False)


def test_the_package_has_only_known_folders() -> None:
    folders = {p.parent.relative_to(ROOT).parts[0] for p in ROOT.rglob("*/*.py")}
    assert folders <= set(LAYERS)


def test_imports_go_down() -> None:
    fail_with(
        [
            f"{m.place}:{node.lineno} imports upward: {name}"
            for m in modules()
            for node in ast.walk(m.tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in imports(m, node)
            if layer_of(name) > m.layer and node not in only_for_types(m.tree)
        ]
    )


def test_imports_make_no_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for m in modules():
        unseen = only_for_types(m.tree)
        graph[m.name] = {
            name
            for node in ast.walk(m.tree)
            if isinstance(node, ast.Import | ast.ImportFrom) and node not in unseen
            for name in imports(m, node)
        } - {m.name}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as e:
        pytest.fail(" <- ".join(e.args[1]), pytrace=False)


def functions(m: Module) -> Iterator[Function]:
    return (n for n in ast.walk(m.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def test_no_import_of_our_own_inside_a_function() -> None:
    fail_with(
        [
            f"{m.place}:{node.lineno} imports {name} inside of {function.name}"
            for m in modules()
            for function in functions(m)
            for node in ast.walk(function)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in imports(m, node)
        ]
    )


def code_lines(text: str) -> int:
    """Lines with code on them: without comments, blank lines and docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        docstring = token.line.strip().startswith(('"""', 'r"""', 'f"""'))
        if token.type in CODE and not (token.type == tokenize.STRING and docstring):
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def test_files_are_short() -> None:
    sizes = {m.place: code_lines(m.text) for m in modules()}
    fail_with([f"{place}: {n} lines" for place, n in sizes.items() if n > MAX_FILE_LINES])


def test_functions_are_short() -> None:
    sizes = [
        (m.place, f.lineno, f.name, (f.end_lineno or f.lineno) - f.lineno + 1)
        for m in modules()
        for f in functions(m)
    ]
    fail_with([f"{p}:{at} {f}: {n} lines" for p, at, f, n in sizes if n > MAX_FUNCTION_LINES])


def calls_itself(f: Function) -> bool:
    """Whether a function calls itself by name, or passes itself to what it calls."""
    for call in (n for n in ast.walk(f) if isinstance(n, ast.Call)):
        names = [n for n in (call.func, *call.args) if isinstance(n, ast.Name)]
        methods = [call.func.attr] if isinstance(call.func, ast.Attribute) else []
        own = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "self"
        if f.name in (*(n.id for n in names), *(methods if own else ())):
            return True
    return False


def test_no_recursion_over_graphs_and_expressions() -> None:
    """Python's stack is short, graphs are long."""
    found = []
    for m in modules():
        for f in functions(m):
            given = [a.annotation for a in f.args.args if a.annotation is not None]
            kinds = {n.id for a in given for n in ast.walk(a) if isinstance(n, ast.Name)}
            place = f"{m.path.relative_to(ROOT)}:{f.name}"
            if kinds & GRAPH_KINDS and calls_itself(f) and place not in BOUNDED:
                found.append(f"{place} calls itself")
    fail_with(found)


def test_what_is_public_has_a_docstring() -> None:
    """Modules, and the public classes and functions in them."""
    missing = []
    for m in modules():
        if not ast.get_docstring(m.tree):
            missing.append(m.place)
        for node in m.tree.body:
            named = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_") and not ast.get_docstring(node):
                missing.append(f"{m.place}:{node.lineno} {node.name}")
    fail_with(missing)


def test_settings_are_few_and_say_what_they_do() -> None:
    assert len(fields(Settings)) <= MAX_SETTINGS
    assert all(f.metadata.get("help") for f in fields(Settings))


def test_every_test_folder_mirrors_one_of_the_package() -> None:
    tests = Path(__file__).parent
    folders = {p.parent.name for p in tests.glob("*/test_*.py")}
    assert folders <= set(LAYERS)
