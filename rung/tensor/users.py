"""Which code is the user's, and which that of a library whose names and functions do not change.

The user's is all that is not of this package, of NumPy, of Python, or of an installed package that
does not use this one. Layers and models of this package count as the user's.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Mapping
from functools import lru_cache
from types import FrameType, FunctionType, ModuleType
from typing import Any

import numpy as np

from rung.core.source import PACKAGE_DIR

_STANDARD = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
_INSTALLED = (os.sep + "site-packages" + os.sep, os.sep + "dist-packages" + os.sep)
_NUMPY = os.path.dirname(np.__file__) + os.sep
_MODEL_CODE = (
    *(PACKAGE_DIR + folder + os.sep for folder in ("nn", "models", "tools")),
    PACKAGE_DIR + os.path.join("optim", "average.py"),
)
_MODULE_BASE = PACKAGE_DIR + os.path.join("nn", "module.py")


LIBRARY_FILES: set[str] = set()
"""Files that are known to be of a library."""
_user_files: set[str] = set()


def _is_user_file(name: str, names: Mapping[str, Any]) -> bool:
    """Whether code of a file is the user's; `names`: its globals."""
    if name in _user_files:
        return True
    if name in LIBRARY_FILES:
        return False
    if name[:1] == "<" and not name.startswith("<frozen"):  # made from text, for any module
        return not _is_library_name(str(names.get("__name__", "")))
    (_user_files if _judge(name, names) else LIBRARY_FILES).add(name)
    return name in _user_files


def _judge(name: str, names: Mapping[str, Any]) -> bool:
    if name.startswith(PACKAGE_DIR):
        return name.startswith(_MODEL_CODE) and name != _MODULE_BASE
    if name.startswith(("<frozen", _NUMPY)):
        return False
    if any(part in name for part in _INSTALLED):
        return any(_is_ours(x) for x in list(names.values()))
    return not name.startswith(_STANDARD)


def _is_ours(x: Any) -> bool:
    name = x.__name__ if isinstance(x, ModuleType) else getattr(x, "__module__", None)
    return isinstance(name, str) and name.partition(".")[0] == "rung"


def is_user_function(function: FunctionType) -> bool:
    """Whether a function is the user's."""
    return _is_user_file(function.__code__.co_filename, function.__globals__)


def is_user_frame(frame: FrameType) -> bool:
    """Whether a running function is the user's."""
    return _is_user_file(frame.f_code.co_filename, frame.f_globals)


def is_library(x: Any) -> bool:
    """Whether a module, class or function is of this package (models and layers aside), of NumPy or
    of Python."""
    name = x.__name__ if isinstance(x, ModuleType) else getattr(x, "__module__", None)
    return isinstance(name, str) and _is_library_name(name)


@lru_cache(maxsize=4096)
def is_foreign(kind: type) -> bool:
    """Whether a class, or one that it is made from, is of a library whose code is not looked into
    and which is not this one: what its methods read is not seen."""
    return any(_is_foreign_name(k.__module__) for k in kind.__mro__)


_HOLDERS = ("argparse", "collections", "configparser", "optparse", "types", "weakref")


@lru_cache(maxsize=4096)
def is_holder(kind: type) -> bool:
    """Whether a class is made from one of Python's library that is there to hold values."""
    return any(k.__module__.partition(".")[0] in _HOLDERS for k in kind.__mro__)


@lru_cache(maxsize=4096)
def _is_foreign_name(name: str) -> bool:
    first = name.partition(".")[0]
    if first in ("builtins", "__main__", "rung", "numpy"):
        return False
    if first in sys.stdlib_module_names:
        return True
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and not _is_user_file(file, vars(module))


@lru_cache(maxsize=4096)
def _is_library_name(name: str) -> bool:
    if name == "rung.nn.module":
        return False  # `Module` itself has the fields of the user's classes
    first = name.partition(".")[0]
    if first == "rung":
        return not name.startswith(("rung.nn", "rung.models", "rung.tools"))
    return first == "numpy" or (first in sys.stdlib_module_names and first != "__main__")
