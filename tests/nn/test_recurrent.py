"""Recurrent layers against torch's, with every option."""

from __future__ import annotations

import numpy as np
import pytest

import rung
from rung import nn
from rung.core.errors import RungError, ShapeError

torch = pytest.importorskip("torch")
OPTIONS = [
    {},
    {"num_layers": 2, "bias": False},
    {"bidirectional": True, "num_layers": 2, "batch_first": True},
]


def pair(name: str, options: dict) -> tuple[nn.Module, torch.nn.Module]:
    torch.manual_seed(0)
    theirs = getattr(torch.nn, name)(5, 4, **options).double()
    ours = getattr(nn, name)(5, 4, dtype=rung.float64, **options)
    ours.load_state_dict({n: t.numpy().copy() for n, t in theirs.state_dict().items()})
    return ours, theirs


def flat(result) -> list:
    return [x for part in result for x in flat(part)] if isinstance(result, tuple) else [result]


def compare(name: str, options: dict, shape: tuple[int, ...]) -> None:
    ours, theirs = pair(name, options)
    x = np.random.default_rng(1).standard_normal(shape)
    mine, its = rung.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    found, want = flat(ours(mine)), flat(theirs(its))
    assert len(found) == len(want)
    for a, b in zip(found, want, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=1e-9, atol=1e-12)
    sum((a**2).sum() for a in found).backward()
    sum((b**2).sum() for b in want).backward()
    np.testing.assert_allclose(mine.grad.numpy(), its.grad.numpy(), rtol=1e-8, atol=1e-11)
    theirs_by_name = dict(theirs.named_parameters())
    for key, p in ours.named_parameters():
        np.testing.assert_allclose(
            p.grad.numpy(), theirs_by_name[key].grad.numpy(), rtol=1e-8, atol=1e-11
        )


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", ["RNN", "LSTM", "GRU"])
def test_layers(name, options):
    compare(name, options, (3, 2, 5))
    compare(name, options, (3, 5))


def test_projections_and_relu():
    compare("LSTM", {"proj_size": 2, "num_layers": 2, "bidirectional": True}, (3, 2, 5))
    compare("RNN", {"nonlinearity": "relu"}, (3, 2, 5))


def test_states_go_on():
    ours, _ = pair("LSTM", {})
    x = rung.asarray(np.random.default_rng(2).standard_normal((6, 2, 5)))
    whole, end = ours(x)
    first, state = ours(x[:4])
    second, last = ours(x[4:], state)
    np.testing.assert_allclose(rung.concat([first, second]).numpy(), whole.numpy(), rtol=1e-12)
    for a, b in zip(end, last, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-12)


def test_dropout_between_layers_only_while_training():
    layer = nn.GRU(5, 4, num_layers=2, dropout=0.5)
    x = rung.ones((3, 2, 5))
    same = [layer.eval()(x)[0].numpy() for _ in range(2)]
    np.testing.assert_array_equal(*same)
    different = [layer.train()(x)[0].numpy() for _ in range(2)]
    assert not np.array_equal(*different)


def test_errors():
    layer = nn.LSTM(5, 4)
    with pytest.raises(ShapeError, match=r"the input is \[3, 2, 6\]"):
        layer(rung.ones((3, 2, 6)))
    with pytest.raises(ShapeError, match=r"a state is \[1, 3, 4\], not \[1, 2, 4\]"):
        layer(rung.ones((3, 2, 5)), (rung.ones((1, 3, 4)), rung.ones((1, 2, 4))))
    with pytest.raises(RungError, match="1 states are given"):
        layer(rung.ones((3, 2, 5)), rung.ones((1, 2, 4)))
    with pytest.raises(RungError, match="nonlinearity='gelu'"):
        nn.RNN(5, 4, nonlinearity="gelu")
    with pytest.raises(RungError, match="num_layers=0"):
        nn.LSTM(5, 4, num_layers=0)
