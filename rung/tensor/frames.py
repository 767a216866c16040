"""One running function of the user under a `Recorder`: what its instructions read.

Beside the value stack of Python stands one of our own. An entry is a tuple of the objects that the
value may be; `()` is a value that cannot come from outside, such as a sum. What a variable holds is
asked of the frame, so it is known exactly.
"""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from types import (
    BuiltinMethodType,
    CellType,
    CodeType,
    FrameType,
    FunctionType,
    MethodType,
)
from typing import TYPE_CHECKING, Any

from rung.core.wrapper import Wrapper
from rung.tensor.bytecode import NOTHING, Instruction, instructions
from rung.tensor.guards import Containers
from rung.tensor.users import is_user_function

if TYPE_CHECKING:
    from rung.tensor.reads import Recorder

Entry = tuple[Any, ...]


class _Mark:
    """What stands on the stack beside objects."""


class _Super:
    """What `super()` gives."""

    def __init__(self, after: type, owner: Any) -> None:
        self.after = after
        self.owner = owner


_NULL = _Mark()
_MADE = _Mark()
"""A function that the trace itself has made."""
_INSIDE = _Mark()
"""Beside objects: the value may also be one that a library has made of them."""
_FRESH = _Mark()
"""Beside objects: the value is a container that the trace itself has just made of them."""
_CONTAINERS = (*Containers.__args__, tuple)  # type: ignore[attr-defined]
_LOOKS_AT_NOTHING = (isinstance, issubclass, type, id, callable, setattr, delattr, super, object)
_CHANGES = frozenset(
    (
        list.append, list.extend, list.insert, list.clear, list.remove, list.reverse, list.sort,
        dict.update, dict.clear, dict.__setitem__, list.__setitem__, set.add, set.update,
        set.discard, set.clear, set.remove, deque.append, deque.appendleft, deque.extend,
        deque.clear,
    )
)  # fmt: skip
_CHANGES_AND_READS = frozenset(
    (list.pop, dict.pop, dict.popitem, dict.setdefault, set.pop, deque.pop, deque.popleft)
)


