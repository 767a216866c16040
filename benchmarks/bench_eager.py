"""What an op costs that is computed at once, by its `eager` kernel, beside PyTorch's eager op.

    python -m benchmarks.bench_eager [--only TEXT] [--rounds 15] [--threads 2] [--json FILE]

Both run in one process and take turns; times are medians of rounds in µs. The kernel is called as
the executor calls it, with arrays; what the executor adds is not counted. `limit` is what is wanted
of the ratio rung / torch: 1 for tiny arrays, 1.5 for larger ones.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as f
from rich.console import Console
from rich.table import Table

from rung.core import dtype as dt
from rung.ir.node import Node, Value, parameter
from rung.ir.types import array_type
from rung.ops import activation, attention, linear, loss, normalization, softmax
from rung.ops import elementwise as e
from rung.ops import transcendental as t
from rung.ops.broadcast import broadcast_to, reduce_sum, reshape
from rung.ops.contraction import dot_general, matmul
from rung.ops.convolution import ConvAttrs, conv
from rung.ops.cumulative import cumulative_sum
from rung.ops.eager.blas import one_thread
from rung.ops.families import add
from rung.ops.indexing import scatter_add, take
from rung.ops.movement import concat, flip, pad, permute, slice_
from rung.ops.pooling import WindowAttrs, window_max
from rung.ops.random import random_bits
from rung.ops.reduction import argmax, reduce_max
from rung.ops.sorting import sort, top_k

Array = np.ndarray[Any, Any]
ROUND_S = 0.004
"""A round repeats a call for so long."""


@dataclass(frozen=True)
class Case:
    """An op on arrays: a function of graph values, and one of torch tensors."""

    name: str
    ours: Callable[..., Value | tuple[Value, ...]]
    torch: Callable[..., Any]
    arrays: tuple[Array, ...]

    @property
    def sizes(self) -> str:
        return " ".join("×".join(map(str, a.shape)) or "()" for a in self.arrays[:2])

    @property
    def limit(self) -> float:
        return 1.0 if max(a.size for a in self.arrays) <= 64 else 1.5


@dataclass(frozen=True)
class Row:
    """Medians in µs."""

    name: str
    sizes: str
    rung_us: float
    torch_us: float
    limit: float

    @property
    def ratio(self) -> float:
        return self.rung_us / self.torch_us


def node_of(case: Case) -> Node:
    """The node of the op for the arrays."""
    params = [parameter(i, f"x{i}", array_type(a)) for i, a in enumerate(case.arrays)]
    found = case.ours(*params)
    return (found if isinstance(found, Value) else found[0]).node


def measure(case: Case, rounds: int) -> Row:
    """Both, by turns."""
    node = node_of(case)
    assert node.op.eager is not None
    kernel = node.op.eager(node.attrs, [v.type for v in node.inputs], list(node.types))
    assert kernel is not None, case.name
    arrays, tensors = case.arrays, [torch.from_numpy(a) for a in case.arrays]
    calls = (lambda: kernel(*arrays)), (lambda: case.torch(*tensors))
    counts = [repeats(call) for call in calls]
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for call, count, times in zip(calls, counts, samples, strict=True):
            start = time.perf_counter()
            for _ in range(count):
                call()
            times.append((time.perf_counter() - start) / count * 1e6)
    ours, theirs = map(statistics.median, samples)
    return Row(case.name, case.sizes, ours, theirs, case.limit)


def repeats(call: Callable[[], Any]) -> int:
    """How often a call is repeated in a round."""
    call()
    start = time.perf_counter()
    call()
    return max(1, min(2000, int(ROUND_S / max(time.perf_counter() - start, 1e-9))))


# ---- cases

SHAPES = ((16,), (64, 64), (256, 1024))


def floats(*shape: int) -> Array:
    """Ordinary f32 numbers."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(shape).astype(np.float32)


def elementwise_cases() -> Iterator[Case]:
    unary: tuple[tuple[str, Any, Any], ...] = (
        ("negative", e.negative, torch.neg), ("sqrt", t.sqrt, torch.sqrt),
        ("rsqrt", t.rsqrt, torch.rsqrt), ("exp", t.exp, torch.exp), ("log", t.log, torch.log),
        ("tanh", t.tanh, torch.tanh), ("sin", t.sin, torch.sin), ("erf", t.erf, torch.erf),
        ("sigmoid", activation.sigmoid, torch.sigmoid), ("relu", activation.relu, torch.relu),
        ("silu", activation.silu, f.silu), ("gelu", activation.gelu, f.gelu),
        ("to f64", lambda x: e.cast(x, dtype=dt.float64), lambda x: x.to(torch.float64)),
    )  # fmt: skip
    binary: tuple[tuple[str, Any, Any], ...] = (
        ("add", add, torch.add), ("multiply", e.multiply, torch.mul),
        ("divide", e.divide, torch.div), ("maximum", e.maximum, torch.maximum),
        ("less", e.less, torch.lt), ("power", t.power, torch.pow),
    )  # fmt: skip
    for shape in SHAPES:
        x, y = np.abs(floats(*shape)) + 0.1, np.abs(floats(*shape)[::-1]) + 0.1
        condition = floats(*shape) > 0
        for name, ours, theirs in unary:
            yield Case(name, ours, theirs, (x,))
        for name, ours, theirs in binary:
            yield Case(name, ours, theirs, (x, y.copy()))
        yield Case("where", e.where, torch.where, (condition, x, y.copy()))


