"""rung.functional against PyTorch: values and gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung import functional as f
from rung.core.errors import RungError, ShapeError
from rung.core.settings import configure
from rung.tensor.pools import avg_pool2d

torch = pytest.importorskip("torch")
tf = torch.nn.functional
RNG = np.random.default_rng(1)


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    yield
    configure(interpret=False)


def normal(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype(np.float32)


X, W, B = normal(2, 5, 6), normal(7, 6), normal(7)
IMAGE, KERNEL = normal(2, 4, 7, 6), normal(6, 2, 3, 3)
Q, K, V = normal(2, 4, 5, 8), normal(2, 4, 6, 8), normal(2, 4, 6, 3)
LABELS = np.array([[0, 3, -100], [1, 2, 4]])

Case = tuple[Callable[..., Any], Callable[..., Any], list[Any]]
CASES: dict[str, Case] = {
    "relu": (f.relu, tf.relu, [X]),
    "leaky_relu": (lambda x: f.leaky_relu(x, 0.1), lambda x: tf.leaky_relu(x, 0.1), [X]),
    "elu": (f.elu, tf.elu, [X]),
    "sigmoid": (f.sigmoid, torch.sigmoid, [X]),
    "logsigmoid": (f.logsigmoid, tf.logsigmoid, [X]),
    "softplus": (f.softplus, tf.softplus, [X]),
    "silu": (f.silu, tf.silu, [X]),
    "mish": (f.mish, tf.mish, [X]),
    "gelu": (f.gelu, tf.gelu, [X]),
    "gelu_tanh": (
        lambda x: f.gelu(x, approximate="tanh"), lambda x: tf.gelu(x, approximate="tanh"), [X],
    ),
    "hardswish": (f.hardswish, tf.hardswish, [X]),
    "glu": (f.glu, tf.glu, [X]),
    "softmax": (lambda x: f.softmax(x, dim=1), lambda x: tf.softmax(x, dim=1), [X]),
    "log_softmax": (lambda x: f.log_softmax(x, 2), lambda x: tf.log_softmax(x, 2), [X]),
    "linear": (f.linear, tf.linear, [X, W, B]),
    "layer_norm": (
        lambda x, w, b: f.layer_norm(x, 6, w, b),
        lambda x, w, b: tf.layer_norm(x, (6,), w, b),
        [X, normal(6), normal(6)],
    ),
    "layer_norm_2d": (
        lambda x: f.layer_norm(x, (5, 6)), lambda x: tf.layer_norm(x, (5, 6)), [X]
    ),
    "rms_norm": (
        lambda x, w: f.rms_norm(x, 6, w, 1e-6), lambda x, w: tf.rms_norm(x, (6,), w, 1e-6),
        [X, normal(6)],
    ),
    "group_norm": (
        lambda x, w, b: f.group_norm(x, 2, w, b), lambda x, w, b: tf.group_norm(x, 2, w, b),
        [IMAGE, normal(4), normal(4)],
    ),
    "batch_norm": (
        lambda x, w, b: f.batch_norm(x, None, None, w, b, training=True),
        lambda x, w, b: tf.batch_norm(x, None, None, w, b, training=True),
        [IMAGE, normal(4), normal(4)],
    ),
    "normalize": (lambda x: f.normalize(x), lambda x: tf.normalize(x, dim=1), [X]),
    "attention": (f.attention, tf.scaled_dot_product_attention, [Q, K, V]),
    "attention_causal": (
        lambda q, k, v: f.scaled_dot_product_attention(q, k, v, is_causal=True),
        lambda q, k, v: tf.scaled_dot_product_attention(q, k, v, is_causal=True),
        [Q, K[:, :, :5], V[:, :, :5]],
    ),
    "conv2d": (
        lambda x, w: f.conv2d(x, w, None, 2, 1, 1, 2),
        lambda x, w: tf.conv2d(x, w, None, 2, 1, 1, 2),
        [IMAGE, KERNEL],
    ),
    "conv1d": (
        lambda x, w, b: f.conv1d(x, w, b, padding="same"),
        lambda x, w, b: tf.conv1d(x, w, b, padding="same"),
        [normal(2, 4, 9), normal(3, 4, 3), normal(3)],
    ),
    "conv_transpose2d": (
        lambda x, w: f.conv_transpose2d(x, w, None, 2, 1, 1),
        lambda x, w: tf.conv_transpose2d(x, w, None, 2, 1, 1),
        [IMAGE, normal(4, 3, 3, 3)],
    ),
    "max_pool2d": (
        lambda x: f.max_pool2d(x, 3, 2, 1), lambda x: tf.max_pool2d(x, 3, 2, 1), [IMAGE]
    ),
    "avg_pool2d": (
        lambda x: avg_pool2d(x, 2, padding=1), lambda x: tf.avg_pool2d(x, 2, padding=1), [IMAGE]
    ),
    "mse_loss": (f.mse_loss, tf.mse_loss, [X, X[::-1].copy()]),
    "l1_loss": (f.l1_loss, tf.l1_loss, [X, X[::-1].copy()]),
    "huber_loss": (f.huber_loss, tf.huber_loss, [X, X[::-1].copy()]),
    "bce": (
        f.binary_cross_entropy_with_logits, tf.binary_cross_entropy_with_logits,
        [X, (normal(2, 5, 6) > 0).astype(np.float32)],
    ),
    "cross_entropy": (
        lambda x: f.cross_entropy(x, LABELS, label_smoothing=0.1),
        lambda x: tf.cross_entropy(x, torch.tensor(LABELS), label_smoothing=0.1),
        [normal(2, 5, 3)],
    ),
    "cross_entropy_weights": (
        lambda x, w: f.cross_entropy(x, LABELS, w, reduction="sum"),
        lambda x, w: tf.cross_entropy(x, torch.tensor(LABELS), w.detach(), reduction="sum"),
        [normal(2, 5, 3), abs(normal(5))],
    ),
    "nll_loss": (
        lambda x: f.nll_loss(x, LABELS[1]), lambda x: tf.nll_loss(x, torch.tensor(LABELS[1])),
        [normal(3, 5)],
    ),
    "embedding": (
        lambda w: f.embedding(np.array([[0, 3], [6, 0]]), w),
        lambda w: tf.embedding(torch.tensor([[0, 3], [6, 0]]), w),
        [W],
    ),
}  # fmt: skip
NO_SECOND = {"bce", "cross_entropy_weights"}


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    ours, theirs, arrays = CASES[name]
    xs = [rung.tensor(a, requires_grad=True) for a in arrays]
    ts = [torch.tensor(a, requires_grad=True) for a in arrays]
    y, z = ours(*xs), theirs(*ts)
    np.testing.assert_allclose(y.numpy(), z.detach().numpy(), 1e-5, 1e-5)
    seed = normal(*y.shape)
    y.backward(rung.tensor(seed))
    z.backward(torch.tensor(seed))
    for i, (x, t) in enumerate(zip(xs, ts, strict=True)):
        if not (name in NO_SECOND and i == 1):
            np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), 2e-4, 2e-5)


def test_running_statistics() -> None:
    mean, var = rung.zeros(4), rung.ones(4)
    m, v = torch.zeros(4), torch.ones(4)
    for _ in range(2):
        f.batch_norm(IMAGE, mean, var, training=True)
        tf.batch_norm(torch.tensor(IMAGE), m, v, training=True)
    np.testing.assert_allclose(mean.numpy(), m.numpy(), 1e-5, 1e-6)
    np.testing.assert_allclose(var.numpy(), v.numpy(), 1e-5)
    y = f.batch_norm(IMAGE, mean, var)
    z = tf.batch_norm(torch.tensor(IMAGE), m, v)
    np.testing.assert_allclose(y.numpy(), z.numpy(), 1e-4, 1e-5)


def test_dropout() -> None:
    rung.manual_seed(0)
    x = rung.ones(1000)
    y = f.dropout(x, 0.25).numpy()
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert 0.68 < (y > 0).mean() < 0.82
    assert f.dropout(x, 0.25, training=False) is x
    assert f.dropout(x, 0.25).numpy().tolist() != y.tolist()


def test_errors() -> None:
    with pytest.raises(ShapeError, match="linear"):
        f.linear(X, normal(7, 5))
    with pytest.raises(ShapeError, match="normalized_shape"):
        f.layer_norm(X, 5)
    with pytest.raises(RungError, match="probability"):
        f.dropout(X, 2)
    with pytest.raises(RungError, match="reduction"):
        f.mse_loss(X, X, "average")
    with pytest.raises(ShapeError, match="conv2d"):
        f.conv2d(normal(3), KERNEL)
