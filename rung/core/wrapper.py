"""Objects that decorators put in the place of functions: they are copied and pickled as functions.

`copy.deepcopy` of a function is the function, and `pickle` writes its name. So it is with a
wrapper that stands under its name in a module or class. One that does not, such as an attribute
that wraps a bound method, is made anew around the copied method, without what it has compiled.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, ClassVar, SupportsIndex


class Wrapper:
    """Base of the wrappers. `forgotten`: what a copy begins with in place of what was compiled."""

    __qualname__: str
    forgotten: ClassVar[dict[str, Callable[[], Any]]] = {}

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)  # type: ignore[arg-type]

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[Any, ...]:
        name = getattr(self, "__qualname__", "")
        found: Any = sys.modules.get(getattr(self, "__module__", ""))
        for part in name.split("."):
            found = getattr(found, part, None)
        return name if found is self else super().__reduce_ex__(protocol)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), **{name: make() for name, make in self.forgotten.items()}}
