"""`jit`: trace a function once for each signature of its arguments, then run one program a call.

    @rung.jit
    def step(x, y):
        loss, grads = rung.value_and_grad(loss_of)(params, x, y)
        ...

A call gives what the function gives without `jit`. Tensors from outside are read anew by each call;
tensors that it updates, arguments among them, are written back, in place where nobody else holds
their buffer. What else it reads from outside is guarded: another value means another trace.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import MethodType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import numpy as np

from rung.core.arguments import at_least
from rung.core.errors import DomainError, TraceError
from rung.core.wrapper import Wrapper
from rung.ir.node import sources
from rung.ir.types import TensorType
from rung.tensor import tree
from rung.tensor.arguments import Given, apply_changes
from rung.tensor.compiled import Compiled, compile_trace
from rung.tensor.guards import same
from rung.tensor.leaf import Placeholder, leaf_value, tensor_type
from rung.tensor.operate import borrowed
from rung.tensor.programs import note_compiling
from rung.tensor.reads import Recorder
from rung.tensor.state import TensorState, buffer_of, new_tensor, state
from rung.tensor.trace import Trace
from rung.tensor.tree import flatten

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")

_MAX_SIGNATURES = 1024
_MAX_ENTRIES = 16
"""So many traces are kept of one signature, which differ in what they have read from outside."""


@dataclass(frozen=True, slots=True, eq=False)
class _Static:
    """An argument that is no tensor: part of the signature by type and value."""

    kind: type
    value: Hashable

    def __hash__(self) -> int:
        value = self.value
        if self.kind is float and value != value:
            value = None  # the hash of a NaN is that of its object
        return hash((self.kind, value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Static) and self.kind is other.kind and self.is_(other.value)

    def is_(self, x: Any) -> bool:
        """Whether x, of this type, is this value: of floats, whether it has the same bits."""
        value = self.value
        return x is value or (same(x, value) if self.kind is float else x == value)

    def __repr__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True, slots=True)
class _Weak:
    """A tensor that stands for a Python number: its dtype is weak."""

    type: TensorType


class _Signature:
    """What a trace holds for: structure of the arguments, types of tensors, values of the rest.
    `same`: where one tensor is given twice, for each tensor the number of the first that it is."""

    __slots__ = ("_hash", "grad_enabled", "leaves", "same", "structure")

    def __init__(
        self,
        structure: tree.Structure,
        leaves: tuple[TensorType | _Weak | _Static, ...],
        same: tuple[int, ...] | None,
    ) -> None:
        self.structure = structure
        self.leaves = leaves
        self.same = same
        self.grad_enabled = state.grad_enabled
        self._hash = hash((structure, leaves, same, self.grad_enabled))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _Signature)
            and self.leaves == other.leaves
            and self.same == other.same
            and self.grad_enabled == other.grad_enabled
            and self.structure == other.structure
        )


def _by_reference(x: object) -> bool:
    """Whether an argument counts as one object, whose tensors are captured (a module)."""
    return getattr(type(x), "__by_reference__", False)


class Jit(Wrapper, Generic[P, R]):
    """A function that is compiled when it is called; made by `jit`."""

    forgotten = {"_entries": dict, "_last": lambda: None, "_reasons": list}  # noqa: RUF012

    def __init__(
        self, function: Callable[P, R], donate: tuple[int, ...], name: str, dynamic: bool = True
    ) -> None:
        super().__init__(function)
        self.function = function
        self.donate = donate
        self.name = name
        self.dynamic = dynamic
        self._entries: dict[_Signature, tuple[Compiled, ...]] = {}
        self._last: Compiled | None = None
        self._reasons: list[str] = []

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        last = self._last
        inside = state.trace is not None or state.mapping
        if last is not None and not kwargs and not inside:
            tensors = last.match(args)
            if tensors is not None and (last.unguarded or last.guards_hold()):
                return last.run(tensors)
        if inside:
            return self.function(*args, **kwargs)
        return self._call(args, kwargs)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else MethodType(self, instance)

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        found, tensors = self._prepare(args, kwargs)
        if found is None or found.inline:
            return self.function(*args, **kwargs)
        self._last = found
        result, changes = found.run_all(tensors)
        if found.updates:
            _fill_arrays(found.updates, tensors, (args, kwargs))
        if changes:
            apply_changes(changes, (args, kwargs))
        return result

    def _prepare(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Compiled | None, list[Tensor]]:
        """What to run for these arguments (None where gradients of them are followed), and the
        tensors among them."""
        leaves, structure = flatten((args, kwargs), _by_reference)
        signature, tensors = self._signature(leaves, structure)
        if state.grad_enabled and any(t._requires_grad for t in tensors):
            return None, tensors
        found = self._find(signature, tensors)
        if found is None:
            found = self._trace(leaves, signature)
        return found, tensors

    def compile(self, *args: P.args, **kwargs: P.kwargs) -> Compiled:
        """Trace and compile for these arguments without running: `.runnable.graph` is the graph,
        `.runnable.program` what runs. Raises TraceError where a gradient is followed through the
        call: ask under `no_grad`."""
        found, _ = self._prepare(args, kwargs)
        if found is None or found.inline:
            raise TraceError(
                f"jit {self.name}: has no program of its own, since a gradient is followed "
                "through the call",
                fix="compile it under rung.no_grad(), or with backward() inside",
            )
        return found

    def _signature(
        self, leaves: list[Any], structure: tree.Structure
    ) -> tuple[_Signature, list[Tensor]]:
        """The signature, and the arguments that are tensors; arrays among the leaves are replaced
        by tensors."""
        parts: list[TensorType | _Weak | _Static] = []
        tensors: list[Tensor] = []
        arrays: dict[int, Tensor] = {}
        for i, x in enumerate(leaves):
            if isinstance(x, np.ndarray):
                if id(x) not in arrays:
                    arrays[id(x)] = borrowed(x)
                x = leaves[i] = arrays[id(x)]
            if isinstance(x, TensorState):
                tensors.append(x)  # type: ignore[arg-type]
                exact = tensor_type(x._type.dtype, x._type.shape)
                parts.append(_Weak(exact) if x._weak else exact)
            else:
                parts.append(_Static(type(x), self._hashable(x)))
        return _Signature(structure, tuple(parts), _repeated(tensors)), tensors

    def _hashable(self, x: Any) -> Hashable:
        try:
            hash(x)
        except TypeError:
            raise TraceError(
                f"jit {self.name}: an argument is {type(x).__name__}, which cannot be hashed",
                fix="pass tensors, numbers, strings, hashable objects, or trees of these",
            ) from None
        return x  # type: ignore[no-any-return]

    def _find(self, signature: _Signature, tensors: Sequence[Tensor]) -> Compiled | None:
        for entry in self._entries.get(signature, ()):
            if entry.inline or (entry.accepts(tensors) and entry.guards_hold()):
                return entry
        return None

    # ---- tracing

    def _trace(self, leaves: list[Any], signature: _Signature) -> Compiled:
        self._note_reason(signature)
        trace = Trace(self.name, self.dynamic)
        before, tracer, there = state.trace, sys.gettrace(), sources()
        depth = len(there)
        state.trace = trace
        try:
            args = _stand_ins(trace, leaves)
            given = Given(signature.structure, args)
            with Recorder(trace, self.function) as reads:
                result = self.function(*given.tree[0], **given.tree[1])
            found = compile_trace(
                trace,
                (result, given.changes()),
                self._donated(leaves, signature),
                signature.leaves,
            )
        finally:
            state.trace = before
            del there[depth:]
            if state.recorder is not None:  # the end of its block was interrupted
                state.recorder = None
                sys.settrace(tracer)
        containers = given.containers()
        del given, args, result
        found.check = reads.finish(containers)
        found.unguarded = not found.guards and found.check is None
        found.set_flat(_flat_arguments(signature))
        # anew: other threads may be looking through the old ones, or add theirs
        self._entries[signature] = (found, *self._entries.get(signature, ()))[:_MAX_ENTRIES]
        if len(self._entries) > _MAX_SIGNATURES:
            self._entries.pop(list(self._entries)[0], None)  # noqa: RUF015 - at once
        return found

    def _donated(self, leaves: list[Any], signature: _Signature) -> set[int]:
        """Numbers (among the tensors) of those in donated positional arguments."""
        if not self.donate:
            return set()
        count = len(signature.structure.children[0].children)
        if max(self.donate) >= count:
            raise DomainError(
                f"jit {self.name}: donate={max(self.donate)}, but the call has {count} positional "
                "arguments",
                fix="name arguments by their numbers from 0",
            )
        found: set[int] = set()
        at = tensor = 0
        for number, child in enumerate(signature.structure.children[0].children):
            for x in leaves[at : at + child.num_leaves]:
                if isinstance(x, TensorState):
                    if number in self.donate:
                        found.add(tensor)
                    tensor += 1
            at += child.num_leaves
        return found

    # ---- reasons

    def _note_reason(self, signature: _Signature) -> None:
        reason = self._reason(signature)
        self._reasons.append(reason)
        note_compiling(f"jit {self.name}: {reason}")

    def _reason(self, new: _Signature) -> str:
        if not self._entries:
            return "first call"
        known = self._entries.get(new)
        if known is not None:
            changed = [g for entry in known for g in entry.changed_guards()]
            if not changed:
                return "other arguments are tensors from outside, or have a .grad"
            return f"changed outside: {', '.join(dict.fromkeys(changed))}"
        differences = min((_differences(new, old) for old in list(self._entries)), key=len)
        return "; ".join(differences)

    def explain_recompiles(self) -> list[str]:
        """Why each trace was made: `first call`, or what differed from the nearest earlier one."""
        return list(self._reasons)


def _repeated(tensors: Sequence[TensorState]) -> tuple[int, ...] | None:
    """For each tensor the number of the first that it is; None where all differ."""
    first: dict[int, int] = {}
    for number, tensor in enumerate(tensors):
        first.setdefault(id(tensor), number)
    if len(first) == len(tensors):
        return None
    return tuple([first[id(t)] for t in tensors])


def _differences(new: _Signature, old: _Signature) -> list[str]:
    if new.structure != old.structure:
        return ["the arguments have another structure", str(new.structure), str(old.structure)]
    names = argument_names(new.structure)
    found = [
        f"{name}: {a} was {b}"
        for name, a, b in zip(names, new.leaves, old.leaves, strict=True)
        if a != b
    ]
    if new.same != old.same:
        found.append("other arguments are the same tensor")
    if new.grad_enabled != old.grad_enabled:
        found.append("gradients are " + ("followed" if new.grad_enabled else "not followed"))
    return found


def argument_names(structure: tree.Structure) -> list[str]:
    """A name for each leaf of the arguments."""
    positional, named = structure.children
    first = [f"argument {path}" for path in tree.paths(positional)]
    return first + [f"argument {path}" for path in tree.paths(named)]


def _stand_ins(trace: Trace, leaves: list[Any]) -> list[Any]:
    """What the function gets for the leaves of its arguments; the same for the same tensor."""
    args: list[Any] = []
    number = 0
    for x in leaves:
        if not isinstance(x, TensorState):
            args.append(x)
            continue
        known = trace.arguments.get(id(x))
        if known is None:
            args.append(new_tensor(leaf_value(Placeholder(trace.name), x._type)))
            args[-1]._weak = x._weak
            trace.add_argument(x, number, args[-1])
        else:
            args.append(known.tensor)
        number += 1
    return args


def _fill_arrays(updates: Sequence[int], tensors: Sequence[TensorState], args: Any) -> None:
    """Put the values of arguments that were updated into those given as arrays."""
    given = [x for x in tree.leaves(args, _by_reference) if isinstance(x, np.ndarray | TensorState)]
    for number in updates:
        array = given[number]
        if isinstance(array, np.ndarray):
            np.copyto(array, buffer_of(tensors[number]).array)


def _flat_arguments(signature: _Signature) -> tuple[TensorType | _Weak | _Static, ...] | None:
    """What each positional argument must be, if each is one leaf and none is named."""
    positional, named = signature.structure.children
    nested = any(c.kind is not None for c in positional.children)
    weak = any(isinstance(part, _Weak) for part in signature.leaves)
    if named.num_leaves or nested or weak or signature.same is not None:
        return None
    return signature.leaves


def jit(
    function: Callable[P, R] | None = None,
    *,
    donate: int | Sequence[int] = (),
    name: str | None = None,
    dynamic: bool = True,
) -> Any:
    """Compile a function at its first call with each signature: the structure of its arguments,
    dtypes and shapes of tensors and arrays, which arguments are the same tensor, and the values of
    all else, which must be hashable. A call gives what the function gives without `jit`:

    - Arguments are updated as the function does it: tensors in place, also in dicts, lists and
      dataclasses, whose entries and fields are set; `.grad` too; arrays are written into.
    - Tensors from outside are read anew by each call, and written back where they are assigned.
    - Whatever else the function reads from outside (global names, closure variables, attributes,
      items, lengths of containers, elements of arrays) is guarded: when it has changed, the
      function is traced again, and compiled where the graph is another one than before.
      `explain_recompiles()` says what changed.
    - What it does to other Python objects happens while it is traced; a function that reads what it
      has itself changed so is traced at every call.
    - What libraries read by themselves (time, files, random numbers of NumPy) is read when it is
      traced.

    `donate`: positional arguments whose buffers the results may take over; those tensors are gone
    after the call. Where a gradient is followed through a call (`requires_grad` arguments, or
    parameters without a `backward()` inside), the function runs lazily as part of that graph.
    `dynamic`: whether a function whose graph comes again with another size (a batch, a length) gets
    kernels for all sizes, so that further sizes cost a trace and a plan, and no compilation. Sizes
    of 0 and 1 are compiled by themselves, and so is what cannot be generic: `rung.recompiles()`
    says why. With `dynamic=False` each size is.
    Raises TraceError for what depends on values: `bool(x)`, `x.item()`, `x.numpy()`.

        @rung.jit
        def f(x, y):
            return (x @ y).softmax()
    """
    positions = (donate,) if isinstance(donate, int) else tuple(donate)
    at_least("jit", 0, donate=min(positions, default=0))
    if function is None:
        return lambda given: jit(given, donate=positions, name=name, dynamic=dynamic)
    label = name or getattr(function, "__name__", type(function).__name__)
    return Jit(function, positions, label, dynamic)


def guard(read: Callable[[], Hashable], what: str) -> None:
    """Inside a trace: trace anew when `read()` gives something else before a later call (a module
    reads its `training` flag so). Nothing outside of a trace."""
    if state.trace is not None:
        state.trace.guards.append((read, read(), what))


def outside_copy(tensor: Tensor) -> Tensor:
    """A tensor with memory of its own that holds what `tensor`, which is from outside of any trace,
    does. Inside a trace it is from outside too: made once, not by each call, except that calls copy
    what the function has put into `tensor` before."""
    trace, state.trace = state.trace, None
    try:
        made = type(tensor)(np.array(buffer_of(tensor).array))
    finally:
        state.trace = trace
    if trace is not None and id(tensor) in trace.written:
        made.assign(tensor)
    return made


def is_tracing() -> bool:
    """Whether a function is being traced."""
    return state.trace is not None


def realize(tensors: Sequence[TensorState]) -> None:
    """Compute tensors now, with everything else that is pending."""
    for t in tensors:
        buffer_of(t)
