"""Functions of rows and of two operands at extremes: norms, statistics, losses, activations of
rows, and arithmetic of two numbers.

The exact ones are NumPy's in `longdouble`, whose range no square of an f64 leaves. An error counts
relative to a size that goes with the function: the sum of magnitudes for a sum that cancels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

import rung
import rung.nn.functional as F
from tests.generate.exact import Array, Format, Long, slopes, unit

Exact = Callable[[Array, Array], Array]
SHAPE: Final = (4, 6)
LABELS: Final = np.array([2, 0, 5, 3])
REGIMES: Final = ("ordinary", "huge", "tiny", "mixed", "equal", "zeros", "special")


@dataclass(frozen=True)
class Rows:
    """A function of x[4, 6] and y[4, 6]: ours, the exact one, the size that errors are relative to
    (None: the value), how many steps at 1 of f32 and f64 it may be off, the regimes in which that
    is promised, and those in which the derivative by x is tried.

    `inside`: operands are brought into (0, 1). `slope_size`: what errors of the derivative are
    relative to where it is larger than the largest derivative of a row."""

    name: str
    ours: Callable[[Any, Any], Any]
    exact: Exact
    eps: float = 8.0
    size: Exact | None = None
    regimes: tuple[str, ...] = REGIMES
    slopes: tuple[str, ...] = ("ordinary",)
    inside: bool = False
    slope_size: Exact | None = None


FINITE: Final = REGIMES[:-1]
SCALED: Final = ("ordinary", "huge", "tiny", "mixed", "equal")
ORDINARY: Final = ("ordinary", "equal")
SCALING: Final = ("ordinary", "huge", "tiny")


def operands(f: Rows, form: Format, rng: np.random.Generator) -> tuple[str, Array, Array]:
    """A regime, and operands of it."""
    regime = str(rng.choice(f.regimes))
    return regime, *drawn(f, regime, form, rng)


def drawn(f: Rows, regime: str, form: Format, rng: np.random.Generator) -> tuple[Array, Array]:
    """Operands of a regime."""
    x, y = (_drawn(regime, form, rng) for _ in range(2))
    if f.inside:
        x, y = (1 / (1 + np.exp(-a.astype(np.float64))) for a in (x, y))
    with np.errstate(over="ignore"):
        x, y = (a.astype(np.float64).astype(form.numpy) for a in (x, y))
    return x, y


def _drawn(regime: str, form: Format, rng: np.random.Generator) -> Array:
    plain = rng.normal(0, 2, SHAPE).astype(Long)
    if regime == "huge":
        return plain / np.abs(plain).max() * np.ldexp(Long(1), form.high - 6)
    if regime == "tiny":
        return plain * np.ldexp(Long(1), form.low + 6)
    if regime == "mixed":
        return plain * np.ldexp(Long(1), rng.integers(form.low // 3, form.high // 3, SHAPE))
    if regime == "equal":
        return np.full(SHAPE, plain[0, 0])
    if regime == "zeros":
        return np.where(rng.random(SHAPE) < 0.7, 0.0, plain) * (np.arange(4)[:, None] > 0)
    if regime == "special":
        some = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0])
        return np.where(rng.random(SHAPE) < 0.2, rng.choice(some, SHAPE), plain)
    return plain


# ---- exact ones


def _sum(x: Array, y: Array) -> Array:
    return x.sum(-1)


def _magnitudes(x: Array, y: Array) -> Array:
    return np.abs(x).sum(-1)


def _norm(x: Array, p: float = 2) -> Array:
    size = np.abs(x)
    return (size**p).sum(-1) ** (1 / Long(p))


def _spread(x: Array) -> Array:
    """Deviations, and how far rounding of the mean moves them."""
    return x - x.mean(-1, keepdims=True)


def _std(x: Array, y: Array) -> Array:
    return np.sqrt((_spread(x) ** 2).mean(-1))


def _softmax(x: Array, y: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _logsumexp(x: Array, y: Array) -> Array:
    top = x.max(-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    return (np.log(np.exp(x - top).sum(-1, keepdims=True)) + top)[..., 0]


def _finite(x: Array) -> Array:
    """Infinities do not count in a size."""
    return np.where(np.isfinite(x), x, 0)


def _largest(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(_finite(x)).max(-1), 1)


def _largest_of_row(x: Array, y: Array) -> Array:
    return np.maximum(np.abs(_finite(x)).max(-1, keepdims=True), 1) + np.zeros_like(x)


def _layer_norm(x: Array, y: Array) -> Array:
    return _spread(x) / np.sqrt((_spread(x) ** 2).mean(-1, keepdims=True) + Long(1e-5))


def _deviations(x: Array, y: Array) -> Array:
    """Magnitudes over the deviation."""
    root = np.sqrt((_spread(x) ** 2).mean(-1, keepdims=True) + Long(1e-5))
    return np.abs(x).max(-1, keepdims=True) / root + np.abs(_layer_norm(x, y))


def _rms_norm(x: Array, y: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + Long(1e-6))


def _normalize(x: Array, y: Array) -> Array:
    return x / np.maximum(_norm(x)[..., None], Long(1e-12))


def _cosine(x: Array, y: Array) -> Array:
    lengths = np.maximum(_norm(x), Long(1e-8)) * np.maximum(_norm(y), Long(1e-8))
    return (x * y).sum(-1) / lengths


def _one(x: Array, y: Array) -> Array:
    return np.ones(x.shape[:-1], Long)


def _huber(x: Array, y: Array) -> Array:
    away = np.abs(x - y)
    inner = np.minimum(away, 1)
    return inner * (away - inner / 2)


def _softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _bce(x: Array, y: Array) -> Array:
    return -y * np.maximum(np.log(x), -100) - (1 - y) * np.maximum(np.log1p(-x), -100)


def _bce_logits(x: Array, y: Array) -> Array:
    return _softplus(x) - x * y


def _cross_entropy(x: Array, y: Array) -> Array:
    return _logsumexp(x, y) - x[np.arange(4), LABELS]


def _both(x: Array, y: Array) -> Array:
    return np.abs(x) + np.abs(y)


def _gaussian(x: Array, y: Array) -> Array:
    variance = np.maximum(np.abs(y), Long(1e-6))
    return (np.log(variance) + (x - y) ** 2 / variance) / 2


def _gaussian_size(x: Array, y: Array) -> Array:
    variance = np.maximum(np.abs(y), Long(1e-6))
    return np.abs(np.log(variance)) + _both(x, y) ** 2 / variance


def _logaddexp(x: Array, y: Array) -> Array:
    top = np.maximum(x, y)
    return np.where(np.isfinite(top), top + np.log1p(np.exp(-np.abs(x - y))), top)


def _logcumsumexp(x: Array, y: Array) -> Array:
    return np.stack([_logsumexp(x[:, : k + 1], y) for k in range(SHAPE[1])], -1)


def _xlogy(x: Array, y: Array) -> Array:
    found = x * np.log(np.abs(y))
    return np.where((x == 0) & ~np.isnan(y), 0, found)


def _vector_norm(p: float) -> Callable[[Any, Any], Any]:
    return lambda x, y: rung.linalg.vector_norm(x, axis=-1, ord=p)


ROWS: Final = (
    Rows("sum", lambda x, y: x.sum(-1), _sum, size=_magnitudes, slopes=SCALING),
    Rows("mean", lambda x, y: x.mean(-1), lambda x, y: x.mean(-1), size=_magnitudes,
         slopes=SCALING),
    Rows("prod", lambda x, y: x.prod(-1), lambda x, y: x.prod(-1),
         regimes=("ordinary", "zeros", "equal", "special"),
         slopes=()),
    Rows("max", lambda x, y: x.max(-1), lambda x, y: x.max(-1), 0, slopes=()),
    Rows("min", lambda x, y: x.min(-1), lambda x, y: x.min(-1), 0, slopes=()),
    Rows("cumulative_sum", lambda x, y: rung.cumulative_sum(x, axis=-1),
         lambda x, y: x.cumsum(-1), size=lambda x, y: np.abs(x).cumsum(-1)),
    Rows("var", lambda x, y: rung.var(x, axis=-1), lambda x, y: _std(x, y) ** 2,
         size=lambda x, y: (x**2).max(-1), regimes=ORDINARY),
    Rows("std", lambda x, y: rung.std(x, axis=-1), _std, 16,
         size=lambda x, y: np.abs(x).max(-1), regimes=("ordinary", "huge", "tiny", "mixed"),
         slopes=SCALING),
    Rows("norm", _vector_norm(2), lambda x, y: _norm(x), slopes=SCALING),
    Rows("norm 3", _vector_norm(3), lambda x, y: _norm(x, 3), 32, regimes=FINITE, slopes=SCALING),
    Rows("norm 1", _vector_norm(1), lambda x, y: np.abs(x).sum(-1), slopes=SCALING),
    Rows("norm 0.5", _vector_norm(0.5), lambda x, y: _norm(x, 0.5), 64,
         regimes=("ordinary", "tiny", "equal")),
    Rows("norm inf", _vector_norm(np.inf), lambda x, y: np.abs(x).max(-1), 0, slopes=()),
    Rows("logsumexp", lambda x, y: rung.logsumexp(x, axis=-1), _logsumexp, size=_largest),
    Rows("logcumsumexp", lambda x, y: rung.logcumsumexp(x, axis=-1), _logcumsumexp, 16,
         size=_largest_of_row, regimes=FINITE, slopes=()),
    Rows("softmax", lambda x, y: F.softmax(x, -1), _softmax, size=lambda x, y: np.ones_like(x),
         slope_size=_softmax),
    Rows("log_softmax", lambda x, y: F.log_softmax(x, -1),
         lambda x, y: x - _logsumexp(x, y)[..., None], size=_largest_of_row, regimes=FINITE),
    Rows("normalize", lambda x, y: F.normalize(x, dim=-1), _normalize, regimes=SCALED,
         slopes=SCALING),
    Rows("layer_norm", lambda x, y: F.layer_norm(x, 6), _layer_norm, 16, size=_deviations,
         regimes=("ordinary", "huge", "mixed", "zeros"), slopes=("ordinary", "huge")),
    Rows("rms_norm", lambda x, y: F.rms_norm(x, 6), _rms_norm, regimes=(*SCALED, "zeros"),
         slopes=("ordinary", "huge")),
    Rows("cosine_similarity", lambda x, y: F.cosine_similarity(x, y, -1), _cosine, size=_one,
         regimes=("ordinary", "huge", "mixed", "equal"), slopes=("ordinary", "huge")),
    Rows("pairwise_distance", lambda x, y: F.pairwise_distance(x, y, eps=0.0),
         lambda x, y: _norm(x - y), size=lambda x, y: _both(x, y).max(-1),
         regimes=("ordinary", "huge", "tiny", "mixed"), slopes=SCALING),
    Rows("mse_loss", lambda x, y: F.mse_loss(x, y, "none"), lambda x, y: (x - y) ** 2, 4,
         size=lambda x, y: _both(x, y) ** 2, regimes=ORDINARY),
    Rows("l1_loss", lambda x, y: F.l1_loss(x, y, "none"), lambda x, y: np.abs(x - y), 2, slopes=()),
    Rows("huber_loss", lambda x, y: F.huber_loss(x, y, "none"), _huber, 4,
         size=lambda x, y: _both(x, y) * np.minimum(_both(x, y), 1), regimes=FINITE),
    Rows("binary_cross_entropy", lambda x, y: F.binary_cross_entropy(x, y, reduction="none"), _bce,
         inside=True, size=lambda x, y: 1 + _bce(x, y), regimes=("ordinary",), slopes=()),
    Rows("bce with logits",
         lambda x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"), _bce_logits,
         size=lambda x, y: 1 + np.abs(x) + np.abs(x * y), regimes=("ordinary", "tiny", "equal")),
    Rows("cross_entropy", lambda x, y: F.cross_entropy(x, LABELS, reduction="none"),
         _cross_entropy, size=_largest, regimes=FINITE),
    Rows("nll_loss", lambda x, y: F.nll_loss(x, LABELS, reduction="sum"),
         lambda x, y: -x[np.arange(4), LABELS].sum(), size=lambda x, y: np.abs(x).sum(),
         regimes=SCALED),
    Rows("kl_div", lambda x, y: F.kl_div(x, abs(y), "none"),
         lambda x, y: _xlogy(np.abs(y), y) - np.abs(y) * x,
         size=lambda x, y: np.abs(_xlogy(y, y)) + np.abs(x * y), regimes=("ordinary", "zeros")),
    Rows("poisson_nll_loss", lambda x, y: F.poisson_nll_loss(x, y, reduction="none"),
         lambda x, y: np.exp(x) - x * y, size=lambda x, y: np.exp(x) + np.abs(x * y),
         regimes=("ordinary", "tiny")),
    Rows("gaussian_nll_loss", lambda x, y: F.gaussian_nll_loss(x, y, abs(y), reduction="none"),
         _gaussian, 16, size=_gaussian_size, regimes=("ordinary", "huge")),
    Rows("hypot", rung.hypot, np.hypot, 2),
    Rows("atan2", rung.atan2, np.arctan2, 4, slopes=()),
    Rows("logaddexp", rung.logaddexp, _logaddexp, 4, size=_both),
    Rows("multiply", rung.multiply, np.multiply, 1),
    Rows("divide", rung.divide, np.divide, 1),
    Rows("fmod", rung.fmod, np.fmod, 0, slopes=()),
    Rows("remainder", rung.remainder, np.remainder, 1, size=lambda x, y: np.abs(y), slopes=()),
    Rows("maximum", rung.maximum, np.maximum, 0, slopes=()),
    Rows("minimum", rung.minimum, np.minimum, 0, slopes=()),
    Rows("fmax", rung.fmax, np.fmax, 0, slopes=()),
    Rows("copysign", rung.copysign, np.copysign, 0, slopes=()),
    Rows("pow", lambda x, y: abs(x) ** y, lambda x, y: np.abs(x) ** y, 4, slopes=()),
    Rows("xlogy", lambda x, y: rung.xlogy(x, abs(y)), _xlogy, 4),
    Rows("lerp", lambda x, y: rung.lerp(x, y, 0.25), lambda x, y: x + (y - x) / 4, 4, size=_both,
         regimes=FINITE),
    Rows("dot", rung.linalg.vecdot, lambda x, y: (x * y).sum(-1),
         size=lambda x, y: np.abs(x * y).sum(-1),
         regimes=("ordinary", "zeros", "equal")),
)  # fmt: skip


# ---- checks


def check_rows(f: Rows, form: Format, rng: np.random.Generator) -> list[str]:
    """What is wrong with a function on operands that `rng` draws."""
    regime, x, y = operands(f, form, rng)
    wide_x, wide_y = (a.astype(np.float64).astype(Long) for a in (x, y))
    tensors = [rung.asarray(a) for a in (x, y)]
    with np.errstate(all="ignore"):
        found = np.asarray(f.ours(*tensors))
        wanted = np.asarray(f.exact(wide_x, wide_y), Long)
        size = np.abs(wanted) if f.size is None else np.asarray(f.size(wide_x, wide_y), Long)
        lines = _compared("value", f, form, found, wanted, size)
        if regime in f.slopes:
            lines += _check_slope(f, form, rng, (wide_x, wide_y), tensors, found.shape)
    return [f"{regime}: {line}" for line in lines]


def _check_slope(
    f: Rows, form: Format, rng: np.random.Generator, wide: tuple[Array, Array],
    tensors: list[rung.Tensor], shape: tuple[int, ...],
) -> list[str]:  # fmt: skip
    """The gradient of a weighted sum of the results, beside differences."""
    weights = rng.uniform(0.5, 1, shape)
    x, y = tensors
    factor = rung.asarray(weights, dtype="f64")

    def total(v: rung.Tensor) -> rung.Tensor:
        return (f.ours(v, y).astype("f64") * factor).sum()

    moved = np.asarray(rung.grad(total)(x))
    found = slopes(lambda v: np.asarray(f.exact(v, wide[1])), np.array(wide[0]), weights)
    size = np.abs(found).max(-1, keepdims=True) + np.zeros_like(found)
    if f.slope_size is not None:
        size = np.maximum(size, f.slope_size(*wide))
    return _compared("reverse", f, form, moved, found, size, slack=16)


def _compared(
    what: str, f: Rows, form: Format, found: Array, wanted: Array, size: Array, slack: float = 1
) -> list[str]:
    """A line for the worst element that is farther off than is promised."""
    top = np.ldexp(Long(1), form.high)
    step = Long(2.0**-23 if form.bits < 64 else 2.0**-52)
    ours = np.clip(found.astype(np.float64).astype(Long), -top, top)
    theirs = np.clip(wanted, -top, top)
    size = np.where(np.isfinite(size), size, 0)
    allowed = unit(theirs, form) + f.eps * slack * step * size
    if what == "reverse":  # differences are good to about 1e-9; results that are kept are rounded
        allowed = allowed + (1e-8 + (32 * form.eps if form.bits == 16 else 0)) * size
    bad = ~(np.abs(ours - theirs) <= allowed) & ~(ours == theirs)
    bad &= ~(np.isnan(ours) & np.isnan(theirs))
    if not bad.any():
        return []
    at = tuple(int(i) for i in np.argwhere(bad)[0]) if np.ndim(bad) else ()
    return [f"{what}: {int(bad.sum())} wrong, first at {list(at)}: {found[at]!r}, not "
            f"{np.float64(wanted[at])!r}"]  # fmt: skip


def show_rows(f: Rows, form: Format, rng: np.random.Generator) -> str:
    """The operands of a case."""
    regime, x, y = operands(f, form, rng)
    return f"{regime}\nx = {x.tolist()}\ny = {y.tolist()}"