class Frame:
    """The local trace function of one frame."""

    __slots__ = (
        "cells", "code", "fresh", "outer", "parent", "recorder", "returned", "returns_fresh",
        "skip", "stack", "words",
    )  # fmt: skip

    def __init__(self, recorder: Recorder, frame: FrameType, outer: Any) -> None:
        self.recorder = recorder
        self.outer = outer
        self.code = frame.f_code
        self.words = instructions(frame.f_code)
        self.stack: list[Entry] = []
        self.returned: list[Any] = []
        self.skip: Instruction | None = None
        self.fresh: set[str] = set()
        self.returns_fresh = False
        self.parent = recorder.active[-1] if recorder.active else None
        self.cells: dict[str, tuple[CellType, ...]] = {}
        if frame.f_code.co_freevars:
            self.cells = _cells(self, frame)

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Frame:
        if event == "opcode":
            try:
                self._before(frame)
            except Exception as error:  # the trace goes on, but holds for this call alone
                self.recorder.error = error
            return self
        if self.outer is not None:
            self.outer = self.outer(frame, event, arg)
        if event == "return":
            self._leave(arg)
        return self

    def _leave(self, value: Any) -> None:
        """The function returns (or yields) a value."""
        if self.returns_fresh:
            self.recorder.note_made(value)
        active = self.recorder.active
        while active and active.pop() is not self:
            pass
        if active:
            active[-1].returned.append(value)
        else:
            self.recorder.read_tree(value)

    def _before(self, frame: FrameType) -> None:
        """An instruction is about to be executed."""
        i = self.words.get(frame.f_lasti)
        if i is None:
            return
        if i is self.skip:
            self.skip = None
            return
        self.skip = i if i.offset != frame.f_lasti else None
        stack = self.stack
        if self.returned:
            if stack:
                stack[-1] = (*stack[-1], *self.returned, _INSIDE)
            self.returned = []
        if i.depth >= 0:
            del stack[i.depth :]
            if len(stack) < i.depth:
                stack += [()] * (i.depth - len(stack))
        name = i.name
        if name in NOTHING:
            return
        handler = _HANDLERS.get(name)
        if handler is not None:
            handler(self, frame, i)
        else:
            self._unknown(i)

    # ---- the stack

    def pop(self) -> Entry:
        """Take the topmost value."""
        return self.stack.pop() if self.stack else ()

    def pops(self, count: int) -> list[Entry]:
        """Take so many values, the topmost last."""
        if not count:
            return []
        found = self.stack[-count:]
        del self.stack[-count:]
        return [*[()] * (count - len(found)), *found]

    def _unknown(self, i: Instruction) -> None:
        """Any instruction that is not known: it may look into all that it takes."""
        taken = self.pops(1 - i.effect) if i.effect <= 0 else []
        for entry in taken:
            self.content(entry)
        self.stack += [()] * max(i.effect, 1)

    # ---- reading

    def content(self, entry: Entry) -> Entry:
        """All items of what the value may be; what the items may be."""
        found: list[Any] = []
        for x in entry:
            found += self.recorder.read_content(x)
        return tuple(found)

    def attribute(self, entry: Entry, name: str, updating: bool = False) -> Entry:
        """An attribute of what the value may be."""
        found: list[Any] = []
        for x in entry:
            if type(x) is _Super:
                found += self.recorder.read_inherited(x.after, x.owner, name)
            elif type(x) is not _Mark:
                found += self.recorder.read_attribute(x, name, updating)
        return tuple(found) if not _has(entry, _INSIDE) else (*found, _INSIDE)

    def item(self, container: Entry, key: Entry, updating: bool = False) -> Entry:
        """An item of what the value may be."""
        found: list[Any] = []
        exact = _is_exact(key)
        for x in container:
            if exact:
                found += self.recorder.read_item(x, key[0], updating)
            else:
                found += self.recorder.read_content(x)
        return tuple(found) if exact and not _has(container, _INSIDE) else (*found, _INSIDE)

    def call(self, function: Entry, args: list[Entry], named: dict[str, Entry]) -> Entry:
        """A call: what it reads of its arguments, and what it may return of these."""
        for f in function:
            self.recorder.note_function(f)
        for entry in (*args, *named.values()):
            for x in entry:
                if isinstance(x, FunctionType | MethodType):
                    self.recorder.note_function(x)
        results: list[Any] = []
        for f in (None,) if not function or _has(function, _INSIDE) else function:
            results += self._call_one(f, args, named)
        return tuple(results)

    def _call_one(self, f: Any, args: list[Entry], named: dict[str, Entry]) -> Entry:
        recorder = self.recorder
        if isinstance(f, BuiltinMethodType) and isinstance(f.__self__, _CONTAINERS):
            args = [(f.__self__,), *args]
            f = getattr(type(f.__self__), f.__name__, f)
        if _is_users(f) or (isinstance(f, type) and f in _LOOKS_AT_NOTHING):
            return ()
        try:
            special = _CALLS.get(f)
        except TypeError:
            special = None
        if special is not None:
            return special(self, args)
        if _hashable(f) and (f in _CHANGES or f in _CHANGES_AND_READS):
            for x in args[0] if args else ():
                if f in _CHANGES_AND_READS:
                    recorder.read_content(x)
                recorder.changes(x)
            for entry in args[1:]:
                if f in (list.extend, dict.update, set.update, deque.extend):
                    self.content(entry)
            return self.content(args[0]) if f in _CHANGES_AND_READS and args else ()
        found: list[Any] = []
        for entry in (*args, *named.values()):
            for x in entry:
                if type(x) is not _Mark:
                    found += (x, *recorder.read_tree(x))
        return (*found, _INSIDE)


def _has(entry: Entry, mark: Any) -> bool:
    return any(x is mark for x in entry)


def _is_exact(entry: Entry) -> bool:
    """Whether the value is the one object of the entry."""
    return len(entry) == 1 and type(entry[0]) is not _Mark


def _hashable(f: Any) -> bool:
    try:
        hash(f)
    except TypeError:
        return False
    return True


