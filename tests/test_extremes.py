"""The generator of extremes finds what is wrong on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import rung
import rung.nn.functional as F
from rung.ops.broadcast import reduce_sum
from rung.ops.transcendental import sqrt, square
from rung.tensor import precision, reductions
from tests.generate import extremes, peers_extremes, peers_rows
from tests.generate.exact import FORMATS, Long, distance, exact, mp, slopes
from tests.generate.extreme_functions import UNARY
from tests.generate.extreme_rows import ROWS, check_rows
from tests.remembered import forget

FUNCTIONS = {f.name: f for f in (*UNARY, *ROWS)}
WRONG: dict[str, Callable[[Any], Any]] = {
    "exp": lambda x: rung.exp(x) * (1 + 2e-6),
    "log1p": lambda x: rung.log(1 + x),
    "sinh": lambda x: (rung.exp(x) - rung.exp(-x)) * 0.5,
    "softplus": lambda x: rung.log(1 + rung.exp(x)),
    "sigmoid": lambda x: rung.where(x == np.inf, rung.nan, F.sigmoid(x)),
    "sqrt": lambda x: rung.sqrt(abs(x)),
    "atan": lambda x: rung.atan(x.detach()) + rung.atan(x) * 0.0,
    "floor": lambda x: rung.floor(x) + 0.0,
}


@pytest.fixture(autouse=True)
def rules_as_they_are() -> Iterator[None]:
    """What a test has changed is not remembered after it."""
    yield
    forget()



def unary(name: str, dtype: str, **changed: Any) -> list[str]:
    f = replace(FUNCTIONS[name], **changed)  # type: ignore[type-var]
    return [
        line
        for seed in range(3)
        for line in extremes.check_unary(
            f, FORMATS[dtype], np.random.default_rng(seed), compiled=False
        )
    ]


def rows(name: str, dtype: str) -> list[str]:
    f: Any = FUNCTIONS[name]
    with extremes.mode(compiled=False):
        return [
            line
            for seed in range(20)
            for line in check_rows(f, FORMATS[dtype], np.random.default_rng(seed))
        ]


@pytest.mark.parametrize("name", WRONG)
def test_a_function_that_is_wrong_is_found(name: str) -> None:
    assert unary(name, "f32") == []
    assert unary(name, "f32", ours=WRONG[name])


def test_half_precision_without_a_wider_type_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("kl_div", "gaussian_nll_loss", "dot")
    assert not any(rows(name, "f16") for name in names)
    monkeypatch.setattr(precision, "NARROW", ())
    forget()
    assert all(rows(name, "f16") for name in names)


def test_squares_that_overflow_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rows("norm", "f32") == []
    monkeypatch.setattr(
        reductions, "euclidean_norm", lambda x, dims: sqrt(reduce_sum(square(x), dims=dims))
    )
    forget()
    assert rows("norm", "f32")


def test_distances() -> None:
    f32 = FORMATS["f32"]
    most = np.float32(np.finfo(np.float32).max)
    found = np.array([1, np.inf, most, 0, 1e-45, np.nan, np.nan], np.float32)
    wanted = np.array([1 + 2.0**-23, 1e300, 1e300, 0, 0, np.nan, 1], Long)
    assert distance(found, wanted, f32).tolist() == [1, 0, 1, 0, 1, 0, np.inf]


def test_exact_values_are_rounded_once() -> None:
    third = exact(lambda x: x / 3, np.array([1.0, np.nan]))
    assert third[0] == Long(1) / 3 and np.isnan(third[1])
    assert np.isfinite(exact(mp.exp, np.array([1e308]))).all()
    assert np.isnan(exact(mp.log, np.array([-1.0])))[0]


def test_differences_of_an_element_that_is_tiny_beside_others() -> None:
    x = np.array([1e-6, 1e6, 3.0], Long)
    found = slopes(lambda v: v * v * v + v, x, np.ones(3))
    np.testing.assert_allclose(found.astype(float), (3 * x * x + 1).astype(float), rtol=1e-9)


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(8023161, id="softmax near one-hot, f32"),
        pytest.param(8038893, id="softmax near one-hot, f16"),
        pytest.param(8024293, id="a tiny element"),
        pytest.param(8026473, id="an infinity among finite ones"),
    ],
)
def test_what_is_right_is_not_reported(seed: int) -> None:
    assert extremes.check(seed) == []


def test_a_wrong_slope_of_softmax_is_found() -> None:
    wrong = replace(FUNCTIONS["softmax"], ours=lambda x, y: F.softmax(x * (1 + 1e-3), -1))  # type: ignore[type-var]
    with extremes.mode(compiled=False):
        assert any(check_rows(wrong, FORMATS["f32"], np.random.default_rng(s)) for s in range(20))


def test_a_case_depends_on_its_seed_alone() -> None:
    assert extremes.show(77) == extremes.show(77) != extremes.show(78)


# ---- what the document says


def document() -> str:
    return peers_extremes.DOCUMENT.read_text()


def test_promises_are_those_of_the_document() -> None:
    assert peers_extremes.part(document(), "promises").splitlines() == [*peers_extremes.promises()]


def test_the_document_has_every_function() -> None:
    assert list(peers_extremes.read(document())) == [f.name for f in UNARY]


@pytest.mark.parametrize("name", [f.name for f in UNARY])
def test_nowhere_less_accurate_than_the_better_peer(name: str) -> None:
    """By more than twice, values and derivatives in f32; half precision is rounded once."""
    f32, slopes, f16, bf16 = np.array_split(peers_extremes.read(document())[name], 4)
    assert f16[0] <= 1 and bf16[0] <= 1
    for ours, *others in (f32, slopes):
        better = [e for e in others if e is not None]
        if ours is not None and better:
            assert ours <= 2 * max(min(better), 0.5)


@pytest.mark.parametrize("name", ("exp", "tanh", "gelu", "expm1"))
def test_the_table_is_what_is_measured(name: str) -> None:
    shown = peers_extremes.read(document())[name]
    f: Any = FUNCTIONS[name]
    for dtype, at in (("f32", 0), ("f16", 6), ("bf16", 9)):
        row = peers_extremes.measured(f, dtype, peers=False)
        assert row.values[0] == pytest.approx(shown[at], abs=0.75)  # other vector units differ


def shown_rows(name: str) -> list[float | None]:
    return peers_extremes.read(document(), "peers of rows")[name]


def test_the_document_has_every_function_of_rows() -> None:
    assert list(peers_extremes.read(document(), "peers of rows")) == [f.name for f in ROWS]
    assert list(peers_rows.SPELLED) == [f.name for f in ROWS]


@pytest.mark.parametrize("name", [f.name for f in ROWS])
def test_nowhere_less_accurate_than_the_better_peer_in_rows(name: str) -> None:
    """By more than twice in f32; half precision is rounded once."""
    ordinary, extreme, f16, bf16 = np.array_split(shown_rows(name), 4)
    assert f16[0] <= 0.55 and bf16[0] <= 0.55
    for ours, *others in (ordinary, extreme):
        better = [e for e in others if e is not None]
        if better:
            assert ours <= 2 * max(min(better), 0.5)


@pytest.mark.parametrize("name", ("logcumsumexp", "softmax", "norm", "dot"))
def test_the_table_of_rows_is_what_is_measured(name: str) -> None:
    shown, f = shown_rows(name), next(f for f in ROWS if f.name == name)
    row = peers_rows.measured(f, "f32", peers=False)
    assert row.ordinary[0] == pytest.approx(shown[0], abs=0.75)  # other vector units differ
    assert row.extreme[0] == pytest.approx(shown[3], abs=0.75)


def test_errors_of_rows_are_counted_in_units_of_the_size() -> None:
    f32, total = FORMATS["f32"], next(f for f in ROWS if f.name == "sum")
    x = np.array([[3, -3, 0, 0, 0, 0]] * 4, np.float32)
    off = np.array([0, 6 * 2.0**-23, 0, 0], np.float32)
    assert peers_rows.units_off(total, f32, x, x, off) == 1
    assert peers_rows.units_off(total, f32, x, x, np.array([0, 0, 0, np.nan], np.float32)) == np.inf


def test_merged_keeps_the_order_of_the_table() -> None:
    old = ["head", "rule", "| exp | 1 |", "| sin | 2 |"]
    assert peers_extremes.merged(old, ["new", "rule", "| sqrt | 3 |", "| sin | 4 |"]) == [
        "new", "rule", "| sqrt | 3 |", "| exp | 1 |", "| sin | 4 |",
    ]  # fmt: skip
