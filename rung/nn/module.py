"""Modules: objects with parameters, buffers and submodules, called as functions.

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.norm = nn.LayerNorm(width)
            self.proj = nn.Linear(width, width)

        def forward(self, x):
            return x + self.proj(self.norm(x))

What is assigned to an attribute is found again by `parameters()`, `state_dict()` and the like,
under dotted names that agree with PyTorch's. A module is a tree (`rung.tree`) whose leaves are its
parameters, so `rung.grad(loss)(model, x)` gives a model of gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np

from rung.core import dtype as dt
from rung.core.arguments import of_numbers
from rung.core.changes import MODULES
from rung.core.errors import CheckpointError, RungError
from rung.core.source import module_paths
from rung.tensor.creation import asarray, check_device, names_device
from rung.tensor.jit import guard
from rung.tensor.state import TensorState
from rung.tensor.tensor import Tensor

PARAMETER: Final = "parameter"
BUFFER: Final = "buffer"
TRANSIENT: Final = "transient buffer"
MODULE: Final = "module"


class Parameter(Tensor):
    """A tensor that is trained: assigned to an attribute of a module, it is one of its parameters.

    `Parameter(data)` copies data."""

    def __init__(self, data: Any, dtype: object = None, requires_grad: bool = True) -> None:
        super().__init__(data, dtype=dtype, requires_grad=requires_grad)


@dataclass(frozen=True, slots=True)
class LoadReport:
    """Names that `load_state_dict(strict=False)` did not find (`missing`) or did not use
    (`unexpected`)."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]


class _Structure:
    """How often the structure of any module has changed."""

    structure = 0


