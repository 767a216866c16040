"""The tables by which torch tests its own modules and optimizers."""

from __future__ import annotations

import sys
import unittest
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import pytest


def _let_import() -> None:
    """torch's helpers derive a class from one of `expecttest`, a package for its own tests; nothing
    here uses it, and any test case will do."""
    pytest.importorskip("torch")
    if "expecttest" not in sys.modules and find_spec("expecttest") is None:
        stand_in = ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase  # type: ignore[attr-defined]
        sys.modules["expecttest"] = stand_in


def module_infos() -> list[Any]:
    """`ModuleInfo` of each module, which gives arguments to make and to call it."""
    _let_import()
    from torch.testing._internal.common_modules import module_db

    return list(module_db)


def optimizer_infos() -> list[Any]:
    """`OptimizerInfo` of each optimizer."""
    _let_import()
    from torch.testing._internal.common_optimizers import optim_db

    return list(optim_db)


def operator_infos() -> list[Any]:
    """`OpInfo` of each operator, which gives arguments to call it."""
    _let_import()
    from torch.testing._internal.common_methods_invocations import op_db

    return list(op_db)
