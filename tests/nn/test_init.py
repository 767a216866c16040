"""Initial values: distributions, seeds, defaults of the layers."""

from __future__ import annotations

import math

import numpy as np
import pytest

import rung
from rung import nn
from rung.core.errors import RungError, ShapeError
from rung.nn import init


def test_the_seed_decides() -> None:
    rung.manual_seed(3)
    first = nn.Linear(4, 4).state_dict()
    second = nn.Linear(4, 4).state_dict()
    rung.manual_seed(3)
    again = nn.Linear(4, 4).state_dict()
    np.testing.assert_array_equal(first["weight"], again["weight"])
    assert not np.array_equal(first["weight"], second["weight"])
    assert not np.array_equal(first["weight"].reshape(-1)[:4], first["bias"])


def test_an_own_generator() -> None:
    a = init.normal_(rung.zeros(100), generator=rung.Generator(5))
    b = init.normal_(rung.zeros(100), generator=rung.Generator(5))
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("name", "options", "std"),
    [
        ("normal_", {"std": 0.5}, 0.5),
        ("uniform_", {"low": -3.0, "high": 3.0}, 3 / math.sqrt(3)),
        ("kaiming_normal_", {"nonlinearity": "relu"}, math.sqrt(2 / 200)),
        ("kaiming_uniform_", {"nonlinearity": "relu", "mode": "fan_out"}, math.sqrt(2 / 400)),
        ("xavier_normal_", {}, math.sqrt(2 / 600)),
        ("xavier_uniform_", {"gain": 2.0}, 2 * math.sqrt(2 / 600)),
    ],
)
def test_spread(name: str, options: dict[str, object], std: float) -> None:
    rung.manual_seed(0)
    x = np.asarray(getattr(init, name)(rung.zeros((400, 200)), **options))
    assert abs(x.std() / std - 1) < 0.02
    assert abs(x.mean()) < 0.02 * std
    if "uniform" in name:
        assert np.abs(x).max() <= std * math.sqrt(3) * 1.0001


def test_trunc_normal() -> None:
    rung.manual_seed(0)
    x = np.asarray(init.trunc_normal_(rung.zeros(50000), std=2.0, low=-2, high=1))
    assert x.min() >= -2
    assert x.max() <= 1
    # the mean of a normal distribution cut off at -1 and 1/2 deviations
    density = [math.exp(-z * z / 2) / math.sqrt(2 * math.pi) for z in (-1, 0.5)]
    mass = 0.5 * (math.erf(0.5 / math.sqrt(2)) + math.erf(1 / math.sqrt(2)))
    assert abs(x.mean() - 2 * (density[0] - density[1]) / mass) < 0.02
    with pytest.raises(RungError, match="holds"):
        init.trunc_normal_(rung.zeros(5), low=9, high=10)


@pytest.mark.parametrize("shape", [(8, 8), (4, 9), (9, 2, 2)])
def test_orthogonal(shape: tuple[int, ...]) -> None:
    x = np.asarray(init.orthogonal_(rung.zeros(shape), gain=2.0)).reshape(shape[0], -1)
    gram = x @ x.T if x.shape[0] <= x.shape[1] else x.T @ x
    np.testing.assert_allclose(gram, 4 * np.eye(len(gram)), atol=1e-5)


def test_constants() -> None:
    assert np.asarray(init.constant_(rung.zeros((2, 2)), 3)).tolist() == [[3, 3], [3, 3]]
    assert np.asarray(init.eye_(rung.zeros((2, 3)))).tolist() == [[1, 0, 0], [0, 1, 0]]
    assert np.asarray(init.zeros_(rung.ones(2))).tolist() == [0, 0]
    assert np.asarray(init.ones_(rung.zeros(2))).tolist() == [1, 1]
    with pytest.raises(ShapeError, match="no matrix"):
        init.eye_(rung.zeros(3))


def test_layers_have_the_defaults_of_pytorch() -> None:
    rung.manual_seed(0)
    layer = nn.Linear(400, 300)
    bound = 1 / math.sqrt(400)
    for x in (np.asarray(layer.weight), np.asarray(layer.bias)):
        assert bound * 0.98 < np.abs(x).max() <= bound
    conv = np.asarray(nn.Conv2d(16, 64, 5).weight)
    assert 0.05 * 0.98 < np.abs(conv).max() <= 1 / math.sqrt(16 * 25)
    assert abs(np.asarray(nn.Embedding(100, 100).weight).std() - 1) < 0.02
    norm = nn.BatchNorm2d(3)
    assert np.asarray(norm.weight).tolist() == [1, 1, 1]
    assert np.asarray(norm.running_var).tolist() == [1, 1, 1]


def test_gains_and_fans() -> None:
    assert init.calculate_fan(rung.zeros((4, 3, 5, 5))) == (75, 100)
    assert init.calculate_gain("leaky_relu", math.sqrt(5)) == pytest.approx(1 / math.sqrt(3))
    with pytest.raises(ShapeError, match="at least two dims"):
        init.kaiming_normal_(rung.zeros(3))
    with pytest.raises(RungError, match="nonlinearity 'swish'"):
        init.calculate_gain("swish")
    with pytest.raises(RungError, match="mode='fan'"):
        init.kaiming_normal_(rung.zeros((2, 2)), mode="fan")