def _is_users(f: Any) -> bool:
    """Whether a call goes into a function of the user as it stands, which is recorded itself."""
    while isinstance(f, MethodType | partial):
        f = f.__func__ if isinstance(f, MethodType) else f.func
    if f is _MADE:
        return True
    if isinstance(f, FunctionType):
        return is_user_function(f)
    if isinstance(f, Wrapper) or getattr(type(f), "__by_reference__", False):
        return True
    begin: Any = getattr(type(f), "__call__", None)  # noqa: B004  (of the class)
    if isinstance(f, type):
        begin = f.__init__  # type: ignore[misc]
    return isinstance(begin, FunctionType) and is_user_function(begin)


def _cells(made: Frame, frame: FrameType) -> dict[str, tuple[CellType, ...]]:
    """The cells that the closure variables of a function that begins may be; none for what is a
    variable of another function of the trace."""
    code = frame.f_code
    parent = made.parent
    while parent is not None:
        if any(c is code for c in parent.code.co_consts):
            return {n: parent.cells.get(n, ()) for n in code.co_freevars}
        parent = parent.parent
    values = frame.f_locals
    found = _matching(made.recorder.functions.get(id(code), ()), code, values)
    found = found or _matching(gc.get_referrers(code), code, values)
    return {n: tuple(cells[n] for cells in found) for n in code.co_freevars}


def _matching(
    functions: Iterable[Any], code: CodeType, values: dict[str, Any]
) -> list[dict[str, CellType]]:
    """The cells of the functions of this code whose closure variables have these values."""
    found = []
    for f in functions:
        if isinstance(f, FunctionType) and f.__code__ is code and f.__closure__ is not None:
            cells = dict(zip(code.co_freevars, f.__closure__, strict=True))
            if all(_holds(cell, values, n) for n, cell in cells.items()):
                found.append(cells)
    return found


def _holds(cell: CellType, values: dict[str, Any], name: str) -> bool:
    try:
        return cell.cell_contents is values.get(name, cell)
    except ValueError:
        return name not in values


# ---- instructions


def _load_fast(self: Frame, frame: FrameType, i: Instruction) -> None:
    names = i.value if isinstance(i.value, tuple) else (i.value,)
    values = frame.f_locals
    for name in names:
        self.stack.append((values[name],) if name in values else ())
        if name in self.fresh:
            self.recorder.note_made(values.get(name))


def _store_fast(self: Frame, frame: FrameType, i: Instruction) -> None:
    if _has(self.pop(), _FRESH):
        self.fresh.add(i.value)
    else:
        self.fresh.discard(i.value)


def _load_global(self: Frame, frame: FrameType, i: Instruction) -> None:
    found = self.recorder.read_global(frame, i.value, i.updating)
    self.stack += [(_NULL,), found] if i.effect == 2 else [found]


def _load_name(self: Frame, frame: FrameType, i: Instruction) -> None:
    if i.value in frame.f_locals and frame.f_locals is not frame.f_globals:
        _load_fast(self, frame, i)
    else:
        self.stack.append(self.recorder.read_global(frame, i.value))


def _load_deref(self: Frame, frame: FrameType, i: Instruction) -> None:
    values = frame.f_locals
    if i.value not in values:
        self.stack.append(())
        return
    self.recorder.read_cell(self, i.value, values[i.value], i.updating)
    self.stack.append((values[i.value],))


def _load_const(self: Frame, frame: FrameType, i: Instruction) -> None:
    self.stack.append((i.value,))


def _load_attr(self: Frame, frame: FrameType, i: Instruction) -> None:
    owner = self.pop()
    found = self.attribute(owner, i.value, i.updating)
    self.stack += [found, owner] if i.effect == 1 else [found]


def _store_attr(self: Frame, frame: FrameType, i: Instruction) -> None:
    _, owner = self.pops(2)
    for x in owner:
        self.recorder.wrote_attribute(x, i.value)


def _store_item(self: Frame, frame: FrameType, i: Instruction) -> None:
    container, key = self.pops(2)
    if i.name == "STORE_SUBSCR":
        self.pop()
    for x in container:
        self.recorder.wrote_item(x, key[0] if _is_exact(key) else {})


