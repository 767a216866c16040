"""`grad_source`: the derivative of a function, as Python text.

>>> print(rung.grad_source(lambda x: (x * x).sum()))        # doctest: +SKIP
"""

from __future__ import annotations

import ast
import builtins
import linecache
import re
import sys
import textwrap
from collections.abc import Callable, Sequence
from types import FunctionType, ModuleType
from typing import Any

from rung.autodiff.reverse import Sweeps, sweeps_of
from rung.autodiff.steps import Steps, steps_of
from rung.core.errors import GradientError
from rung.core.source import Source
from rung.source.names import parameters, reads
from rung.source.reading import Definition, definition, is_literal

_INDENT = "    "


class GradSource(str):
    """Python text that can also be called: the last function that it defines."""

    __slots__ = ("function",)
    function: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def text(self) -> str:
        """The text, as a plain string."""
        return str(self)


def grad_source(function: Callable[..., Any], argnums: int | Sequence[int] = 0) -> GradSource:
    """The gradient of a function of a scalar result with respect to the positional arguments
    `argnums`, as the text of a Python function `grad_…` that can be read, changed and run.

    The text keeps the names of the user; `d_x` is the derivative of the result by `x`. It has its
    imports, and what it needs of the values of earlier iterations it puts on a `tape`. The result
    can be called as the function itself. Raises GradientError for what has no formula, SourceError
    where there is no source.

        def loss(w, x):
            return ((x @ w) ** 2).sum()

        print(rung.grad_source(loss))           # def grad_loss(w, x): …
        rung.grad_source(loss)(w, x)            # = rung.grad(loss)(w, x)
    """
    found = definition(function, "grad_source")
    params = parameters(found.node)
    wanted = _wanted(found, argnums)
    steps = steps_of(found, wanted)
    name = steps.names.fresh(f"grad_{found.name.strip('_')}")
    sweeps = sweeps_of(steps, params, wanted)
    _number_in_order(sweeps, steps)
    body = _function(found, name, sweeps, wanted, isinstance(argnums, int))
    text = GradSource(_head(found, steps, body, sweeps.helpers) + "\n\n" + body)
    text.function = _compiled(str(text), name, found)
    return text


def _number_in_order(sweeps: Sweeps, steps: Steps) -> None:
    """Give the temporaries numbers in the order in which they are computed."""
    text = "\n".join(_lines(sweeps.forward))
    order = [n for n in dict.fromkeys(re.findall(r"\bv\d+\b", text)) if n in steps.temporaries]
    free = sorted(steps.temporaries, key=lambda n: int(n[1:]))
    new = dict(zip(order, free, strict=False))
    new |= {f"d_{old}": f"d_{name}" for old, name in new.items()}
    nodes = {n for s in (*sweeps.forward, *sweeps.backward) for n in ast.walk(s)}
    for n in nodes:
        if isinstance(n, ast.Name):
            n.id = new.get(n.id, n.id)


def _wanted(found: Definition, argnums: int | Sequence[int]) -> list[str]:
    args = found.node.args
    positional = [a.arg for a in (*args.posonlyargs, *args.args)]
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    for n in numbers:
        if not -len(positional) <= n < len(positional):
            raise GradientError(
                f"grad_source: argument {n} of a function with {len(positional)} positional ones",
                fix="argnums counts positional arguments from 0",
            )
    return [positional[n] for n in numbers]


def _function(
    found: Definition, name: str, sweeps: Sweeps, wanted: Sequence[str], single: bool
) -> str:
    given = [ast.Name(g, ast.Load()) for g in sweeps.gradients]
    result: ast.expr = given[0] if single else ast.Tuple(list(given), ast.Load())
    lines = [f"def {name}({ast.unparse(_without_types(found.node.args))}):"]
    by = ", ".join(wanted)
    lines += [f'{_INDENT}"""The derivative of {found.name} by {by}."""', *_lines(sweeps.forward)]
    lines += [f"{_INDENT}# backward", *_lines(sweeps.backward)]
    lines += _lines([ast.Return(result)])
    return "\n".join(lines) + "\n"


def _without_types(args: ast.arguments) -> ast.arguments:
    for arg in ast.walk(args):
        if isinstance(arg, ast.arg):
            arg.annotation = None
    return args


def _lines(body: Sequence[ast.stmt]) -> list[str]:
    text = "\n".join(ast.unparse(ast.fix_missing_locations(s)) for s in body)
    return [_INDENT + line for line in text.splitlines() if line.strip()]


def _head(found: Definition, steps: Steps, body: str, helpers: dict[str, str]) -> str:
    """The imports and constants that the text needs."""
    node = ast.parse(body).body[0]
    assert isinstance(node, ast.FunctionDef)
    read = reads(node) - set(parameters(node))
    imports: set[str] = {"import rung"} if "rung" in read else set()
    constants: list[str] = []
    used = [(old, new) for old, new in helpers.items() if new in read]
    if used:
        names = ", ".join(old if old == new else f"{old} as {new}" for old, new in used)
        line = f"from rung.autodiff.adjoint import {names}"
        imports.add(line if len(line) <= 100 else _wrapped(names))
    for name, value in steps.outside.items():
        if name in read and getattr(builtins, name, None) is not value:
            line = _named(found, name, value)
            if "import " in line:
                imports.add(line)
            else:
                constants.append(line)
    ordered = sorted(imports, key=lambda s: (s.startswith("from"), s))
    return "\n".join([*ordered, *([""] if ordered and constants else []), *constants])


def _wrapped(names: str) -> str:
    lines = textwrap.fill(names, 96, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return f"from rung.autodiff.adjoint import (\n{lines},\n)"


def _named(found: Definition, name: str, value: Any) -> str:
    """A line that gives a name its meaning."""
    if isinstance(value, ModuleType):
        known = value.__name__
        return f"import {known}" + ("" if known == name else f" as {name}")
    if is_literal(value):
        return f"{name} = {value!r}"
    own = getattr(value, "__name__", name)
    alias = "" if own == name else f" as {name}"
    for module in ("rung", getattr(value, "__module__", None), found.function.__module__):
        for known, there in ((own, alias), (name, "")):
            if module and getattr(sys.modules.get(module), known, None) is value:
                return f"from {module} import {known}{there}"
    raise GradientError(
        f"grad_source: {name} is read from around {found.name}, and has no text of its own",
        source=Source(found.file, found.node.lineno),
        fix=f"make {name} an argument",
    )


def _compiled(text: str, name: str, found: Definition) -> FunctionType:
    """The function that the text defines; its lines can be shown in errors."""
    file = f"<grad_source of {found.name}>"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    made: dict[str, Any] = {"__name__": found.function.__module__}
    exec(compile(text, file, "exec"), made)
    function = made[name]
    assert isinstance(function, FunctionType)
    function.__kwdefaults__ = found.function.__kwdefaults__
    function.__defaults__ = found.function.__defaults__
    return function
