"""Fits the polynomials of the vector math and writes `coefficients.py`.

    python rung/codegen/llvm/fit.py > rung/codegen/llvm/coefficients.py

Each polynomial is the minimax fit (Remez exchange in 50 digits) of a smooth function under a weight
that turns its error into the relative error of the function wanted. Coefficients are rounded to
f32 one by one from the lowest power, the rest being fitted again each time.
Needs `mpmath`; the package itself only needs what is printed.
"""

from __future__ import annotations

import itertools
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
    # erf(a) = 1 - exp(-a q(a))
    return -mp.log(mp.erfc(a)) / a


def _normal_exponent(a: Real) -> Real:
    # erf(a / sqrt(2)) = 1 - exp(-a q(a))
    return _erf_exponent(a * mp.sqrt(mpf("0.5"))) * mp.sqrt(mpf("0.5"))


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
        lambda a: a * mp.erfc(a) / mp.erf(a),
        mpf("0.874"),
        mpf("3.95"),
        6,
        0,
    ),
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
    size = _GRID * (count + 2)
    middle, half = (spec.low + spec.high) / 2, (spec.high - spec.low) / 2
    angles = [mp.pi * (i + mpf("0.5")) / size for i in range(size)]
    points = [middle - half * mp.cos(angle) for angle in angles]
    points = [x if abs(x) > _TINY else _TINY for x in points]
    values = [spec.value(x) for x in points]
    weights = [abs(spec.weight(x)) + mpf(10) ** -30 for x in points]
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


TABLE_SIZE = 32
"""Entries that an instruction looks up in two registers of AVX-512."""
TABLE_STEP = mpf(1) / 8
TABLE_TERMS = 6
LONG_ENTRIES = 3
"""So many entries have all terms; the others need one less."""
ERF_TABLE_LIMIT = mpf("3.93")
"""From here on the nearest `f32` to erf is 1; it belongs to the last entry."""
_EXACT = 1 / 64
"""Of a unit in the last place, how near an `f32` counts as exact."""


def erf_point(k: int) -> float:
    """The `f32` nearest to `k / 8` at which erf and its slope are all but `f32`s themselves, so
    that the first coefficients of an expansion have no error (Gal, 1986)."""
    middle = float(k * TABLE_STEP)
    step = _unit(middle) if k else 0.0
    for n in itertools.count():
        x = middle + ((n + 1) // 2 if n % 2 else -(n // 2)) * step
        y, slope = math.erf(x), 2 / math.sqrt(math.pi) * math.exp(-x * x)
        off = abs(y - round_to("f32", y)), abs(slope - round_to("f32", slope)) / 16
        if k == 0 or max(off) < _EXACT * _unit(y):
            return x
    raise AssertionError


def _unit(x: float) -> float:
    return 2.0 ** (math.frexp(x)[1] - 24)


def fit_erf_entry(k: int) -> tuple[float, list[float], float]:
    """The point of expansion of the `k`-th entry, coefficients in the distance from it, and the
    greatest relative error. Those of entry 0 give erf(a) - a."""
    point, middle, half = erf_point(k), k * TABLE_STEP, TABLE_STEP / 2
    if k == 0:
        spec = Fit("", lambda d: (mp.erf(d) - d) / d, lambda d: d / mp.erf(d), mpf(0), half, 5, 0)
        rounded, error = fit(spec, "f32")
        return point, [0.0, *rounded], error
    low, high = middle - half - point, min(middle + half, ERF_TABLE_LIMIT) - point

    def value(d: Real) -> Real:
        return mp.erf(point + d)

    terms = TABLE_TERMS if k < LONG_ENTRIES else TABLE_TERMS - 1
    rounded, error = fit(Fit("", value, lambda d: 1 / value(d), low, high, terms, 0), "f32")
    return point, [*rounded, 0.0][:TABLE_TERMS], error


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


def _print_table(name: str, entries: list[tuple[list[float], float]]) -> None:
    worst = max(error for _, error in entries)
    print(f"\n{name}: Final[tuple[tuple[float, ...], ...]] = (")
    print(f"    # f32; a row for each power, a column for each place; 2**{math.log2(worst):.1f}")
    for row in zip(*(c for c, _ in entries), strict=True):
        print("    (\n" + "".join(_lines(row, "        ")) + "    ),")
    print(")")


def _print_tables() -> None:
    entries = [fit_erf_entry(k) for k in range(TABLE_SIZE)]
    print(f"\nERF_TABLE_LIMIT: Final = {float(ERF_TABLE_LIMIT)}")
    print("\nERF_POINTS: Final[tuple[float, ...]] = (")
    print("".join(_lines([point for point, _, _ in entries], "    ")) + ")")
    _print_table("ERF_TABLE", [(c, error) for _, c, error in entries])
    print(f"\nNORMAL_STEP: Final = {float(NORMAL_STEP)}")
    _print_table("NORMAL_TABLE", [fit_normal_entry(k) for k in range(TABLE_SIZE)])


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
