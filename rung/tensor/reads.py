"""What a traced function reads of the Python program: names, attributes, items.

While a function is traced, each instruction of the user's functions is looked at before it is
executed, beside a stack of the objects that the real value stack holds (or may hold: what a library
function returns is one of its arguments or inside of them). So it is known which object an
attribute or item is read from, whichever function does it, and each such read becomes a guard
(`Read`).

What the function has written itself before is no read from outside.
"""

from __future__ import annotations

import enum
import sys
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from functools import partial
from types import FrameType, FunctionType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from rung.core.dtype import DType
from rung.tensor.frames import Frame
from rung.tensor.guards import (
    ARRAY,
    ATTRIBUTE,
    CELL,
    CONTENT,
    FOLLOWED,
    GLOBAL,
    ITEM,
    LENGTH,
    METHOD,
    MISSING,
    OWN,
    PLAIN,
    Check,
    Containers,
    Entries,
    Read,
    content_of,
    item_of,
)
from rung.tensor.state import TensorState, state
from rung.tensor.tree import counts_as_node
from rung.tensor.users import (
    LIBRARY_FILES,
    is_foreign,
    is_holder,
    is_library,
    is_user_frame,
    is_user_function,
)

if TYPE_CHECKING:
    from rung.tensor.trace import Trace

_FIELDS = frozenset(name for name in vars(TensorState) if name.startswith("_"))
_LEAVES = (*PLAIN, np.dtype, DType, enum.Enum, FunctionType, ModuleType, type)
_BOOKKEEPING = ("_path", "_paths_from", "_training")
"""Fields of a module that its calls set, or that have a guard of their own."""


