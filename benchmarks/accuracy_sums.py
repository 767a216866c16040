"""Rounding errors of long f32 sums: rung, torch, JAX and NumPy on the same terms.

    python -m benchmarks.accuracy_sums [--tiny] [--only NAME] [--draws N]

The error is |result - truth| / sum|terms|, in units of 2^-24, which is what rounding once costs at
most; its root mean square over draws, and over the elements of a result that has several. A row of
the table is a function and a place of the long axis, and shows the worst of the kinds of data. The
last column is rung's error over that of the better of torch and JAX, the largest of all kinds;
errors below half a unit count as that.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import rung
from rung.nn import functional

Array = np.ndarray[Any, Any]
UNIT = 2.0**-24
LEAST = 0.5
SYSTEMS = ("rung", "torch", "jax", "numpy")
ALLOWED = 2.0

KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "equal": lambda rng, s: np.full(s, rng.uniform(0.1, 1.0)),
    "positive": lambda rng, s: rng.random(s),
    "random": lambda rng, s: rng.standard_normal(s),
    "rising": lambda rng, s: np.sort(rng.random(s).ravel()).reshape(s),
    "alternating": lambda rng, s: np.where(np.arange(np.prod(s)) % 2, 0.3, -0.7).reshape(s)
    * rng.uniform(0.5, 1.0),
}


@dataclass(frozen=True)
class Case:
    """A function of arrays in each system, and in f64; `size` is the sum of the sizes of terms."""

    name: str
    shape: tuple[int, ...]
    run: Mapping[str, Callable[..., Any]]
    truth: Callable[..., Array]
    size: Callable[..., Array]
    others: Callable[[np.random.Generator], tuple[Array, ...]] = lambda rng: ()


def peers() -> dict[str, ModuleType]:
    """torch and jax, as far as they are installed."""
    found = {}
    for name in ("torch", "jax"):
        try:
            found[name] = __import__(name)
        except ImportError:
            continue
    return found


def same(function: Callable[[Any, Any], Callable[..., Any]], modules: Mapping[str, Any]) -> Any:
    """`function(namespace, name)` for each system."""
    return {name: function(m, name) for name, m in modules.items()}


def cases(n: int) -> list[Case]:
    """All cases with about `n` terms."""
    found = peers()
    spaces: dict[str, Any] = {"rung": rung, "numpy": np}
    if "torch" in found:
        spaces["torch"] = found["torch"]
    if "jax" in found:
        spaces["jax"] = found["jax"].numpy
    sums = [*_sums(n, spaces), *_products(n, spaces), *_running(n, spaces)]
    return [*sums, *_rows(n, found), *_scattered(n, found)]


def _sums(n: int, spaces: Mapping[str, Any]) -> list[Case]:
    places: dict[str, tuple[tuple[int, ...], Any]] = {
        "row": ((3, n), 1),
        "column": ((n, 3), 0),
        "wide columns": ((n // 8, 40), 0),
        "middle": ((2, n // 4, 6), 1),
        "whole": ((8, n // 8), (0, 1)),
    }

    def absolute(axis: Any) -> Callable[[Array], Array]:
        return lambda x: np.sum(np.abs(x), axis)

    cases = []
    for place, (shape, axis) in places.items():
        count = int(np.prod([shape[d] for d in np.atleast_1d(axis)]))
        cases += [
            Case(
                f"sum, {place}", shape, same(lambda m, _, a=axis: lambda x: m.sum(x, a), spaces),
                lambda x, a=axis: np.sum(x, a), absolute(axis),
            ),
            Case(
                f"mean, {place}", shape, same(lambda m, _, a=axis: lambda x: m.mean(x, a), spaces),
                lambda x, a=axis: np.mean(x, a), lambda x, a=axis: np.mean(np.abs(x), a),
            ),
            Case(
                f"variance, {place}", shape, _variances(spaces, axis),
                lambda x, a=axis: np.var(x, a),
                lambda x, a=axis: np.var(x, a) + np.mean(np.abs(x), a) ** 2,
            ),
        ]  # fmt: skip
        if count and place in ("row", "column"):
            cases.append(
                Case(
                    f"norm, {place}", shape,
                    same(lambda m, _, a=axis: lambda x: m.linalg.norm(x, axis=a)
                         if m is not spaces.get("torch")
                         else m.linalg.vector_norm(x, dim=a), _with_norm(spaces)),
                    lambda x, a=axis: np.linalg.norm(x, axis=a),
                    lambda x, a=axis: np.linalg.norm(x, axis=a),
                )
            )  # fmt: skip
    return cases


def _with_norm(spaces: Mapping[str, Any]) -> dict[str, Any]:
    class Linalg:
        """rung's under NumPy's name."""

        class linalg:
            """As in NumPy."""

            norm = staticmethod(lambda x, axis: rung.linalg.vector_norm(x, axis=axis))

    return {name: Linalg if name == "rung" else m for name, m in spaces.items()}


def _variances(spaces: Mapping[str, Any], axis: Any) -> dict[str, Callable[..., Any]]:
    found = same(lambda m, _: lambda x: m.var(x, axis), spaces)
    if "torch" in spaces:
        found["torch"] = lambda x: spaces["torch"].var(x, axis, correction=0)
    return found


def _products(n: int, spaces: Mapping[str, Any]) -> list[Case]:
    run = same(lambda m, _: lambda x, y: m.matmul(x, y), spaces)

    def other(*shape: int) -> Callable[[np.random.Generator], tuple[Array, ...]]:
        return lambda rng: (rng.uniform(0.5, 1.5, shape).astype(np.float32),)

    def size(x: Array, y: Array) -> Array:
        return np.abs(x) @ np.abs(y)

    return [
        Case("dot product", (n,), run, np.matmul, size, other(n)),
        Case("matrix @ vector", (16, n // 8), run, np.matmul, size, other(n // 8)),
        Case("vector @ matrix", (n // 8,), run, np.matmul, size, other(n // 8, 16)),
        Case("matmul, long inner", (16, n // 8), run, np.matmul, size, other(n // 8, 16)),
        Case("matmul, 64 x 4096 x 64", (64, 4096), run, np.matmul, size, other(4096, 64)),
        Case("matmul, batch", (4, 8, n // 32), run, np.matmul, size, other(4, n // 32, 8)),
    ]


def _running(n: int, spaces: Mapping[str, Any]) -> list[Case]:
    def along(name: str, axis: int) -> dict[str, Callable[..., Any]]:
        found = same(lambda m, _: lambda x: getattr(m, name)(x, axis), spaces)
        full = {"cumsum": rung.cumulative_sum, "cumprod": rung.cumulative_prod}[name]
        found["rung"] = lambda x: full(x, axis=axis)
        return found

    def growth(x: Array) -> Array:
        return 1 + x / 1e6

    cases = [
        Case(
            f"cumulative sum, {place}", shape, along("cumsum", axis),
            lambda x, a=axis: np.cumsum(x, a), lambda x, a=axis: np.cumsum(np.abs(x), a),
        )
        for place, shape, axis in (("row", (3, n), 1), ("column", (n, 3), 0))
    ]  # fmt: skip
    one = np.float32(1)
    products = {
        name: lambda x, f=f: f(one + x * np.float32(1e-6))
        for name, f in along("cumprod", 1).items()
    }
    return [
        *cases,
        Case(
            "cumulative product, row", (3, n // 10), products,
            lambda x: np.cumprod(_f32(1 + _f32(x * np.float32(1e-6))), 1),
            lambda x: np.cumprod(growth(x), 1),
        ),
    ]  # fmt: skip


def _f32(x: Array) -> Array:
    """Rounded to f32, as the terms of all systems are."""
    return x.astype(np.float32).astype(np.float64)


def _rows(n: int, found: Mapping[str, Any]) -> list[Case]:
    def softmax(x: Array) -> Array:
        e = np.exp(x - x.max(-1, keepdims=True))
        return np.asarray(e / e.sum(-1, keepdims=True))

    def logsumexp(x: Array) -> Array:
        return np.asarray(np.log(np.exp(x).sum(-1)))

    def layer_norm(x: Array) -> Array:
        away = x - x.mean(-1, keepdims=True)
        return np.asarray(away / np.sqrt(np.mean(away**2, -1, keepdims=True) + 1e-5))

    wide = n // 10
    run: dict[str, dict[str, Callable[..., Any]]] = {
        "softmax": {"rung": lambda x: functional.softmax(x, -1)},
        "logsumexp": {"rung": lambda x: rung.logsumexp(x, axis=-1)},
        "layer norm": {"rung": lambda x: functional.layer_norm(x, (wide,))},
        "squared error": {"rung": functional.mse_loss},
    }
    if "torch" in found:
        torch = found["torch"]
        run["softmax"]["torch"] = lambda x: torch.softmax(x, -1)
        run["logsumexp"]["torch"] = lambda x: torch.logsumexp(x, -1)
        run["layer norm"]["torch"] = lambda x: torch.nn.functional.layer_norm(x, (wide,))
        run["squared error"]["torch"] = torch.nn.functional.mse_loss
    if "jax" in found:
        jax = found["jax"]
        run["softmax"]["jax"] = lambda x: jax.nn.softmax(x, -1)
        run["logsumexp"]["jax"] = lambda x: jax.nn.logsumexp(x, -1)
        run["layer norm"]["jax"] = lambda x: jax.nn.standardize(x, axis=-1, epsilon=1e-5)
        run["squared error"]["jax"] = lambda x, y: jax.numpy.mean((x - y) ** 2)

    def noise(rng: np.random.Generator) -> tuple[Array, ...]:
        return (rng.random(n).astype(np.float32),)

    def away(x: Array) -> Array:
        return np.abs(layer_norm(x)) + np.abs(x).mean() / np.sqrt(np.var(x) + 1e-5)

    return [
        Case("softmax", (3, wide), run["softmax"], softmax, softmax),
        Case("logsumexp", (3, wide), run["logsumexp"], logsumexp, lambda x: np.abs(logsumexp(x))),
        Case("layer norm", (3, wide), run["layer norm"], layer_norm, away),
        Case(
            "squared error", (n,), run["squared error"], lambda x, y: np.mean((x - y) ** 2),
            lambda x, y: np.mean((x - y) ** 2), noise,
        ),
    ]  # fmt: skip


def _scattered(n: int, found: Mapping[str, Any]) -> list[Case]:
    def place(rng: np.random.Generator) -> tuple[Array, ...]:
        return (rng.integers(0, 5, n),)

    def truth(x: Array, at: Array) -> Array:
        result = np.zeros((5, *x.shape[1:]))
        np.add.at(result, at.astype(np.int64), x)
        return result

    def size(x: Array, at: Array) -> Array:
        return truth(np.abs(x), at)

    def base(m: Any, x: Any) -> Any:
        return m.zeros((5, *x.shape[1:]), dtype=m.float32)

    add: dict[str, Callable[..., Any]] = {
        "rung": lambda x, at: rung.index_add(base(rung, x), 0, at, x),
        "numpy": lambda x, at: truth32(x, at),
    }
    count: dict[str, Callable[..., Any]] = {
        "rung": lambda x, at: rung.bincount(at, x, length=5),
        "numpy": lambda x, at: np.bincount(at, x),
    }

    def truth32(x: Array, at: Array) -> Array:
        result = np.zeros((5, *x.shape[1:]), np.float32)
        np.add.at(result, at, x)
        return result

    if "torch" in found:
        torch = found["torch"]
        add["torch"] = lambda x, at: base(torch, x).index_add(0, at, x)
        count["torch"] = lambda x, at: torch.bincount(at, x)
    if "jax" in found:
        jnp = found["jax"].numpy
        add["jax"] = lambda x, at: base(jnp, x).at[at].add(x)
        count["jax"] = lambda x, at: jnp.bincount(at, x, length=5)
    return [
        Case("index_add, elements", (n,), add, truth, size, place),
        Case("index_add, rows", (n, 8), add, truth, size, place),
        Case("bincount, weights", (n,), count, truth, size, place),
    ]


# ---- errors


def convert(name: str, x: Array) -> Any:
    """An array as a system takes it."""
    if name == "rung":
        return rung.asarray(x)
    if name == "numpy":
        return x
    found = peers()[name]
    return found.from_numpy(x) if name == "torch" else found.numpy.asarray(x)


def errors(case: Case, draws: int) -> dict[str, dict[str, float]]:
    """kind of data -> system -> error in units."""
    found: dict[str, dict[str, float]] = {}
    for kind, make in KINDS.items():
        squares: dict[str, list[float]] = {}
        for draw in range(draws):
            rng = np.random.default_rng((draw, list(KINDS).index(kind)))
            arrays = (make(rng, case.shape).astype(np.float32), *case.others(rng))
            wide = [np.asarray(a, np.float64) for a in arrays]
            truth, size = case.truth(*wide), case.size(*wide)
            for name, run in case.run.items():
                with np.errstate(all="ignore"):
                    result = np.asarray(run(*(convert(name, a) for a in arrays)), np.float64)
                    part = (result - truth) / np.maximum(size, 1e-300) / UNIT
                squares.setdefault(name, []).append(float(np.mean(part**2)))
        found[kind] = {name: float(np.sqrt(np.mean(s))) for name, s in squares.items()}
    return found


def ratio(row: Mapping[str, float]) -> float:
    """rung's error over that of the better of torch and JAX; 0 without either."""
    others = [max(row[name], LEAST) for name in ("torch", "jax") if name in row]
    return max(row["rung"], LEAST) / min(others) if others else 0.0


def main() -> int:
    """The command line; 1 where rung is less accurate than is allowed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="short sums, one draw")
    parser.add_argument("--only", default="", help="cases whose name contains it")
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--terms", type=int, default=1_000_000)
    given = parser.parse_args()
    n, draws = (4000, 1) if given.tiny else (given.terms, given.draws)
    table = Table("f32", "terms", *SYSTEMS, "rung / better peer")
    bad = 0
    for case in cases(n):
        if given.only not in case.name:
            continue
        found = errors(case, draws)
        worst = {s: max(r[s] for r in found.values()) for s in SYSTEMS if s in case.run}
        kind, most = max(((k, ratio(r)) for k, r in found.items()), key=lambda p: p[1])
        bad += most > ALLOWED
        cells = [f"{worst[s]:.2f}" if s in worst else "" for s in SYSTEMS]
        table.add_row(case.name, str(max(case.shape)), *cells, f"{most:.2f} ({kind})")
    Console(width=120).print(table)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