def _store_cell(self: Frame, frame: FrameType, i: Instruction) -> None:
    if i.name.startswith("STORE"):
        self.pop()
    if i.name.endswith("GLOBAL"):
        self.recorder.wrote_global(frame, i.value)
    else:
        self.recorder.wrote_cell(self, i.value)


def _load_item(self: Frame, frame: FrameType, i: Instruction) -> None:
    container, key = self.pops(2)
    self.stack.append(self.item(container, key, i.updating))


def _binary(self: Frame, frame: FrameType, i: Instruction) -> None:
    if i.name == "BINARY_OP" and i.arg == 26:  # a subscript, from Python 3.14 on
        _load_item(self, frame, i)
        return
    left, right = self.pops(2)
    if i.name == "CONTAINS_OP" and all(isinstance(x, dict) for x in right):
        self.item(right, left)
        self.stack.append(())
        return
    if i.name == "BINARY_OP" and i.arg >= 13 and any(isinstance(x, list | set) for x in left):
        for x in left:
            self.recorder.changes(x)
        self.content(right)
        self.stack.append(left)
    else:
        self.stack.append((*self.content(left), *self.content(right), _INSIDE))


def _truth(self: Frame, frame: FrameType, i: Instruction) -> None:
    for x in self.stack[-1] if self.stack else ():
        self.recorder.read_length(x)
    if i.name.startswith("POP_"):
        self.pop()
    elif i.name == "UNARY_NOT":
        self.stack[-1:] = [()]


def _iterate(self: Frame, frame: FrameType, i: Instruction) -> None:
    self.stack[-1:] = [self.content(self.stack[-1] if self.stack else ())]


def _next(self: Frame, frame: FrameType, i: Instruction) -> None:
    self.stack.append(self.stack[-1] if self.stack else ())


def _unpack(self: Frame, frame: FrameType, i: Instruction) -> None:
    items = (*self.content(self.pop()), _INSIDE)
    self.stack += [items] * (i.effect + 1)


_MAKE_CONTAINERS = ("BUILD_LIST", "BUILD_SET", "BUILD_MAP", "BUILD_CONST_KEY_MAP")


def _build(self: Frame, frame: FrameType, i: Instruction) -> None:
    parts = self.pops(1 - i.effect)
    made = (_FRESH,) if i.name in _MAKE_CONTAINERS else ()
    objects = [x for entry in parts for x in entry if type(x) is not _Mark]
    self.stack.append((*objects, _INSIDE, *made))


def _extend(self: Frame, frame: FrameType, i: Instruction) -> None:
    items = self.content(self.pop())
    if len(self.stack) >= i.arg > 0:
        self.stack[-i.arg] = (*self.stack[-i.arg], *items)


def _add_to(self: Frame, frame: FrameType, i: Instruction) -> None:
    parts = self.pops(2 if i.name == "MAP_ADD" else 1)
    if len(self.stack) >= i.arg > 0:
        items = tuple(x for entry in parts for x in entry if x is not _FRESH)
        self.stack[-i.arg] = (*self.stack[-i.arg], *items)


def _copy(self: Frame, frame: FrameType, i: Instruction) -> None:
    self.stack.append(self.stack[-i.arg] if len(self.stack) >= i.arg else ())


def _swap(self: Frame, frame: FrameType, i: Instruction) -> None:
    s = self.stack
    if len(s) >= i.arg:
        s[-1], s[-i.arg] = s[-i.arg], s[-1]


def _drop(self: Frame, frame: FrameType, i: Instruction) -> None:
    self.pops(-i.effect)


def _make_function(self: Frame, frame: FrameType, i: Instruction) -> None:
    self.pops(1 - i.effect)
    self.stack.append((_MADE,))


def _push_null(self: Frame, frame: FrameType, i: Instruction) -> None:
    self.stack.append((_NULL,))


def _push_unknown(self: Frame, frame: FrameType, i: Instruction) -> None:
    self.stack.append(())


