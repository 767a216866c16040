"""Line charts as SVG: curves over steps, axes with round numbers, nothing else needed to view them
than a browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

Point = tuple[float, float]

WIDTH, HEIGHT = 760, 440
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 56, 56
INK, FAINT, GRID = "#1f2937", "#6b7280", "#e5e7eb"
COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626")


@dataclass(frozen=True)
class Curve:
    """Points of one line. `faint`: the raw values behind a smoothed one, not in the legend.
    `dots`: few points, each marked."""

    name: str
    points: Sequence[Point]
    colour: int = 0
    faint: bool = False
    dots: bool = False


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    ticks: tuple[float, ...]
    start: float
    length: float

    def at(self, value: float) -> float:
        """Where a value lies in the picture."""
        return self.start + (value - self.low) / (self.high - self.low) * self.length


def round_ticks(low: float, high: float, count: int = 6) -> tuple[float, ...]:
    """About `count` round numbers (1, 2 or 5 times a power of ten apart) that span [low, high]."""
    if not high > low:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return tuple(round(i * step, 12) for i in range(first, last + 1))


def smoothed(points: Sequence[Point], reach: int) -> list[Point]:
    """The mean of the values up to `reach` places before and after each point (fewer at the ends,
    as many before as after), so that a falling curve is not moved."""
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    found: list[Point] = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        found.append((x, (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)))
    return found


def line_chart(title: str, x_label: str, y_label: str, curves: Sequence[Curve]) -> str:
    """The curves as the text of an SVG picture, 760 × 440, without values that are not finite."""
    finite = [
        (c, [p for p in c.points if math.isfinite(p[0]) and math.isfinite(p[1])]) for c in curves
    ]
    every = [p for _, points in finite for p in points]
    xs, ys = [p[0] for p in every] or [0.0, 1.0], [p[1] for p in every] or [0.0, 1.0]
    x_ticks, y_ticks = round_ticks(min(xs), max(xs)), round_ticks(min(ys), max(ys), 5)
    x_axis = _Axis(min(xs), max(max(xs), min(xs) + 1e-9), x_ticks, LEFT, WIDTH - LEFT - RIGHT)
    y_axis = _Axis(y_ticks[0], y_ticks[-1], y_ticks, HEIGHT - BOTTOM, -(HEIGHT - TOP - BOTTOM))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="system-ui, Helvetica, Arial, sans-serif">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(LEFT, 28, title, size=17, weight=600),
        *_grid(x_axis, y_axis),
        *(_line(c, points, x_axis, y_axis) for c, points in finite if points),
        *_legend([c for c, points in finite if points and not c.faint]),
        _text(LEFT + x_axis.length / 2, HEIGHT - 14, x_label, FAINT, anchor="middle"),
        _text(18, TOP + (HEIGHT - TOP - BOTTOM) / 2, y_label, FAINT, anchor="middle", turn=-90),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _text(
    x: float,
    y: float,
    text: str,
    colour: str = INK,
    size: int = 13,
    anchor: str = "start",
    weight: int = 400,
    turn: int = 0,
) -> str:
    turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="{size}" '
        f'font-weight="{weight}" text-anchor="{anchor}"{turned}>{escape(text)}</text>'
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _grid(x_axis: _Axis, y_axis: _Axis) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for tick in y_axis.ticks:
        y = y_axis.at(tick)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="{GRID}"/>')
        parts.append(_text(LEFT - 8, y + 4.5, _number(tick), FAINT, anchor="end"))
    for tick in x_axis.ticks:
        if x_axis.low <= tick <= x_axis.high:
            x = x_axis.at(tick)
            parts.append(f'<path d="M{x:.1f} {bottom}v5" stroke="{FAINT}"/>')
            parts.append(_text(x, bottom + 20, _number(tick), FAINT, anchor="middle"))
    parts.append(f'<path d="M{LEFT} {bottom}H{right}" stroke="{FAINT}"/>')
    return parts


def _line(curve: Curve, points: Sequence[Point], x_axis: _Axis, y_axis: _Axis) -> str:
    colour = COLOURS[curve.colour % len(COLOURS)]
    placed = [(x_axis.at(x), y_axis.at(y)) for x, y in points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
    style = 'stroke-width="1" opacity="0.3"' if curve.faint else 'stroke-width="2"'
    parts = [f'<path d="{path}" fill="none" stroke="{colour}" stroke-linejoin="round" {style}/>']
    if curve.dots:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in placed]
    return "\n".join(parts)


def _legend(curves: Sequence[Curve]) -> list[str]:
    parts = []
    x = float(WIDTH - RIGHT)
    for curve in reversed(curves):
        colour = COLOURS[curve.colour % len(COLOURS)]
        parts.append(_text(x, 28, curve.name, anchor="end"))
        x -= 7.2 * len(curve.name) + 10
        parts.append(f'<path d="M{x - 18:.1f} 23.5h18" stroke="{colour}" stroke-width="3"/>')
        x -= 40
    return parts


def write_chart(path: Path, text: str) -> None:
    """Write a picture beside the checkpoint."""
    path.write_text(text, encoding="utf-8")
