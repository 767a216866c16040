"""`rung ops`: every op with every column of its record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from rung.core.dtype import ALL, FLOATS, INTEGERS, DType
from rung.core.errors import RungError
from rung.ir.op import EVERY_OPERAND, Facts, Op
from rung.ops.table import OPS

_BLANK = "—"
_PLAIN_WIDTH = 240
"""Characters in a line where the output is no terminal."""


@dataclass(frozen=True)
class Row:
    """What `rung ops` says about one op; a blank cell holds the reason why it is blank."""

    family: str
    op: str
    operands: str
    dtypes: str
    attrs: str
    type: str
    ref: str
    jvp: str
    transpose: str
    axes: str
    batch: str
    facts: str
    cost: str
    emit: str
    doc: str


def rows(family: str | None = None) -> list[Row]:
    """A row for each op, in the order of the families. Raises RungError for an unknown family."""
    found = [_row(op) for op in OPS.values() if family in (None, op.family)]
    if not found:
        known = ", ".join(dict.fromkeys(op.family for op in OPS.values()))
        raise RungError(f"no ops of family {family!r}", fix=f"families: {known}")
    return found


def _row(op: Op) -> Row:
    return Row(
        family=op.family,
        op=op.name,
        operands="any" if op.arity is None else str(op.arity),
        dtypes=_dtypes(op.dtypes),
        attrs=", ".join(f.name for f in fields(op.attrs)) or _BLANK,
        type=_rule(op, "type"),
        ref=_rule(op, "ref"),
        jvp=_jvp(op),
        transpose=_rule(op, "transpose"),
        axes=_axes(op),
        batch=_batch(op),
        facts=_facts(op.facts),
        cost=_rule(op, "cost"),
        emit=op.emit or op.blank.get("emit", _BLANK),
        doc=op.doc.strip().split("\n")[0],
    )


def _rule(op: Op, column: str) -> str:
    """The name of the function in a column, or why there is none."""
    rule: Any = getattr(op, column)
    if rule is None:
        return op.blank.get(column, _BLANK)
    name = getattr(rule, "__qualname__", type(rule).__name__)
    return "yes" if "<lambda>" in name or "<locals>" in name else name.lstrip("_")


def _jvp(op: Op) -> str:
    if op.jvp is not None:
        return _rule(op, "jvp")
    if not op.linear:
        return op.blank.get("jvp", _BLANK)
    if op.linear is EVERY_OPERAND or op.linear == EVERY_OPERAND:
        return "linear in all"
    together = " together" if op.joint and len(op.linear) > 1 else ""
    return f"linear in {', '.join(map(str, op.linear))}{together}"


def _axes(op: Op) -> str:
    if op.axes is None:
        return op.blank.get("axes", _BLANK)
    return "all parallel" if op.elementwise else _rule(op, "axes")


def _batch(op: Op) -> str:
    """How a parallel axis is added."""
    if op.arity == 0:
        return "no operands"
    if op.decompose is not None and op.axes is None and op.name == "composite":
        return "in its body"
    return "the same op" if op.batch is None else _rule(op, "batch")


def _dtypes(given: tuple[DType, ...]) -> str:
    left = set(given)
    names = []
    for name, group in (("all", ALL), ("floats", FLOATS), ("integers", INTEGERS)):
        if left and left >= set(group):
            names.append(name)
            left -= set(group)
    return " ".join([*names, *(d.name for d in ALL if d in left)])


def _facts(facts: Facts) -> str:
    plain = Facts()
    found = []
    for f in fields(facts):
        value = getattr(facts, f.name)
        if value != getattr(plain, f.name):
            found.append(f.name if value is True else f"{f.name}={_short(value)}")
    return " ".join(found) or _BLANK


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        shown = [f"{x:g}" for x in value]
        if len(shown) > 6:
            shown = [*shown[:2], "…", *shown[-2:]]
        return "(" + ",".join(shown) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(found: list[Row], notes: list[str]) -> Table:
    """The rows as a table with a section for each family. Reasons for blank cells, which are longer
    than a cell, are added to `notes` and shown by their number there."""
    shown = Table(title=f"{len(found)} ops", header_style="bold", padding=(0, 1))
    for name in SHOWN:
        shown.add_column(
            name, no_wrap=name in ("op", "family"), overflow="fold", style=_style(name)
        )
    family = found[0].family
    for row in found:
        if row.family != family:
            shown.add_section()
            family = row.family
        blank = OPS[row.op].blank
        cells = []
        for name in SHOWN:
            text = getattr(row, name)
            cells.append(escape(_noted(text, notes)) if text and text == blank.get(name) else text)
        shown.add_row(*cells)
    return shown


SHOWN = tuple(f.name for f in fields(Row) if f.name != "doc")


def _noted(reason: str, notes: list[str]) -> str:
    if reason not in notes:
        notes.append(reason)
    return f"— [{notes.index(reason) + 1}]"


def _style(column: str) -> str:
    return {"op": "bold cyan", "family": "dim"}.get(column, "")


def _values(row: Row) -> Iterator[str]:
    return (getattr(row, f.name) for f in fields(row))


def command(
    family: Annotated[str | None, typer.Option(help="only this family")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, one object for each op")] = False,
) -> None:
    """Print every op with every column of its record; a blank cell says why it is blank."""
    found = rows(family)
    if as_json:
        print(json.dumps([dict(zip(_names(), _values(r), strict=True)) for r in found], indent=1))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=_PLAIN_WIDTH)
    notes: list[str] = []
    console.print(table(found, notes))
    console.print("blank cells:")
    for number, reason in enumerate(notes, 1):
        console.print(f"  [{number}] {reason}", markup=False, highlight=False)


def _names() -> list[str]:
    return [f.name for f in fields(Row)]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("ops")(command)