def _call(self: Frame, frame: FrameType, i: Instruction) -> None:
    if i.name == "CALL_KW":
        self.pop()
    args = self.pops(i.arg)
    first, second = self.pops(2)
    if _has(first, _NULL) or _has(second, _NULL):  # the other one is the function
        function = second if _has(first, _NULL) else first
    else:
        function, args = first, [second, *args]
    if _has(function, super):
        self.stack.append(_super(self, frame, args))
    else:
        self.stack.append(self.call(function, args, {}))


def _super(self: Frame, frame: FrameType, args: list[Entry]) -> Entry:
    """`super()`, or with the class and the object."""
    if len(args) < 2:
        names = frame.f_locals
        first = self.code.co_varnames[:1]
        args = [(names.get("__class__"),), (names.get(first[0]) if first else None,)]
    return tuple(_Super(k, x) for k in args[0] for x in args[1] if isinstance(k, type))


def _load_super(self: Frame, frame: FrameType, i: Instruction) -> None:
    _, kind, owner = self.pops(3)
    found = self.attribute(_super(self, frame, [kind, owner]), i.value)
    self.stack += [found, owner] if i.effect == -1 else [found]


def _call_spread(self: Frame, frame: FrameType, i: Instruction) -> None:
    named = self.content(self.pop()) if i.arg & 1 else ()
    args = self.content(self.pop())
    first, second = self.pops(2)
    function = tuple(x for x in (*first, *second) if x is not _NULL)
    self.stack.append(self.call(function, [args], {"": named}))


def _import(self: Frame, frame: FrameType, i: Instruction) -> None:
    if i.name == "IMPORT_NAME":
        self.pops(2)
        module = sys.modules.get(i.value)
        self.stack.append(() if module is None else (module,))
    else:
        self.stack.append(self.attribute(self.stack[-1] if self.stack else (), i.value))


def _return(self: Frame, frame: FrameType, i: Instruction) -> None:
    self.returns_fresh = _has(self.pop(), _FRESH)


# ---- functions of Python


def _getattr(self: Frame, args: list[Entry]) -> Entry:
    default = args[2] if len(args) > 2 else ()
    if len(args) >= 2 and _is_exact(args[1]) and isinstance(args[1][0], str):
        return (*self.attribute(args[0], args[1][0]), *default)
    fields = self.attribute(args[0], "__dict__") if args else ()
    return (*self.content(fields), *default, _INSIDE)  # any attribute


def _vars(self: Frame, args: list[Entry]) -> Entry:
    return self.attribute(args[0], "__dict__") if args else ()


def _len(self: Frame, args: list[Entry]) -> Entry:
    for x in args[0] if args else ():
        self.recorder.read_length(x)
    return ()


def _items(self: Frame, args: list[Entry]) -> Entry:
    found = [x for entry in args for x in (*entry, *self.content(entry)) if type(x) is not _Mark]
    return (*found, _INSIDE)


def _new(self: Frame, args: list[Entry]) -> Entry:
    return (*_items(self, args), _FRESH)


def _get(self: Frame, args: list[Entry]) -> Entry:
    if len(args) < 2:
        return ()
    return (*self.item(args[0], args[1]), *(args[2] if len(args) > 2 else ()))


_CALLS: dict[Any, Callable[[Frame, list[Entry]], Entry]] = {
    getattr: _getattr, hasattr: _getattr, vars: _vars, len: _len, bool: _len, dict.get: _get,
    dict.__getitem__: _get, list.__getitem__: _get, isinstance: lambda *_: (),
    issubclass: lambda *_: (), id: lambda *_: (), callable: lambda *_: (),
    setattr: lambda self, args: _setattr(self, args),
    **dict.fromkeys(
        (iter, next, enumerate, zip, reversed, map, filter, tuple, frozenset, sum, max, min, any,
         all, dict.items, dict.values, dict.keys, list.index, list.count, range),
        _items,
    ),
    **dict.fromkeys((list, dict, set, sorted, dict.copy, list.copy, set.copy), _new),
}  # fmt: skip


def _setattr(self: Frame, args: list[Entry]) -> Entry:
    if len(args) == 3 and _is_exact(args[1]):
        for x in args[0]:
            self.recorder.wrote_attribute(x, args[1][0])
    return ()


