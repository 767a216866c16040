"""Fits the polynomials of the vector math and writes `coefficients.py`.

    python rung/codegen/llvm/fit.py > rung/codegen/llvm/coefficients.py

Each polynomial is the minimax fit (Remez exchange in 50 digits) of a smooth function under a weight
that turns its error into the relative error of the function wanted. Coefficients are rounded to
f32 one by one from the lowest power, the rest being fitted again each time.
Needs `mpmath`; the package itself only needs what is printed.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from mpmath import mp, mpf

Real: TypeAlias = mpf
"""A number of arbitrary precision."""

mp.dps = 50
_GRID = 24
_TINY = mpf(10) ** -12


@dataclass(frozen=True)
class Fit:
    """A polynomial to fit: `value` and `weight` on `[low, high]`, number of coefficients."""

    name: str
    value: Callable[[Real], Real]
    weight: Callable[[Real], Real]
    low: Real
    high: Real
    num_f32: int
    num_f64: int


def _exp_rest(x: Real) -> Real:
    return (mp.expm1(x) - x) / x**2


def _log_rest(x: Real) -> Real:
    return (mp.log1p(x) - x + x**2 / 2) / x**3


def _log_odd(z: Real) -> Real:
    # log(1+f) = 2 atanh(s), s = f/(2+f); what follows the first term, in z = s*s.
    s = mp.sqrt(z)
    return (2 * mp.atanh(s) - 2 * s) / (s * z)


def _sin_rest(z: Real) -> Real:
    r = mp.sqrt(z)
    return (mp.sin(r) / r - 1) / z


def _cos_rest(z: Real) -> Real:
    return (mp.cos(mp.sqrt(z)) - 1 + z / 2) / z**2


def _atan_rest(z: Real) -> Real:
    r = mp.sqrt(z)
    return (mp.atan(r) / r - 1) / z


def _asin_rest(z: Real) -> Real:
    r = mp.sqrt(z)
    return (mp.asin(r) / r - 1) / z


def _erf_rest(z: Real) -> Real:
    r = mp.sqrt(z)
    return mp.erf(r) / r - 1


def _erf_exponent(a: Real) -> Real:
    # erf(a) = 1 - 2**(a q(a))
    return mp.log(mp.erfc(a), 2) / a


def _normal_exponent(a: Real) -> Real:
    # erf(a / sqrt(2)) = 1 - exp(-a q(a))
    return -mp.log(mp.erfc(a * mp.sqrt(mpf("0.5")))) / a


def _normal_weight(a: Real) -> Real:
    return a * mp.erfc(a * mp.sqrt(mpf("0.5")))


def _erfc_factor(t: Real) -> Real:
    # erfc(a) = exp(-a*a) t q(t), t = 2/(2+a)
    a = 2 / t - 2
    return mp.erfc(a) * mp.exp(a**2) / t


LN2 = mp.log(2)
OCTANT = mp.sqrt(2) - 1

FITS = [
    Fit("EXP", _exp_rest, lambda x: x**2 / mp.exp(x), -0.52 * LN2, 0.52 * LN2, 5, 11),
    Fit(
        "EXP2",
        lambda x: mp.expm1(x * LN2) / x,
        lambda x: x / 2**x,
        mpf("-0.501"),
        mpf("0.501"),
        7,
        12,
    ),
    Fit("LOG", _log_rest, lambda x: x**3 / mp.log1p(x), mpf("-0.2501"), mpf("0.5001"), 9, 0),
    Fit("LOG_ODD", _log_odd, lambda z: z / 2, mpf(0), mpf("0.0401"), 4, 8),
    Fit("SIN", _sin_rest, lambda z: z, mpf(0), (mp.pi / 4 + 0.02) ** 2, 4, 7),
    Fit("COS", _cos_rest, lambda z: z**2, mpf(0), (mp.pi / 4 + 0.02) ** 2, 3, 6),
    Fit("ATAN", _atan_rest, lambda z: z, mpf(0), OCTANT**2 + 0.001, 5, 11),
    Fit("ASIN", _asin_rest, lambda z: z, mpf(0), mpf("0.2501"), 5, 13),
    Fit(
        "ERF",
        _erf_exponent,
        lambda a: a * mp.erfc(a) * LN2 / mp.erf(a),
        mpf("0.875"),
        mpf("3.95"),
        6,
        0,
    ),
    Fit("ERF_POWER", lambda x: 2**x, lambda x: 1 / 2**x, mpf("-0.501"), mpf("0.501"), 7, 0),
    Fit("NORMAL", _normal_exponent, _normal_weight, mpf(0), mpf("5.6"), 8, 0),
    Fit("ERF_REST", _erf_rest, lambda z: 1 / (1 + _erf_rest(z)), mpf(0), mpf("0.766"), 6, 0),
    Fit(
        "POW_LOG2",
        lambda f: mp.log1p(f) / (f * LN2),
        lambda f: f * LN2 / mp.log1p(f),
        mpf("-0.2501"),
        mpf("0.5001"),
        0,
        14,
    ),
    Fit(
        "POW_EXP2",
        lambda x: mp.expm1(x * LN2) / x,
        lambda x: x / 2**x,
        mpf("-0.501"),
        mpf("0.501"),
        0,
        7,
    ),
    Fit("ERFC", _erfc_factor, lambda t: 1 / _erfc_factor(t), mpf("0.159"), mpf("0.81"), 10, 0),
]


def round_to(dtype: str, value: Real) -> float:
    """The nearest `f32` or `f64` number."""
    if dtype == "f64":
        return float(value)
    return float(struct.unpack("<f", struct.pack("<f", float(value)))[0])


def minimax(
    values: list[Real], weights: list[Real], points: list[Real], powers: range
) -> tuple[list[Real], Real]:
    """Coefficients of `powers` with the least greatest weighted error, and that error."""
    count = len(powers)
    size = len(points)
    picks = [round((1 - math.cos(math.pi * i / count)) / 2 * (size - 1)) for i in range(count + 1)]
    coefficients: list[Real] = []
    worst = mpf(0)
    for _ in range(40):
        coefficients, level = _interpolate(values, weights, points, powers, picks)
        errors = [
            w * (v - sum(c * x**p for c, p in zip(coefficients, powers, strict=True)))
            for v, w, x in zip(values, weights, points, strict=True)
        ]
        worst = max(abs(e) for e in errors)
        picks = _extrema(errors, count + 1)
        if worst <= abs(level) * mpf("1.001"):
            break
    return coefficients, worst


def _interpolate(
    values: list[Real],
    weights: list[Real],
    points: list[Real],
    powers: range,
    picks: list[int],
) -> tuple[list[Real], Real]:
    """The polynomial whose weighted error alternates with one size over the picked points."""
    rows = [
        [points[k] ** p for p in powers] + [(-1) ** i / weights[k]] for i, k in enumerate(picks)
    ]
    solution = mp.lu_solve(mp.matrix(rows), mp.matrix([values[k] for k in picks]))
    *coefficients, level = list(solution)
    return coefficients, level


def _extrema(errors: list[Real], count: int) -> list[int]:
    """`count` points of alternating error: the largest one in each run of equal sign."""
    runs: list[int] = []
    for i, error in enumerate(errors):
        if runs and (error > 0) == (errors[runs[-1]] > 0):
            if abs(error) > abs(errors[runs[-1]]):
                runs[-1] = i
        else:
            runs.append(i)
    while len(runs) > count:
        sizes = [abs(errors[i]) for i in runs]
        least = sizes.index(min(sizes))
        if least in (0, len(runs) - 1):
            del runs[least]
        elif len(runs) == count + 1:
            del runs[0 if sizes[0] < sizes[-1] else -1]
        else:
            other = least - 1 if sizes[least - 1] < sizes[least + 1] else least + 1
            del runs[min(least, other) : max(least, other) + 1]
    if len(runs) < count:
        raise ArithmeticError(f"{len(runs)} alternations where {count} are needed")
    return runs


def fit(spec: Fit, dtype: str) -> tuple[list[float], float]:
    """Rounded coefficients from the lowest power up, and the greatest weighted error."""
    count = spec.num_f32 if dtype == "f32" else spec.num_f64
    points, values, weights = _sampled(spec, count)
    rounded: list[float] = []
    for k in range(count):
        coefficients, _ = minimax(values, weights, points, range(k, count))
        kept = coefficients if dtype == "f64" else coefficients[:1]
        for power, coefficient in enumerate(kept, k):
            rounded.append(round_to(dtype, coefficient))
            values = [v - rounded[power] * x**power for v, x in zip(values, points, strict=True)]
        if len(rounded) == count:
            break
    return rounded, float(max(abs(v) * w for v, w in zip(values, weights, strict=True)))


def _sampled(spec: Fit, count: int) -> tuple[list[Real], list[Real], list[Real]]:
    """Points, values and weights for a fit of `count` coefficients."""
    size = _GRID * (count + 2)
    middle, half = (spec.low + spec.high) / 2, (spec.high - spec.low) / 2
    angles = [mp.pi * (i + mpf("0.5")) / size for i in range(size)]
    points = [middle - half * mp.cos(angle) for angle in angles]
    points = [x if abs(x) > _TINY else _TINY for x in points]
    values = [spec.value(x) for x in points]
    return points, values, [abs(spec.weight(x)) + mpf(10) ** -30 for x in points]


TABLE_SIZE = 32
"""Entries that an instruction looks up in two registers of AVX-512."""
TABLE_TERMS = 5
ERF_TABLE_SCALE = mpf("1.5")
ERF_TABLE_SHIFT = mpf("2.03125")
"""The entry of `a` is the last bit of the exponent and the first four of the mantissa of `scale *
a + shift`, which is from 2 to 8: entries are twice as wide from 1.3 on. The first ends at 1/16."""
ERF_TABLE_LIMIT = mpf("3.93")
"""From here on the nearest `f32` to erf is 1; it belongs to the last entry."""
NUM_PLACES = 1 << 14
"""Numbers of an entry from which its point is chosen."""


def entry_start(k: int) -> Real:
    """The least argument of an entry of the table."""
    shifted = 2 + mpf(k) / 8 if k < 16 else 4 + mpf(k - 16) / 4
    return max((shifted - ERF_TABLE_SHIFT) / ERF_TABLE_SCALE, mpf(0))


def fit_erf_entry(k: int) -> tuple[list[float], float]:
    """A point and the coefficients of erf around it, and the greatest relative error.

    Around 0 erf is odd: the coefficient of power 1 is less by 1, for `d + d (...)`. The other
    points are those of their entry where rounding the coefficients of powers 0 and 1 loses least.
    """
    low, high = entry_start(k), min(entry_start(k + 1), ERF_TABLE_LIMIT)
    if k == 0:
        spec = Fit("", lambda d: mp.erf(d) / d - 1, lambda d: d / mp.erf(d), low, high, 4, 0)
        rounded, error = fit(spec, "f32")
        return [0.0, 0.0, *rounded], error
    start = mpf(round_to("f32", (low + high) / 2))

    def value(d: Real) -> Real:
        return mp.erf(start + d)

    spec = Fit("", value, lambda d: 1 / value(d), low - start, high - start, TABLE_TERMS, 0)
    points, values, weights = _sampled(spec, TABLE_TERMS)
    coefficients, _ = minimax(values, weights, points, range(TABLE_TERMS))
    point = _accurate_point(coefficients, float(start), float(low), float(high))
    rounded = [round_to("f32", c) for c in _moved(coefficients, point - start)]
    error = max(
        abs(v - mp.polyval(rounded[::-1], start + d - point)) * w
        for d, v, w in zip(points, values, weights, strict=True)
    )
    return [point, *rounded], float(error)


def _accurate_point(coefficients: list[Real], start: float, low: float, high: float) -> float:
    """The number between `low` and `high` around which a polynomial, given around `start`, loses
    least at these ends by rounding: of its value, of its slope, and of what is added to that."""
    around = [float(c) for c in coefficients]

    def lost(point: float) -> float:
        value, slope = (float(c) for c in _moved(around, point - start)[:2])
        slope_lost = _rounding(slope) + slope * 2.0**-24
        ends = ((e, math.erf(e)) for e in (low, high))
        return max((_rounding(value) + slope_lost * abs(e - point)) / v for e, v in ends)

    places = (low + (high - low) * i / NUM_PLACES for i in range(1, NUM_PLACES))
    return min((round_to("f32", mpf(p)) for p in places), key=lost)


def _moved(coefficients: list[Real], distance: Real) -> list[Real]:
    """The coefficients of a polynomial around a point that is `distance` further."""
    result = list(coefficients)
    for k in range(len(result) - 1):
        for i in reversed(range(k, len(result) - 1)):
            result[i] += result[i + 1] * distance
    return result


def _rounding(value: float) -> float:
    return abs(value - round_to("f32", mpf(value)))


NORMAL_STEP = mpf(3) / 16


def fit_normal_entry(k: int) -> tuple[list[float], float]:
    """Coefficients of the normal distribution function less 1/2 around the `k`-th place, and the
    greatest error."""
    middle, half = k * NORMAL_STEP, NORMAL_STEP / 2

    def value(d: Real) -> Real:
        return mp.erf((middle + d) * mp.sqrt(mpf("0.5"))) / 2

    return fit(Fit("", value, lambda d: mpf(1), -half, half, 5, 0), "f32")


def _lines(numbers: Sequence[float], indent: str) -> Iterator[str]:
    for at in range(0, len(numbers), 3):
        yield indent + ", ".join(map(repr, numbers[at : at + 3])) + ",\n"


def _print_table(name: str, first: str, entries: list[tuple[list[float], float]]) -> None:
    worst = max(error for _, error in entries)
    print(f"\n{name}: Final[tuple[tuple[float, ...], ...]] = (")
    print(f"    # f32; {first}a row for each power, a column for each place;", end="")
    print(f" 2**{math.log2(worst):.1f}")
    for row in zip(*(c for c, _ in entries), strict=True):
        print("    (\n" + "".join(_lines(row, "        ")) + "    ),")
    print(")")


def _print_tables() -> None:
    print(f"\nERF_TABLE_LIMIT: Final = {float(ERF_TABLE_LIMIT)}")
    print(f"ERF_TABLE_SCALE: Final = {float(ERF_TABLE_SCALE)}")
    print(f"ERF_TABLE_SHIFT: Final = {float(ERF_TABLE_SHIFT)}")
    _print_table("ERF_TABLE", "points, and ", [fit_erf_entry(k) for k in range(TABLE_SIZE)])
    print(f"\nNORMAL_STEP: Final = {float(NORMAL_STEP)}")
    _print_table("NORMAL_TABLE", "", [fit_normal_entry(k) for k in range(TABLE_SIZE)])


def main() -> None:
    """Print `coefficients.py`."""
    print('"""Polynomials of the vector math, lowest power first; written by `fit.py`.')
    print("\nThe comment gives the greatest relative error of the fit.\n")
    print('"""\n')
    print("from typing import Final")
    for spec in FITS:
        print(f"\n{spec.name}: Final[dict[str, tuple[float, ...]]] = {{")
        for dtype, count in (("f32", spec.num_f32), ("f64", spec.num_f64)):
            if count:
                print(f"fitting {spec.name} {dtype}", file=sys.stderr)
                rounded, error = fit(spec, dtype)
                print(f'    "{dtype}": (  # 2**{math.log2(error):.1f}')
                print("".join(f"        {c!r},\n" for c in rounded) + "    ),")
        print("}")
    _print_tables()


if __name__ == "__main__":
    main()
