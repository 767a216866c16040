"""The arguments of a traced function: trees that are built anew for the trace, and what the
function does to their containers, which each call does to those given.

    def step(cache, x):
        cache["last"] = x        # an entry of the caller's dict, at each call
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from operator import setitem
from typing import Any

from rung.core.errors import TraceError
from rung.runtime.breath import NativeCall, in_one_breath
from rung.tensor import tree
from rung.tensor.tree import unflatten

Path = tuple[int, ...]
"""The numbers of the children on the way from the root of the arguments to a node."""


@dataclass(frozen=True, slots=True)
class Node:
    """A container of the arguments of a call, where it stands among the results of a trace."""

    path: Path


@dataclass(frozen=True, slots=True)
class _Made:
    """A container made for the trace: where it stands, and the children that it had."""

    path: Path
    node: Any
    children: tuple[Any, ...]
    rest: Any


class Given:
    """The arguments that a trace hands to the function, with all their containers."""

    def __init__(self, structure: tree.Structure, leaves: Sequence[Any]) -> None:
        self.tree = unflatten(structure, leaves)
        self._made: dict[int, _Made] = {}
        for number, part in enumerate(self.tree):
            children, _ = tree.children(part)
            for i, child in enumerate(children):
                self._note(child, (number, i), structure.children[number].children[i])

    def _note(self, node: Any, path: Path, structure: tree.Structure) -> None:
        if structure.kind is None or node is None:
            return
        children, rest = tree.children(node)
        self._made[id(node)] = _Made(path, node, tuple(children), rest)
        for i, child in enumerate(children):
            self._note(child, (*path, i), structure.children[i])

    def containers(self) -> list[int]:
        """The `id` of each container that was made for the trace."""
        return list(self._made)

    def changes(self) -> tuple[Any, ...]:
        """(container, children, names) of each one that the function has changed, as a tree in
        which other containers of the arguments are a `Node`. Raises TraceError for one that cannot
        be changed from outside."""
        found = []
        for made in self._made.values():
            children, rest = tree.children(made.node)
            same = len(children) == len(made.children) and rest == made.rest
            if same and all(a is b for a, b in zip(children, made.children, strict=True)):
                continue
            if not isinstance(made.node, list | dict) and not is_dataclass(made.node):
                raise TraceError(
                    f"an argument that is {type(made.node).__name__} is changed while it is traced",
                    fix="return a new one, or update its tensors in place",
                )
            names = tuple(made.node) if isinstance(made.node, dict) else None
            found.append((Node(made.path), [self._named(c) for c in children], Names(names)))
        return tuple(found)

    def _named(self, child: Any) -> Any:
        """A child of a changed container, containers of the arguments by their place."""
        made = self._made.get(id(child))
        if made is not None:
            return Node(made.path)
        children, _ = tree.children(child)
        if children and any(id(c) in self._made for c in children):
            raise TraceError(
                f"a container of the arguments is put into a new {type(child).__name__}, and that "
                "into another one of the arguments",
                fix="return the new one",
            )
        return child


@dataclass(frozen=True, slots=True)
class Names:
    """The keys of a dict; None of what has none."""

    keys: tuple[Any, ...] | None


def apply_changes(changes: Sequence[Any], args: Any) -> None:
    """Change the containers of the arguments of a call as the function has changed its own."""
    found = [
        (_at(args, node.path), [_at(args, c.path) if type(c) is Node else c for c in children], n)
        for node, children, n in changes
    ]
    steps: list[NativeCall] = []
    old: list[Any] = []  # held until all is done
    for node, children, names in found:
        if isinstance(node, list):
            old.append(list(node))
            steps.append((setitem, node, slice(None), children))
        elif isinstance(node, dict):
            old.append(dict(node))
            new = dict(zip(names.keys, children, strict=True))
            steps += [(dict.clear, node), (dict.update, node, new)]
        else:
            for field, child in zip(fields(node), children, strict=True):
                if getattr(node, field.name) is not child:
                    old.append(getattr(node, field.name))
                    steps.append((object.__setattr__, node, field.name, child))
    in_one_breath(steps)


def _at(args: Any, path: Path) -> Any:
    for number in path:
        args = tree.children(args)[0][number]
    return args