_HANDLERS: dict[str, Callable[[Frame, FrameType, Instruction], None]] = {
    **dict.fromkeys(
        ("LOAD_FAST", "LOAD_FAST_CHECK", "LOAD_FAST_BORROW", "LOAD_FAST_AND_CLEAR",
         "LOAD_FAST_LOAD_FAST", "LOAD_FAST_BORROW_LOAD_FAST_BORROW"),
        _load_fast,
    ),
    "STORE_FAST": _store_fast, "LOAD_GLOBAL": _load_global, "LOAD_NAME": _load_name,
    "LOAD_DEREF": _load_deref, "LOAD_CLASSDEREF": _load_deref,
    **dict.fromkeys(("LOAD_CONST", "LOAD_SMALL_INT", "LOAD_CONST_IMMORTAL"), _load_const),
    "LOAD_ATTR": _load_attr, "LOAD_METHOD": _load_attr, "STORE_ATTR": _store_attr,
    "STORE_SUBSCR": _store_item, "DELETE_SUBSCR": _store_item,
    **dict.fromkeys(
        ("STORE_GLOBAL", "STORE_DEREF", "DELETE_GLOBAL", "DELETE_DEREF"), _store_cell
    ),
    "BINARY_SUBSCR": _load_item,
    **dict.fromkeys(("BINARY_OP", "COMPARE_OP", "CONTAINS_OP"), _binary),
    "IS_OP": lambda self, frame, i: (self.pops(2), _push_unknown(self, frame, i))[1],
    **dict.fromkeys(
        ("POP_JUMP_FORWARD_IF_TRUE", "POP_JUMP_FORWARD_IF_FALSE", "POP_JUMP_BACKWARD_IF_TRUE",
         "POP_JUMP_BACKWARD_IF_FALSE", "POP_JUMP_IF_TRUE", "POP_JUMP_IF_FALSE", "UNARY_NOT",
         "JUMP_IF_TRUE_OR_POP", "JUMP_IF_FALSE_OR_POP", "TO_BOOL"),
        _truth,
    ),
    **dict.fromkeys(
        ("POP_JUMP_FORWARD_IF_NONE", "POP_JUMP_FORWARD_IF_NOT_NONE", "POP_JUMP_BACKWARD_IF_NONE",
         "POP_JUMP_BACKWARD_IF_NOT_NONE", "POP_JUMP_IF_NONE", "POP_JUMP_IF_NOT_NONE", "POP_TOP",
         "POP_EXCEPT", "STORE_NAME", "DELETE_ATTR", "END_FOR", "POP_ITER",
         "STORE_FAST_STORE_FAST"),
        _drop,
    ),
    "GET_ITER": _iterate, "GET_YIELD_FROM_ITER": _iterate, "FOR_ITER": _next,
    "UNPACK_SEQUENCE": _unpack, "UNPACK_EX": _unpack,
    **dict.fromkeys(
        ("BUILD_LIST", "BUILD_TUPLE", "BUILD_SET", "BUILD_MAP", "BUILD_CONST_KEY_MAP",
         "BUILD_STRING", "BUILD_SLICE", "LIST_TO_TUPLE"),
        _build,
    ),
    **dict.fromkeys(("LIST_EXTEND", "SET_UPDATE", "DICT_UPDATE", "DICT_MERGE"), _extend),
    **dict.fromkeys(("LIST_APPEND", "SET_ADD", "MAP_ADD"), _add_to),
    "MAKE_FUNCTION": _make_function, "SET_FUNCTION_ATTRIBUTE": _make_function,
    "COPY": _copy, "SWAP": _swap, "PUSH_NULL": _push_null, "LOAD_CLOSURE": _push_unknown,
    "LOAD_SUPER_ATTR": _load_super,
    "CALL": _call, "CALL_KW": _call, "CALL_FUNCTION_EX": _call_spread,
    "IMPORT_NAME": _import, "IMPORT_FROM": _import,
    "RETURN_VALUE": _return, "RETURN_CONST": lambda self, frame, i: None,
}  # fmt: skip
"""What each instruction does; those that are not here may look into all that they take."""
