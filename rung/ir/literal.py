"""Attribute values as Python text and back.

None, bool, int, float, str, dtypes (`f32`), types (`f32[2, 3]`, a scalar one `f32[()]`), tuples,
arrays, graphs (by name) and frozen dataclasses (`Name(field=...)`). Exact: floats by their shortest
text, NaN and infinities as `nan`, `inf` and `-inf`, arrays as their elements or base64.
"""

from __future__ import annotations

import ast
import base64
import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np

from rung.core.dtype import ALL, DType
from rung.core.errors import GraphError, ParseError
from rung.core.source import NOWHERE
from rung.ir.array import ArrayData, array_data
from rung.ir.node import Graph
from rung.ir.types import TensorType

DTYPES: Final = {d.name: d for d in ALL}
RESERVED: Final = frozenset((*DTYPES, "nan", "inf", "graph", "array_data", "named"))
SMALL_ARRAY: Final = 16
NAN: Final = math.nan
"""The one NaN of parsed text: equality of attributes compares floats by identity first."""


# ---- printing


@dataclasses.dataclass(frozen=True)
class Printing:
    """How a function is printed: the names of the graphs of the text, whether large arrays are
    written out, and the number of its parameters."""

    graphs: Mapping[Graph, str]
    data: bool
    params: int


