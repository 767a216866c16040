"""Which code is the user's, and which that of a library whose names and functions do not change."""

from __future__ import annotations

import os
import sys
import sysconfig
from functools import lru_cache
from types import CodeType, FrameType, ModuleType
from typing import Any

import numpy as np

from rung.core.source import PACKAGE_DIR

_STANDARD = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
_NUMPY = os.path.dirname(np.__file__) + os.sep
_MODEL_CODE = tuple(PACKAGE_DIR + folder + os.sep for folder in ("nn", "models", "tools"))
_MODULE_BASE = PACKAGE_DIR + os.path.join("nn", "module.py")


LIBRARY_FILES: set[str] = set()
"""Files that are known to be of a library."""


@lru_cache(maxsize=4096)
def _is_user_file(name: str) -> bool:
    found = _judge(name)
    if not found:
        LIBRARY_FILES.add(name)
    return found


def _judge(name: str) -> bool:
    if name.startswith(PACKAGE_DIR):
        return name.startswith(_MODEL_CODE) and name != _MODULE_BASE
    if name.startswith(("<frozen", "<__array_function__", _NUMPY)):
        return False
    return not name.startswith(_STANDARD) or any(part in name for part in _INSTALLED)


def is_user_code(code: CodeType) -> bool:
    """Whether a function is the user's: not of this package (its models aside), of NumPy or of
    Python."""
    return _is_user_file(code.co_filename)


def is_user_frame(frame: FrameType) -> bool:
    """Whether a running function is the user's; what was made from text counts where its globals
    are the user's."""
    name = frame.f_code.co_filename
    if not _is_user_file(name):
        return False
    return name[:1] != "<" or not _is_library_name(frame.f_globals.get("__name__", ""))


def is_library(x: Any) -> bool:
    """Whether a module, class or function is of this package (models and layers aside), of NumPy or
    of Python."""
    name = x.__name__ if isinstance(x, ModuleType) else getattr(x, "__module__", None)
    return isinstance(name, str) and _is_library_name(name)


def is_standard(kind: type) -> bool:
    """Whether a class, or one that it is made from, is of a module of Python written in Python."""
    names = [k.__module__.partition(".")[0] for k in kind.__mro__]
    return any(n in sys.stdlib_module_names and n not in ("builtins", "__main__") for n in names)


@lru_cache(maxsize=4096)
def _is_library_name(name: str) -> bool:
    if name == "rung.nn.module":
        return False  # `Module` itself has the fields of the user's classes
    first = name.partition(".")[0]
    if first == "rung":
        return not name.startswith(("rung.nn", "rung.models", "rung.tools"))
    return first == "numpy" or (first in sys.stdlib_module_names and first != "__main__")
