"""Largest errors of rung, torch and JAX on the arguments of `extremes`, as a table.

python -m tests.generate.peers_extremes                # print the tables
python -m tests.generate.peers_extremes --write        # into docs/accuracy.md
python -m tests.generate.peers_extremes exp erfc       # some functions

Each function is run by machine code on the same arguments: 0, -0, tiny, subnormal, huge, infinite,
NaN, saturated and ordinary ones. Errors are in units in the last place, as `extremes` counts them;
`NaN` stands for one where another value is right, or the other way round.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import rung
from tests.generate import extremes
from tests.generate.exact import FORMATS, Array, Format
from tests.generate.extreme_functions import UNARY, Unary

DOCUMENT = Path(__file__).parents[2] / "docs" / "accuracy.md"
NAMES = [f.name for f in UNARY]
SEEDS = 60
"""So many times `extremes.COUNT` arguments."""

TORCH: dict[str, str] = {
    "square": "torch.square(x)", "cube": "x**3", "pow 2.5": "x**2.5", "abs": "torch.abs(x)",
    "logsigmoid": "F.logsigmoid(x)", "gelu tanh": "F.gelu(x, approximate='tanh')",
    "trigamma": "torch.special.polygamma(1, x)", "softplus": "F.softplus(x)",
}  # fmt: skip
"""Torch's spellings, where they are not found under the name."""
JAX: dict[str, str] = {
    "rsqrt": "jax.lax.rsqrt(x)", "cube": "x**3", "pow 2.5": "x**2.5", "logsigmoid":
    "nn.log_sigmoid(x)", "gelu tanh": "nn.gelu(x)", "gelu": "nn.gelu(x, approximate=False)",
    "trigamma": "special.polygamma(1, x)", "hardsigmoid": "nn.hard_sigmoid(x)",
    "hardswish": "nn.hard_swish(x)", "softsign": "nn.soft_sign(x)", "asin": "jnp.arcsin(x)",
    "acos": "jnp.arccos(x)", "atan": "jnp.arctan(x)", "asinh": "jnp.arcsinh(x)",
    "acosh": "jnp.arccosh(x)", "atanh": "jnp.arctanh(x)", "erfinv": "special.erfinv(x)",
}  # fmt: skip
Run = Callable[[Array, str], "Array | None"]
"""(arguments, dtype) -> results of that dtype, or slopes; None where there are none."""


@dataclass(frozen=True)
class Row:
    """Largest errors of a function in a dtype, for rung, torch and JAX (None: it has none), of
    values and of slopes."""

    function: str
    dtype: str
    values: tuple[float | None, ...]
    slopes: tuple[float | None, ...]


# ---- the three


def run_rung(f: Unary) -> tuple[Run, Run]:
    """Values and slopes, by machine code."""

    def values(x: Array, dtype: str) -> Array:
        with extremes.mode(compiled=True):
            return np.asarray(f.ours(rung.asarray(x)))

    def slopes(x: Array, dtype: str) -> Array:
        with extremes.mode(compiled=True):
            return extremes.reverse(f.ours, rung.asarray(x))

    return values, slopes


