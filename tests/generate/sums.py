"""Sums and cumulative operations of 10^3 to 10^8 terms against sums in a wider dtype.

A case is a function, a dtype, a place of the long axis and a length, run on two kinds of data. The
error is held against

    c * log2(n) * u * sum|terms|  +  u * |result|

with the unit roundoff u of the dtype in which it is added up: what a sum in parts has, and one of n
terms one after the other does not. `c` is stated for each function. Running sums of f64 are added
up in parts of `MANY_TERMS`, one after the other: half as many roundings more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

import rung
from rung.core.settings import configure, settings
from rung.kernel.cascade import MANY_TERMS
from rung.nn import functional as f

Array = np.ndarray[Any, Any]
DTYPES: dict[str, Any] = {
    "f32": np.float32, "f64": np.float64, "f16": np.float16, "bf16": ml_dtypes.bfloat16,
}  # fmt: skip
ROUNDOFF = {"f32": 2.0**-24, "f64": 2.0**-53, "f16": 2.0**-11, "bf16": 2.0**-8}
LEAST = {"f32": 2.0**-149, "f64": 5e-324, "f16": 2.0**-24, "bf16": 2.0**-133}
LENGTHS = (1000, 1009, 1024, 2047, 4096, 5000, 8191, 12345, 16384, 30011, 65536)
LONG = (100_003, 262_144, 500_000, 1_000_000)
VERY_LONG = (3_000_017, 10_000_000)
LONGEST = 100_000_000
LAYOUTS = ("vector", "row", "column", "middle", "whole", "strided", "turned")


@dataclass(frozen=True)
class Case:
    """What is added up, and where. `compiled` cases run as machine code, the others by NumPy."""

    seed: int
    function: str
    dtype: str
    layout: str
    length: int
    compiled: bool
    kinds: tuple[str, ...]

    @property
    def axis(self) -> int | None:
        """The long axis; None where all of them are."""
        axes = {"row": 1, "column": 0, "middle": 1, "strided": 1, "turned": 0, "vector": 0}
        return axes.get(self.layout)

    def shape(self, n: int) -> tuple[int, ...]:
        """The shape of the operand that is given."""
        wide = 3 if n <= 100_000 else 1
        shapes = {
            "vector": (n,),
            "row": (wide, n),
            "column": (n, 5 * wide),
            "middle": (2, n, wide),
            "whole": (4, n // 4),
            "strided": (wide, 2 * n),
            "turned": (wide, n),
        }
        return shapes[self.layout]

    def seen(self, x: Any) -> Any:
        """What of an operand is added up; for tensors and arrays."""
        if self.layout == "strided":
            return x[:, ::2]
        return x.T if self.layout == "turned" else x

    def __str__(self) -> str:
        how = "compiled" if self.compiled else "interpreted"
        return f"{self.function} of {self.length} {self.dtype} {self.layout} {how}"


def drawn(seed: int) -> Case:
    """Case `seed`."""
    rng = np.random.default_rng(seed)
    names = list(FUNCTIONS)
    function = names[int(rng.integers(len(names)))]
    luck = rng.random()
    lengths: Sequence[int] = LENGTHS if luck < 0.985 else LONG if luck < 0.9995 else VERY_LONG
    length = int(rng.choice(lengths))
    if luck > 0.99999 and function in ("sum", "mean", "dot"):
        length = LONGEST
    if function in COSTLY:
        length = min(length, 5000)
    dtype = str(rng.choice(list(DTYPES), p=(0.55, 0.2, 0.125, 0.125)))
    layout = str(rng.choice(LAYOUTS if length <= 1_000_000 else ("vector",)))
    share = 0.02 if function == "logcumsumexp" else 0.12  # its program is long
    compiled = bool(rng.random() < share) or length > 100_000
    kinds = tuple(str(k) for k in rng.choice(list(KINDS), 2, replace=False))
    return Case(seed, function, dtype, layout, length, compiled, kinds)


# ---- data: terms of about 1


def _cancelling(rng: np.random.Generator, n: int) -> Array:
    half = rng.standard_normal(n - n // 2)
    return rng.permutation(np.concatenate([half, -half[: n // 2]]))


def _alternating(rng: np.random.Generator, n: int) -> Array:
    a, b = rng.uniform(0.5, 1.5, 2)
    return np.where(np.arange(n) % 2 == 0, a, -b)


def _one_huge(rng: np.random.Generator, n: int) -> Array:
    x = rng.uniform(0, 0.01, n)
    x[0] = 100.0
    return x


KINDS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "equal": lambda rng, n: np.full(n, rng.uniform(0.1, 1.0)),
    "positive": lambda rng, n: rng.random(n),
    "random": lambda rng, n: rng.standard_normal(n),
    "cancelling": _cancelling,
    "rising": lambda rng, n: np.sort(rng.random(n)),
    "falling": lambda rng, n: np.sort(rng.random(n))[::-1],
    "alternating": _alternating,
    "one huge, then tiny": _one_huge,
}


def operand(case: Case, kind: str, rng: np.random.Generator) -> Array:
    """An array whose terms along the long axis are of a kind. Sums of f16 stay in its range."""
    shape = case.shape(case.length)
    seen = np.broadcast_to(np.empty(()), shape)
    view = case.seen(seen)
    n = view.size if case.axis is None else view.shape[case.axis]
    terms = KINDS[kind](rng, n)
    if case.dtype == "f16":
        terms = terms * min(1.0, 2e4 / float(np.sum(np.abs(terms))))
    full = rng.random(shape).astype(DTYPES[case.dtype])
    place = case.seen(full)
    if case.axis is None:
        full.reshape(-1)[:] = terms
    else:
        np.moveaxis(place, case.axis, -1)[...] = terms
    return full


# ---- what is true


@dataclass(frozen=True)
class Truth:
    """What a result must be, and by how much it may be off."""

    value: Array
    limit: Array


def wide_terms(case: Case, x: Array) -> Array:
    """The terms of each sum along the last axis, in a dtype whose rounding does not count."""
    dtype = np.longdouble if case.dtype == "f64" else np.float64
    seen = case.seen(x)
    if case.axis is None:
        return np.ascontiguousarray(seen, dtype).reshape(1, -1)
    moved = np.ascontiguousarray(np.moveaxis(seen, case.axis, -1), dtype)
    return moved.reshape(-1, moved.shape[-1])


def summed(case: Case, c: float, terms: Array, scale: float = 1.0) -> Truth:
    """Of a sum along the last axis."""
    u = ROUNDOFF["f64" if case.dtype == "f64" else "f32"]
    size = np.sum(np.abs(terms), -1)
    value = np.sum(terms, -1) * scale
    limit = c * np.log2(terms.shape[-1]) * u * size * abs(scale)
    return rounded(case, value, limit)


def rounded(case: Case, value: Array, limit: Array) -> Truth:
    """With the last rounding."""
    own = (1 + 2.0**-10) * ROUNDOFF[case.dtype] * (np.abs(value) + limit) + LEAST[case.dtype]
    return Truth(value, limit + own)


def relative(case: Case, value: Array, roundings: float) -> Truth:
    """A result that is off by a number of roundings."""
    u = ROUNDOFF["f64" if case.dtype == "f64" else "f32"]
    return rounded(case, value, roundings * u * np.abs(value))


# ---- functions: (result, truth) of a case on data of one kind

Result = tuple[Any, Truth]


def _sum(case: Case, x: Array, rng: np.random.Generator) -> Result:
    truth = summed(case, 2, wide_terms(case, x))
    return rung.sum(case.seen(rung.asarray(x)), axis=case.axis), truth


def _mean(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x)
    n = terms.shape[-1]
    return rung.mean(case.seen(rung.asarray(x)), axis=case.axis), summed(case, 3, terms, 1 / n)


def _norm(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x) ** 2
    root = np.sqrt(np.sum(terms, -1))
    truth = relative(case, root, 2 * np.log2(terms.shape[-1]))
    return rung.linalg.vector_norm(case.seen(rung.asarray(x)), axis=case.axis), truth


def _var(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x)
    n = terms.shape[-1]
    u = ROUNDOFF["f64" if case.dtype == "f64" else "f32"]
    away = terms - np.mean(terms, -1, keepdims=True)
    value = np.mean(away**2, -1)
    size = np.mean(np.abs(terms), -1)
    off = 2 * np.log2(n) * u * size + u * np.max(np.abs(terms), -1)  # of the mean, of differences
    limit = 2 * np.log2(n) * u * value + 2 * off * np.mean(np.abs(away), -1) + off**2
    return rung.var(case.seen(rung.asarray(x)), axis=case.axis), rounded(case, value, limit)


def _dot(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x)
    y = rng.uniform(0.5, 1.5, terms.shape[-1]).astype(DTYPES[case.dtype])
    seen = case.seen(rung.asarray(x))
    seen = seen.reshape(-1) if case.axis is None else rung.moveaxis(seen, case.axis, -1)
    return seen @ rung.asarray(y), summed(case, 4, terms * y.astype(terms.dtype))


def _matmul(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x)
    y = rng.uniform(0.5, 1.5, (terms.shape[-1], 3)).astype(DTYPES[case.dtype])
    seen = case.seen(rung.asarray(x))
    seen = seen.reshape(1, -1) if case.axis is None else rung.moveaxis(seen, case.axis, -1)
    products = terms[:, None, :] * y.T.astype(terms.dtype)
    return seen @ rung.asarray(y), summed(case, 4, products)


def _bias_gradient(case: Case, x: Array, rng: np.random.Generator) -> Result:
    """Of a value that is repeated along the long axis."""
    given = rung.asarray(x)
    seen = case.seen(given)
    axes = range(seen.ndim) if case.axis is None else (case.axis,)
    shape = tuple(1 if d in axes else n for d, n in enumerate(seen.shape))

    def loss(bias: Any) -> Any:
        return rung.sum(seen * bias, dtype=rung.float64 if case.dtype == "f64" else rung.float32)

    gradient = rung.grad(loss)(rung.ones(shape, dtype=given.dtype))
    return gradient, summed(case, 2, wide_terms(case, x))


def _logsumexp(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x)
    n = terms.shape[-1]
    u = ROUNDOFF["f64" if case.dtype == "f64" else "f32"]
    most = np.max(terms, -1, keepdims=True)
    value = np.log(np.sum(np.exp(terms - most), -1)) + most[:, 0]
    limit = u * (np.log2(n) + 8 + 2 * np.max(np.abs(terms), -1)) + 2 * u * np.abs(value)
    return rung.logsumexp(case.seen(rung.asarray(x)), axis=case.axis), rounded(case, value, limit)


def _softmax(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x)
    n = terms.shape[-1]
    e = np.exp(terms - np.max(terms, -1, keepdims=True))
    value = e / np.sum(e, -1, keepdims=True)
    seen = case.seen(rung.asarray(x))
    seen = seen.reshape(-1) if case.axis is None else rung.moveaxis(seen, case.axis, -1)
    span = np.max(terms, -1, keepdims=True) - terms
    return f.softmax(seen, -1), relative(case, value, np.log2(n) + 8 + 2 * span)  # type: ignore[arg-type]


def _cumulative_sum(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x)
    u = ROUNDOFF["f64" if case.dtype == "f64" else "f32"]
    size = np.cumsum(np.abs(terms), -1)
    count = np.arange(2, terms.shape[-1] + 2)
    in_parts = np.minimum(count, MANY_TERMS) / 2 + 2 * np.log2(count)
    roundings = in_parts * u if case.dtype == "f64" else u  # f32 is added up in f64
    value = np.cumsum(terms, -1)
    return _along(case, rung.cumulative_sum, x), rounded(case, value, roundings * size)


def _along(case: Case, function: Callable[..., Any], x: Array) -> Any:
    """A result of the shape of what is given, its long axis last."""
    seen = case.seen(rung.asarray(x))
    if case.axis is None:
        return function(seen.reshape(-1), axis=0)
    return rung.moveaxis(function(seen, axis=case.axis), case.axis, -1)


def _factors(case: Case, x: Array) -> Array:
    """Near 1, so that their product is neither huge nor nothing; of 16-bit floats most are 1."""
    sign = np.sign(x.astype(np.float64))
    if case.dtype in ("f32", "f64"):
        return (1 + sign / case.length).astype(x.dtype)
    apart = np.indices(x.shape).sum(0) % (case.length // 50) == 0
    return (1 + sign * apart * 4 * ROUNDOFF[case.dtype]).astype(x.dtype)


def _product(case: Case, x: Array, rng: np.random.Generator) -> Result:
    x = _factors(case, x)
    terms = wide_terms(case, x)
    truth = relative(case, np.prod(terms, -1), terms.shape[-1])
    return rung.prod(case.seen(rung.asarray(x)), axis=case.axis), truth


def _cumulative_product(case: Case, x: Array, rng: np.random.Generator) -> Result:
    x = _factors(case, x)
    value = np.cumprod(wide_terms(case, x), -1)
    count = np.arange(1, value.shape[-1] + 1) if case.dtype != "f32" else 1
    return _along(case, rung.cumulative_prod, x), relative(case, value, count)  # type: ignore[arg-type]


def _logcumsumexp(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x)
    u = ROUNDOFF["f64" if case.dtype == "f64" else "f32"]
    value = np.logaddexp.accumulate(terms, -1)
    steps = np.log2(np.arange(2, terms.shape[-1] + 2))
    limit = u * steps * (1 + np.maximum.accumulate(np.abs(value), -1))
    return _along(case, rung.logcumsumexp, x), rounded(case, value, limit)


def _scatter(case: Case, x: Array, rng: np.random.Generator) -> Result:
    """Into three places, nearly all into the first of them."""
    terms = wide_terms(case, x)
    n = terms.shape[-1]
    at = np.where(rng.random(n) < 0.9, 0, rng.integers(0, 3, n))
    seen = case.seen(rung.asarray(x))
    rows = seen.reshape(-1) if case.axis is None else rung.moveaxis(seen, case.axis, 0)
    base = rung.zeros((3, *rows.shape[1:]), dtype=rows.dtype)
    found = rung.moveaxis(rung.index_add(base, 0, rung.asarray(at), rows), 0, -1)
    parts = [summed(case, 16, np.where(at == k, terms, 0)) for k in range(3)]
    value, limit = (np.stack([getattr(p, a) for p in parts], -1) for a in ("value", "limit"))
    return found, Truth(value, limit)


def _weighted_count(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x)[:1]
    at = rng.integers(0, 3, terms.shape[-1])
    weights = terms[0].astype(x.dtype)
    found = rung.bincount(rung.asarray(at), rung.asarray(weights), length=3)
    parts = [summed(case, 16, np.where(at == k, terms, 0)) for k in range(3)]
    value, limit = (np.stack([getattr(p, a) for p in parts], -1) for a in ("value", "limit"))
    return found, Truth(value, limit)


def _squared_error(case: Case, x: Array, rng: np.random.Generator) -> Result:
    y = rng.uniform(-1, 1, x.shape).astype(x.dtype)
    terms = (x.astype(np.longdouble) - y.astype(np.longdouble)).reshape(-1) ** 2
    truth = summed(case, 2, terms[None], 1 / terms.size)
    return f.mse_loss(rung.asarray(x), rung.asarray(y)), truth


def _cross_entropy(case: Case, x: Array, rng: np.random.Generator) -> Result:
    logits = x.reshape(-1)[: x.size // 4 * 4].reshape(-1, 4)
    label = rng.integers(0, 4, len(logits))
    wide = logits.astype(np.longdouble)
    terms = np.log(np.sum(np.exp(wide), -1)) - wide[np.arange(len(label)), label]
    u = ROUNDOFF["f64" if case.dtype == "f64" else "f32"]
    n = len(terms)
    each = u * (8 + 4 * np.max(np.abs(wide), -1))  # roundings of one loss
    limit = np.log2(n) * u * np.mean(np.abs(terms)) + np.mean(each)
    found = f.cross_entropy(rung.asarray(logits), rung.asarray(label))
    return found, rounded(case, np.mean(terms)[None], np.asarray(limit))


def _layer_norm(case: Case, x: Array, rng: np.random.Generator) -> Result:
    terms = wide_terms(case, x)
    n = terms.shape[-1]
    u = ROUNDOFF["f64" if case.dtype == "f64" else "f32"]
    away = terms - np.mean(terms, -1, keepdims=True)
    spread = np.sqrt(np.mean(away**2, -1, keepdims=True) + 1e-5)
    value = away / spread
    off = 2 * np.log2(n) * u * np.mean(np.abs(terms), -1, keepdims=True) + u * np.abs(terms)
    limit = off / spread * (1 + 2 * np.abs(value)) + 2 * np.log2(n) * u * np.abs(value)
    seen = case.seen(rung.asarray(x))
    seen = seen.reshape(1, -1) if case.axis is None else rung.moveaxis(seen, case.axis, -1)
    return f.layer_norm(seen, (n,)), rounded(case, value, limit)


def _convolution(case: Case, x: Array, rng: np.random.Generator) -> Result:
    """A filter as long as what it runs over."""
    terms = wide_terms(case, x)
    n = terms.shape[-1]
    weight = rng.uniform(0.5, 1.5, (1, 1, n)).astype(x.dtype)
    given = rung.asarray(terms.astype(x.dtype)[:, None, :])
    return f.conv1d(given, rung.asarray(weight)), summed(
        case, 4, terms * weight[0].astype(terms.dtype)
    )


FUNCTIONS: dict[str, Callable[[Case, Array, np.random.Generator], Result]] = {
    "sum": _sum,
    "mean": _mean,
    "norm": _norm,
    "var": _var,
    "dot": _dot,
    "matmul": _matmul,
    "bias gradient": _bias_gradient,
    "logsumexp": _logsumexp,
    "softmax": _softmax,
    "cumulative_sum": _cumulative_sum,
    "prod": _product,
    "cumulative_prod": _cumulative_product,
    "logcumsumexp": _logcumsumexp,
    "index_add": _scatter,
    "bincount": _weighted_count,
    "mse_loss": _squared_error,
    "cross_entropy": _cross_entropy,
    "layer_norm": _layer_norm,
    "conv1d": _convolution,
}
COSTLY = ("conv1d", "logcumsumexp")
"""Functions whose references or programs grow with the length."""


# ---- a case


@contextmanager
def interpreted(on: bool) -> Iterator[None]:
    """NumPy in place of machine code."""
    before = settings().interpret
    configure(interpret=on)
    try:
        yield
    finally:
        configure(interpret=before)


def worst(case: Case, kind: str) -> tuple[float, str]:
    """The largest error of a case on one kind of data, as a part of what is allowed; and where."""
    rng = np.random.default_rng((case.seed, list(KINDS).index(kind)))
    x = operand(case, kind, rng)
    with interpreted(not case.compiled):
        result, truth = FUNCTIONS[case.function](case, x, rng)
        found = np.asarray(result)
    value = np.asarray(truth.value).reshape(-1)
    ours = found.astype(value.dtype).reshape(-1)
    limit = np.broadcast_to(truth.limit, truth.value.shape).reshape(-1)
    if ours.shape != value.shape:
        return np.inf, f"{ours.size} elements, not {value.size}"
    with np.errstate(all="ignore"):
        part = np.abs(ours - value) / limit
    part = np.where(np.isnan(part), np.inf, part)
    at = int(np.argmax(part))
    return float(part[at]), f"{ours[at]!r}, not {value[at]!r}"


def check(seed: int) -> list[str]:
    """What is wrong with case `seed`, one line each."""
    case = drawn(seed)
    found = ((kind, *worst(case, kind)) for kind in case.kinds)
    return [
        f"{case}, {kind}: {text}: {part:.3g} times what is allowed"
        for kind, part, text in found
        if not part <= 1
    ]


def show(seed: int) -> str:
    """Case `seed` and its errors."""
    case = drawn(seed)
    lines = [f"{kind}: {worst(case, kind)[0]:.3g} of what is allowed" for kind in case.kinds]
    return "\n".join((str(case), *lines))
