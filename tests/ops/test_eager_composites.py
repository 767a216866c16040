"""Composites that have kernels of their own: against their bodies in f64, and against their bodies
where values are not finite."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
from op_cases import type_of

import rung
from rung.core import dtype as dt
from rung.ir.interpret import evaluate
from rung.ir.node import Node, Value, parameter
from rung.ir.op import Array
from rung.ops import activation, attention, linear, loss, norm, normalization, softmax
from rung.ops.composite import composite
from rung.ops.elementwise import negative
from rung.optim.adam import adam
from rung.optim.sgd import sgd
from rung.runtime.eager import graph_plan
from rung.tensor.state import graph_value
from tests.ops.test_eager import LAYOUTS

Function = Callable[..., Value | tuple[Value, ...]]


@dataclass(frozen=True)
class Call:
    """A composite on arrays. `ulp`: how far off f32 results may be, in units in the last place of
    the value, or of `below` if that is larger."""

    function: Function
    operands: tuple[Array | None, ...]
    ulp: float = 2.0
    below: float = 0.0

    def __repr__(self) -> str:
        function, keywords = self.function, {}
        if isinstance(function, partial):
            function, keywords = function.func, function.keywords
        shapes = ", ".join("-" if a is None else repr(type_of(a)) for a in self.operands)
        return f"{function.__name__}({shapes}; {keywords})"

    @property
    def arrays(self) -> list[Array]:
        return [a for a in self.operands if a is not None]

    def node(self, arrays: Sequence[Array]) -> Node:
        """The node for operands like `arrays`."""
        given = iter(parameter(i, f"x{i}", type_of(a)) for i, a in enumerate(arrays))
        result = self.function(*(None if a is None else next(given) for a in self.operands))
        return (result if isinstance(result, Value) else result[0]).node


def kernel_of(node: Node) -> Callable[..., Array | tuple[Array, ...]] | None:
    assert node.op.eager is not None, node.op
    return node.op.eager(node.attrs, [v.type for v in node.inputs], list(node.types))


def results(node: Node, made: Array | tuple[Array, ...]) -> tuple[Array, ...]:
    """What a kernel gives: an array for one result, a tuple for several."""
    assert isinstance(made, tuple) == (len(node.types) > 1), f"{node.op}: {type(made)}"
    return made if isinstance(made, tuple) else (made,)


SOFTMAX_SHAPES: tuple[tuple[tuple[int, ...], int], ...] = (
    ((9,), 0), ((5, 7), 1), ((5, 7), 0), ((3, 1000, 5), 1), ((70, 2, 500), 2),
)  # fmt: skip
ATTENTION_SIZES = (
    (2, 4, 4, 7, 9, 8, 6), (1, 4, 2, 5, 5, 8, 8), (3, 2, 1, 1, 6, 4, 4), (1, 2, 2, 9, 4, 3, 5),
)  # fmt: skip
"""batch, heads, heads of k, queries, keys, features of k, of v"""


def calls() -> Iterator[Call]:
    rng = np.random.default_rng(0)

    def f(*shape: int) -> Array:
        return rng.standard_normal(shape)

    for name in ("relu", "leaky_relu", "sigmoid", "silu", "gelu"):
        function = getattr(activation, name)
        for shape in ((), (7,), (3, 50), (5, 4, 3000)):
            yield Call(function, (4 * f(*shape),), 2.5, 1.0 if name == "gelu" else 0.0)
    for name in ("softmax", "log_softmax", "logsumexp", "masked_softmax"):
        function = getattr(softmax, name)
        for shape, dim in SOFTMAX_SHAPES:
            below = 0.1 if name in ("log_softmax", "logsumexp") else 0.0
            yield Call(partial(function, dim=dim), (3 * f(*shape),), 2.0, below)
    for shape in ((4, 6), (3, 5, 64), (2, 3, 1000)):
        w, b = f(shape[-1]), f(shape[-1])
        for given in ((w, b), (None, None), (w, None), (None, b)):
            yield Call(normalization.layer_norm, (2 + f(*shape), *given), 12.0, 1.0)
        for given in ((w,), (None,)):
            yield Call(normalization.rms_norm, (f(*shape), *given), 6.0)
    yield Call(partial(normalization.layer_norm, num_dims=2), (f(3, 5, 8), f(5, 8), f(5, 8)), 12, 1)
    yield Call(partial(normalization.rms_norm, num_dims=2), (f(3, 5, 8), f(5, 8)), 6.0)
    for dims in ((1,), (0, 2), (0, 1, 2)):
        yield Call(partial(norm.normalized, dims=dims, eps=1e-5), (f(3, 40, 5),), 6.0)
        yield Call(partial(norm.inverse_root, dims=dims, eps=1e-5), (f(3, 40, 5),), 6.0)
    for shape in ((8, 4), (8, 4, 9), (5, 4, 6, 7)):
        for given in ((f(4), f(4)), (None, None), (f(4), None), (None, f(4))):
            yield Call(normalization.batch_norm, (f(*shape), *given), 12.0, 1.0)
            moments = f(4), f(4) ** 2 + 0.1
            yield Call(
                normalization.batch_norm_inference, (f(*shape), *moments, *given), 12.0, 4.0
            )
            group = partial(normalization.group_norm, num_groups=2)
            yield Call(group, (f(*shape), *given), 12.0, 1.0)
    for shape in ((6,), (5, 6), (2, 3, 6)):
        for bias in (f(4), None):
            yield Call(linear.linear, (f(*shape), f(4, 6), bias), 4.0, 4.0)
    yield Call(linear.embedding, (f(7, 5), rng.integers(0, 7, (3, 4))), 0.5)
    yield from losses(rng)
    yield from attentions(rng)


def losses(rng: np.random.Generator) -> Iterator[Call]:
    for shape in ((5,), (9, 5), (300, 70), (4, 5, 6)):
        classes = shape[0] if len(shape) == 1 else shape[1]
        places = shape[1:] if len(shape) == 1 else (shape[0], *shape[2:])
        targets = rng.integers(-1, classes + 1, places)
        targets[rng.random(places) < 0.2] = -100
        for reduction in ("mean", "sum", "none"):
            function = partial(loss.cross_entropy, reduction=reduction)
            yield Call(function, (rng.standard_normal(shape), targets), 3.0, 0.1)
    nothing = np.full(3, -100), rng.standard_normal((3, 5))
    yield Call(loss.cross_entropy, nothing[::-1])


def attentions(rng: np.random.Generator) -> Iterator[Call]:
    def f(*shape: int) -> Array:
        return rng.standard_normal(shape)

    for batch, heads, kv, num_q, num_k, depth, width in ATTENTION_SIZES:
        qkv = f(batch, heads, num_q, depth), f(batch, kv, num_k, depth), f(batch, kv, num_k, width)
        full = (batch, heads, num_q, num_k)
        for causal in (False, True):
            function = partial(attention.attention, causal=causal)
            for mask in (None, rng.random(full) < 0.6, f(*full[2:])):
                yield Call(function, (*qkv, mask), 8.0, 1.0)
    yield Call(partial(attention.attention, scale=0.3), (f(2, 3, 4), f(2, 5, 4), f(2, 5, 4)), 8, 1)


CALLS = list(calls())


@pytest.mark.parametrize("call", CALLS, ids=repr)
def test_kernels_of_composites(call: Call):
    """f32 near the body in f64, f64 nearer, for all layouts of operands."""
    for dtype in (np.float32, np.float64):
        arrays = [a.astype(dtype) if a.dtype.kind == "f" else a for a in call.arrays]
        rounded = [a.astype(np.float64) if a.dtype.kind == "f" else a for a in arrays]
        exact = evaluate_quietly(call.node(rounded), rounded)
        node = call.node(arrays)
        kernel = kernel_of(node)
        if kernel is None and dtype is np.float64:
            continue
        assert kernel is not None, f"{call}: has no kernel"
        for layout in LAYOUTS[:-1]:
            given = [layout(a) for a in arrays]
            for a in given:
                a.flags.writeable = False
            with np.errstate(all="ignore"):
                made = results(node, kernel(*given))
            assert [type_of(a) for a in made] == list(node.types), call
            assert all(isinstance(a, np.ndarray) for a in made), call
            for ours, truth in zip(made, exact, strict=True):
                check_near(call, ours, truth)


def evaluate_quietly(node: Node, arrays: Sequence[Array]) -> tuple[Array, ...]:
    with np.errstate(all="ignore"):
        return evaluate(node, arrays)


def check_near(call: Call, ours: Array, truth: Array) -> None:
    eps = np.finfo(ours.dtype).eps
    size = np.maximum(np.abs(truth), max(call.below, 1e-37))
    slack = 1.0 if ours.dtype == np.float32 else 8.0
    error = np.abs(ours - truth) / (size * eps)
    fine = (error <= slack * call.ulp) | (np.isnan(ours) & np.isnan(truth)) | (ours == truth)
    assert fine.all(), f"{call} {ours.dtype}: off by {np.nanmax(error):.2f} ulp"


EXTREME = (np.inf, -np.inf, np.nan, 1e30, -1e30, 1e-30, 3e38, 0.0)


def extreme_calls() -> Iterator[Call]:
    """Rows with huge elements, infinities and NaN."""
    rng = np.random.default_rng(1)
    for value in EXTREME:
        x = rng.standard_normal((6, 8)).astype(np.float32)
        x[1, 3], x[4] = value, value
        x[5, 0] = -value
        for function in (activation.relu, activation.leaky_relu, activation.sigmoid,
                         activation.silu, activation.gelu):  # fmt: skip
            yield Call(function, (x,), 4.0, 1.0)
        for name in ("softmax", "log_softmax", "logsumexp", "masked_softmax"):
            yield Call(partial(getattr(softmax, name), dim=1), (x,), 4.0, 0.1)
        yield Call(normalization.layer_norm, (x, None, None), 16.0, 1.0)
        yield Call(normalization.rms_norm, (x, None), 16.0, 1.0)
        yield Call(partial(normalization.group_norm, num_groups=2), (x, None, None), 16.0, 1.0)
        yield Call(partial(norm.inverse_root, dims=(1,), eps=1e-5), (x,), 16.0)
        yield Call(normalization.batch_norm, (x.T.copy(), None, None), 16.0, 1.0)
        targets = rng.integers(0, 8, 6)
        yield Call(partial(loss.cross_entropy, reduction="none"), (x, targets), 4.0, 0.1)
        q = rng.standard_normal((1, 6, 8)).astype(np.float32)
        for causal in (False, True):
            function = partial(attention.attention, causal=causal)
            yield Call(function, (q, x[None], q, None), 16.0, 1.0)
            yield Call(function, (q, q, x[None], None), 16.0, 1.0)


@pytest.mark.parametrize("call", list(extreme_calls()), ids=repr)
def test_extreme_values(call: Call):
    """What is not finite is what the body gives; the rest is near."""
    node = call.node(call.arrays)
    kernel = kernel_of(node)
    assert kernel is not None
    with np.errstate(all="ignore"):
        made = results(node, kernel(*call.arrays))
    for ours, theirs in zip(made, evaluate_quietly(node, call.arrays), strict=True):
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs), repr(call))
        finite = np.isfinite(theirs)
        np.testing.assert_array_equal(ours[~finite], theirs[~finite], repr(call))
        eps, size = np.finfo(np.float32).eps, np.maximum(np.abs(theirs[finite]), call.below)
        error = np.abs(ours[finite].astype(np.float64) - theirs[finite])
        assert (error <= (call.ulp + 4) * eps * size + 1e-37).all(), call


def test_a_user_function_of_the_same_name_has_no_kernel():
    """A kernel belongs to a body, not to a name."""
    @composite
    def relu(x: Value) -> Value:
        return negative(x)

    x = parameter(0, "x", type_of(np.ones(3, np.float32)))
    assert kernel_of(relu(x).node) is None
    assert kernel_of(activation.relu(x).node) is not None


def test_16_bit_floats_have_none():
    x = parameter(0, "x", type_of(np.ones((3, 4), dt.bfloat16.numpy)))
    for function in (activation.relu, activation.silu, softmax.softmax, normalization.rms_norm):
        assert kernel_of(function(x).node) is None


# ---- optimizers


@pytest.mark.parametrize("shape", [(5,), (40, 70)])
@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1, "maximize": True}])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_adam_gives_the_bits_of_its_body(shape: tuple[int, ...], options: dict[str, float], dtype):
    for beta1 in (0.9, 0.3):
        given = {"eps": 1e-8, "weight_decay": 0.0, "amsgrad": False, "maximize": False} | options
        given |= {"beta1": beta1, "beta2": 0.999, "decoupled": False}
        check_bits(adam, (shape,) * 4 + ((), ()), given, dtype, ("f64", "f64"))


@pytest.mark.parametrize("shape", [(5,), (40, 70)])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_gives_the_bits_of_its_body(shape: tuple[int, ...], momentum: float, nesterov: bool):
    buffers = (shape,) if momentum else ()
    given = {"momentum": momentum, "dampening": 0.0, "weight_decay": 0.1, "maximize": False}
    given["nesterov"] = nesterov
    check_bits(sgd, (shape, (), (), shape, *buffers), given, "f32", ("f64", "i64"), scalars=(1, 2))


def check_bits(function, shapes, static, dtype, scalar_dtypes, scalars=None):
    """The kernel of a composite of tensors, against its body."""
    places = scalars or (len(shapes) - 2, len(shapes) - 1)
    kinds = [dtype] * len(shapes)
    for at, kind in zip(places, scalar_dtypes, strict=True):
        kinds[at] = kind
    rng = np.random.default_rng(0)
    arrays = [
        np.asarray(np.abs(rng.standard_normal(s)) + 0.1).astype(dt.as_dtype(k).numpy)
        for s, k in zip(shapes, kinds, strict=True)
    ]
    node = graph_value(function(*map(rung.asarray, arrays), **static)[0]).node
    kernel = kernel_of(node)
    assert kernel is not None
    before = [a.copy() for a in arrays]
    with np.errstate(all="ignore"):
        made = results(node, kernel(*arrays))
        body, scalars = graph_plan(node.attrs.body)
        values = body.run(arrays, scalars)
        wanted = [values[n] for n in body.outputs]
    for ours, theirs in zip(made, wanted, strict=True):
        assert ours.tobytes() == theirs.tobytes()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, before, strict=True))
