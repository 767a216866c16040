"""Derivatives where a function clamps, selects, saturates, or has a kink: finite where torch's are,
and not rounded away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.settings import configure
from rung.nn import functional as F

torch = pytest.importorskip("torch")
T = torch.nn.functional
Function = Callable[..., Any]


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    yield
    configure(interpret=False)


def gradients(function: Function, arrays: list[Any]) -> list[np.ndarray]:
    numbers = tuple(range(len(arrays)))
    found = rung.grad(lambda *x: function(*x).sum(), argnums=numbers)(*map(rung.tensor, arrays))
    return [g.numpy() for g in found]


def torch_gradients(function: Function, arrays: list[Any]) -> list[np.ndarray]:
    given = [torch.tensor(a, requires_grad=True) for a in arrays]
    found = torch.autograd.grad(function(*given).sum(), given)
    return [g.numpy() for g in found]


def same_as_torch(mine: Function, theirs: Function, *lists: Any) -> None:
    """Equal derivatives wherever torch's are finite."""
    arrays = [np.array(x, np.float32) for x in lists]
    for a, b in zip(gradients(mine, arrays), torch_gradients(theirs, arrays), strict=True):
        finite = np.isfinite(b)
        np.testing.assert_allclose(a[finite], b[finite], rtol=2e-5, atol=1e-30)


POINTS = [0.0, -40.0, 40.0, -200.0, 200.0, 1.0, -1.0, 3.0, -3.0, 6.0, 0.5, -0.5, 1e-30, np.inf]
ACTIVATIONS = """
celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu
relu6 selu silu softplus softshrink softsign tanhshrink
"""


@pytest.mark.parametrize("name", ACTIVATIONS.split())
def test_activations(name: str) -> None:
    points = POINTS if name in ("elu", "celu", "selu", "relu", "relu6") else POINTS[:-1]
    same_as_torch(getattr(F, name), getattr(T, name), points)


UNARY = """
abs acos acosh asin asinh atan atanh cos cosh digamma erf erfc erfinv exp exp2 i0 lgamma
log log10 log1p log2 logit rsqrt sigmoid sign sin sinh sqrt square tan tanh
"""


@pytest.mark.parametrize("name", UNARY.split())
def test_functions_of_one_number(name: str) -> None:
    points = {"digamma": POINTS[5:6], "lgamma": POINTS[5:6], "acosh": [1.0, 2.0, 40.0]}
    same_as_torch(getattr(rung, name), getattr(torch, name), points.get(name, POINTS[:-2]))


SPECIAL = ["entr", "erfcx", "i0e", "i1", "i1e", "log_ndtr", "ndtr", "ndtri"]


@pytest.mark.parametrize("name", SPECIAL)
def test_special_functions(name: str) -> None:
    points = [0.0, 1.0, -1.0, 0.5] if name != "ndtri" else [0.5, 0.25]
    same_as_torch(getattr(rung.special, name), getattr(torch.special, name), points)


PAIRS: dict[str, tuple[Any, Any]] = {
    "atan2": ([0.0, 1.0, -1.0, 0.0], [0.0, 0.0, -1.0, 2.0]),
    "logaddexp": ([-np.inf, -np.inf, np.inf, 1.0, -300.0], [-np.inf, 1.0, 1.0, 1.0, 300.0]),
    "logaddexp2": ([-np.inf, -np.inf, np.inf, 1.0], [-np.inf, 1.0, 1.0, 1.0]),
    "pow": ([0.0, 0.0, 0.0, -2.0, 1e-30], [0.0, 2.0, 0.5, 3.0, 0.5]),
    "xlogy": ([0.0, 0.0, 1.0, 0.0], [0.0, 2.0, 1.0, np.inf]),
}


@pytest.mark.parametrize("name", PAIRS)
def test_functions_of_two_numbers(name: str) -> None:
    same_as_torch(getattr(rung, name), getattr(torch, name), *PAIRS[name])
    same_as_torch(rung.special.xlog1py, torch.special.xlog1py, [0.0, 0.0, 1.0], [-0.5, 2.0, 1.0])


def test_derivatives_of_atan2_do_not_overflow_between() -> None:
    small = np.float32([1e-30, 1e30])
    dy, _ = gradients(rung.atan2, [small, small])
    np.testing.assert_allclose(dy, 0.5 / small, rtol=1e-6)


