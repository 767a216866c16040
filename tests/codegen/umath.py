"""Largest errors of our mathematics on NumPy's validation sets, as a table.

python tests/codegen/umath.py        # what docs/accuracy.md shows

NumPy ships `umath-validation-set-*.csv`: arguments chosen to be hard, with the results that are
right. An error is the distance in units in the last place (ulp) between ours and that.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import rung
from rung.codegen.llvm import vmath

FOLDER = Path(np.__file__).parent / "_core" / "tests" / "data"
NAMES = {
    f"arc{name}{h}": f"a{name}{h}" for name in ("sin", "cos", "tan") for h in ("", "h")
}  # fmt: skip
ABSENT = {"cbrt": "rung has no cube root"}
DTYPES = {"np.float16": np.float16, "np.float32": np.float32, "np.float64": np.float64}
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Row:
    """The largest error of a function on `count` arguments of a dtype, in ulp, at `worst`."""

    function: str
    dtype: str
    count: int
    ulp: int
    worst: float

    @property
    def bound(self) -> float:
        """What the code generator states, plus the half that the reference is rounded by."""
        return vmath.ACCURACY[self.function][0 if self.dtype == "float32" else 1] + 0.5


def files() -> list[Path]:
    """The validation sets of functions that rung has; empty where NumPy came without its tests."""
    found = sorted(FOLDER.glob("umath-validation-set-*.csv"))
    return [f for f in found if name_of(f) not in ABSENT]


def name_of(file: Path) -> str:
    """Our name of the function of a file."""
    theirs = file.stem.rpartition("-")[2]
    return NAMES.get(theirs, theirs)


def read(file: Path) -> Iterator[tuple[Array, Array]]:
    """Arguments and results, a pair of arrays for each dtype."""
    found: dict[str, list[tuple[int, int]]] = {}
    with file.open(newline="") as lines:
        rows = csv.reader(line for line in lines if line.startswith("np."))
        for dtype, argument, result, *_ in rows:
            found.setdefault(dtype, []).append((int(argument, 16), int(result, 16)))
    for dtype, pairs in found.items():
        floats = np.dtype(DTYPES[dtype])
        bits = np.array(pairs, f"u{floats.itemsize}")
        arguments, results = (np.ascontiguousarray(c).view(floats) for c in bits.T)
        yield arguments, results


def distance(ours: Array, theirs: Array) -> Array:
    """How many numbers of the format lie between; 0 for two NaNs."""
    ints = [ordered(a) for a in (ours, theirs)]
    apart = np.abs(ints[0] - ints[1])
    return np.where(np.isnan(ours) & np.isnan(theirs), 0, apart)


def ordered(floats: Array) -> Array:
    """Integers in the order of the floats, neighbours 1 apart; both zeros are 0."""
    bits = floats.view(f"i{floats.itemsize}").astype(object)
    least = -(2 ** (8 * floats.itemsize - 1))
    return np.array([b if b >= 0 else least - b for b in bits], object)


def rows() -> Iterator[Row]:
    """The table."""
    for file in files():
        function = name_of(file)
        for arguments, results in read(file):
            ours = getattr(rung, function)(rung.asarray(arguments)).numpy()
            apart = distance(ours, results)
            at = int(np.argmax(apart))
            yield Row(
                function, arguments.dtype.name, arguments.size, int(apart[at]), float(arguments[at])
            )


if __name__ == "__main__":
    print("| function | dtype | arguments | largest error, ulp | at | stated |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for r in rows():
        stated = f"{r.bound - 0.5:g}"
        print(f"| {r.function} | {r.dtype} | {r.count} | {r.ulp} | {r.worst:.6g} | {stated} |")
