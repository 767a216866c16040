"""Schedules: lists of steps that say how a kernel is performed, as text and applied.

split('i', 14, 'i0', 'i1')
reorder(('i0', 'k', 'i1'))
unroll('i1')
"""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import MISSING, fields

from rung.core.errors import ParseError
from rung.core.source import NOWHERE
from rung.kernel.cascade import Cascade
from rung.kernel.domain_steps import Narrow, Skip
from rung.kernel.loop import Kernel
from rung.kernel.loop_steps import Branch, Fuse, Parallel, Peel, Split, Unroll, Vectorize
from rung.kernel.memory_steps import (
    ComputeAt,
    Flatten,
    Inline,
    Pack,
    PrefetchIn,
    PrefetchRest,
    Stage,
)
from rung.kernel.order_steps import Fission, FuseLoops, Reorder
from rung.kernel.parse import fail, parse_module
from rung.kernel.reduce_steps import AccumulateIn, Lanes, Wide
from rung.kernel.sized_steps import Halve
from rung.kernel.step import Step

Schedule = tuple[Step, ...]

STEP_TYPES: tuple[type[Step], ...] = (
    Split,
    Fuse,
    Reorder,
    Fission,
    FuseLoops,
    Peel,
    Branch,
    Unroll,
    Vectorize,
    Parallel,
    Lanes,
    AccumulateIn,
    Cascade,
    Wide,
    Narrow,
    Skip,
    Pack,
    Stage,
    Flatten,
    ComputeAt,
    Inline,
    PrefetchIn,
    PrefetchRest,
    Halve,
)
_BY_NAME = {t.name: t for t in STEP_TYPES}


def apply_schedule(kernel: Kernel, steps: Iterable[Step]) -> Kernel:
    """`kernel` with the steps applied in order. Raises ScheduleError where one does not hold."""
    for step in steps:
        kernel = step.apply(kernel)
    return kernel


def schedule_text(steps: Iterable[Step]) -> str:
    """One step a line."""
    return "".join(f"{step}\n" for step in steps)


def parse_schedule(text: str) -> Schedule:
    """The steps of a text as `schedule_text` prints it. Raises ParseError; runs nothing."""
    return tuple(_step(node) for node in parse_module(text).body)


def schedule_of(kernel: Kernel) -> Schedule:
    """The steps that were applied to a kernel."""
    return parse_schedule("\n".join(kernel.schedule))


def _step(node: ast.stmt) -> Step:
    call = node.value if isinstance(node, ast.Expr) else None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
        fail(node, "expected a step such as split('i', 4, 'i0', 'i1')")
    kind = _BY_NAME.get(call.func.id)
    if kind is None:
        fail(node, f"unknown step {call.func.id}; there are {', '.join(_BY_NAME)}")
    known = [f.name for f in fields(kind)]
    if len(call.args) > len(known):
        fail(node, f"{kind.name} takes {', '.join(known)}")
    values = {name: _literal(a) for name, a in zip(known, call.args, strict=False)}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg not in known or keyword.arg in values:
            fail(node, f"{kind.name} takes {', '.join(known)}")
        values[keyword.arg] = _literal(keyword.value)
    for f in fields(kind):
        if f.name not in values:
            if f.default is MISSING:
                fail(node, f"{kind.name}: {f.name} is missing")
        elif not _has_type(values[f.name], str(f.type)):
            fail(node, f"{kind.name}: {f.name} is {values[f.name]!r}, expected {f.type}")
    return kind(**values)


def _literal(node: ast.expr) -> object:
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_literal(n) for n in node.elts)
    if isinstance(node, ast.Constant) and type(node.value) in (str, int, bool):
        return node.value
    raise ParseError(f"line {node.lineno}: expected text, a number or a tuple", source=NOWHERE)


def _has_type(value: object, expected: str) -> bool:
    if expected == "tuple[str, ...]":
        return isinstance(value, tuple) and all(isinstance(v, str) for v in value)
    return type(value).__name__ == expected
