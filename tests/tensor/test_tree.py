"""Pytrees."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest

from rung.tensor import tree

Point = namedtuple("Point", ["x", "y"])


@dataclass(frozen=True)
class Pair:
    a: object
    b: object


class Box:
    def __init__(self, content: object, label: str) -> None:
        self.content, self.label = content, label

    def __tree_flatten__(self) -> tuple[list[object], str]:
        return [self.content], self.label

    @staticmethod
    def __tree_unflatten__(label: str, children: list[object]) -> Box:
        return Box(children[0], label)


TREE = {"k": [1, (2, None)], "p": Point(3, Pair(4, {"z": 5})), "box": Box([6], "label")}


def test_flatten_and_back() -> None:
    leaves, structure = tree.flatten(TREE)
    assert leaves == [1, 2, 3, 4, 5, 6]
    again = tree.unflatten(structure, leaves)
    assert again["p"] == TREE["p"]
    assert again["k"] == TREE["k"]
    assert (again["box"].content, again["box"].label) == ([6], "label")
    assert tree.flatten(again)[1] == structure
    assert hash(tree.flatten(again)[1]) == hash(structure)
    assert tree.flatten({"k": 1})[1] != structure


def test_map_and_paths() -> None:
    doubled = tree.map(lambda x, y: x + y, TREE, TREE)
    assert tree.leaves(doubled) == [2, 4, 6, 8, 10, 12]
    assert tree.paths(tree.flatten({"a": [1, 2], "b": Pair(3, 4)})[1]) == [
        "['a'][0]", "['a'][1]", "['b'].a", "['b'].b",
    ]  # fmt: skip
    assert tree.flatten([1, (2, 3)], lambda x: isinstance(x, tuple))[0] == [1, (2, 3)]


def test_errors() -> None:
    with pytest.raises(tree.TreeError, match="trees differ"):
        tree.map(lambda x, y: x, [1], (1,))
    with pytest.raises(tree.TreeError, match="2 leaves cannot hold 1"):
        tree.unflatten(tree.flatten([1, 2])[1], [1])
