"""Charts: ticks, smoothing, well-formed pictures."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

import pytest

from rung.tools.chart import Curve, line_chart, round_ticks, smoothed


@pytest.mark.parametrize(
    ("low", "high", "count", "wanted"),
    [
        (0, 10, 5, (0, 2, 4, 6, 8, 10)),
        (1.3, 4.6, 5, (1, 2, 3, 4, 5)),
        (0.011, 0.019, 5, (0.01, 0.012, 0.014, 0.016, 0.018, 0.02)),
        (1, 400, 6, (0, 100, 200, 300, 400)),
        (3, 3, 5, (2.4, 2.6, 2.8, 3.0, 3.2, 3.4, 3.6)),
    ],
)
def test_round_ticks(low: float, high: float, count: int, wanted: tuple[float, ...]) -> None:
    assert round_ticks(low, high, count) == pytest.approx(wanted)


def test_smoothed_is_centred() -> None:
    line = [(i, 2.0 * i) for i in range(9)]
    assert smoothed(line, 3) == line
    assert smoothed([(0, 1.0), (1, 4.0), (2, 1.0)], 1) == [(0, 1.0), (1, 2.0), (2, 1.0)]
    assert smoothed([], 3) == []


def test_the_picture_is_well_formed_and_inside() -> None:
    points = [(i, math.sin(i) + 5) for i in range(1, 50)]
    text = line_chart("a < b & c", "step", "loss", [Curve("x", points), Curve("y", points[:3], 1)])
    root = ET.fromstring(text)
    assert root.tag.endswith("svg")
    words = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert {"a < b & c", "step", "loss", "x", "y"} <= set(words)
    lines = [e.attrib["d"] for e in root.iter() if e.attrib.get("stroke-width") == "2"]
    assert len(lines) == 2
    assert lines[0].count("L") == 48
    for place in lines[0].removeprefix("M").split("L"):
        x, y = map(float, place.split())
        assert 0 <= x <= 760
        assert 0 <= y <= 440


def test_values_that_are_not_finite_and_no_values() -> None:
    text = line_chart("t", "x", "y", [Curve("a", [(1, math.nan), (2, 3.0), (3, math.inf)])])
    assert "nan" not in text
    assert "inf" not in text
    ET.fromstring(line_chart("t", "x", "y", [Curve("a", [])]))
