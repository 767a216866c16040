"""`ctc_loss` against the sum over all alignments, written out."""

from __future__ import annotations

from itertools import groupby, product

import numpy as np
import pytest

import rung
from rung.core.errors import DTypeError, ShapeError
from rung.nn import functional as f

RNG = np.random.default_rng(0)


def by_enumeration(logs, target, blank):
    """-log of the sum over all sequences of classes that read as the target."""
    total = 0.0
    for path in product(range(logs.shape[1]), repeat=logs.shape[0]):
        if [k for k, _ in groupby(path) if k != blank] == list(target):
            total += np.exp(sum(logs[t, k] for t, k in enumerate(path)))
    return -np.log(total) if total else np.inf


def drawn(times, batch, classes):
    return f.log_softmax(rung.asarray(RNG.standard_normal((times, batch, classes))))


@pytest.mark.parametrize("blank", [0, 2])
def test_the_sum_over_alignments(blank):
    labels = [k for k in range(3) if k != blank]
    targets = np.array([[labels[0], labels[1]], [labels[1], labels[1]], [labels[0], 0]])
    times, sizes = [5, 4, 3], [2, 2, 1]
    logs = drawn(5, 3, 3)
    found = f.ctc_loss(logs, targets, times, sizes, blank, reduction="none").numpy()
    wanted = [
        by_enumeration(logs.numpy()[: times[i], i], targets[i, : sizes[i]], blank)
        for i in range(3)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-10)
    flat = np.concatenate([targets[i, : sizes[i]] for i in range(3)])
    for lengths in (sizes, rung.asarray(sizes)):
        again = f.ctc_loss(logs, flat, times, lengths, blank, reduction="none").numpy()
        np.testing.assert_allclose(again, wanted, rtol=1e-10)
    mean = f.ctc_loss(logs, targets, times, sizes, blank).item()
    np.testing.assert_allclose(mean, np.mean(np.array(wanted) / sizes), rtol=1e-10)
    one = f.ctc_loss(logs[:, 0], targets[0], 5, 2, blank, reduction="sum").item()
    np.testing.assert_allclose(one, wanted[0], rtol=1e-10)


def test_what_cannot_be_aligned():
    logs = drawn(2, 1, 3)
    assert f.ctc_loss(logs, [[1, 1]], [2], [2], reduction="sum").item() == np.inf
    assert f.ctc_loss(logs, [[1, 1]], [2], [2], reduction="sum", zero_infinity=True).item() == 0
    empty = f.ctc_loss(logs, np.zeros((1, 0), np.int64), [2], [0], reduction="sum").item()
    np.testing.assert_allclose(empty, -logs.numpy()[:, 0, 0].sum())


def test_gradient_under_jit_is_that_of_differences():
    x = RNG.standard_normal((4, 2, 3))
    loss = lambda x: f.ctc_loss(f.log_softmax(x), [[1, 2], [2, 2]], [4, 3], [2, 2])  # noqa: E731
    found = rung.jit(rung.grad(loss))(rung.asarray(x)).numpy()
    for at in [(0, 0, 1), (2, 1, 2), (3, 1, 0)]:
        step = np.zeros_like(x)
        step[at] = 1e-6
        up, down = (loss(rung.asarray(x + s * step)).item() for s in (1, -1))
        np.testing.assert_allclose(found[at], (up - down) / 2e-6, rtol=1e-6, atol=1e-9)


def test_errors():
    logs = drawn(4, 2, 3)
    with pytest.raises(ShapeError, match="2 sequences with targets"):
        f.ctc_loss(logs, [[1, 2]], [4, 4], [2, 2])
    with pytest.raises(ShapeError, match="blank 3 of 3 classes"):
        f.ctc_loss(logs, [[1], [2]], [4, 4], [1, 1], blank=3)
    with pytest.raises(DTypeError, match="targets f64"):
        f.ctc_loss(logs, np.ones((2, 1)), [4, 4], [1, 1])
    with pytest.raises(ShapeError, match=r"log_probs are \[0, 2, 3\]"):
        f.ctc_loss(logs[:0], [[1], [2]], [0, 0], [1, 1])
