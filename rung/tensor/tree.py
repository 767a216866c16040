"""Pytrees: nested dicts, lists, tuples, dataclasses and registered classes, with leaves inside.

    leaves, structure = flatten({"w": w, "b": [b1, b2]})
    unflatten(structure, [f(x) for x in leaves])

None is a node without leaves. Dict keys keep their order of insertion, which is part of the
structure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from rung.core.errors import ArgumentError, RungError

Flatten = Callable[[Any], "tuple[Sequence[Any], Any]"]
"""node -> (children, hashable rest)."""
Unflatten = Callable[[Any, Sequence[Any]], Any]
"""(rest, children) -> node."""
IsLeaf = Callable[[Any], bool]


class TreeError(RungError, ValueError):
    """Trees that do not have the same structure."""


@dataclass(frozen=True, slots=True)
class Structure:
    """The shape of a tree: `kind` is the class of the node (None for a leaf), `rest` what the node
    holds beside its children."""

    kind: type | None
    rest: Any
    children: tuple[Structure, ...]
    num_leaves: int

    def __repr__(self) -> str:
        if self.kind is None:
            return "*"
        inner = ", ".join([repr(child) for child in self.children])
        return f"{self.kind.__name__}({inner})"


LEAF = Structure(None, None, (), 1)


def register(kind: type, flatten: Flatten, unflatten: Unflatten) -> None:
    """Make instances of `kind` (exactly that class) nodes of trees."""
    _nodes[kind] = (flatten, unflatten)


def _flatten_dict(node: dict[Any, Any]) -> tuple[Sequence[Any], Any]:
    return list(node.values()), tuple(node)


def _unflatten_dict(keys: Any, children: Sequence[Any]) -> dict[Any, Any]:
    return dict(zip(keys, children, strict=True))


_nodes: dict[type, tuple[Flatten, Unflatten]] = {
    list: (lambda x: (x, None), lambda _, children: list(children)),
    tuple: (lambda x: (x, None), lambda _, children: tuple(children)),
    dict: (_flatten_dict, _unflatten_dict),
    type(None): (lambda _: ((), None), lambda _, __: None),
}


def _rules(kind: type) -> tuple[Flatten, Unflatten] | None:
    found = _nodes.get(kind)
    if found is None:
        if hasattr(kind, "__tree_flatten__"):
            found = (kind.__tree_flatten__, kind.__tree_unflatten__)  # type: ignore[attr-defined]
        elif issubclass(kind, tuple) and hasattr(kind, "_fields"):
            found = (lambda x: (x, None), lambda _, children: kind(*children))
        elif is_dataclass(kind):
            found = (_flatten_dataclass, lambda names, c: _new_dataclass(kind, names, c))
        if found is not None:
            _nodes[kind] = found
    return found


def _flatten_dataclass(node: Any) -> tuple[Sequence[Any], Any]:
    names = tuple(f.name for f in fields(node))
    return [getattr(node, n) for n in names], names


def _new_dataclass(kind: type, names: Sequence[str], children: Sequence[Any]) -> Any:
    node = object.__new__(kind)
    for name, child in zip(names, children, strict=True):
        object.__setattr__(node, name, child)
    return node


def flatten(tree: Any, is_leaf: IsLeaf | None = None) -> tuple[list[Any], Structure]:
    """The leaves of `tree` in order, and its structure. `is_leaf` stops at nodes it accepts."""
    leaves: list[Any] = []
    try:
        return leaves, _flatten_into(tree, leaves, is_leaf)
    except RecursionError:
        raise ArgumentError(
            "a tree without end, or too deep", fix="give containers that do not hold themselves"
        ) from None


def _flatten_into(tree: Any, leaves: list[Any], is_leaf: IsLeaf | None) -> Structure:
    kind = type(tree)
    rules = _rules(kind)
    if rules is None or (is_leaf is not None and is_leaf(tree)):
        leaves.append(tree)
        return LEAF
    children, rest = rules[0](tree)
    start = len(leaves)
    parts = tuple([_flatten_into(child, leaves, is_leaf) for child in children])
    return Structure(kind, rest, parts, len(leaves) - start)


def children(tree: Any) -> tuple[Sequence[Any], Any]:
    """The children of the node `tree`, and what must agree for two nodes to be alike; of a leaf,
    none and None."""
    rules = _rules(type(tree))
    if rules is None:
        return (), None
    found, rest = rules[0](tree)
    return found, (type(tree), rest)


def counts_as_node(kind: type) -> bool:
    """Whether objects of this class are nodes of trees."""
    return _rules(kind) is not None


def unflatten(structure: Structure, leaves: Iterable[Any]) -> Any:
    """The tree of this structure with `leaves`. Raises TreeError if their number differs."""
    leaves = list(leaves)
    if len(leaves) != structure.num_leaves:
        raise TreeError(f"a tree with {structure.num_leaves} leaves cannot hold {len(leaves)}")
    return _build(structure, iter(leaves))


def _build(structure: Structure, leaves: Iterator[Any]) -> Any:
    if structure.kind is None:
        return next(leaves)
    rules = _rules(structure.kind)
    assert rules is not None
    return rules[1](structure.rest, [_build(child, leaves) for child in structure.children])


def leaves(tree: Any, is_leaf: IsLeaf | None = None) -> list[Any]:
    """The leaves of `tree` in order."""
    return flatten(tree, is_leaf)[0]


def map(function: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`function` of each leaf (and the leaves at the same place of the trees `rest`), as a tree.

    Raises TreeError if the structures differ."""
    first, structure = flatten(tree)
    others = []
    for other in rest:
        flat, theirs = flatten(other)
        if theirs != structure:
            raise TreeError(f"trees differ: {structure} and {theirs}")
        others.append(flat)
    return unflatten(structure, [function(*xs) for xs in zip(first, *others, strict=True)])


def paths(structure: Structure) -> list[str]:
    """A name for each leaf: `.w`, `[0]`, `['key']` joined; the leaf alone is ``."""
    if structure.kind is None:
        return [""]
    names = _child_names(structure)
    return [
        name + rest
        for name, child in zip(names, structure.children, strict=True)
        for rest in paths(child)
    ]


def _child_names(structure: Structure) -> list[str]:
    count = len(structure.children)
    if structure.kind is dict:
        return [f"[{key!r}]" for key in structure.rest]
    rest = structure.rest
    if isinstance(rest, tuple) and len(rest) == count and all(isinstance(n, str) for n in rest):
        return [f".{name}" for name in rest]
    return [f"[{i}]" for i in range(count)]
