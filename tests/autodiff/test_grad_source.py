"""`rung.grad_source`: text that runs, and agrees with every other way to a derivative."""

from __future__ import annotations

import re

import numpy as np
import pytest

import rung
from rung import tree
from rung.autodiff import dual
from rung.autodiff.formulas import FORMULAS
from rung.core.errors import GradientError, SourceError
from tests.autodiff import gradient_programs as p

RNG = np.random.default_rng(3)


def random(*shape):
    return rung.asarray(RNG.standard_normal(shape))


def positive(*shape):
    return rung.asarray(RNG.uniform(0.3, 1.7, shape))


def number(x):
    return rung.asarray(x, dtype=rung.float64)


LAYERS = {"layers": [(random(3, 3), random(3)), (random(3, 2), random(2))], "bias": random(2)}
PROGRAMS = [
    (p.perceptron, (random(3, 4), random(4), random(4, 2), random(5, 3), random(5, 2)), 5),
    (p.newton, (number(3.0), 4), 1),
    (p.settle, (number(1.0), number(0.7)), 2),
    *[(p.pieces, (number(x), number(y)), 2) for x, y in ((2.0, 1.0), (-1.0, 0.5), (0.3, 0.5))],
    (p.recurrent, (random(2), random(3, 2), random(2, 2), random(4, 3)), 4),
    (p.attention, (random(4, 3), random(4, 3), random(4, 2)), 3),
    (p.attention, (random(4, 3), random(4, 3), random(4, 2), False), 3),
    (p.power_iteration, (random(3, 3), random(3), 3), 2),
    (p.swaps, (number(1.3), number(0.4)), 2),
    (p.nested, (number(0.3), number(0.7)), 2),
    *[(p.continues, (rung.asarray(x), 5.0), 1) for x in (
        np.array([1.0, -2.0, 1.5, 0.3]), np.array([3.0, 2.5, 1.0]), np.array([-1.0, -2.0]))],
    *[(p.early_return, (number(x), 4), 1) for x in (3.0, -3.0, 0.5, 1.6)],
    (p.triangular, (random(3), random(3)), 2),
    (p.updates, (random(4), number(1.7)), 2),
    (p.items, (LAYERS, random(3, 3)), 2),
    (p.zipped, (random(4), random(4)), 2),
    (p.outer_names, (number(0.4),), 1),
    *[(p.calls, (number(x), number(y)), 2) for x, y in ((0.5, 0.9), (1.9, 0.2))],
    (p.reductions, (random(3, 4),), 1),
    (p.shapes, (random(3, 4),), 1),
    (p.pairs, (positive(3, 2), positive(2)), 2),
    (p.layers, (random(3, 3), random(3, 3), random(3)), 3),
    (p.takes, (random(3, 4), rung.asarray([0, 2, 0])), 1),
    (p.names, (number(0.3), number(0.8), number(1.2)), 3),
    (p.unused, (number(0.3), number(0.8)), 2),
]  # fmt: skip
IDS = [f"{f.__name__}-{i}" for i, (f, _, _) in enumerate(PROGRAMS)]


def close(found, want, rtol=1e-10, atol=1e-11):
    a, b = tree.leaves(found), tree.leaves(want)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert np.shape(x) == np.shape(y)
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol)


