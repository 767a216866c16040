"""NumPy's validation sets for mathematical functions."""

from __future__ import annotations

import numpy as np
import pytest
from umath import ABSENT, Row, distance, files, rows


def test_nothing_is_further_off_than_stated() -> None:
    if not files():
        pytest.skip("this NumPy came without its validation sets")
    table = list(rows())
    assert {r.dtype for r in table} >= {"float32", "float64"}
    assert len({r.function for r in table}) >= 19
    far: list[Row] = [r for r in table if r.ulp > r.bound]
    assert not far


def test_distance_in_units() -> None:
    most = np.finfo(np.float32).max
    one = np.array([1.0, -0.0, 0.0, np.nan, np.inf], np.float32)
    other = np.array([1 + 2.0**-23, 0.0, -1e-45, np.nan, most], np.float32)
    assert distance(one, other).tolist() == [1, 0, 1, 0, 1]


def test_reasons() -> None:
    assert all(ABSENT.values())
