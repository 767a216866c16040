"""All samples of one operator of torch, compared; what came out as plain data."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from rung.core.settings import configure
from tests.oracle.compare import (
    Case,
    Mismatch,
    check_forward,
    check_gradient,
    check_value,
    make_case,
)
from tests.oracle.convert import Unsupported
from tests.oracle.table import EXPECTED, TABLE, UNDEFINED_CONTENTS, left_out, reason_unmapped
from tests.torch_tables import operator_infos

torch = pytest.importorskip("torch")

DERIVED = (torch.float32, torch.float64)
"""Dtypes in which derivatives are compared, beside the values."""
VALUED = (*DERIVED, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
KINDS = ("value", "gradient", "forward")


def full_name(info: Any) -> str:
    """`max/binary`, the name of an operator with that of its variant."""
    variant = info.variant_test_name
    return f"{info.name}/{variant}" if variant else str(info.name)


INFOS: dict[str, Any] = {full_name(info): info for info in operator_infos()}


def counterpart(name: str) -> Callable[..., Any] | None:
    """Our function for an operator of torch, by the name of the variant or of all variants."""
    if name in TABLE:
        return TABLE[name]
    return None if reason_unmapped(name) else TABLE.get(name.partition("/")[0])


@dataclass(frozen=True)
class Limits:
    """How many samples a dtype gets, how many of the first dtype are compiled, which dtypes."""

    samples: int = 60
    compiled: int = 2
    dtypes: tuple[Any, ...] = VALUED
    forward: bool = True


@dataclass
class Outcome:
    """What came out for one operator. Failures are lines; expected ones come with their reason."""

    name: str
    passed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    failed: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    expected: list[tuple[str, str]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    samples: int = 0
    compiled: int = 0
    dtypes: list[str] = field(default_factory=list)

    def passes(self, kind: str) -> bool:
        """Whether every sample passes, and there is one."""
        unmet = any(k in (kind, "all") for k, _ in self.expected)
        return self.passed[kind] > 0 and not self.failed[kind] and not unmet


def chosen(info: Any, dtype: Any, most: int) -> list[Any]:
    """At most so many samples, taken evenly from all."""
    torch.manual_seed(0)
    np.random.seed(0)
    found = list(
        info.sample_inputs("cpu", dtype, requires_grad=info.supports_autograd and dtype in DERIVED)
    )
    if len(found) <= most:
        return found
    return [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]


def evaluated(name: str, limits: Limits) -> Outcome:
    """All comparisons of one operator."""
    info, mine = INFOS[name], counterpart(name)
    assert mine is not None
    found = Outcome(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in limits.dtypes:
            if dtype not in info.dtypes or left_out(name, str(dtype).removeprefix("torch.")):
                continue
            samples = chosen(info, dtype, limits.samples)
            found.dtypes.append(str(dtype).removeprefix("torch."))
            for number, sample in enumerate(samples):
                found.samples += 1
                _compare(found, info, mine, sample, f"{name} {found.dtypes[-1]} {number}", limits)
                first = len(found.dtypes) == 1
                if first and number < limits.compiled:
                    found.compiled += 1
                    at = f"{name} {found.dtypes[-1]} {number} compiled"
                    _compare(found, info, mine, sample, at, limits, compiled=True)
    return found


def _compare(
    found: Outcome, info: Any, mine: Any, sample: Any, at: str, limits: Limits,
    compiled: bool = False,
) -> None:  # fmt: skip
    """One sample in all ways."""
    configure(interpret=not compiled)
    try:
        case = make_case(info.op, mine, sample)
        shape_only = found.name in UNDEFINED_CONTENTS
        if not _check(found, "value", at, lambda: check_value(case, shape_only)):
            return
        if case.moving and info.supports_autograd:
            _check(found, "gradient", at, lambda: check_gradient(case))
            if limits.forward and info.supports_forward_ad and _is_wide(case) and not compiled:
                _check(found, "forward", at, lambda: check_forward(case))
    finally:
        configure(interpret=False)


def _is_wide(case: Case) -> bool:
    """Forward mode is compared in f64 alone: its rules are those of reverse mode."""
    return all(case.tensors[n].dtype is torch.float64 for n in case.moving)


def _check(found: Outcome, kind: str, at: str, run: Callable[[], object]) -> bool:
    """Whether a comparison passed; what came out is noted."""
    try:
        compared = run()
    except (Exception, AssertionError) as error:
        text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        line = f"{at} {kind}: {text}"
        reason = str(error) if isinstance(error, Unsupported) else _expected(line)
        if reason is None:
            found.failed[kind] += 1
            found.failures.append(line)
        else:
            found.expected.append(("all" if kind == "value" else kind, reason))
        return False
    if compared is not False:
        found.passed[kind] += 1
    return True


def _expected(line: str) -> str | None:
    """The reason for which a failure is expected, or None."""
    for pattern, reason in EXPECTED:
        if pattern.match(line):
            return reason
    return None


__all__ = ["INFOS", "Limits", "Mismatch", "Outcome", "counterpart", "evaluated", "full_name"]
