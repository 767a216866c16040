"""Between which numbers the elements of an integer value surely lie, and the pass that drops the
checks of positions that cannot be out of range."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import numpy as np

from rung.core.dtype import DType
from rung.ir.node import PARAMETER, Graph, Node, Value, make_graph, make_node, provenance
from rung.ir.op import Attrs, Op
from rung.ir.passes import Pass
from rung.ops.broadcast import broadcast_to, reshape
from rung.ops.check import RangeAttrs, check_range, holds_check
from rung.ops.control import EachAttrs, ScanAttrs, SwitchAttrs, WhileAttrs, after
from rung.ops.creation import ArrayAttrs, ConstantAttrs, IotaAttrs, array_constant, constant, iota
from rung.ops.elementwise import (
    cast,
    floor_divide,
    less,
    maximum,
    minimum,
    multiply,
    negative,
    remainder,
    subtract,
    where,
)
from rung.ops.families import add
from rung.ops.gradient import stop_gradient
from rung.ops.indexing import gather, take, take_along
from rung.ops.movement import PadAttrs, concat, flip, pad, permute, slice_
from rung.ops.reduction import DimAttrs, argmax, argmin, reduce_max, reduce_min
from rung.ops.sorting import SortAttrs, TopAttrs, argsort, sort, top_k

Range = tuple[int, int]
"""The least and the greatest number, inclusive."""
Known = Mapping[Value, "Range | None"]
EMPTY: Final[Known] = MappingProxyType({})
Rule = Callable[[Node, Value, Known], "Range | None"]
"""(node, one of its results, what is known of earlier values) -> range; None for no idea."""


def ranges(nodes: Iterable[Node], given: Known = EMPTY) -> dict[Value, Range | None]:
    """For each result of `nodes` (operands before users), between which numbers its elements lie;
    None if it is not of integers, or has no elements. What has passed a check is within its range.
    `given` is what is known of parameters."""
    found: dict[Value, Range | None] = {}
    for node in nodes:
        for result in node.results:
            found[result] = given.get(result) or range_of(node, result, found)
    return found


def range_of(node: Node, result: Value, known: Known) -> Range | None:
    """Between which numbers one result of a node lies."""
    whole = whole_range(result.dtype)
    if whole is None or not result.type.size:
        return None
    rule = None if node.op is PARAMETER else _RULES.get(node.op)
    made = None if rule is None else rule(node, result, known)
    if made is None or not (whole[0] <= made[0] and made[1] <= whole[1]):  # it may wrap around
        return whole
    return made


def whole_range(dtype: DType) -> Range | None:
    """What a dtype can hold; None for floats."""
    if dtype.is_bool:
        return 0, 1
    if not dtype.is_integer:
        return None
    info = np.iinfo(dtype.numpy)
    return int(info.min), int(info.max)


# ---- rules


def _first(node: Node, result: Value, known: Known) -> Range | None:
    return known[node.inputs[0]]


def _same(node: Node, result: Value, known: Known) -> Range | None:
    return known[node.inputs[result.index]]


def _joined(node: Node, result: Value, known: Known) -> Range | None:
    """Operands without elements give none."""
    found = [known[v] for v in node.inputs if v.type.size]
    parts = [r for r in found if r is not None]
    if not parts or len(parts) < len(found):
        return None
    return min(low for low, _ in parts), max(high for _, high in parts)


def _chosen(node: Node, result: Value, known: Known) -> Range | None:
    """Of `where(x < 0, x + n, x)`, positions counted from the end, each half is known by itself."""
    condition, x, y = node.inputs
    a, b = known[x], known[y]
    if a is None or b is None:
        return None
    if condition.node.op is less and x.node.op is add and x.node.inputs[0] is y:
        other, zero = condition.node.inputs
        length = known[x.node.inputs[1]]
        if other is y and known[zero] == (0, 0) and length is not None:
            if b[0] >= 0:
                return b
            a = b[0] + length[0], min(b[1], -1) + length[1]
            b = (0, b[1]) if b[1] >= 0 else a
    return min(a[0], b[0]), max(a[1], b[1])


def _constant(node: Node, result: Value, known: Known) -> Range | None:
    assert isinstance(node.attrs, ConstantAttrs)
    return int(node.attrs.value), int(node.attrs.value)


def _array(node: Node, result: Value, known: Known) -> Range | None:
    assert isinstance(node.attrs, ArrayAttrs)
    array = node.attrs.data.array
    return int(array.min()), int(array.max())


def _iota(node: Node, result: Value, known: Known) -> Range | None:
    assert isinstance(node.attrs, IotaAttrs)
    return 0, result.shape[node.attrs.dim] - 1


def _checked(node: Node, result: Value, known: Known) -> Range | None:
    attrs, whole = node.attrs, known[node.inputs[0]]
    assert isinstance(attrs, RangeAttrs)
    if whole is None or len(node.inputs) > 1:
        return whole
    low, high = attrs.low, attrs.high
    if attrs.ignored is not None:
        low, high = min(low, attrs.ignored), max(high, attrs.ignored)
    low, high = max(low, whole[0]), min(high, whole[1])
    return (low, high) if low <= high else whole


def _padded(node: Node, result: Value, known: Known) -> Range | None:
    assert isinstance(node.attrs, PadAttrs)
    value, x = int(node.attrs.value), known[node.inputs[0]]
    return (value, value) if x is None else (min(x[0], value), max(x[1], value))


def _position(node: Node, result: Value, known: Known) -> Range | None:
    """Of positions along the dim that is reduced or sorted."""
    attrs, x = node.attrs, node.inputs[0]
    assert isinstance(attrs, DimAttrs | SortAttrs | TopAttrs)
    if node.op is top_k and result.index == 0:
        return known[x]
    return 0, x.shape[attrs.dim] - 1


def _arithmetic(function: Callable[[Range, Range], Range | None]) -> Rule:
    def rule(node: Node, result: Value, known: Known) -> Range | None:
        a, b = known[node.inputs[0]], known[node.inputs[-1]]
        return None if a is None or b is None else function(a, b)

    return rule


def _product(a: Range, b: Range) -> Range:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def _quotient(a: Range, b: Range) -> Range | None:
    corners = [x // y for x in a for y in b if y > 0]
    return (min(corners), max(corners)) if b[0] > 0 else None


def _remainder(a: Range, b: Range) -> Range | None:
    if b[0] <= 0:
        return None
    return a if a[0] >= 0 and a[1] < b[0] else (0, b[1] - 1)


_RULES: Final[dict[Op, Rule]] = {
    **dict.fromkeys((broadcast_to, reshape, permute, slice_, flip, sort, stop_gradient), _first),
    **dict.fromkeys((take, take_along, gather, reduce_max, reduce_min), _first),
    **dict.fromkeys((argmax, argmin, argsort, top_k), _position),
    after: _same,
    concat: _joined,
    where: _chosen,
    pad: _padded,
    constant: _constant,
    array_constant: _array,
    iota: _iota,
    cast: _first,
    check_range: _checked,
    add: _arithmetic(lambda a, b: (a[0] + b[0], a[1] + b[1])),
    subtract: _arithmetic(lambda a, b: (a[0] - b[1], a[1] - b[0])),
    multiply: _arithmetic(_product),
    floor_divide: _arithmetic(_quotient),
    remainder: _arithmetic(_remainder),
    minimum: _arithmetic(lambda a, b: (min(a[0], b[0]), min(a[1], b[1]))),
    maximum: _arithmetic(lambda a, b: (max(a[0], b[0]), max(a[1], b[1]))),
    negative: _arithmetic(lambda a, b: (-a[1], -a[0])),
}



# ---- the pass


def without_proven(graph: Graph, given: Sequence[Range | None] = ()) -> Graph:
    """`graph`, and the graphs inside, without checks that surely hold. `given`: what is known of
    the parameters."""
    if not any(map(holds_check, graph.nodes)):
        return graph
    known = ranges(graph.nodes, dict(zip(graph.params, given, strict=False)))
    moved: dict[Value, Value] = {}
    for node in graph.nodes:
        if node.op is PARAMETER:
            continue
        inputs = tuple(moved.get(v, v) for v in node.inputs)
        if _holds(node, known):
            moved[node.results[0]] = inputs[0]
            continue
        attrs = _with_ranges(node, known) if holds_check(node) else node.attrs
        if inputs != node.inputs or attrs is not node.attrs:
            with provenance(node.source):
                made = make_node(node.op, inputs, attrs)
            moved.update(zip(node.results, made, strict=True))
    return make_graph(graph.name, graph.params, [moved.get(v, v) for v in graph.outputs])


def _holds(node: Node, known: Known) -> bool:
    attrs = node.attrs
    if not isinstance(attrs, RangeAttrs):
        return False
    found = known[node.inputs[0]]
    return found is None or (attrs.low <= found[0] and found[1] <= attrs.high)


def _with_ranges(node: Node, known: Known) -> Attrs:
    """The attributes of a control-flow node, its graphs without what is proven of their
    parameters."""
    attrs, operands = node.attrs, [known[v] for v in node.inputs]
    if isinstance(attrs, ScanAttrs):
        first = attrs.constants + attrs.carries
        given = [*operands[: attrs.constants], *[None] * attrs.carries, *operands[first:]]
        return replace(attrs, body=without_proven(attrs.body, given))
    if isinstance(attrs, WhileAttrs):
        given = operands[: attrs.constants]
        condition, body = (without_proven(g, given) for g in (attrs.condition, attrs.body))
        return replace(attrs, condition=condition, body=body)
    if isinstance(attrs, SwitchAttrs):
        return SwitchAttrs(tuple(without_proven(b, operands[1:]) for b in attrs.branches))
    if isinstance(attrs, EachAttrs):
        branches = tuple(without_proven(b, operands[1:]) for b in attrs.branches)
        return replace(attrs, branches=branches)
    return attrs


drop_proven_checks: Final = Pass("ranges", lambda graph, options, counts: without_proven(graph))
