"""Guards: what a trace has read of the Python program, and one generated function that tells before
each call whether it is still so.

    def holds():
        if not (((now := x0['temperature']) is x1 or same(now, x1)) and x2.weight is x3 and …):
            return False
        if modules.count != seen_modules:  # else no attribute of any module has been set
            …
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any

import numpy as np

from rung.core import changes

MISSING: Any = type("Missing", (), {"__repr__": lambda _: "missing"})()
"""The value of a name, attribute or item that is not there."""
GLOBAL, CELL, ATTRIBUTE, ITEM, METHOD, OWN, LENGTH, CONTENT, ARRAY, FOLLOWED = range(10)
"""What is read: a global name; a closure variable; an attribute; an item; a function of a class;
whether an object has an attribute of its own; the length, or all items, of a container; the
elements of an array; whether a derivative with respect to a tensor is followed."""
PLAIN = (bool, int, float, complex, str, bytes, type(None), np.generic, range, slice)
Containers = list | dict | set | deque


class Entries(tuple[Any, ...]):
    """A snapshot of a dict: (its keys, its values)."""


@dataclass(slots=True, eq=False)
class Read:
    """One thing that was read: of `owner`, by `name`, and what it was."""

    kind: int
    owner: Any
    name: Any
    value: Any

    def now(self) -> Any:
        """What it is now."""
        kind, owner, name = self.kind, self.owner, self.name
        if kind == GLOBAL:
            return owner.get(name, MISSING)
        if kind == CELL:
            try:
                return owner.cell_contents
            except ValueError:
                return MISSING
        if kind in (ATTRIBUTE, METHOD):
            return getattr(owner, name, MISSING)
        if kind == OWN:
            return vars(owner).get(name, MISSING)
        if kind == ITEM:
            return item_of(owner, name)
        if kind == LENGTH:
            return len(owner)
        if kind == FOLLOWED:
            return owner._requires_grad
        return content_of(owner)

    def holds(self) -> bool:
        """Whether it still is what it was."""
        found = self.now()
        if self.kind in (CONTENT, ARRAY):
            return same_content(found, self.value)
        return found is self.value or same(found, self.value)

    def describe(self) -> str:
        """What it is, for a user."""
        kind, owner, name = self.kind, self.owner, self.name
        if kind == GLOBAL:
            text = f"global {name}"
        elif kind == CELL:
            text = f"closure variable {name}"
        elif kind in (ATTRIBUTE, METHOD, OWN):
            of = owner if isinstance(owner, type) else type(owner)
            text = f"{getattr(owner, '__name__', of.__name__)}.{name}"
        elif kind == ITEM:
            text = f"item {name!r} of a {type(owner).__name__}"
        elif kind == LENGTH:
            text = f"the length of a {type(owner).__name__}"
        elif kind == FOLLOWED:
            text = "whether a tensor requires a gradient"
        elif kind == ARRAY:
            text = f"the elements of an array {owner.dtype}{list(owner.shape)}"
        else:
            text = f"the items of a {type(owner).__name__}"
        found = self.now()
        if isinstance(self.value, PLAIN) and isinstance(found, PLAIN):
            return f"{text}: {found!r} was {self.value!r}"
        return text


def item_of(owner: Any, key: Any) -> Any:
    """`owner[key]` of a list, tuple or dict, without making anything."""
    if isinstance(owner, dict):
        return dict.get(owner, key, MISSING)
    try:
        return owner[key]
    except (IndexError, TypeError):
        return MISSING


def content_of(owner: Any) -> Any:
    """A snapshot of a container or array: what `same_content` compares."""
    if isinstance(owner, np.ndarray):
        return owner.copy()
    if isinstance(owner, dict):
        return Entries((tuple(owner), tuple(owner.values())))
    return frozenset(owner) if isinstance(owner, set) else tuple(owner)


def same(a: Any, b: Any) -> bool:
    """Whether two things are the same object, or plain values of one type and equal bits."""
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack("<d", a) == struct.pack("<d", b)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.generic):
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return isinstance(a, (*PLAIN, np.dtype)) and bool(a == b)


def same_content(a: Any, b: Any) -> bool:
    """Whether two snapshots, or an array and one, hold the same items."""
    if isinstance(b, np.ndarray):
        return (
            isinstance(a, np.ndarray)
            and a.shape == b.shape
            and a.dtype == b.dtype
            and (a.tobytes() == b.tobytes())
        )
    if isinstance(b, frozenset):
        return len(a) == len(b) and all(x in b for x in a)
    return same(a, b)


def dict_holds(owner: dict[Any, Any], keys: Sequence[Any], values: Sequence[Any]) -> bool:
    """Whether a dict has these keys and values in this order."""
    if len(owner) != len(keys):
        return False
    if all(map(is_, owner, keys)) and all(map(is_, owner.values(), values)):
        return True
    return same((tuple(owner), tuple(owner.values())), (keys, values))


def list_holds(owner: Sequence[Any], items: Sequence[Any]) -> bool:
    """Whether a list has these items."""
    if len(owner) != len(items):
        return False
    return all(map(is_, owner, items)) or same(tuple(owner), items)


class Check:
    """The guards of a trace as one function. They never hold where the trace itself has changed
    what it read (such a function is traced at each call, and so does what it does without `jit`),
    or where what it read could not be followed, by `error`."""

    def __init__(self, reads: Sequence[Read], error: Exception | None) -> None:
        self.reads = reads
        self.error = error
        self.holds: Callable[[], bool] = compile_check(self.reads)
        self.changes_itself = not self.holds()
        if self.changes_itself or error is not None:
            self.holds = lambda: False

    def changed(self) -> list[str]:
        """What does not hold, for a user."""
        found = [r.describe() for r in self.reads if not r.holds()]
        if self.changes_itself and not found:
            found.append("what the function itself changes")
        if self.error is not None:
            found.append(f"something (what is read could not be followed: {self.error!r})")
        return found


def _counted(reads: Sequence[Read]) -> dict[str, list[Read]]:
    """The reads by the counter that tells whether they can have changed; "" for none."""
    modules = {id(r.owner): r.owner for r in reads if hasattr(type(r.owner), "__by_reference__")}
    inner = {id(vars(m).get("_roles")) for m in modules.values()}
    found: dict[str, list[Read]] = {"": [], "modules": [], "followed": []}
    for r in reads:
        of_module = r.kind in (ATTRIBUTE, OWN) and id(r.owner) in modules
        if of_module or (r.kind in (CONTENT, LENGTH, ITEM) and id(r.owner) in inner):
            found["modules"].append(r)
        else:
            found["followed" if r.kind == FOLLOWED else ""].append(r)
    return found


def compile_check(reads: Sequence[Read]) -> Callable[[], bool]:
    """One straight-line function for all of them."""
    names: dict[str, Any] = {
        "missing": MISSING, "same": same, "same_content": same_content, "is_": is_,
        "dict_holds": dict_holds, "list_holds": list_holds, "item_of": item_of,
        "modules": changes.MODULES, "followed": changes.FOLLOWED, "seen_modules": -1,
        "seen_followed": -1,
    }  # fmt: skip
    known: dict[int, str] = {}

    def named(x: Any) -> str:
        found = known.get(id(x))
        if found is None:
            found = known[id(x)] = f"x{len(known)}"
            names[found] = x
        return found

    lines = ["def holds():", "    global seen_modules, seen_followed", "    try:"]
    for counter, counted in _counted(reads).items():
        terms = [_term(r, named) for r in counted]
        space = " " * 8
        if counter and terms:
            lines.append(f"{space}if {counter}.count != seen_{counter}:")
            space += " " * 4
        for at in range(0, len(terms), 100):
            lines.append(f"{space}if not ({' and '.join(terms[at : at + 100])}):")
            lines.append(f"{space}    return False")
        if counter and terms:
            lines.append(f"{space}seen_{counter} = {counter}.count")
    failures = "AttributeError, KeyError, IndexError, ValueError, TypeError"
    lines += ["        pass", f"    except ({failures}):", "        return False"]
    lines.append("    return True")
    exec(compile("\n".join(lines), "<guards of a trace>", "exec"), names)
    found: Callable[[], bool] = names["holds"]
    return found


def _term(r: Read, named: Callable[[Any], str]) -> str:
    """The expression that is true while a guard holds."""
    owner, value = named(r.owner), named(r.value)
    kind = r.kind
    if kind == LENGTH:
        return f"len({owner}) == {r.value}"
    if kind == FOLLOWED:
        return f"{owner}._requires_grad is {value}"
    if kind == CONTENT and isinstance(r.owner, dict):
        return f"dict_holds({owner}, *{value})"
    if kind == CONTENT and not isinstance(r.owner, set):
        return f"list_holds({owner}, {value})"
    if kind in (CONTENT, ARRAY):
        return f"same_content({owner}, {value})"
    if kind == OWN:
        return f"{r.name!r} not in {named(vars(r.owner))}"
    found = _reading(r, owner, named)
    if isinstance(r.value, (*PLAIN, tuple, np.dtype)) and r.value is not None:
        return f"((now := {found}) is {value} or same(now, {value}))"
    return f"{found} is {value}"


def _reading(r: Read, owner: str, named: Callable[[Any], str]) -> str:
    missing = r.value is MISSING
    if r.kind == CELL:
        return f"{owner}.cell_contents"
    if r.kind == GLOBAL:
        return f"{owner}.get({r.name!r}, missing)" if missing else f"{owner}[{r.name!r}]"
    if r.kind == ITEM:
        key = repr(r.name) if type(r.name) in (int, str) else named(r.name)
        if type(r.owner) in (dict, list, tuple) and not missing:
            return f"{owner}[{key}]"
        return f"item_of({owner}, {key})"
    if missing or not r.name.isidentifier():
        return f"getattr({owner}, {r.name!r}, missing)"
    return f"{owner}.{r.name}"
