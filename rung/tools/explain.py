"""`rung explain FILE.py:function`: every level of a function, from its lines to machine code."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Final

import numpy as np
import typer
from rich.console import Console
from rich.syntax import Syntax

from rung.core.dtype import ALL
from rung.core.errors import ParseError, RungError
from rung.core.source import NOWHERE
from rung.tensor.creation import asarray
from rung.tensor.jit import Jit
from rung.tensor.tensor import Tensor
from rung.tools.compile_report import compile_report
from rung.tools.explanation import LEVELS, explain

LANGUAGES: Final = {"llvm": "llvm", "asm": "gas"}
_TYPE = re.compile(r"\s*(\w+)\s*\[([\d,\s]*)\]\s*")
_DTYPES = {d.name: d for d in ALL}


def example(text: str) -> Any:
    """An argument from its text: a tensor of ordinary numbers for a type such as `f32[64,784]`,
    else a Python literal. Raises ParseError for neither."""
    match = _TYPE.fullmatch(text)
    if match and match[1] in _DTYPES:
        return example_tensor(match[1], [int(n) for n in match[2].split(",") if n.strip()])
    if text in _DTYPES:
        return example_tensor(text, [])
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        raise ParseError(
            f"explain: argument {text!r} is neither a type nor a Python literal",
            fix="give f32[64,784], i64[8], 3, or 'text'",
            source=NOWHERE,
        ) from None


def example_tensor(name: str, shape: list[int]) -> Tensor:
    """Floats around zero; for other dtypes zeros and ones."""
    rng = np.random.default_rng(0)
    dtype = _DTYPES[name]
    values = rng.standard_normal(shape) if dtype.is_float else rng.integers(0, 2, shape)
    return asarray(np.asarray(values).astype(dtype.numpy))


def load(place: str) -> Any:
    """The function of `FILE.py:function` (or `FILE.py:object.method`). Raises RungError."""
    file, colon, name = place.rpartition(":")
    path = Path(file)
    if not colon or not path.is_file():
        raise RungError(
            f"explain: no file {file or place!r}",
            fix="rung explain FILE.py:function",
            source=NOWHERE,
        )
    found: Any = import_file(path)
    for part in name.split("."):
        if not hasattr(found, part):
            raise RungError(
                f"explain: {path.name} has no {name!r}", fix=_known(found), source=NOWHERE
            )
        found = getattr(found, part)
    if not callable(found):
        raise RungError(f"explain: {name} of {path.name} cannot be called", source=NOWHERE)
    return found


def _known(module: Any) -> str:
    functions = [n for n, x in vars(module).items() if callable(x) and not n.startswith("_")]
    return "it has " + (", ".join(functions) or "no functions")


def import_file(path: Path) -> ModuleType:
    """The module of a source file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise RungError(f"explain: {path} is not Python", source=NOWHERE)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


def annotated(function: Any) -> list[str]:
    """The types that the parameters of a function are annotated with, as text."""
    inner = function.function if isinstance(function, Jit) else function
    code = getattr(inner, "__code__", None)
    if code is None:
        return []
    known = getattr(inner, "__annotations__", {})
    names = code.co_varnames[: code.co_argcount]
    texts = [known.get(n) for n in names]
    return [str(t).strip("'\"") for t in texts if isinstance(t, str)]


def command(
    place: Annotated[str, typer.Argument(metavar="FILE.py:FUNCTION")],
    arg: Annotated[
        list[str] | None,
        typer.Option(help="an argument: a type such as f32[64,784], or a Python literal"),
    ] = None,
    level: Annotated[str, typer.Option(help=f"one of {', '.join(LEVELS)}; else the overview")] = "",
    kernel: Annotated[int | None, typer.Option(help="this kernel alone")] = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="where the time of compiling it goes")
    ] = False,
) -> None:
    """Show every level of a function: lines, graph, kernels, schedules, LLVM IR, assembly, times.

    Arguments come from --arg, once each, or from annotations such as x: "f32[64, 784]"."""
    if level and level not in LEVELS:
        raise RungError(
            f"explain: no level {level!r}", fix="levels: " + ", ".join(LEVELS), source=NOWHERE
        )
    function = load(place)
    texts = arg if arg is not None else annotated(function)
    arguments = [example(t) for t in texts]
    found = explain(function, *arguments)
    if compile:
        report = compile_report(found.program, found.name, function, *arguments)
        Console().print(report.text(), markup=False, highlight=False, soft_wrap=True)
        return
    text = found.text(level, kernel)
    console = Console()
    if not console.is_terminal or not level:
        console.print(text, markup=False, highlight=console.is_terminal, soft_wrap=True)
        return
    console.print(Syntax(text, LANGUAGES.get(level, "python"), background_color="default"))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain")(command)
