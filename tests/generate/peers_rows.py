"""Largest errors of rung, torch and JAX for functions of rows and of two operands, as a table.

python -m tests.generate.peers_rows                # print the table
python -m tests.generate.peers_rows --write        # into docs/accuracy.md
python -m tests.generate.peers_rows softmax dot    # some functions

Each function of `extreme_rows` is run by machine code on the same operands. Errors are in units in
the last place of the value or, where the table of functions gives a size, of that size if it is
larger: of the sum of magnitudes for a sum that cancels. They are shown for ordinary operands, and
for all others (huge, tiny, mixed, equal, zeros, infinite and NaN) of the regimes of a function.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import rung
from tests.generate import extremes
from tests.generate.exact import FORMATS, Array, Format, Long, unit
from tests.generate.extreme_rows import LABELS, REGIMES, ROWS, Rows, drawn
from tests.generate.peers_extremes import DOCUMENT, merged, part, shown, write

DRAWS = 40
"""So many operands of each regime."""
DTYPES = ("f32", "f16", "bf16")

SPELLED: dict[str, tuple[str | None, str | None]] = {
    "sum": ("x.sum(-1)", "x.sum(-1)"),
    "mean": ("x.mean(-1)", "x.mean(-1)"),
    "prod": ("x.prod(-1)", "x.prod(-1)"),
    "max": ("x.amax(-1)", "x.max(-1)"),
    "min": ("x.amin(-1)", "x.min(-1)"),
    "cumulative_sum": ("x.cumsum(-1)", "jnp.cumsum(x, -1)"),
    "var": ("torch.var(x, -1, correction=0)", "jnp.var(x, -1)"),
    "std": ("torch.std(x, -1, correction=0)", "jnp.std(x, -1)"),
    "norm": ("torch.linalg.vector_norm(x, 2, -1)", "jnp.linalg.norm(x, 2, -1)"),
    "norm 3": ("torch.linalg.vector_norm(x, 3, -1)", "jnp.linalg.norm(x, 3, -1)"),
    "norm 1": ("torch.linalg.vector_norm(x, 1, -1)", "jnp.linalg.norm(x, 1, -1)"),
    "norm 0.5": ("torch.linalg.vector_norm(x, 0.5, -1)", "jnp.linalg.norm(x, 0.5, -1)"),
    "norm inf": ("torch.linalg.vector_norm(x, np.inf, -1)", "jnp.linalg.norm(x, np.inf, -1)"),
    "logsumexp": ("torch.logsumexp(x, -1)", "nn.logsumexp(x, -1)"),
    "logcumsumexp": ("torch.logcumsumexp(x, -1)", "jax.lax.cumlogsumexp(x, 1)"),
    "softmax": ("F.softmax(x, -1)", "nn.softmax(x, -1)"),
    "log_softmax": ("F.log_softmax(x, -1)", "nn.log_softmax(x, -1)"),
    "normalize": ("F.normalize(x, dim=-1)", "x / jnp.linalg.norm(x, 2, -1, keepdims=True)"),
    "layer_norm": ("F.layer_norm(x, (6,))", "nn.standardize(x, -1, epsilon=1e-5)"),
    "rms_norm": (
        "F.rms_norm(x, (6,), eps=1e-6)",
        "x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)",
    ),
    "cosine_similarity": (
        "F.cosine_similarity(x, y, -1)",
        "jnp.vecdot(x, y) / (jnp.linalg.norm(x, 2, -1) * jnp.linalg.norm(y, 2, -1))",
    ),
    "pairwise_distance": ("F.pairwise_distance(x, y, eps=0.0)", "jnp.linalg.norm(x - y, 2, -1)"),
    "mse_loss": ("F.mse_loss(x, y, reduction='none')", "(x - y) ** 2"),
    "l1_loss": ("F.l1_loss(x, y, reduction='none')", "abs(x - y)"),
    "huber_loss": (
        "F.huber_loss(x, y, reduction='none')",
        "jnp.minimum(abs(x - y), 1) * (abs(x - y) - jnp.minimum(abs(x - y), 1) / 2)",
    ),
    "binary_cross_entropy": (
        "F.binary_cross_entropy(x, y, reduction='none')",
        "-y * jnp.log(x) - (1 - y) * jnp.log1p(-x)",
    ),
    "bce with logits": (
        "F.binary_cross_entropy_with_logits(x, y, reduction='none')",
        "-y * nn.log_sigmoid(x) - (1 - y) * nn.log_sigmoid(-x)",
    ),
    "cross_entropy": (
        "F.cross_entropy(x, torch.tensor(LABELS), reduction='none')",
        "-nn.log_softmax(x, -1)[jnp.arange(4), LABELS]",
    ),
    "nll_loss": (
        "F.nll_loss(x, torch.tensor(LABELS), reduction='sum')",
        "-x[jnp.arange(4), LABELS].sum()",
    ),
    "kl_div": ("F.kl_div(x, abs(y), reduction='none')",
               "special.xlogy(abs(y), abs(y)) - abs(y) * x"),
    "poisson_nll_loss": ("F.poisson_nll_loss(x, y, reduction='none')", "jnp.exp(x) - x * y"),
    "gaussian_nll_loss": (
        "F.gaussian_nll_loss(x, y, abs(y), reduction='none')",
        "0.5 * (jnp.log(abs(y)) + (x - y) ** 2 / abs(y))",
    ),
    "hypot": ("torch.hypot(x, y)", "jnp.hypot(x, y)"),
    "atan2": ("torch.atan2(x, y)", "jnp.atan2(x, y)"),
    "logaddexp": ("torch.logaddexp(x, y)", "jnp.logaddexp(x, y)"),
    "multiply": ("x * y", "x * y"),
    "divide": ("x / y", "x / y"),
    "fmod": ("torch.fmod(x, y)", "jnp.fmod(x, y)"),
    "remainder": ("torch.remainder(x, y)", "jnp.remainder(x, y)"),
    "maximum": ("torch.maximum(x, y)", "jnp.maximum(x, y)"),
    "minimum": ("torch.minimum(x, y)", "jnp.minimum(x, y)"),
    "fmax": ("torch.fmax(x, y)", "jnp.fmax(x, y)"),
    "copysign": ("torch.copysign(x, y)", "jnp.copysign(x, y)"),
    "pow": ("abs(x) ** y", "abs(x) ** y"),
    "xlogy": ("torch.xlogy(x, abs(y))", "special.xlogy(x, abs(y))"),
    "lerp": ("torch.lerp(x, y, 0.25)", "x + 0.25 * (y - x)"),
    "dot": ("torch.linalg.vecdot(x, y)", "jnp.vecdot(x, y)"),
}  # fmt: skip
"""Torch's and JAX's spellings of every function (formulas where they have no function of the name);
None where they have none."""

Run = Callable[[Array, Array], "Array | None"]


@dataclass(frozen=True)
class Errors:
    """Largest errors of rung, torch and JAX (None: no such function, or no such regime)."""

    ordinary: tuple[float | None, ...]
    extreme: tuple[float | None, ...]


# ---- the three


def run_rung(f: Rows) -> Run:
    """By machine code."""

    def values(x: Array, y: Array) -> Array:
        with extremes.mode(compiled=True):
            return np.asarray(f.ours(rung.asarray(x), rung.asarray(y)))

    return values


def run_torch(f: Rows) -> Run | None:
    """Torch's function, if it has one."""
    import torch

    spelled = SPELLED[f.name][0]
    if spelled is None:
        return None
    code = compile(spelled, f.name, "eval")
    names = {"torch": torch, "F": torch.nn.functional, "np": np, "LABELS": LABELS}
    dtypes = {2: {"float16": torch.float16, "bfloat16": torch.bfloat16}, 4: {}}

    def given(a: Array) -> Any:
        dtype = dtypes[a.dtype.itemsize].get(a.dtype.name, torch.float32)
        return torch.tensor(a.astype(np.float64)).to(dtype)

    def values(x: Array, y: Array) -> Array | None:
        try:
            found = eval(code, {**names, "x": given(x), "y": given(y)})
        except (NotImplementedError, RuntimeError):
            return None
        return np.asarray(found.double().numpy())

    return values


