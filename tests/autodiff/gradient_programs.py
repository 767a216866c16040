"""Functions for `rung.grad_source`."""

from __future__ import annotations

import math

import rung
from rung import exp as exponential
from rung.nn import functional as F

SCALE = 0.5
OFFSETS = (1.0, -2.0)


def perceptron(w1, b1, w2, x, y):
    """Two layers and the mean of the squared differences."""
    h = rung.tanh(x @ w1 + b1)
    error = h @ w2 - y
    return (error**2).mean()


def newton(a, n):
    """The square root by a loop of known length."""
    x = a
    for _ in range(n):
        x = 0.5 * (x + a / x)
    return x


def settle(x, rate):
    """A loop that ends when it has come to rest, with a jump out of it."""
    steps = 0
    while True:
        step = rate * rung.sin(x)
        x = x - step
        steps += 1
        if abs(step) < 1e-3 or steps > 40:
            break
    return x * x


def pieces(x, y):
    """Branches, one of which assigns to an argument."""
    if x > y:
        return x * x * y
    if x < 0:
        x = x + y
    return rung.sin(x) * y


def recurrent(h, wx, wh, xs):
    """A recurrent network over the rows of xs, all states kept in a list."""
    states = []
    for x in xs:
        h = rung.tanh(x @ wx + h @ wh)
        states.append(h)
    return (rung.stack(states) ** 2).sum()


def scaled(q, k, factor=SCALE):
    return factor * (q @ k.mT)


def attention(q, k, v, causal=True):
    """A helper of the same module, a mask, and softmax."""
    scores = scaled(q, k)
    if causal:
        keep = rung.tril(rung.ones_like(scores))
        scores = rung.where(keep > 0, scores, -1e9)
    weights = rung.softmax(scores)
    out = weights @ v
    return (out * out).sum() / out.shape[0]


def power_iteration(matrix, v, n):
    value = 0.0
    for _ in range(n):
        w = matrix @ v
        value = w.norm()
        v = w / value
    return value


def swaps(a, b):
    for i in range(3):
        a, b = b * (i + 1), a + b
    return a * b


def nested(x, y):
    total = 0.0 * y
    for i in range(3):
        for j in range(i + 1):
            if (i + j) % 2 == 0:
                x = x * y + j
            else:
                total += x * x * i
        y = y * 0.5 + x
        count = i
    return total * y + count


def continues(xs, limit):
    total = 0.0 * xs[0]
    for i, x in enumerate(xs):
        if x < 0:
            continue
        if total > limit:
            break
        scale = x if i % 2 == 0 else 2.0 * x
        total = total + scale * x
    else:
        total = total * 3.0
    return total


def early_return(x, n):
    y = x
    for i in range(n):
        y = y * x
        if y > 10:
            return y * i
        if y < -10:
            return x - 1.0
    return y + n


def triangular(x, w):
    """While within for, and a variable that is only set inside."""
    for i in range(3):
        k = 0
        while k <= i:
            z = rung.exp(-x * w[k])
            x = x + z * k
            k += 1
    return (x * z).sum()


def updates(x, y):
    table = rung.zeros((4,), dtype=x.dtype)
    for i in range(4):
        table[i] = x[i] * y
        table[i] += y
    table[1:3] = table[1:3] * table[0:2]
    return (table * table).sum()


def items(params, x):
    layers = params["layers"]
    for w, b in layers:
        x = rung.relu(x @ w + b)
    a, b = x[0], x[1]
    return (a * b).sum() + params["bias"].sum()


def zipped(xs, ys):
    total = 0.0
    for x, y in zip(xs, ys):  # noqa: B905
        total = total + x * y * y
    return total


def outer_names(x):
    a, b = OFFSETS
    return exponential(x * SCALE + a) * b + math.pi * x


def inner_loop(x, n):
    for _ in range(n):
        if x > 2:
            return x / 2
        x = x * 1.7
    return x


def calls(x, y):
    return inner_loop(x, 3) * inner_loop(y * 2, n=2)


def reductions(x):
    a = x.mean(axis=0).max() + x.max(axis=1, keepdims=True).sum() + rung.min(x)
    b = rung.logsumexp(x, axis=1).sum() + x.var(axis=0).sum()
    c = rung.log_softmax(x, axis=0)[0].sum() + rung.norm(x) + rung.cumulative_sum(x, axis=1).min()
    return a + b * c + rung.std(x, dim=1, correction=1).sum()


def shapes(x):
    a = x.reshape(2, 6).T.flatten()[3:9].reshape((2, 3))
    b = rung.concat([a, x[:2, :3] * 2], axis=1).permute(1, 0)
    c = rung.stack([b, b * b]).swapaxes(0, 1).unsqueeze(0).squeeze(0)
    d = rung.broadcast_to(x.sum(axis=0), (2, 4)) * rung.flip(x[:2], axis=1)
    parts = rung.split(x, [1, 2], axis=0)
    first, second = x[0], x[1]
    return (c * c).sum() + (d * d).sum() + (parts[0] * parts[1][0]).sum() + (first * second).sum()


def pairs(a, b):
    c = rung.maximum(a, b) * rung.minimum(a, b * 2) + rung.where(a > b, a * b, a / b)
    d = rung.hypot(a, b) + rung.atan2(a, b) + rung.logaddexp(a, b) + b**a + a % b + a**3 - a**-1
    return (c * d + rung.clip(a, 0.2, 0.9) + abs(a - b) - a // b + rung.outer(a[0], b).sum()).sum()


def layers(x, w, b):
    h = F.gelu(F.linear(x, w, b)) + F.silu(x) * F.sigmoid(x) + F.softplus(x)
    vectors = (w[0] @ w @ w[1]) * (w @ b).sum()
    return F.mse_loss(h, F.leaky_relu(x)) + F.logsigmoid(x).sum() + vectors


def takes(x, index):
    return (x[index] * x[index]).sum() + x[0, 1] * x[-1, -1]


def names(d, y, tape):
    """Names that the text uses itself."""
    v0 = d * y
    seed = v0 * tape
    for d_y in range(2):
        seed = seed * y + d_y
    return seed


def unused(x, y):
    return x * 2


def of_floats(x):
    return math.sin(x) * math.sqrt(x) + math.atan2(x, 2.0) - abs(-x)