LOSSES: dict[str, tuple[Function, Function]] = {
    "bce": (F.binary_cross_entropy, T.binary_cross_entropy),
    "bce_of_sigmoid": (
        lambda x, t: F.binary_cross_entropy(rung.sigmoid(x), t),
        lambda x, t: T.binary_cross_entropy(torch.sigmoid(x), t),
    ),
    "weighted_bce": (
        lambda x, t: F.binary_cross_entropy(rung.sigmoid(x), t, weight=3.0, reduction="none"),
        lambda x, t: 3 * T.binary_cross_entropy(torch.sigmoid(x), t, reduction="none"),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_binary_cross_entropy_of_saturated_probabilities(name: str) -> None:
    """f32 sigmoids are 1 from 17 on; the derivatives by the probability are those of torch, and
    never NaN."""
    mine, theirs = LOSSES[name]
    targets = np.float32([0, 1, 0, 1, 0.5, 1])
    x = np.float32([-200, -20, 20, 200, 0, -90])
    if name == "bce":
        x, targets = np.float32([0, 0, 1, 1, 0.5, 1e-30]), np.float32([0, 1, 0, 1, 0.5, 0])
    found = gradients(mine, [x, targets])
    np.testing.assert_allclose(found[0], torch_gradients(theirs, [x, targets])[0], 1e-5, 1e-20)
    assert np.isfinite(found[1]).all()


def test_second_derivatives_of_binary_cross_entropy_are_finite() -> None:
    target = rung.tensor([0.0, 1.0, 0.0, 1.0], dtype="f64")
    p = rung.tensor([0.0, 0.0, 1.0, 1.0], dtype="f64")
    loss = lambda x, t: F.binary_cross_entropy(x, t, reduction="sum")  # noqa: E731
    for derived in (rung.hessian(loss), rung.jacrev(rung.grad(loss)), rung.jacfwd(rung.grad(loss))):
        assert np.isfinite(derived(p, target).numpy()).all()
    mixed = rung.jacrev(rung.grad(loss), argnums=1)(p, target)
    assert np.isfinite(mixed.numpy()).all()


def test_a_model_that_is_right_stays_right() -> None:
    x = rung.tensor(np.float32([[40.0], [-40.0]]))
    target = rung.tensor(np.float32([1, 0]))
    weight = rung.tensor(np.float32([3.0]), requires_grad=True)
    for _ in range(3):
        weight.grad = None
        loss = F.binary_cross_entropy(rung.sigmoid(x @ weight), target)
        loss.backward()
        with rung.no_grad():
            weight -= weight.grad
    assert weight.tolist() == [3.0]


CONSTANT = np.ones((2, 3), np.float32)
SELECTING: dict[str, Function] = {
    "std": rung.std,
    "std_along": lambda x: rung.std(x, axis=1),
    "std_mean": lambda x: rung.std_mean(x)[0],
    "masked_std": lambda x: rung.masked.std(x, mask=rung.tensor(CONSTANT > 0)),
    "norm_of_nothing": lambda x: rung.norm(x - x.detach()),
    "norm_3": lambda x: rung.linalg.vector_norm(x - x.detach(), ord=3),
    "norm_half": lambda x: rung.linalg.vector_norm(x - x.detach(), ord=0.5),
    "matrix_norm": lambda x: rung.linalg.matrix_norm(x - x.detach()),
    "pairwise_distance": lambda x: F.pairwise_distance(x, x.detach(), 3.0, 0.0),
    "cdist": lambda x: rung.cdist(x, x.detach()),
    "pdist": rung.pdist,
    "dist": lambda x: rung.dist(x, x.detach()),
    "normalize": lambda x: F.normalize(x - x.detach(), eps=1.0),
    "cosine_similarity": lambda x: F.cosine_similarity(x - x.detach(), x),
    "renorm": lambda x: rung.renorm(x - x.detach(), 2.0, 0, 1.0),
    "prelu": lambda x: F.prelu(x.detach() * np.inf + x, rung.tensor(np.float32([0.5])) * x[0, :1]),
    "logsumexp": lambda x: rung.logsumexp(rung.where(x < 2, -np.inf, x), axis=1),
    "logsumexp_row": lambda x: rung.logsumexp(x.detach() * -np.inf + x, axis=1),
    "logaddexp": lambda x: rung.logaddexp(x.detach() * -np.inf + x, -np.inf),
    "logcumsumexp": lambda x: rung.logcumsumexp(x.detach() * -np.inf + x),
    "masked_logsumexp": lambda x: rung.masked.logsumexp(x, 1, mask=rung.tensor(CONSTANT < 0)),
    "attention_without_keys": lambda x: F.attention(
        x[None], x[None], x[None], rung.tensor(np.zeros((2, 2), bool))
    ),
    "nll_ignored": lambda x: F.nll_loss(
        x.detach() * -np.inf + x, rung.tensor([-100, -100]), weight=x[0], reduction="sum"
    ),
    "kl_div": lambda x: F.kl_div(x, rung.tensor(CONSTANT * 0)),
    "poisson": lambda x: F.poisson_nll_loss(x, x.detach() * 0, full=True),
    "cross_entropy_of_a_masked_class": lambda x: F.cross_entropy(
        rung.where(rung.tensor([[True, False, True]]), x, -np.inf), rung.tensor([0, 2])
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SELECTING)
def test_what_is_not_selected_does_not_count(name: str) -> None:
    (found,) = gradients(SELECTING[name], [CONSTANT])
    assert np.isfinite(found).all(), found


# ---- branches that are not taken

POSITIVE = np.array([-1.0, 0.0, 4.0])


def root(x: Any) -> Any:
    """sqrt where it is positive; its slope at 0 is infinite, NaN below."""
    return rung.cond(x > 0, lambda v: v.sqrt(), lambda v: v * 3, x)


def rooted(x: Any) -> Any:
    """Roots of what is above 1, one after the other; those that stop stand at or below 1."""
    return rung.while_loop(lambda v: v > 1, lambda v: (v - 1).sqrt(), x, limit=3)


BRANCHES: dict[str, tuple[Function, list[float]]] = {
    "cond": (root, [3.0, 3.0, 0.25]),
    "switch": (
        lambda x: rung.switch((x > 0).astype("i32"), [lambda v: v * 3, lambda v: v.sqrt()], x),
        [3.0, 3.0, 0.25],
    ),
    "while_loop": (rooted, [1.0, 1.0, 0.25 / (3**0.5 - 1) ** 0.5 / 3**0.5]),
    "cond_in_scan": (
        lambda x: rung.scan(lambda c, _: (root(c), None), x, length=2)[0],
        [9.0, 9.0, 0.25 * 0.5 / 2**0.5],
    ),
    "scaled": (lambda x: root(x * rung.tensor(1.0, dtype="f64")), [3.0, 3.0, 0.25]),
}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("compiled", [False, True])
def test_a_branch_that_an_example_does_not_take_does_not_count(name: str, compiled: bool) -> None:
    configure(interpret=not compiled)
    function, slopes = BRANCHES[name]
    x = rung.tensor(POSITIVE)
    mapped = lambda v: rung.vmap(function)(v)  # noqa: E731
    np.testing.assert_allclose(rung.grad(lambda v: mapped(v).sum())(x).numpy(), slopes)
    np.testing.assert_allclose(rung.vmap(rung.grad(function))(x).numpy(), slopes)
    _, moved = rung.jvp(mapped, (x,), (rung.ones(3, dtype="f64"),))
    np.testing.assert_allclose(moved.numpy(), slopes)
    if name != "while_loop" or not compiled:
        twice = rung.vmap(mapped)(rung.stack([x, x]))
        assert np.isfinite(rung.nan_to_num(twice).numpy()).all()
        both = rung.grad(lambda v: rung.vmap(rung.vmap(function))(v).sum())(rung.stack([x, x]))
        np.testing.assert_allclose(both.numpy(), [slopes, slopes])
    curved = rung.hessian(lambda v: mapped(v).sum())(x).numpy()
    assert np.isfinite(curved).all()


def test_shared_operands_of_mapped_branches_add_up() -> None:
    weight = rung.tensor(2.0, dtype="f64")

    def loss(w: Any) -> Any:
        each = rung.vmap(lambda x: rung.cond(x > 0, lambda v: v.sqrt() * w, lambda v: v * w * w, x))
        return each(rung.tensor(POSITIVE)).sum()

    assert rung.grad(loss)(weight).item() == pytest.approx(2.0 - 4.0)


# ---- second derivatives at kinks

ZERO = np.zeros(3)
QUADRATIC: dict[str, tuple[Function, float]] = {
    "norm": (lambda x: rung.norm(x) ** 2, 2.0),
    "norm_times_norm": (lambda x: rung.norm(x) * rung.norm(x), 2.0),
    "half_norm": (lambda x: (rung.norm(x) / 2) ** 2, 0.5),
    "norms_of_rows": (lambda x: (rung.norm(x[:, None], axis=1) ** 2).mean(), 2 / 3),
    "matrix_norm": (lambda x: rung.linalg.matrix_norm(x[:, None]) ** 2, 2.0),
    "abs": (lambda x: (rung.abs(x) ** 2).sum(), 2.0),
    "hypot": (lambda x: (rung.hypot(x, 2 * x) ** 2).sum(), 10.0),
    "huber": (lambda x: F.huber_loss(x, rung.zeros(3), reduction="sum"), 1.0),
    "smooth_l1": (lambda x: F.smooth_l1_loss(x, rung.zeros(3), reduction="sum", beta=0.5), 2.0),
}


@pytest.mark.parametrize("name", QUADRATIC)
def test_hessians_of_squares_of_lengths(name: str) -> None:
    function, slope = QUADRATIC[name]
    for derived in (rung.hessian(function), rung.jacrev(rung.grad(function))):
        np.testing.assert_allclose(derived(rung.tensor(ZERO)).numpy(), slope * np.eye(3))
    direction = rung.tensor([1.0, -2.0, 0.5], dtype="f64")
    _, (product,) = rung.hvp(function, (rung.tensor(ZERO),), (direction,))
    np.testing.assert_allclose(product.numpy(), slope * direction.numpy())


def test_hessian_of_a_variance_by_way_of_the_deviation() -> None:
    found = rung.hessian(lambda x: rung.std(x) ** 2)(rung.tensor(ZERO))
    np.testing.assert_allclose(found.numpy(), rung.hessian(rung.var)(rung.tensor(ZERO)).numpy())


@pytest.mark.parametrize("zeros", [0, 1, 2, 3])
def test_second_derivatives_of_products_beside_zeros(zeros: int) -> None:
    """Of all elements at one place, by `scatter_reduce` as by `prod`."""
    values = np.array([2.0, -3.0, 0.5, 4.0])
    values[:zeros] = 0
    at = rung.tensor([0, 0, 0, 0])
    whole = lambda x: rung.scatter_reduce(  # noqa: E731
        rung.ones(1, dtype="f64"), 0, at, x, "prod"
    ).sum()
    wanted = rung.hessian(rung.prod)(rung.tensor(values)).numpy()
    for derived in (rung.hessian(whole), rung.jacrev(rung.grad(whole))):
        np.testing.assert_allclose(derived(rung.tensor(values)).numpy(), wanted, atol=1e-12)


def test_the_kink_of_a_length_has_no_curvature() -> None:
    for function in (rung.norm, rung.std, lambda x: rung.hypot(x, x).sum()):
        assert not rung.hessian(function)(rung.tensor(ZERO)).numpy().any()


# ---- rounded away

FAR: dict[str, Function] = {
    "expm1": rung.expm1,
    "elu": F.elu,
    "celu": F.celu,
    "selu": F.selu,
}


@pytest.mark.parametrize("name", FAR)
def test_derivatives_far_to_the_left_are_those_of_exp(name: str) -> None:
    scale = gradients(FAR[name], [np.float64([-1e-9])])[0][0]
    for x in (-20.0, -40.0, -80.0):
        (found,) = gradients(FAR[name], [np.float32([x])])
        np.testing.assert_allclose(found, scale * np.exp(x), rtol=1e-5)


def test_kinks_have_a_derivative_of_one_side() -> None:
    assert gradients(F.selu, [np.float64([0.0])])[0] == pytest.approx(1.7580993408473766)
    assert gradients(lambda x: F.celu(x, 2.0), [np.float64([0.0])])[0] == 1
    assert gradients(lambda x: rung.clip(x, 0, 1), [np.float64([0, 1])])[0].tolist() == [1, 1]