def run_torch(f: Unary) -> tuple[Run, Run] | None:
    """Torch's function of the name, if it has one."""
    import torch

    function = _spelled(f.name, TORCH, {"torch": torch, "F": torch.nn.functional},
                        (torch, torch.special, torch.nn.functional))  # fmt: skip
    if function is None:
        return None
    dtypes = {"f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32}

    def given(x: Array, dtype: str) -> Any:
        return torch.tensor(x.astype(np.float64)).to(dtypes[dtype])

    def values(x: Array, dtype: str) -> Array:
        return _narrowed(function(given(x, dtype)).double().numpy(), x)

    def slopes(x: Array, dtype: str) -> Array:
        leaf = given(x, dtype).requires_grad_()
        function(leaf).sum().backward()
        return _narrowed(leaf.grad.double().numpy(), x)

    return _tolerant(values), _tolerant(slopes)


def _tolerant(run: Run) -> Run:
    """`run` of a peer, None where it has no such function of a dtype, or no derivative of it."""

    def tried(x: Array, dtype: str) -> Array | None:
        try:
            return run(x, dtype)
        except (NotImplementedError, RuntimeError, TypeError, ValueError):
            return None

    return tried


def run_jax(f: Unary) -> tuple[Run, Run] | None:
    """JAX's function of the name, if it has one."""
    import jax
    import jax.numpy as jnp

    special = jax.scipy.special
    names = {"jax": jax, "jnp": jnp, "nn": jax.nn, "special": special}
    function = _spelled(f.name, JAX, names, (jnp, jax.nn, special))
    if function is None:
        return None

    def values(x: Array, dtype: str) -> Array:
        return np.asarray(jax.jit(function)(x))

    def slopes(x: Array, dtype: str) -> Array:
        return np.asarray(jax.jit(jax.grad(lambda v: function(v).sum()))(x))

    return _tolerant(values), _tolerant(slopes)


def _spelled(
    name: str, spellings: dict[str, str], names: dict[str, Any], modules: Sequence[Any]
) -> Callable[[Any], Any] | None:
    if name in spellings:
        code = compile(spellings[name], name, "eval")
        return lambda x: eval(code, {**names, "x": x})
    return next((getattr(m, name) for m in modules if hasattr(m, name)), None)


def _narrowed(found: Array, x: Array) -> Array:
    with np.errstate(all="ignore"):
        return found.astype(x.dtype)


# ---- errors


def arguments(f: Unary, form: Format, seeds: int) -> Array:
    """What all are run on."""
    parts = [extremes.arguments(form, np.random.default_rng(s), f.domain) for s in range(seeds)]
    return np.concatenate(parts)


def measured(f: Unary, dtype: str, seeds: int = SEEDS, peers: bool = True) -> Row:
    """Measure one function in one dtype."""
    form = FORMATS[dtype]
    x = arguments(f, form, seeds)
    found = [run_rung(f), run_torch(f) if peers else None, run_jax(f) if peers else None]
    with np.errstate(all="ignore"):
        wanted = extremes.wanted(f, x)
        values = tuple(
            _largest(run, 0, x, dtype, partial(extremes.value_errors, f, form, values=wanted))
            for run in found
        )
        moved: tuple[float | None, ...] = (None,) * len(found)
        if f.slope is not None:
            slopes, known = extremes.wanted_slopes(f, x, wanted)
            errors = partial(slope_errors, f, form, slopes=slopes, known=known)
            moved = tuple(_largest(run, 1, x, dtype, errors) for run in found)
    return Row(f.name, dtype, values, moved)


def slope_errors(f: Unary, form: Format, found: Array, slopes: Array, known: Array) -> Array:
    """Errors of slopes in ulp, but for what is promised absolutely."""
    excess = extremes.slope_excess(f, form, found, slopes)
    return np.where(known, excess * extremes.slope_allowance(f, form), 0)


def _largest(
    run: tuple[Run, Run] | None, which: int, x: Array, dtype: str, errors: Callable[[Array], Array]
) -> float | None:
    if run is None:
        return None
    found = run[which](x, dtype)
    return None if found is None else float(np.max(errors(found)))


# ---- the table


def table(functions: Sequence[Unary]) -> Iterator[str]:
    """Lines of Markdown."""
    kinds = ("f32", "slope", "f16", "bf16")
    heads = [f"{k}: rung | torch | JAX" for k in kinds]
    yield "| function | " + " | ".join(heads) + " |"
    yield "| --- |" + " ---: |" * 3 * len(kinds)
    for f in functions:
        f32, f16, bf16 = (measured(f, dtype) for dtype in ("f32", "f16", "bf16"))
        cells = (*f32.values, *f32.slopes, *f16.values, *bf16.values)
        yield f"| {f.name} | " + " | ".join(map(shown, cells)) + " |"


def shown(error: float | None) -> str:
    """An error as text: `-` where there is no such function."""
    if error is None:
        return "-"
    return "NaN" if math.isinf(error) else f"{error:.2g}" if error < 100 else f"{error:.0e}"


def promises() -> Iterator[str]:
    """What `extremes` holds every function to, as lines of Markdown."""
    yield "| function | f32 | f64 | below | slope | plus | at -inf | at inf | arguments |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |"
    for f in UNARY:
        low, high = f.domain
        where = "" if (low, high) == (-math.inf, math.inf) else f"{low:g} to {high:g}"
        slope = "-" if f.slope is None else f"{f.slope_ulp:g}"
        cells = (
            f"{max(f.promised('f32'), 0.5):g}", f"{max(f.promised('f64'), 0.5):g}",
            f"{f.floor:g}" if f.floor else "", slope, f"{f.slope_eps:g}" if f.slope_eps else "",
            f"{f.limits[0]:.6g}", f"{f.limits[1]:.6g}", where,
        )  # fmt: skip
        yield f"| {f.name} | " + " | ".join(cells) + " |"


def marks(name: str) -> tuple[str, str]:
    """What stands before and behind a generated part of the document."""
    return f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"


def part(text: str, name: str) -> str:
    """A generated part of the document."""
    begin, end = marks(name)
    return text.partition(begin)[2].partition(end)[0]


def read(text: str, name: str = "peers") -> dict[str, list[float | None]]:
    """The errors that a table of a document shows, by function."""
    lines = part(text, name).splitlines()[2:]
    found: dict[str, list[float | None]] = {}
    for line in lines:
        function, *cells = (c.strip() for c in line.strip("|").split("|"))
        found[function] = [*map(_error, cells)]
    return found


def _error(cell: str) -> float | None:
    return None if cell == "-" else math.inf if cell == "NaN" else float(cell)


def write(name: str, lines: Sequence[str]) -> None:
    """Put a generated part into the document."""
    text, (begin, end) = DOCUMENT.read_text(), marks(name)
    head, _, rest = text.partition(begin)
    tail = rest.partition(end)[2]
    DOCUMENT.write_text(head + begin + "".join(f"{line}\n" for line in lines) + end + tail)


def merged(old: Sequence[str], new: Sequence[str], names: Sequence[str] = NAMES) -> list[str]:
    """The new lines, and the old ones of functions that are not among them, in the order of
    `names`."""
    found = {line.split("|")[1].strip(): line for line in (*old[2:], *new[2:])}
    return [*new[:2], *(found[name] for name in names if name in found)]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    functions = [f for f in UNARY if not given.names or f.name in given.names]
    lines = []
    for line in table(functions):
        print(line, flush=True)
        lines.append(line)
    if given.write:
        write("promises", list(promises()))
        write("peers", merged(part(DOCUMENT.read_text(), "peers").splitlines(), lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