def literal_text(value: object, printing: Printing) -> str:
    """Python text of an attribute value. Raises GraphError for one that has no text form."""
    if isinstance(value, float):
        return float_text(value)
    if value is None or isinstance(value, bool | int):
        return repr(value)
    if isinstance(value, str):
        plain = value.isprintable() and not set(value) & set("\"'\\")
        return f'"{value}"' if plain else repr(value)
    if isinstance(value, DType):
        return value.name
    if isinstance(value, TensorType):
        return f"{value.dtype.name}[{', '.join(map(str, value.shape)) or '()'}]"
    if isinstance(value, tuple) and type(value) is tuple:
        items = [literal_text(v, printing) for v in value]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    if isinstance(value, ArrayData):
        return _array_text(value, printing)
    if isinstance(value, Graph):
        return printing.graphs[value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return f"{type(value).__name__}({', '.join(fields_text(value, printing))})"
    raise GraphError(f"an attribute of type {type(value).__name__} has no text form: {value!r}")


def _array_text(data: ArrayData, printing: Printing) -> str:
    """`array_data(f32[2], (1.0, 2.0))`; a large one `array_data(f32[9], "base64")`, or only
    `array_data("digest")`."""
    type_text = literal_text(data.type, printing)
    if data.type.size <= SMALL_ARRAY:
        items = tuple(NAN if v != v else v for v in data.array.ravel().tolist())
        if np.array(items, data.array.dtype).tobytes() == data.array.tobytes():
            return f"array_data({type_text}, {literal_text(items, printing)})"
    elif not printing.data:
        return f'array_data("{data.digest}")'
    return f'array_data({type_text}, "{base64.b64encode(data.array.tobytes()).decode()}")'


def float_text(value: float) -> str:
    """Shortest text that reads back as the same float."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(float(value))


def fields_text(record: Any, printing: Printing) -> list[str]:
    """`name=value` of each field of a dataclass that differs from its default."""
    texts = []
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if not _is_default(value, field.default):
            texts.append(f"{field.name}={literal_text(value, printing)}")
    return texts


def _is_default(value: object, default: object) -> bool:
    """Whether leaving the value out reads back as the very same (0.0 is not -0.0, nor 1 True)."""
    if default is dataclasses.MISSING:
        return False
    return type(value) is type(default) and value == default and repr(value) == repr(default)


def sub_graphs(value: object) -> Sequence[Graph]:
    """The graphs inside an attribute value."""
    found: list[Graph] = []
    stack = [value]
    while stack:
        x = stack.pop()
        if isinstance(x, Graph):
            found.append(x)
        elif isinstance(x, tuple):
            stack.extend(reversed(x))
        else:
            names = _FIELDS.get(type(x))
            if names is None:
                names = _FIELDS[type(x)] = _fields_with_values(type(x))
            stack.extend([getattr(x, name) for name in names])
    return found


_FIELDS: Final[dict[type, tuple[str, ...]]] = {}


def _fields_with_values(kind: type) -> tuple[str, ...]:
    """The fields of a dataclass of attributes, the last first; none of anything else."""
    if not dataclasses.is_dataclass(kind) or issubclass(kind, DType | TensorType):
        return ()
    return tuple(field.name for field in reversed(dataclasses.fields(kind)))


# ---- reading


class Names:
    """What the names of a text mean: graphs read so far, and dataclasses of attributes."""

    def __init__(self, records: Mapping[str, type]) -> None:
        self.records = records
        self.graphs: dict[str, Graph] = {}


def read_literal(node: ast.expr, names: Names) -> object:
    """The attribute value that the expression stands for. Raises ParseError."""
    if isinstance(node, ast.Constant):
        if node.value is None or isinstance(node.value, bool | int | float | str):
            return node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = read_literal(node.operand, names)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return NAN if value != value else -value
    elif isinstance(node, ast.Tuple):
        return tuple(read_literal(e, names) for e in node.elts)
    elif isinstance(node, ast.Name):
        return _read_name(node, names)
    elif isinstance(node, ast.Subscript):
        return read_type(node)
    elif isinstance(node, ast.Call):
        return _read_call(node, names)
    raise error(node, "is not an attribute value")


def _read_name(node: ast.Name, names: Names) -> object:
    if node.id in names.graphs:
        return names.graphs[node.id]
    if node.id in DTYPES:
        return DTYPES[node.id]
    if node.id == "nan":
        return NAN
    if node.id == "inf":
        return math.inf
    raise error(node, f"unknown name {node.id!r}", "a dtype, nan, inf or a graph defined above")


def _read_call(node: ast.Call, names: Names) -> object:
    if not isinstance(node.func, ast.Name):
        raise error(node, "is not an attribute value")
    if node.func.id == "array_data":
        return _read_array(node)
    record = names.records.get(node.func.id)
    if record is None:
        raise error(node, f"unknown record {node.func.id!r}", "one of the attributes of an op")
    if node.args:
        raise error(node, f"{node.func.id} takes its fields by name")
    return read_record(record, node, names)


def _read_array(node: ast.Call) -> ArrayData:
    """The array of `array_data("digest")`, `array_data(type, (elements…))` or `(type, "base64")`"""
    if len(node.args) not in (1, 2) or node.keywords:
        raise error(node, "array_data takes a digest, or a type and elements")
    last = node.args[-1]
    text = last.value if isinstance(last, ast.Constant) else None
    try:
        if len(node.args) == 1 and isinstance(text, str):
            return array_data(text)
        type = read_type(node.args[0])
        if isinstance(text, str):
            flat = np.frombuffer(base64.b64decode(text, validate=True), type.dtype.numpy)
        else:
            items = read_literal(last, Names({}))
            if not has_type(items, tuple[bool | int | float, ...]):
                raise error(last, "is not a tuple of numbers")
            flat = np.array(items, type.dtype.numpy)
        return array_data(flat.reshape(type.shape))
    except (ValueError, OverflowError, TypeError) as e:
        raise error(node, f"array_data: {e}") from None
    except GraphError as e:
        raise e if isinstance(e, ParseError) else error(node, e.message) from None


def read_record(record: type, node: ast.Call, names: Names) -> Any:
    """The frozen dataclass `record` from the keywords of a call, each checked against the type of
    its field. Raises ParseError."""
    hints = field_types(record)
    given: dict[str, object] = {}
    for keyword in node.keywords:
        if keyword.arg is None or keyword.arg not in hints:
            known = ", ".join(hints) or "none"
            raise error(keyword, f"{record.__name__} has no attribute {keyword.arg!r}", known)
        if keyword.arg in given:
            raise error(keyword, f"attribute {keyword.arg!r} is given twice")
        value = read_literal(keyword.value, names)
        if not has_type(value, hints[keyword.arg]):
            text = f"attribute {keyword.arg!r} cannot be {value!r}"
            raise error(keyword.value, text, f"a {_hint_text(hints[keyword.arg])}")
        given[keyword.arg] = value
    for field in dataclasses.fields(record):
        if field.name not in given and field.default is dataclasses.MISSING:
            raise error(node, f"attribute {field.name!r} of {record.__name__} is missing")
    return record(**given)


def read_type(node: ast.expr) -> TensorType:
    """The type that `f32[2, 3]`, `f32[()]` or `f32` stands for. Raises ParseError."""
    if isinstance(node, ast.Name) and node.id in DTYPES:
        return TensorType(DTYPES[node.id], ())
    if not (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)):
        raise error(node, "is not a type", "for example f32[2, 3]")
    if node.value.id not in DTYPES:
        raise error(node, f"unknown dtype {node.value.id!r}", ", ".join(DTYPES))
    sizes = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
    shape = []
    for size in sizes:
        value = size.value if isinstance(size, ast.Constant) else None
        if type(value) is not int:
            raise error(size, "a dim is a number that is not negative")
        shape.append(value)
    return TensorType(DTYPES[node.value.id], tuple(shape))


def error(node: ast.AST, message: str, expected: str | None = None) -> ParseError:
    """A ParseError at the place of a syntax node."""
    line, column = getattr(node, "lineno", 0), getattr(node, "col_offset", -1) + 1
    return parse_error(line, column, message, f"expected {expected}" if expected else None)


def parse_error(line: int, column: int, message: str, fix: str | None = None) -> ParseError:
    """A ParseError at `line` and `column`, both counted from 1."""
    if message.startswith("is "):
        message = f"this {message}"
    text = f"line {line}, column {column}: {message}"
    found = ParseError(text, fix=fix, source=NOWHERE)
    found.lineno, found.offset = line, column
    return found


# ---- types of attribute fields


@cache
def field_types(record: type) -> dict[str, Any]:
    """The annotations of the fields of a dataclass, resolved."""
    hints = typing.get_type_hints(record)
    return {f.name: hints[f.name] for f in dataclasses.fields(record)}


def record_types(record: type) -> dict[str, type]:
    """`record` and the dataclasses that its fields may hold, by name."""
    found: dict[str, type] = {}
    todo: list[Any] = [record]
    while todo:
        hint = todo.pop()
        todo.extend(typing.get_args(hint))
        if not isinstance(hint, type) or not dataclasses.is_dataclass(hint):
            continue
        if hint not in (DType, TensorType) and found.setdefault(hint.__name__, hint) is hint:
            todo.extend(h for h in field_types(hint).values() if h not in found.values())
    return found


def has_type(value: object, hint: Any) -> bool:
    """Whether a value fits the annotation of a field: classes, unions, tuples, None, Literal."""
    origin = typing.get_origin(hint)
    if hint is None or hint is type(None):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(has_type(value, h) for h in typing.get_args(hint))
    if origin is typing.Literal:
        return any(value is a or value == a for a in typing.get_args(hint))
    if origin is tuple or hint is tuple:
        return isinstance(value, tuple) and _tuple_has_types(value, typing.get_args(hint))
    if hint is int:
        return type(value) is int
    return isinstance(value, hint) if isinstance(hint, type) else False


def _tuple_has_types(value: tuple[object, ...], hints: tuple[Any, ...]) -> bool:
    if not hints:
        return True
    if len(hints) == 2 and hints[1] is Ellipsis:
        return all(has_type(v, hints[0]) for v in value)
    return len(value) == len(hints) and all(map(has_type, value, hints))


def _hint_text(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