def movement_cases() -> Iterator[Case]:
    for n, m in ((4, 4), (64, 64), (256, 1024)):
        x = floats(n, m)
        yield Case("reshape", lambda x, s=(m, n): reshape(x, shape=s),
                   lambda x, s=(m, n): x.reshape(s), (x,))  # fmt: skip
        yield Case("permute", lambda x: permute(x, dims=(1, 0)), lambda x: x.permute(1, 0), (x,))
        cut = {"starts": (1, 1), "stops": (n, m), "steps": (1, 1)}
        yield Case("slice", lambda x, cut=cut: slice_(x, **cut), lambda x: x[1:, 1:], (x,))
        yield Case("flip", lambda x: flip(x, dims=(1,)), lambda x: x.flip(1), (x,))
        yield Case("pad", lambda x: pad(x, low=(1, 1), high=(1, 1)),
                   lambda x: f.pad(x, (1, 1, 1, 1)), (x,))  # fmt: skip
        yield Case("concat", lambda x, y: concat(x, y, dim=1),
                   lambda x, y: torch.cat((x, y), 1), (x, x + 1))  # fmt: skip
        yield Case("broadcast", lambda x, s=(n, m): broadcast_to(x, shape=s),
                   lambda x, s=(n, m): x.expand(s).contiguous(), (floats(m),))  # fmt: skip


def reduction_cases() -> Iterator[Case]:
    for n, m in ((4, 4), (64, 64), (256, 1024), (16384, 16)):
        x = floats(n, m)
        yield Case("sum, all", lambda x: reduce_sum(x, dims=(0, 1)), lambda x: x.sum(), (x,))
        yield Case("sum, rows", lambda x: reduce_sum(x, dims=(1,)), lambda x: x.sum(1), (x,))
        yield Case("sum, columns", lambda x: reduce_sum(x, dims=(0,)), lambda x: x.sum(0), (x,))
        yield Case("max, rows", lambda x: reduce_max(x, dims=(1,)), lambda x: x.amax(1), (x,))
        yield Case("argmax", lambda x: argmax(x, dim=1), lambda x: x.argmax(1), (x,))
        yield Case("cumulative_sum", lambda x: cumulative_sum(x, dim=1),
                   lambda x: x.cumsum(1), (x,))  # fmt: skip
        yield Case("sort", lambda x: sort(x, dim=1), lambda x: x.sort(1)[0], (x,))
        yield Case("top_k", lambda x: top_k.build((x,), top_k.attrs(k=2, dim=1)),
                   lambda x: x.topk(2, 1), (x,))  # fmt: skip
        yield Case("softmax", softmax.softmax, lambda x: x.softmax(-1), (x,))
        yield Case("log_softmax", softmax.log_softmax, lambda x: x.log_softmax(-1), (x,))
        yield Case("logsumexp", softmax.logsumexp, lambda x: x.logsumexp(-1), (x,))
        w, b = floats(m), floats(m)
        yield Case("layer_norm", normalization.layer_norm,
                   lambda x, w, b, m=m: f.layer_norm(x, (m,), w, b), (x, w, b))  # fmt: skip
        targets = np.random.default_rng(0).integers(0, m, n)
        yield Case("cross_entropy", loss.cross_entropy, f.cross_entropy, (x, targets))


def product_cases() -> Iterator[Case]:
    for m, k, n in ((4, 4, 4), (10, 40, 40), (64, 64, 64), (1040, 64, 256), (256, 1024, 256)):
        yield Case("matmul", matmul, torch.matmul, (floats(m, k), floats(k, n)))
        yield Case("linear", linear.linear, f.linear, (floats(m, k), floats(n, k), floats(n)))
    yield Case("matmul", matmul, torch.matmul, (floats(1000, 32), floats(32)))
    scores = functools.partial(dot_general, batch=((0, 1), (0, 1)), contract=((3,), (3,)))
    q = floats(16, 4, 65, 16)
    yield Case("q kᵀ", scores, lambda q, k: q @ k.mT, (q, q + 1))
    heads = floats(16, 65, 4, 16).transpose(0, 2, 1, 3)
    for name, x, causal in (("attention", q, False), ("attention, heads turned", heads, False),
                            ("attention, causal", floats(1, 8, 64, 32), True)):  # fmt: skip
        yield Case(name, functools.partial(attention.attention, causal=causal),
                   functools.partial(f.scaled_dot_product_attention, is_causal=causal),
                   (x, x, x))  # fmt: skip


