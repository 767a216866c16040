"""`function`: Python's `if`, `while` and `for` on tensors as control flow of the graph.

    @rung.function
    def root(a):
        x = a
        while rung.abs(x * x - a) > 1e-6:
            x = 0.5 * (x + a / x)
        return x

Whether a condition is a tensor is asked when it is reached: where it is none, Python decides.
"""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Callable
from types import CellType, CodeType, FunctionType, MethodType
from typing import Any, Generic, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from rung.core.errors import RungError, SourceError
from rung.core.wrapper import Wrapper
from rung.source.convert import Converter, new_function
from rung.source.flow import Flow
from rung.source.reading import definition
from rung.source.state import Undefined
from rung.tensor import tree

P = ParamSpec("P")
R = TypeVar("R")
_BRANCHING = (ast.If, ast.While, ast.For, ast.IfExp, ast.BoolOp, ast.Assert, ast.Compare, ast.Not)


class Converted(Wrapper, Generic[P, R]):
    """A function whose control flow may become part of a graph; made by `function`."""

    forgotten = {"_made": lambda: None}  # noqa: RUF012

    def __init__(self, function: Callable[P, R], max_iterations: int | None) -> None:
        super().__init__(function)
        self.function = function
        self.max_iterations = max_iterations
        self._made: tuple[FunctionType, str] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        result = self._transformed()[0](*args, **kwargs)
        for x in tree.leaves(result):
            if isinstance(x, Undefined):
                x.used  # noqa: B018  (raises)
        return result  # type: ignore[no-any-return]

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    @property
    def text(self) -> str:
        """The transformed function, as Python text."""
        return self._transformed()[1]

    def _transformed(self) -> tuple[FunctionType, str]:
        if self._made is None:
            self._made = _transform(self.function, self.max_iterations)
        return self._made


def function(function: Callable[P, R] | None = None, *, max_iterations: int | None = None) -> Any:
    """A function whose `if`, `while`, `for`, `break`, `continue` and `return` become control flow
    of the graph where they depend on a tensor, by transformation of its source (see `.text`).

    `max_iterations`: loops over tensors have at most so many iterations, and so a reverse
    derivative. Functions of the same module that it calls are transformed as well. A variable that
    such a statement sets is a tensor, a number, or a tree of these, of one shape and dtype on all
    paths; tensors from outside may be updated in place (`self.total += x`). Raises SourceError for
    what cannot be transformed, ShapeError for a variable that changes.

        @rung.function
        def relu(x):
            if x > 0:
                return x
            return 0.0
    """
    if function is None:
        return lambda given: _function(given, max_iterations)
    return _function(function, max_iterations)


def _function(function: Callable[P, R], max_iterations: int | None) -> Converted[P, R]:
    if max_iterations is not None and max_iterations < 1:
        raise RungError(
            f"function: max_iterations={max_iterations}", fix="give 1 or more, or leave it out"
        )
    if not isinstance(function, FunctionType):
        definition(function, "rung.function")  # raises
    return Converted(function, max_iterations)


def _transform(
    function: Callable[..., Any], max_iterations: int | None
) -> tuple[FunctionType, str]:
    found = definition(function, "rung.function")
    converter = Converter(found)
    callee = functools.partial(_callee, max_iterations)
    made = Flow(found.file, converter.sites, max_iterations, callee)
    code = _code(converter, found.function.__code__)
    cells = dict(
        zip(found.function.__code__.co_freevars, found.function.__closure__ or (), strict=True)
    )
    cells[converter.flow] = CellType(made)
    names = found.function
    closure = tuple(cells[name] for name in code.co_freevars)
    new = FunctionType(code, names.__globals__, names.__name__, names.__defaults__, closure)
    new.__kwdefaults__ = names.__kwdefaults__
    return new, ast.unparse(converter.node) + "\n"


def _code(converter: Converter, old: CodeType) -> CodeType:
    """The code of the new function, whose free variables are those of the old one and the flow."""
    node = copy.copy(converter.node)
    node.args = copy.deepcopy(node.args)
    for arg in ast.walk(node.args):
        if isinstance(arg, ast.arg):
            arg.annotation = None
    node.args.defaults = [ast.copy_location(ast.Constant(None), node) for _ in node.args.defaults]
    node.args.kw_defaults = [
        None if d is None else ast.copy_location(ast.Constant(None), node)
        for d in node.args.kw_defaults
    ]
    node.returns = None
    node.name = converter.names.fresh(node.name)  # else it would hide a name that means itself
    free = [converter.flow, *old.co_freevars]
    body: list[ast.stmt] = [node, ast.Return(ast.Name(node.name, ast.Load()))]
    module = ast.Module([new_function(node, "outer", free, body)], [])
    compiled = compile(ast.fix_missing_locations(module), old.co_filename, "exec")
    found = _constant(_constant(compiled, "outer"), node.name)
    return found.replace(co_name=old.co_name, co_qualname=old.co_qualname)


def _constant(code: CodeType, name: str) -> CodeType:
    return next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == name)


_callees: WeakKeyDictionary[FunctionType, dict[int | None, Callable[..., Any]]] = (
    WeakKeyDictionary()
)


def _callee(max_iterations: int | None, called: Any) -> Any:
    """A function of the same module that a transformed one calls, transformed if it branches."""
    if not isinstance(called, FunctionType):
        return called
    known = _callees.setdefault(called, {})
    if max_iterations not in known:
        known[max_iterations] = _converted_or_as_is(called, max_iterations)
    return known[max_iterations]


def _converted_or_as_is(called: FunctionType, max_iterations: int | None) -> Callable[..., Any]:
    try:
        node = definition(called, "rung.function").node
    except SourceError:
        return called
    branches = any(isinstance(n, _BRANCHING) for s in node.body for n in ast.walk(s))
    return Converted(called, max_iterations) if branches else called
