"""`rung ops`: every op with every column of its record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from rung.core.dtype import ALL, FLOATS, INTEGERS, DType
from rung.core.errors import RungError
from rung.ir.op import EVERY_OPERAND, Facts, Op
from rung.ops.table import OPS

_BLANK = "—"


@dataclass(frozen=True)
class Row:
    """What `rung ops` says about one op; a blank cell holds the reason why it is blank."""

    op: str
    family: str
    operands: str
    dtypes: str
    attrs: str
    type: str
    ref: str
    jvp: str
    transpose: str
    axes: str
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
        op=op.name,
        family=op.family,
        operands="any" if op.arity is None else str(op.arity),
        dtypes=_dtypes(op.dtypes),
        attrs=", ".join(f.name for f in fields(op.attrs)) or _BLANK,
        type=_rule(op, "type"),
        ref=_rule(op, "ref"),
        jvp=_jvp(op),
        transpose=_rule(op, "transpose"),
        axes=_axes(op),
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
        return "(" + ",".join(f"{x:g}" for x in value) + ")"
    return f"{value:g}" if isinstance(value, float) else str(value)


def table(found: list[Row]) -> Table:
    """The rows as a table with a section for each family."""
    shown = Table(title=f"{len(found)} ops", header_style="bold", padding=(0, 1))
    for f in fields(Row):
        shown.add_column(f.name, no_wrap=f.name == "op", overflow="fold", style=_style(f.name))
    family = found[0].family
    for row in found:
        if row.family != family:
            shown.add_section()
            family = row.family
        shown.add_row(*(str(value) for value in _values(row)))
    return shown


def _style(column: str) -> str:
    return {"op": "bold cyan", "doc": "dim"}.get(column, "")


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
        console = Console(width=280)
    console.print(table(found))


def _names() -> list[str]:
    return [f.name for f in fields(Row)]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("ops")(command)