def image_cases() -> Iterator[Case]:
    one, two = (1, 1), (2, 2)
    for x, w, stride, padding in (
        ((64, 1, 28, 28), (16, 1, 3, 3), 1, 1), ((64, 16, 14, 14), (32, 16, 3, 3), 1, 1),
        ((16, 16, 16, 16), (32, 16, 4, 4), 2, 1), ((16, 32, 8, 8), (64, 32, 4, 4), 2, 1),
        ((8, 16, 16, 16), (16, 16, 3, 3), 1, 1), ((16, 3, 32, 32), (64, 3, 4, 4), 4, 0),
    ):  # fmt: skip
        attrs = ConvAttrs((stride,) * 2, ((padding, padding),) * 2, one, one)
        yield Case("conv", functools.partial(conv, attrs=attrs),
                   functools.partial(f.conv2d, stride=stride, padding=padding),
                   (floats(*x), floats(*w)))  # fmt: skip
    for x, w in (((16, 64, 4, 4), (32, 64, 4, 4)), ((16, 16, 16, 16), (3, 16, 4, 4))):
        attrs = ConvAttrs(one, ((2, 2), (2, 2)), one, two)
        yield Case("conv, transposed", functools.partial(conv, attrs=attrs),
                   lambda x, w: f.conv_transpose2d(x, w.transpose(0, 1), stride=2, padding=1),
                   (floats(*x), floats(*w)))  # fmt: skip
    for x, w in (((16, 64, 14, 14), (32, 64, 14, 14)), ((16, 8, 16, 16), (16, 8, 16, 16))):
        attrs = ConvAttrs(one, ((1, 1), (1, 1)), one, one)
        yield Case("conv, by weight", functools.partial(conv, attrs=attrs),
                   by_weight(w[0], x[0]), (floats(*x), floats(*w)))  # fmt: skip
    windows = WindowAttrs(two, two, ((0, 0), (0, 0)), one, one)
    x = floats(64, 16, 28, 28)
    yield Case("max_pool", functools.partial(window_max, attrs=windows),
               lambda x: f.max_pool2d(x, 2), (x,))  # fmt: skip
    w, b = floats(16), floats(16)
    yield Case("batch_norm", normalization.batch_norm,
               lambda x, w, b: f.batch_norm(x, None, None, w, b, training=True),
               (x, w, b))  # fmt: skip


def by_weight(outputs: int, channels: int) -> Callable[..., Any]:
    """torch's derivative of a convolution with padding 1 by its weight; operands are turned as
    ours, with images and channels exchanged."""
    weight, flags = torch.empty(outputs, channels, 3, 3), [False, True, False]
    rest = ((1, 1), (1, 1), (1, 1), False, (0, 0), 1, flags)
    return lambda x, ct: torch.ops.aten.convolution_backward(
        ct.transpose(0, 1), x.transpose(0, 1), weight, None, *rest
    )[1]


def other_cases() -> Iterator[Case]:
    rng = np.random.default_rng(0)
    for rows, count, width in ((8, 4, 4), (520, 1560, 64), (1000, 4096, 1)):
        x, index = floats(rows, width), rng.integers(0, rows, count)
        updates = floats(count, width)
        yield Case("take", lambda x, i: take(x, i, dim=0), lambda x, i: x[i], (x, index))
        yield Case("scatter_add", scatter_add, lambda x, i, u: x.index_add(0, i[:, 0], u),
                   (x, index[:, None], updates))  # fmt: skip
    key = np.array([1, 2], np.uint32)
    for n in (16, 4096, 262144):
        yield Case(f"random bits, {n}", functools.partial(random_bits, shape=(n,)),
                   lambda key, n=n: torch.rand(n), (key,))  # fmt: skip


GROUPS = (
    elementwise_cases, movement_cases, reduction_cases, product_cases, image_cases, other_cases,
)  # fmt: skip


# ---- the command


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table."""
    table = Table(title="kernels without compiling, µs", title_justify="left")
    for column in ("op", "sizes"):
        table.add_column(column)
    for column in ("rung", "torch", "rung / torch", "limit"):
        table.add_column(column, justify="right")
    for row in rows:
        color = "green" if row.ratio <= row.limit else "red"
        cells = (f"{row.rung_us:.2f}", f"{row.torch_us:.2f}", f"[{color}]{row.ratio:.2f}[/]")
        table.add_row(row.name, row.sizes, *cells, f"{row.limit:g}")
    within = sum(r.ratio <= r.limit for r in rows)
    console.print(table)
    console.print(f"{within} of {len(rows)} within the limit")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.bench_eager", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--json", type=Path, help="write what was measured")
    given = parser.parse_args(argv)
    torch.set_num_threads(given.threads)
    torch.set_grad_enabled(False)
    cases = [c for group in GROUPS for c in group() if given.only in c.name]
    with np.errstate(all="ignore"), one_thread:
        rows = [measure(c, given.rounds) for c in cases]
    show(rows, Console())
    if given.json:
        content = [{**asdict(r), "ratio": r.ratio} for r in rows]
        given.json.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
