"""Modules that hold others, or parameters: in a row, in a list, under names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, overload

from rung.core.errors import IndexingError, MissingKeyError, RungError
from rung.nn.module import Module, Parameter
from rung.tensor.tensor import Tensor


class _Numbered(Module):
    """Submodules under the names "0", "1", …"""

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        super().__init__()
        self.extend(modules)

    def append(self, module: Module) -> None:
        """Add a module at the end."""
        if not isinstance(module, Module):
            raise RungError(f"{type(self).__name__} holds modules, not {type(module).__name__}")
        self.add_module(str(len(self)), module)

    def extend(self, modules: Iterable[Module]) -> None:
        """Add modules at the end."""
        for module in modules:
            self.append(module)

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __iter__(self) -> Iterator[Module]:
        return self.children()

    @overload
    def __getitem__(self, index: int) -> Module: ...
    @overload
    def __getitem__(self, index: slice) -> _Numbered: ...

    def __getitem__(self, index: int | slice) -> Module:
        found = list(self.children())
        if isinstance(index, slice):
            return _numbered(type(self), found[index])
        if not -len(found) <= index < len(found):
            raise IndexingError(f"module {index} of {len(found)} in {type(self).__name__}")
        return found[index]

    def __setitem__(self, index: int, module: Module) -> None:
        if not -len(self) <= index < len(self):
            raise IndexingError(f"module {index} of {len(self)} in {type(self).__name__}")
        self.add_module(str(index % len(self)), module)


def _numbered(kind: type[_Numbered], modules: Iterable[Module]) -> _Numbered:
    new = object.__new__(kind)
    _Numbered.__init__(new, modules)
    return new


class Sequential(_Numbered):
    """Modules applied one after the other: `Sequential(a, b)(x)` is `b(a(x))`."""

    def __init__(self, *modules: Module) -> None:
        super().__init__(modules)

    def forward(self, x: Any) -> Any:
        for module in self.children():
            x = module(x)
        return x


class ModuleList(_Numbered):
    """A list of modules; to be called one by one."""


class ModuleDict(Module):
    """Modules under names; to be called one by one. A name may not be that of a method."""

    def __init__(self, modules: Mapping[str, Module] | None = None) -> None:
        super().__init__()
        for name, module in (modules or {}).items():
            self[name] = module

    def __setitem__(self, name: str, module: Module) -> None:
        if hasattr(type(self), name):
            raise RungError(f"ModuleDict: {name!r} is the name of a method", fix="choose another")
        self.add_module(name, module)

    def __getitem__(self, name: str) -> Module:
        found = dict(self.named_children()).get(name)
        if found is None:
            names = ", ".join(self.keys())
            raise MissingKeyError(f"ModuleDict has no module {name!r}", fix=f"it has {names}")
        return found

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.keys()

    def __len__(self) -> int:
        return len(self.keys())

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """The names."""
        return [name for name, _ in self.named_children()]

    def values(self) -> list[Module]:
        """The modules."""
        return list(self.children())

    def items(self) -> list[tuple[str, Module]]:
        """Names and modules."""
        return list(self.named_children())


class ParameterList(Module):
    """Parameters under the names "0", "1", …; other tensors become parameters."""

    def __init__(self, values: Iterable[Any] = ()) -> None:
        super().__init__()
        self.extend(values)

    def append(self, value: Any) -> None:
        """Add a parameter at the end."""
        self.register_parameter(str(len(self)), _parameter(value))

    def extend(self, values: Iterable[Any]) -> None:
        """Add parameters at the end."""
        for value in values:
            self.append(value)

    def __len__(self) -> int:
        return len(self._roles)

    def __iter__(self) -> Iterator[Tensor]:
        return (getattr(self, str(i)) for i in range(len(self)))

    def __contains__(self, value: object) -> bool:
        return any(p is value for p in self)

    def __getitem__(self, index: int) -> Tensor:
        return getattr(self, self._name(index))  # type: ignore[no-any-return]

    def __setitem__(self, index: int, value: Any) -> None:
        self.register_parameter(self._name(index), _parameter(value))

    def _name(self, index: int) -> str:
        if not -len(self) <= index < len(self):
            raise IndexingError(f"parameter {index} of {len(self)} in ParameterList")
        return str(index % len(self))


class ParameterDict(Module):
    """Parameters under names, which may not be those of methods; other tensors become
    parameters."""

    def __init__(self, values: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        for name, value in (values or {}).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if hasattr(type(self), name):
            raise RungError(
                f"ParameterDict: {name!r} is the name of a method", fix="choose another"
            )
        self.register_parameter(name, _parameter(value))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self:
            raise MissingKeyError(
                f"ParameterDict has no parameter {name!r}", fix=f"it has {', '.join(self.keys())}"
            )
        return getattr(self, name)  # type: ignore[no-any-return]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._roles

    def __len__(self) -> int:
        return len(self._roles)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def keys(self) -> list[str]:
        """The names."""
        return list(self._roles)

    def values(self) -> list[Tensor]:
        """The parameters."""
        return [self[name] for name in self.keys()]

    def items(self) -> list[tuple[str, Tensor]]:
        """Names and parameters."""
        return [(name, self[name]) for name in self.keys()]


def _parameter(value: Any) -> Parameter:
    return value if isinstance(value, Parameter) else Parameter(value)