class Recorder:
    """Records what is read while it is active: `with Recorder(trace) as reads: function(…)`."""

    def __init__(self, trace: Trace, function: Any) -> None:
        self.trace = trace
        self.reads: dict[tuple[int, int, Any], Read] = {}
        self.written: set[tuple[int, int, Any]] = set()
        self.updates: dict[tuple[int, int, Any], Read] = {}
        self.frames: dict[FrameType, Frame] = {}
        self.active: list[Frame] = []
        self.functions: dict[int, list[FunctionType]] = {}
        self.made: dict[int, Any] = {}
        self.error: Exception | None = None
        self.before: dict[int, tuple[Any, Any]] = {}
        self._outer: Any = None
        self._tracer: Any = None
        self._paused = 0
        self.note_function(function)

    def __enter__(self) -> Recorder:
        self._outer = sys.gettrace()
        self._tracer = self._entering() if self._outer is None else self._enter
        state.recorder = self
        sys.settrace(self._tracer)
        return self

    def __exit__(self, *_: object) -> None:
        state.recorder = None
        sys.settrace(self._outer)
        self._outer = self._tracer = None
        self.frames.clear()
        self.active.clear()

    def pause(self) -> int:
        """Look at nothing for a while; what `resume` is to be given."""
        if self._paused == 0 and self._outer is None:
            sys.settrace(None)
        self._paused += 1
        return self._paused - 1

    def resume(self, depth: int) -> None:
        """Look at functions again, if they were looked at before `pause`."""
        self._paused = depth
        if depth == 0 and self._outer is None:
            sys.settrace(self._tracer)

    def go_on(self) -> int:
        """Look at functions for a while, paused or not; what `stop` is to be given."""
        depth = self._paused
        self.resume(0)
        return depth

    def stop(self, depth: int) -> None:
        """Go back to what was before `go_on`."""
        if depth:
            self.pause()
        self._paused = depth

    def _entering(self) -> Any:
        """`_enter`, but quick for the functions of libraries, which are nearly all that run."""
        files, enter = LIBRARY_FILES, self._enter

        def entering(frame: FrameType, event: str, arg: object) -> Any:
            return None if frame.f_code.co_filename in files else enter(frame, event, arg)

        return entering

    def _enter(self, frame: FrameType, event: str, arg: object) -> Any:
        """A function begins, or a generator goes on."""
        outer = None if self._outer is None else self._outer(frame, event, arg)
        if not is_user_frame(frame):
            return outer
        known = self.frames.get(frame)
        if known is None:
            known = self.frames[frame] = Frame(self, frame, outer)
        self.active.append(known)
        frame.f_trace = known  # else Python 3.13 does not trace instructions
        frame.f_trace_opcodes = True
        frame.f_trace_lines = outer is not None
        return known

    # ---- what the guards are

    def finish(self, internal: Iterable[int]) -> Check | None:
        """The guards. `internal`: the `id`s of containers that were made for the trace."""
        reads = self._outside(internal)
        tensors = {**self.trace.captured, **self.trace.written}.values()
        floats = [t for t in tensors if t._type.dtype.is_float]
        reads += [Read(FOLLOWED, t, None, t._requires_grad) for t in floats]
        return Check(reads, self.error) if reads or self.error is not None else None

    def _outside(self, internal: Iterable[int]) -> list[Read]:
        """The reads of what is outside: not of objects that only the trace has made."""
        self.before.clear()
        self.updates.clear()
        self.functions.clear()
        known = {*internal, *self.made}
        self.made.clear()
        reads = [r for r in self.reads.values() if id(r.owner) not in known]
        self.reads.clear()
        while True:
            held = Counter(id(r.owner) for r in reads)
            for r in reads:
                held[id(r.value)] += 1
                if r.kind == CONTENT:
                    held.update(map(id, _parts_of(r.value)))
            # beside those that are counted: `r.owner` on the way into getrefcount
            left = [r for r in reads if sys.getrefcount(r.owner) - 1 > held[id(r.owner)]]
            if len(left) == len(reads):
                return left
            reads = left
            del r

    def _add(self, kind: int, owner: Any, name: Any, value: Any, updating: bool = False) -> None:
        key = (kind, id(owner), name)
        if key in self.reads or key in self.written or id(owner) in self.made:
            return
        if self._is_traced(value):
            return
        read = self.updates.pop(key, None) or Read(kind, owner, name, value)
        if updating and isinstance(value, (*PLAIN, list, dict, set, tuple)):
            self.updates[key] = read
        else:
            self.reads[key] = read
            if kind != ARRAY and isinstance(value, np.ndarray):
                self.read_array(value)

    def _is_traced(self, value: Any) -> bool:
        return isinstance(value, TensorState) and value._trace is self.trace

    def _wrote(self, kind: int, owner: Any, name: Any) -> None:
        """The function sets this itself; if it has changed what was there before, a later read
        depends on that."""
        key = (kind, id(owner), name)
        if key not in self.updates and key not in self.reads:
            self.written.add(key)

    # ---- names

    def read_global(self, frame: FrameType, name: str, updating: bool = False) -> tuple[Any, ...]:
        """The value of a global name, as (value,)."""
        names = frame.f_globals
        if name not in names:
            builtins = frame.f_builtins
            return (builtins[name],) if name in builtins else ()
        value = names[name]
        if not _is_fixed(value):
            self._add(GLOBAL, names, name, value, updating)
        return (value,)

    def read_cell(self, frame: Frame, name: str, value: Any, updating: bool = False) -> None:
        """The value of a closure variable of a function from outside."""
        for cell in frame.cells.get(name, ()):
            self._add(CELL, cell, name, value, updating)

    def wrote_global(self, frame: FrameType, name: str) -> None:
        """The function sets a global name."""
        self._wrote(GLOBAL, frame.f_globals, name)

    def wrote_cell(self, frame: Frame, name: str) -> None:
        """The function sets a closure variable."""
        for cell in frame.cells.get(name, ()):
            self._wrote(CELL, cell, name)

    # ---- attributes

    def read_attribute(self, owner: Any, name: str, updating: bool = False) -> tuple[Any, ...]:
        """The values that an attribute may have; a property is a function of its own."""
        if isinstance(owner, TensorState) and (name in _FIELDS or name not in vars(owner)):
            return ()
        if isinstance(owner, ModuleType):
            return self._module_attribute(owner, name, updating)
        if isinstance(owner, type):
            return self._class_attribute(owner, name, updating)
        found = _static(type(owner), name)
        if isinstance(owner, (*PLAIN, np.ndarray)):
            return () if found is MISSING else (found,)
        if hasattr(type(found), "__set__") or hasattr(type(found), "__delete__"):
            return self._descriptor(owner, name, found, updating)
        fields = _fields(owner)
        if fields is not None and name in fields:
            self._add(ATTRIBUTE, owner, name, fields[name], updating)
            return (fields[name],)
        if found is MISSING:
            if not hasattr(type(owner), "__getattr__"):
                self._add(ATTRIBUTE, owner, name, MISSING)
            return self._by_library(owner, "__getattr__")
        if isinstance(found, FunctionType | classmethod | staticmethod | property):
            return self._method(owner, name, found)
        if hasattr(type(found), "__get__") or is_library(type(owner)):
            return (found,)
        self._add(ATTRIBUTE, owner, name, found, updating)
        return (found,)

    def _descriptor(self, owner: Any, name: str, found: Any, updating: bool) -> tuple[Any, ...]:
        if isinstance(found, property) and is_foreign(type(owner)):
            self.read_tree(owner, None, True)
        if type(found).__name__ != "member_descriptor":  # a slot
            fields = _fields(owner)
            return () if fields is None or name != "__dict__" else (fields,)
        value = getattr(owner, name, MISSING)
        self._add(ATTRIBUTE, owner, name, value, updating)
        return () if value is MISSING else (value,)

    def _module_attribute(self, owner: ModuleType, name: str, updating: bool) -> tuple[Any, ...]:
        value = vars(owner).get(name, MISSING)
        if value is MISSING:
            return ()
        if not _is_fixed(owner) and not _is_fixed(value):
            self._add(GLOBAL, vars(owner), name, value, updating)
        return (value,)

    def _class_attribute(self, owner: type, name: str, updating: bool) -> tuple[Any, ...]:
        found = _static(owner, name)
        if found is MISSING or is_library(owner):
            return () if found is MISSING else (found,)
        if isinstance(found, classmethod | staticmethod):
            return (found.__func__,)
        if hasattr(type(found), "__get__") and not isinstance(found, FunctionType):
            return ()
        self._add(ATTRIBUTE, owner, name, found, updating)
        return (found,)

    def _method(self, owner: Any, name: str, found: Any) -> tuple[Any, ...]:
        kind = type(owner)
        if isinstance(found, FunctionType) and is_user_function(found):
            self._add(METHOD, kind, name, found)
            if _fields(owner) is not None:
                self._add(OWN, owner, name, MISSING)
        if isinstance(found, classmethod | staticmethod):
            return (found.__func__,)
        return () if isinstance(found, property) else (found,)

    def read_inherited(self, after: type, owner: Any, name: str) -> tuple[Any, ...]:
        """What `super()` gives: an attribute of the classes behind one."""
        order = (owner if isinstance(owner, type) else type(owner)).__mro__
        behind = order[order.index(after) + 1 :] if after in order else ()
        for kind in behind:
            found = kind.__dict__.get(name, MISSING)
            if found is not MISSING:
                if isinstance(found, FunctionType) and is_user_function(found):
                    self._add(METHOD, kind, name, found)
                elif not hasattr(type(found), "__get__") and not is_library(kind):
                    self._add(ATTRIBUTE, kind, name, found)
                return (found,)
        return ()

    def wrote_attribute(self, owner: Any, name: str) -> None:
        """The function sets an attribute."""
        kind, where = ATTRIBUTE, owner
        if isinstance(owner, ModuleType):
            kind, where = GLOBAL, vars(owner)
        self._wrote(kind, where, name)

    # ---- items

    def read_item(self, owner: Any, key: Any, updating: bool = False) -> tuple[Any, ...]:
        """The value at a key or position, as (value,)."""
        if isinstance(owner, dict | list | tuple) and isinstance(key, slice):
            return self.read_content(owner)
        if not isinstance(owner, dict | list | tuple | deque) or not _is_key(key):
            return self._by_library(owner, "__getitem__")
        value = item_of(owner, key)
        if not isinstance(owner, tuple) and (CONTENT, id(owner), None) not in self.reads:
            self._add(ITEM, owner, key, value, updating)
        return () if value is MISSING else (value,)

    def wrote_item(self, owner: Any, key: Any) -> None:
        """The function sets or deletes an item."""
        if isinstance(owner, Containers):
            self.changes(owner)
            if _is_key(key):
                self._wrote(ITEM, owner, key)

    def note_made(self, value: Any) -> None:
        """A container that the function has made."""
        if isinstance(value, Containers):
            self.made.setdefault(id(value), value)

    def changes(self, owner: Any) -> None:
        """The function is about to change a container."""
        if isinstance(owner, Containers) and id(owner) not in self.before:
            self.before[id(owner)] = (owner, content_of(owner))

    def read_length(self, owner: Any) -> None:
        """How many items there are."""
        if isinstance(owner, Containers) and (CONTENT, id(owner), None) not in self.reads:
            _, known = self.before.get(id(owner), (None, None))
            size = len(owner) if known is None else _size_of_snapshot(owner, known)
            self._add(LENGTH, owner, None, size)
        else:
            self._by_library(owner, "__len__")

    def _by_library(self, owner: Any, method: str) -> tuple[Any, ...]:
        """All that is in an object that a library is asked for the items of."""
        found = _static(type(owner), method)
        library = isinstance(found, FunctionType) and not is_user_function(found)
        return self.read_tree(owner, None, True) if library and is_foreign(type(owner)) else ()

    def read_content(self, owner: Any) -> tuple[Any, ...]:
        """All items of a container: list, dict, set; of a tuple, which cannot change, they are
        known."""
        if isinstance(owner, tuple):
            return owner
        if isinstance(owner, Containers):
            _, known = self.before.get(id(owner), (None, None))
            known = content_of(owner) if known is None else known
            if not any(self._is_traced(x) for x in _parts_of(known)):  # else the trace filled it
                self._add(CONTENT, owner, None, known)
            return tuple(owner.values()) if isinstance(owner, dict) else tuple(owner)
        if isinstance(owner, type({}.keys()) | type({}.values()) | type({}.items())):
            return tuple(owner)
        return self._by_library(owner, "__iter__")

    def read_array(self, array: np.ndarray[Any, Any]) -> None:
        """The elements of an array that may be written to."""
        if array.flags.writeable or isinstance(array.base, np.ndarray):
            self._add(ARRAY, array, None, array.copy())

    def read_tree(
        self, owner: Any, seen: set[int] | None = None, foreign: bool = False
    ) -> tuple[Any, ...]:
        """All that a function of a library may find in an argument: items of containers within
        each other, fields of what counts as a tree. What it may return of that. `foreign`: fields
        of objects of libraries too."""
        seen = set() if seen is None else seen
        if id(owner) in seen or isinstance(owner, (*_LEAVES, TensorState)):
            return ()
        seen.add(id(owner))
        if isinstance(owner, partial):
            items: Sequence[Any] = (owner.func, *owner.args, *owner.keywords.values())
        elif isinstance(owner, np.ndarray):
            self.read_array(owner)
            return ()
        elif isinstance(owner, (*Containers.__args__, tuple)):
            items = self.read_content(owner)
        elif is_holder(type(owner)) or (foreign and is_foreign(type(owner))) or (
            counts_as_node(type(owner)) and not is_library(type(owner))
        ):
            fields = [n for n in _fields(owner) or () if n not in _BOOKKEEPING]
            items = [x for n in fields for x in self.read_attribute(owner, n)]
        else:
            return ()
        return (*items, *(x for item in items for x in self.read_tree(item, seen, foreign)))

    # ---- functions

    def note_function(self, function: Any) -> None:
        """Remember a function that may be called, for its closure variables."""
        while isinstance(function, MethodType | partial):
            function = (
                function.__func__ if isinstance(function, MethodType) else function.func
            )
        inner = getattr(function, "__wrapped__", None)
        if inner is not None and inner is not function:
            self.note_function(inner)
        if isinstance(function, FunctionType) and function.__closure__:
            known = self.functions.setdefault(id(function.__code__), [])
            if not any(f is function for f in known):
                known.append(function)


def _parts_of(snapshot: Any) -> Iterable[Any]:
    """The objects that a snapshot of a container holds."""
    return (*snapshot[0], *snapshot[1]) if isinstance(snapshot, Entries) else snapshot


def _size_of_snapshot(owner: Any, snapshot: Any) -> int:
    return len(snapshot[0]) if isinstance(owner, dict) else len(snapshot)


def _is_key(key: Any) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return not isinstance(key, TensorState)


def _fields(owner: Any) -> dict[str, Any] | None:
    """The attributes of an object of its own."""
    try:
        found = object.__getattribute__(owner, "__dict__")
    except AttributeError:
        return None
    return found if isinstance(found, dict) else None


def _static(owner: type, name: str) -> Any:
    """What a class, or one of its bases, has under a name, as it stands there."""
    for kind in owner.__mro__:
        if name in kind.__dict__:
            return kind.__dict__[name]
    return MISSING


def _is_fixed(value: Any) -> bool:
    """Whether a name for it is taken to be so for ever: modules, and what a library has."""
    if isinstance(value, ModuleType):
        return is_library(value)
    return isinstance(value, FunctionType | type) and is_library(value)
