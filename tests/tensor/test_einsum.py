"""einsum: values of NumPy and torch, order of contractions, derivatives, errors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.errors import DTypeError, RungError, ShapeError
from rung.core.settings import configure

HERE = Path(__file__).name
RNG = np.random.default_rng(0)
CASES: list[tuple[str, tuple[tuple[int, ...], ...]]] = [
    ("ij,jk->ik", ((3, 4), (4, 5))),
    ("ij,jk", ((3, 4), (4, 5))),
    ("ba,cb", ((3, 4), (5, 3))),
    ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5))),
    ("bij,bkj->bki", ((2, 3, 4), (2, 5, 4))),
    ("bhqd,bhkd->bhqk", ((2, 3, 4, 5), (2, 3, 6, 5))),
    ("bqhd,bkhd->bhqk", ((2, 4, 3, 5), (2, 6, 3, 5))),
    ("i,i->", ((4,), (4,))),
    ("i,j->ij", ((4,), (5,))),
    ("i,j->ji", ((4,), (5,))),
    ("i,i->i", ((4,), (4,))),
    ("ij,j->ij", ((3, 4), (4,))),
    ("ij->ji", ((3, 4),)),
    ("ij->", ((3, 4),)),
    ("ij->j", ((3, 4),)),
    ("ij", ((3, 4),)),
    ("ba", ((3, 4),)),
    ("ii->i", ((4, 4),)),
    ("ii", ((4, 4),)),
    ("iij->ji", ((4, 4, 3),)),
    ("iii->i", ((3, 3, 3),)),
    ("ijij->ij", ((3, 2, 3, 2),)),
    ("ii,ij->j", ((3, 3), (3, 4))),
    ("ij,ji->", ((3, 4), (4, 3))),
    ("ij,kl->", ((3, 4), (2, 5))),
    ("ij,kj->", ((3, 4), (2, 4))),
    ("...ij,...jk->...ik", ((2, 3, 4), (4, 5))),
    ("...ij,...jk", ((2, 1, 3, 4), (6, 4, 5))),
    ("...i,...i->...", ((2, 3, 4), (2, 3, 4))),
    ("i...->...i", ((2, 3, 4),)),
    ("...ii->...i", ((2, 3, 3),)),
    ("a...b,b...->a...", ((2, 3, 4, 5), (5, 4))),
    ("...,...", ((2, 3), ())),
    ("ij,jk,kl->il", ((3, 40), (40, 5), (5, 6))),
    ("ij,jk,kl,lm->im", ((3, 4), (4, 5), (5, 6), (6, 2))),
    ("i,ij,j->", ((3,), (3, 4), (4,))),
    ("ai,bi,ci->abc", ((3, 5), (4, 5), (2, 5))),
    ("bik,bjk,bij->b", ((2, 3, 4), (2, 5, 4), (2, 3, 5))),
    (" i j , j k -> i k ", ((3, 4), (4, 5))),
    ("ij,jk->ik", ((1, 4), (4, 5))),
    ("ij,ij->ij", ((3, 1), (3, 4))),
    ("ij,ij->j", ((3, 1), (1, 4))),
    ("ij,jk->ik", ((3, 0), (0, 5))),
    ("Ab,bA->A", ((3, 4), (4, 3))),
]


def drawn(shapes: tuple[tuple[int, ...], ...]) -> list[np.ndarray]:
    return [np.asarray(RNG.standard_normal(s)) for s in shapes]


@pytest.fixture(params=(True, False), ids=("interpreted", "compiled"))
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    configure(interpret=request.param)
    yield
    configure(interpret=False)


@pytest.mark.usefixtures("both_ways")
@pytest.mark.parametrize(("text", "shapes"), CASES)
def test_values_are_those_of_numpy(text: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    arrays = drawn(shapes)
    wanted = np.einsum(text, *arrays)
    found = rung.einsum(text, *map(rung.asarray, arrays))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("text", "shapes"), CASES)
def test_gradients_are_those_of_torch(text: str, shapes: tuple[tuple[int, ...], ...]) -> None:
    torch = pytest.importorskip("torch")
    arrays = drawn(shapes)
    given = [torch.tensor(a, requires_grad=True) for a in arrays]
    (torch.einsum(text, *given) ** 2).sum().backward()
    loss = lambda *x: (rung.einsum(text, *x) ** 2).sum()  # noqa: E731
    found = rung.grad(loss, tuple(range(len(arrays))))(*map(rung.asarray, arrays))
    for f, t in zip(found, given, strict=True):
        assert t.grad is not None
        np.testing.assert_allclose(f, t.grad.numpy(), rtol=1e-10, atol=1e-10)


def test_random_subscripts() -> None:
    """Operands of random letters, some twice, and a random result."""
    rng = np.random.default_rng(0)
    configure(interpret=True)
    try:
        for _ in range(200):
            sizes = dict(zip("abcde", rng.integers(1, 5, 5).tolist(), strict=True))
            terms = [
                "".join(rng.choice(list("abcde"), rng.integers(0, 5)))
                for _ in range(rng.integers(1, 5))
            ]
            known = sorted(set("".join(terms)))
            result = "".join(x for x in rng.permutation(known) if rng.random() < 0.5)
            arrays = [np.asarray(rng.standard_normal([sizes[x] for x in t])) for t in terms]
            text = ",".join(terms) + "->" + result
            found = rung.einsum(text, *map(rung.asarray, arrays))
            wanted = np.einsum(text, *arrays)
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9, err_msg=text)
    finally:
        configure(interpret=False)


def test_operands_with_numbers_for_letters() -> None:
    a, b = drawn(((2, 3, 4), (4, 5)))
    for given in (
        (a, [0, 1, 2], b, [2, 7], [7, 0]),
        (a, [..., 2], b, [2, 51], [..., 51]),
        (a, [5, 30, 2], b, [2, 1]),
        (a, [0, 1, 0 + 2], [2, 0, 1]),
    ):
        wanted = np.einsum(*given)  # type: ignore[call-overload]
        np.testing.assert_allclose(rung.einsum(*given), wanted, rtol=1e-12)
    with pytest.raises(RungError, match="52 does not name a dim"):
        rung.einsum(a, [0, 1, 52])


def test_dtypes() -> None:
    a, b = rung.ones((2, 3), rung.int8), rung.ones((3, 4), rung.float32)
    assert rung.einsum("ij,jk", a, b).dtype is rung.float32
    assert rung.einsum("ij,kj->ik", a, a).tolist() == [[3, 3], [3, 3]]
    many = rung.ones((3, 4096), rung.bfloat16)
    assert rung.einsum("ij,kj->ik", many, many).tolist() == [[4096.0] * 3] * 3  # summed in f32


def test_the_order_is_the_cheapest() -> None:
    """From the right a chain with a vector takes products of a matrix with a vector alone."""
    n = 64
    shapes = [rung.ones((n, n)), rung.ones((n, n)), rung.ones((n, n)), rung.ones((n,))]
    found = rung.explain(lambda *x: rung.einsum("ij,jk,kl,l->i", *x), *shapes)
    flops = sum(k.flops for k in found.kernels)
    assert flops <= 4 * 2 * n * n
    found = rung.explain(lambda *x: rung.linalg.multi_dot(x), *shapes)
    assert sum(k.flops for k in found.kernels) <= 4 * 2 * n * n


def test_it_is_one_product_where_that_is_all() -> None:
    x, y = rung.ones((2, 8, 16)), rung.ones((2, 4, 16))
    text = rung.explain(lambda x, y: rung.einsum("bqd,bkd->bqk", x, y), x, y).text("graph")
    lowered = text.split("after")[-1]
    assert lowered.count("dot_general(") == 1
    assert "permute" not in lowered and "broadcast" not in lowered


def test_vmap() -> None:
    a, b = drawn(((5, 3, 4), (4, 2)))
    f = rung.vmap(lambda x, y: rung.einsum("ij,jk->ki", x, y), in_axes=(0, None))
    wanted = np.einsum("bij,jk->bki", a, b)
    np.testing.assert_allclose(f(rung.asarray(a), rung.asarray(b)), wanted, rtol=1e-12)


M, N = rung.ones((2, 3)), rung.ones((3, 4))
WRONG: list[tuple[Callable[[], Any], type[RungError], str, str]] = [
    (lambda: rung.einsum("ij,jk", M), ShapeError, "'ij,jk' names 2 operands, got 1", "by commas"),
    (lambda: rung.einsum("ij"), RungError, "no operands", "one for each term"),
    (lambda: rung.einsum("ijk,kl", M, N), ShapeError,
     r"'ijk' in 'ijk,kl' names 3 dims of an operand f32\[2,3\]", "a letter for each dim"),
    (lambda: rung.einsum("i,jk", M, N), ShapeError, "'i' in 'i,jk' names 1 dims", "'...' stands"),
    (lambda: rung.einsum("ij,ik->jk", M, N), ShapeError,
     r"'i' is 2 and 3 long in .* of f32\[2,3\], f32\[3,4\]", "one length, or 1"),
    (lambda: rung.einsum("...,...", M, N), ShapeError, "the ellipsis is", "one length, or 1"),
    (lambda: rung.einsum("ij->ik", M), RungError, "'k' of the result of 'ij->ik' is of no", ""),
    (lambda: rung.einsum("ij->ii", M), RungError, "'i' stands twice in the result", "once"),
    (lambda: rung.einsum("i1->i", M), RungError, "einsum: '1' in 'i1->i'", "a letter for each"),
    (lambda: rung.einsum("i..->i", M), RungError, r"einsum: '\.' in", "a letter for each dim"),
    (lambda: rung.einsum("ij->->i", M), RungError, "einsum: '-' in", "a letter for each dim"),
    (lambda: rung.einsum("ii->i", M), ShapeError, "'i' stands for dims 0 and 1 of", "one length"),
    (lambda: rung.einsum("ij->i", M > 0), DTypeError, r"operands are bool\[2,3\]", "cast them"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_mistakes(number: int) -> None:
    call, error, message, fix = WRONG[number]
    with pytest.raises(error, match=message) as caught:
        call()
    assert f"at {HERE}:" in str(caught.value)
    assert caught.value.fix is not None
    assert re.search(re.escape(fix), caught.value.fix)