@pytest.mark.parametrize("function, args, count", PROGRAMS, ids=IDS)
def test_agrees_with_grad_and_differences(function, args, count):
    numbers = tuple(range(count))
    found = rung.grad_source(function, numbers)(*args)
    close(found, rung.grad(function, numbers)(*args))
    leaves, structure = tree.flatten(args[:count])
    gradients = tree.leaves(found)
    direction = [rung.asarray(RNG.standard_normal(x.shape)) for x in leaves]

    def along(t):
        moved = [x + t * v for x, v in zip(leaves, direction, strict=True)]
        return float(function(*tree.unflatten(structure, moved), *args[count:]))

    slope = (along(1e-6) - along(-1e-6)) / 2e-6
    total = sum(float((g * v).sum()) for g, v in zip(gradients, direction, strict=True))
    assert total == pytest.approx(slope, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("function, args, count", PROGRAMS, ids=IDS)
def test_agrees_with_backward(function, args, count):
    if function is p.unused:
        return
    leaves, structure = tree.flatten(args[:count])
    given = [rung.asarray(x.numpy()).clone().requires_grad_() for x in leaves]
    function(*tree.unflatten(structure, given), *args[count:]).backward()
    want = [rung.zeros_like(x) if x.grad is None else x.grad for x in given]
    found = rung.grad_source(function, tuple(range(count)))(*args)
    close(tree.leaves(found), want)


@pytest.mark.parametrize(
    "function, args",
    [
        (p.newton, (number(3.0), 4)),
        (p.swaps, (number(1.3), number(0.4))),
        (p.nested, (number(0.3), number(0.7))),
        (p.early_return, (number(1.6), 4)),
        (p.continues, (rung.asarray(np.array([1.0, -2.0, 1.5])), 5.0)),
        (p.zipped, (random(4), random(4))),
        (p.takes, (random(3, 4), rung.asarray([0, 2, 0]))),
    ],
)
def test_agrees_with_dual_numbers(function, args):
    want = dual.gradient(lambda x: function(x, *args[1:]))(args[0])
    close(rung.grad_source(function)(*args), want)


@pytest.mark.parametrize(
    "name", ["perceptron", "newton", "settle", "pieces", "recurrent", "attention"]
)
def test_golden_text(name, golden):
    function, args, count = next(x for x in PROGRAMS if x[0].__name__ == name)
    text = rung.grad_source(function, tuple(range(count)))
    golden(f"grad_source_{name}.txt", text.text)
    made: dict[str, object] = {}
    exec(text, made)  # the text alone is enough
    close(made[f"grad_{name}"](*args), rung.grad(function, tuple(range(count)))(*args))


def test_numbers_of_python_and_jit():
    f = rung.grad_source(p.newton)
    assert float(f(3.0, 5)) == pytest.approx(0.5 / 3**0.5)
    assert float(f(3.0, 0)) == 1
    slope = (p.of_floats(0.7 + 1e-6) - p.of_floats(0.7 - 1e-6)) / 2e-6
    assert float(rung.grad_source(p.of_floats)(0.7)) == pytest.approx(slope)
    g = rung.grad_source(p.perceptron, (0, 1))
    args = PROGRAMS[0][1]
    close(rung.jit(g)(*args), g(*args))
    close(rung.grad_source(lambda x: (x * x).sum())(args[0]), 2 * args[0])
    assert "def grad_lambda" in rung.grad_source(lambda x: x * x)
    assert isinstance(f, str) and f.startswith("from rung.autodiff")


def test_second_derivative_of_the_text():
    g = rung.grad_source(p.newton)
    x = number(3.0)
    assert rung.grad(lambda a: g(a, 6))(x).item() == pytest.approx(-0.25 / 3**1.5)


def test_defaults_and_keywords():
    def f(x, *, power=2.0, shift=SHIFT):
        return (x**power + shift).sum()

    g = rung.grad_source(f)
    close(g(number([1.0, 2.0])), number([2.0, 4.0]))
    close(g(number([1.0, 2.0]), power=3.0), number([3.0, 12.0]))


SHIFT = 1.0
WEIGHT = number(2.0)


def test_tensors_from_outside():
    text = rung.grad_source(lambda x: x * WEIGHT * SHIFT)
    assert f"from {__name__} import WEIGHT" in text and "SHIFT = 1.0" in text
    assert text(number(3.0)).item() == 2
    local = number(2.0)
    with pytest.raises(GradientError, match="local is read from around lambda_"):
        rung.grad_source(lambda x: x * local)


def not_scalar(x):
    return x * 2


def no_formula(x):
    y = x + 1
    return rung.sort(y).sum()


def unknown_option(x):
    return x.softmax(axis=0, dtype=rung.float32).sum()


def comprehension(x):
    return sum([v * v for v in x])


def with_block(x):
    with rung.enable_grad():
        x = x * 2
    return x.sum()


def attribute(x):
    holder = Holder()
    holder.x = x * 2
    return holder.x.sum()


def endless(x):
    return endless(x * 0.5) * x


def inner(x):
    def double(y):
        return y * x

    return double(x)


def logic(x):
    return x and x * 2


def bits(x):
    return (x << 1).sum()


def nothing(x):
    x = x * 2


def bound(x):
    return rung.clip(x, x * 0.5, 3.0).sum()


class Holder:
    x = None


@pytest.mark.parametrize(
    "function, message, line, fix",
    [
        (no_formula, "rung.sort has no formula", "return rung.sort(y).sum()", "rung.grad"),
        (unknown_option, "softmax with dtype has no formula", "x.softmax", "leave dtype out"),
        (comprehension, r"sum has no formula", "return sum(", "rung.grad"),
        (with_block, "with with x, on which the derivative", "with rung.enable_grad", "out of the"),
        (attribute, "an assignment to holder.x", "holder.x = x * 2", "assign to a variable"),
        (endless, "endless calls itself", "return endless(x * 0.5) * x", "a loop"),
        (inner, "function with x, on which the derivative", "def double(y):", "outside"),
        (logic, "x and x .* has no formula", "return x and x * 2", "ifs"),
        (bits, "x << 1 has no formula", "return (x << 1).sum()", "floats"),
        (nothing, "nothing returns nothing", "def nothing(x):", "return"),
        (bound, "clip has no formula for min", "return rung.clip", "constant"),
    ],
)
def test_refused(function, message, line, fix):
    with pytest.raises(GradientError, match=message) as e:
        rung.grad_source(function)
    text = str(e.value)
    assert re.search(r"at test_grad_source.py:\d+ ", text), text
    assert line in text.splitlines()[1] and fix in text.splitlines()[2], text


def test_wrong_use():
    with pytest.raises(GradientError, match="argument 3 of a function with 1"):
        rung.grad_source(not_scalar, 3)
    with pytest.raises(GradientError, match=r"returns f64\[2\], not a float scalar") as e:
        rung.grad_source(not_scalar)(random(2))
    assert "<grad_source of not_scalar>" in str(e.value) and "seed(" in str(e.value)
    with pytest.raises(SourceError, match="not a function written in Python"):
        rung.grad_source(np.sin)


# ---- the table


AT = {"asin": 0.4, "acos": 0.4, "atanh": 0.4, "acosh": 1.6}
ARRAYS = ("reshape", "matrix_transpose", "astype")
ONE = [
    n for n, f in FORMULAS.items()
    if list(f.params) == ["x"] and hasattr(rung, n) and n not in ARRAYS
]  # fmt: skip
TWO = [n for n, f in FORMULAS.items() if list(f.params) == ["a", "b"] and f.wide]


def written(tmp_path, name, text):
    """The functions of a file of this text."""
    path = tmp_path / f"{name}.py"
    path.write_text("import rung\n\n\n" + text)
    made: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), made)
    return made