def run_jax(f: Rows) -> Run | None:
    """JAX's function, if it has one."""
    import jax
    import jax.numpy as jnp

    spelled = SPELLED[f.name][1]
    if spelled is None:
        return None
    code = compile(spelled, f.name, "eval")
    names = {"jax": jax, "jnp": jnp, "nn": jax.nn, "special": jax.scipy.special, "np": np,
             "LABELS": LABELS}  # fmt: skip
    function = jax.jit(lambda x, y: eval(code, {**names, "x": x, "y": y}))
    return lambda x, y: np.asarray(function(x, y))


# ---- errors


def operands(f: Rows, regime: str, form: Format, draws: int) -> list[tuple[Array, Array]]:
    """What all are run on."""
    rngs = (np.random.default_rng((n, REGIMES.index(regime))) for n in range(draws))
    with np.errstate(all="ignore"):
        return [drawn(f, regime, form, rng) for rng in rngs]


def units_off(f: Rows, form: Format, x: Array, y: Array, found: Array) -> float:
    """The largest error of results in units; inf where one is NaN and another value is right, or
    the other way round."""
    wide = [a.astype(np.float64).astype(Long) for a in (x, y)]
    wanted = np.asarray(f.exact(*wide), Long)
    top = np.ldexp(Long(1), form.high)
    theirs = np.clip(wanted, -top, top)
    ours = np.clip(np.asarray(found).astype(np.float64).astype(Long), -top, top)
    one = unit(theirs, form)
    if f.size is not None:
        size = np.asarray(f.size(*wide), Long)
        one = np.maximum(one, form.eps * np.where(np.isfinite(size), size, 0))
    off = np.where(ours == theirs, 0, np.abs(ours - theirs) / one)
    nan = np.isnan(ours), np.isnan(theirs)
    off = np.where(nan[0] & nan[1], 0, np.where(nan[0] | nan[1], np.inf, off))
    return float(np.max(off))