class Module:
    """Base of all modules. Call `super().__init__()` before assigning attributes."""

    _roles: dict[str, str]
    _training: bool
    _path: str
    _paths_from: int

    __by_reference__ = True
    """As an argument of a jitted function, a module is one object whose tensors are captured."""

    def __init__(self) -> None:
        vars(self).update(_roles={}, _training=True, _path="", _paths_from=-1)

    # ---- attributes

    def __setattr__(self, name: str, value: Any) -> None:
        roles = vars(self).get("_roles")
        if roles is None:
            raise RungError(
                f"{type(self).__name__}.{name} is assigned before Module.__init__",
                fix="call super().__init__() first",
            )
        if isinstance(value, Parameter):
            roles[name] = PARAMETER
        elif isinstance(value, Module):
            roles[name] = MODULE
            _Structure.structure += 1
        elif roles.get(name) in (BUFFER, TRANSIENT) and isinstance(value, TensorState):
            pass
        elif value is not None or roles.get(name) not in (BUFFER, TRANSIENT):
            roles.pop(name, None)
        object.__setattr__(self, name, value)
        MODULES.count += 1

    def __delattr__(self, name: str) -> None:
        MODULES.count += 1
        self._roles.pop(name, None)
        object.__delattr__(self, name)

    def register_buffer(self, name: str, tensor: Any, persistent: bool = True) -> None:
        """Make `tensor` an attribute that is saved with the module but not trained. One that is not
        `persistent` is left out of `state_dict`."""
        object.__setattr__(self, name, None if tensor is None else Tensor(tensor))
        self._roles[name] = BUFFER if persistent else TRANSIENT
        MODULES.count += 1

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Assign `parameter` to an attribute whose name is computed; None = there is none."""
        setattr(self, name, parameter)

    def add_module(self, name: str, module: Module) -> None:
        """Assign `module` to an attribute whose name is computed."""
        setattr(self, name, module)

    def _own(self, *roles: str) -> Iterator[tuple[str, Any]]:
        """Attributes in one of these roles, in the order of their first assignment."""
        fields = vars(self)
        for name, role in self._roles.items():
            if role in roles and fields[name] is not None:
                yield name, fields[name]

    # ---- walking

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """The submodules directly inside this one."""
        return self._own(MODULE)

    def children(self) -> Iterator[Module]:
        """The submodules directly inside this one."""
        return (module for _, module in self._own(MODULE))

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module (named `prefix`) and all inside it, each once."""
        return self._walk(prefix, unique=True)

    def _walk(self, prefix: str, unique: bool) -> Iterator[tuple[str, Module]]:
        seen: set[int] = set()
        stack: list[tuple[str, Module]] = [(prefix, self)]
        while stack:
            path, module = stack.pop()
            if unique and id(module) in seen:
                continue
            seen.add(id(module))
            yield path, module
            inner = [(f"{path}.{n}" if path else n, m) for n, m in module._own(MODULE)]
            stack.extend(reversed(inner))

    def modules(self) -> Iterator[Module]:
        """This module and all inside it, each once."""
        return (module for _, module in self.named_modules())

    def _named(
        self, prefix: str, roles: Sequence[str], unique: bool
    ) -> Iterator[tuple[str, Tensor]]:
        found: set[int] = set()
        for path, module in self._walk(prefix, unique):
            for name, tensor in module._own(*roles):
                if unique and id(tensor) in found:
                    continue
                found.add(id(tensor))
                yield (f"{path}.{name}" if path else name), tensor

    def named_parameters(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """All parameters with their dotted names. A shared one comes once, under its first name,
        unless `remove_duplicate` is false."""
        return self._named(prefix, (PARAMETER,), remove_duplicate)

    def parameters(self) -> Iterator[Tensor]:
        """All parameters, each once."""
        return (tensor for _, tensor in self.named_parameters())

    def named_buffers(
        self, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """All buffers with their dotted names."""
        return self._named(prefix, (BUFFER, TRANSIENT), remove_duplicate)

    def buffers(self) -> Iterator[Tensor]:
        """All buffers, each once."""
        return (tensor for _, tensor in self.named_buffers())

    def get_submodule(self, path: str) -> Module:
        """The module of this dotted name. Raises RungError if there is none."""
        found = dict(self._walk("", unique=False)).get(path)
        if found is None:
            raise RungError(f"{type(self).__name__} has no module {path!r}")
        return found

    @property
    def num_parameters(self) -> int:
        """The number of elements of all parameters."""
        return sum(p.size for p in self.parameters())

    # ---- state

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """Parameters and persistent buffers by name: a snapshot, not changed by later updates. A
        tensor shared by several names is listed under each, as in PyTorch."""
        return {name: tensor.detach() for name, tensor in self._stateful(prefix)}

    def _stateful(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        return self._named(prefix, (PARAMETER, BUFFER), unique=False)

    def load_state_dict(self, given: Mapping[str, Any], strict: bool = True) -> LoadReport:
        """Put the tensors or arrays `given` into parameters and buffers, cast to their dtypes. Of
        arrays that can be written to they get a copy.

        Nothing is changed unless all fits. Raises CheckpointError that names what is missing,
        unexpected or of another shape (with `strict=False` only the last)."""
        own = dict(self._stateful())
        shared = {id(own[name]) for name in given if name in own}
        missing = tuple(n for n, t in own.items() if n not in given and id(t) not in shared)
        unexpected = tuple(n for n in given if n not in own)
        wrong = [
            f"{n}: the model has {list(own[n].shape)}, given is {list(np.shape(x))}"
            for n, x in given.items()
            if n in own and tuple(own[n].shape) != tuple(np.shape(x))
        ]
        problems = [f"shape of {text}" for text in wrong]
        if strict:
            problems += [f"missing: {name}" for name in missing]
            problems += [f"unexpected: {name}" for name in unexpected]
        if problems:
            raise _load_error(type(self).__name__, problems, bool(wrong))
        for name, value in given.items():
            if name in own:
                own[name].assign(asarray(value))
        return LoadReport(missing, unexpected)

    # ---- modes

    @property
    def training(self) -> bool:
        """Whether dropout drops and batch norms use (and update) the statistics of the batch.

        A jitted function that has read it is traced again when it changes."""
        guard(lambda: self._training, f"{self._path or type(self).__name__}.training")
        return self._training

    def train(self, mode: bool = True) -> Self:
        """Set the training mode of this module and all inside it."""
        for module in self.modules():
            object.__setattr__(module, "_training", mode)
        return self

    def eval(self) -> Self:
        """Leave the training mode."""
        return self.train(False)

    def requires_grad_(self, wanted: bool = True) -> Self:
        """Make all parameters followed by `backward()`, or none."""
        for p in self.parameters():
            p.requires_grad_(wanted)
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.parameters():
            p.grad = None

    def apply(self, function: Callable[[Module], object]) -> Self:
        """Call `function` with each module, inner ones first."""
        outer_first: list[Module] = []
        stack: list[Module] = [self]
        while stack:
            outer_first.append(stack.pop())
            stack.extend(outer_first[-1].children())
        for module in reversed(outer_first):
            function(module)
        return self

    def to(self, dtype: object) -> Self:
        """Cast floating-point parameters and buffers. The parameters become new ones: make the
        optimizer afterwards. `"cpu"` changes nothing."""
        if names_device(dtype):
            check_device(dtype)
            return self
        target = dt.as_dtype(dtype)
        done: dict[int, Tensor] = {}
        for module in self.modules():
            for name, old in list(module._own(PARAMETER, BUFFER, TRANSIENT)):
                if old.dtype.is_float and old.dtype is not target:
                    if id(old) not in done:
                        done[id(old)] = _in_dtype(old, target)
                    object.__setattr__(module, name, done[id(old)])
                    MODULES.count += 1
        return self

    # ---- calling

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module computes; to be given by each class."""
        raise RungError(f"{type(self).__name__} has no forward", fix="define forward(self, …)")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        paths = module_paths()
        level = len(paths)
        if not level:
            self._name_paths()
        try:
            paths.append(self._path)
            result = self.forward(*args, **kwargs)
            del paths[level:]
            for watch in watchers:
                watch(self, result)
            return result
        except (MemoryError, ArithmeticError, ValueError) as error:
            refused = of_numbers(type(self).__name__, error)
            if refused is None:
                raise
            raise refused from None
        finally:
            del paths[level:]

    def _name_paths(self) -> None:
        """Tell every module inside its dotted name, unless nothing has changed since."""
        if self._paths_from == _Structure.structure:
            return
        _Structure.structure += 1
        for path, module in self.named_modules():
            vars(module).update(_path=path, _paths_from=-1)
        vars(self).update(_paths_from=_Structure.structure)

    # ---- as a tree

    def __tree_flatten__(self) -> tuple[Sequence[Any], _Static]:
        fields = vars(self)
        names = tuple(name for name, _ in self._own(PARAMETER, MODULE))
        rest = {name: value for name, value in fields.items() if name not in names}
        return [fields[name] for name in names], _Static(type(self), tuple(fields), names, rest)

    @staticmethod
    def __tree_unflatten__(static: _Static, children: Sequence[Any]) -> Module:
        module = object.__new__(static.kind)
        values = {**static.rest, **dict(zip(static.names, children, strict=True))}
        vars(module).update((name, values[name]) for name in static.order)
        return module

    # ---- text

    def extra_repr(self) -> str:
        """What stands in the parentheses of `repr`, beside the submodules."""
        return ""

    def __repr__(self) -> str:
        lines: list[str] = []
        stack: list[tuple[int, str, Module | None]] = [(0, "", self)]
        while stack:
            depth, start, module = stack.pop()
            text = start
            if module is not None:
                own = type(module).__repr__ is Module.__repr__
                extra = module.extra_repr() if own else ""
                inner = list(module.named_children()) if own else []
                if inner:
                    text += f"{type(module).__name__}("
                    stack.append((depth, ")", None))
                    named = [(depth + 1, f"({name}): ", child) for name, child in inner]
                    stack.extend(reversed(named))
                    stack.extend([(depth + 1, extra, None)] if extra else [])
                else:
                    text += f"{type(module).__name__}({extra})" if own else repr(module)
            lines.extend("  " * depth + line for line in text.split("\n"))
        return "\n".join(lines)


watchers: Final[list[Callable[[Module, Any], None]]] = []
"""Called with each module and its result after each call: what looks for a bad tensor."""


def _in_dtype(old: Tensor, dtype: dt.DType) -> Tensor:
    if isinstance(old, Parameter):
        return Parameter(old.detach(), dtype=dtype, requires_grad=old.requires_grad)
    return old.detach().astype(dtype)


def _load_error(module: str, problems: Sequence[str], shapes: bool) -> CheckpointError:
    shown = list(problems[:20])
    if len(problems) > len(shown):
        shown.append(f"… and {len(problems) - len(shown)} more")
    text = "".join(f"\n    {line}" for line in shown)
    fix = "make the model with the sizes of the checkpoint" if shapes else None
    return CheckpointError(
        f"load_state_dict: the tensors given do not fit {module}:{text}",
        fix=fix or "load the checkpoint of this model, or pass strict=False",
    )


class _Static:
    """What a module holds beside parameters and submodules. Two are equal when all values are the
    same objects or equal plain values, so that a model and its gradients have one structure."""

    __slots__ = ("kind", "names", "order", "rest")

    def __init__(
        self, kind: type[Module], order: Sequence[str], names: tuple[str, ...], rest: dict[str, Any]
    ) -> None:
        self.kind = kind
        self.order = tuple(order)
        self.names = names
        self.rest = rest

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __hash__(self) -> int:
        return hash((self.kind, self.names))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Static):
            return NotImplemented
        if (self.kind, self.names, self.order) != (other.kind, other.names, other.order):
            return False
        return all(_same(self.rest[n], other.rest[n]) for n in self.rest if n not in _BOOKKEEPING)


_BOOKKEEPING: Final = ("_path", "_paths_from")
_PLAIN: Final = (bool, int, float, str, tuple, dict, type(None))


def _same(a: Any, b: Any) -> bool:
    if a is b:
        return True
    return isinstance(a, _PLAIN) and type(a) is type(b) and bool(a == b)