@pytest.mark.parametrize("name", ONE)
def test_functions_of_one_operand(name, tmp_path):
    made = written(tmp_path, name, f"def f(x):\n    return (rung.{name}(x) ** 2).sum()\n")
    x = number([AT.get(name, 0.7), AT.get(name, 0.7) + 0.1, AT.get(name, 1.1)])
    close(rung.grad_source(made["f"])(x), rung.grad(made["f"])(x))


@pytest.mark.parametrize("name", TWO)
def test_functions_of_two_operands(name, tmp_path):
    made = written(tmp_path, name, f"def f(a, b):\n    return (rung.{name}(a, b) ** 2).sum()\n")
    f, numbers = made["f"], (0, 1)
    shapes = [((3, 2), (3, 2)), ((3, 2), (2,)), ((1, 2), (3, 1)), ((), (2, 3))]
    for a, b in shapes:
        args = positive(*a), positive(*b)
        close(rung.grad_source(f, numbers)(*args), rung.grad(f, numbers)(*args))
    same = positive(3)
    close(rung.grad_source(f, numbers)(same, same), rung.grad(f, numbers)(same, same))


@pytest.mark.parametrize(
    "a, b",
    [((3, 4), (4, 2)), ((4,), (4, 2)), ((3, 4), (4,)), ((4,), (4,)), ((2, 3, 4), (4, 2)),
     ((3, 4), (5, 4, 2)), ((5, 1, 3, 4), (2, 4, 2)), ((4,), (3, 4, 2)), ((3, 2, 4), (4,))],
)  # fmt: skip
def test_matrix_products_of_all_ranks(a, b):
    f = lambda x, y: ((x @ y) ** 2).sum()  # noqa: E731
    args = random(*a), random(*b)
    close(rung.grad_source(f, (0, 1))(*args), rung.grad(f, (0, 1))(*args))


def test_dtypes_stay():
    wide, narrow = random(3), rung.asarray([1.0, 2.0, 3.0])
    found = rung.grad_source(lambda a, b: (a * b + b).sum(), (0, 1))(wide, narrow)
    assert [g.dtype for g in found] == [rung.float64, rung.float32]