def measured(f: Rows, dtype: str, draws: int = DRAWS, peers: bool = True) -> Errors:
    """Measure one function in one dtype."""
    form = FORMATS[dtype]
    runs = [run_rung(f), run_torch(f) if peers else None, run_jax(f) if peers else None]
    groups = ("ordinary",), tuple(r for r in f.regimes if r != "ordinary")
    given = [[p for r in group for p in operands(f, r, form, draws)] for group in groups]
    with np.errstate(all="ignore"):
        ordinary, extreme = (tuple(_largest(f, form, run, p) for run in runs) for p in given)
    return Errors(ordinary, extreme)


def _largest(
    f: Rows, form: Format, run: Run | None, pairs: Sequence[tuple[Array, Array]]
) -> float | None:
    if run is None or not pairs:
        return None
    most = 0.0
    for x, y in pairs:
        found = run(x, y)
        if found is None:
            return None
        most = max(most, units_off(f, form, x, y, found))
    return most


# ---- the table


def table(functions: Sequence[Rows]) -> Iterator[str]:
    """Lines of Markdown."""
    kinds = ("f32, ordinary", "f32, extreme", "f16", "bf16")
    yield "| function | " + " | ".join(f"{k}: rung | torch | JAX" for k in kinds) + " |"
    yield "| --- |" + " ---: |" * 3 * len(kinds)
    for f in functions:
        f32, f16, bf16 = (measured(f, dtype) for dtype in DTYPES)
        cells = (*f32.ordinary, *f32.extreme, *_worst(f16), *_worst(bf16))
        yield f"| {f.name} | " + " | ".join(map(shown, cells)) + " |"


def _worst(found: Errors) -> tuple[float | None, ...]:
    """Of ordinary and extreme operands together."""
    both = zip(found.ordinary, found.extreme, strict=True)
    known = ([e for e in pair if e is not None] for pair in both)
    return tuple(max(k) if k else None for k in known)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    lines = []
    for line in table([f for f in ROWS if not given.names or f.name in given.names]):
        print(line, flush=True)
        lines.append(line)
    if given.write:
        old = part(DOCUMENT.read_text(), "peers of rows").splitlines()
        write("peers of rows", merged(old, lines, [f.name for f in ROWS]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
