"""What bodies of loops draw, update from outside, and do with Python numbers is what a Python loop
does: the same numbers, the same states, the same dtypes."""

from __future__ import annotations

import numpy as np
import pytest

import rung
from rung import nn, optim
from rung.core.errors import ShapeError, SourceError, TraceError
from rung.nn import functional as f

LENGTH = 4


def draw(*_):
    return rung.rand(2) + rung.randn(2)


def python_stack(body=draw):
    return rung.stack([body(i) for i in range(LENGTH)])


def python_walk():
    x = rung.zeros(2)
    for _ in range(LENGTH):
        x = x * 0.5 + draw()
    return x


def python_nested():
    rows = []
    for _ in range(3):
        y = rung.rand(2)
        for _ in range(2):
            y = y + rung.rand(2)
        rows.append(y)
    return rung.stack(rows)


def inner(*_):
    return rung.fori_loop(0, 2, lambda i, y: y + rung.rand(2), rung.rand(2))


def python_branches():
    rows = []
    for _ in range(LENGTH):
        x = rung.rand()
        more = x.item() < 0.5
        rows.append(x + rung.rand() + rung.rand() if more else x + rung.rand())
    return rung.stack(rows)


def branches(*_):
    x = rung.rand()
    return rung.cond(x < 0.5, lambda: x + rung.rand() + rung.rand(), lambda: x + rung.rand())


def python_rejection():
    x, tries = rung.rand(), 0
    while rung.rand().item() < 0.7 or x.item() < 0.3:
        x, tries = rung.rand(), tries + 1
    return x + tries


def rejection():
    x, tries = rung.while_loop(
        lambda s: (rung.rand() < 0.7) | (s[0] < 0.3), lambda s: (rung.rand(), s[1] + 1),
        (rung.rand(), 0),
    )  # fmt: skip
    return x + tries


def step(x):
    return x * 0.5 + draw()


@rung.function
def walk_function(n):
    x = rung.zeros(2)
    for _ in range(n):
        x = x * 0.5 + draw()
    return x


def scanned(body):
    return lambda: rung.scan(lambda c, _: (c, body()), (), length=LENGTH)[1]


def vmapped(body, size=LENGTH):
    return lambda: rung.vmap(body)(rung.zeros(size))


STYLES = {
    "scan": (python_stack, scanned(draw)),
    "map": (python_stack, lambda: rung.map(draw, rung.zeros(LENGTH))),
    "vmap": (python_stack, vmapped(draw)),
    "vmap in scan": (
        lambda: rung.stack([python_stack(), python_stack()]),
        lambda: rung.scan(lambda c, x: (c, rung.vmap(draw)(x)), (), rung.zeros((2, LENGTH)))[1],
    ),
    "vmap of vmap": (
        lambda: rung.stack([python_stack(), python_stack()]),
        lambda: rung.vmap(rung.vmap(draw))(rung.zeros((2, LENGTH))),
    ),
    "fori_loop": (
        python_walk, lambda: rung.fori_loop(0, LENGTH, lambda i, x: step(x), rung.zeros(2))
    ),
    "fori_loop to a tensor": (
        python_walk,
        lambda: rung.fori_loop(0, rung.asarray(LENGTH), lambda i, x: step(x), rung.zeros(2)),
    ),
    "while_loop": (
        python_walk,
        lambda: rung.while_loop(
            lambda s: s[0] < LENGTH, lambda s: (s[0] + 1, step(s[1])), (0, rung.zeros(2))
        )[1],
    ),
    "function": (python_walk, lambda: walk_function(rung.asarray(LENGTH))),
    "nested": (python_nested, lambda: rung.scan(lambda c, _: (c, inner()), (), length=3)[1]),
    "loop in vmap": (python_nested, vmapped(inner, 3)),
    "branches that draw differently": (python_branches, scanned(branches)),
    "rejection": (python_rejection, rejection),
}  # fmt: skip


@pytest.mark.parametrize("wrap", [lambda g: g, rung.jit], ids=["lazy", "jit"])
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_numbers_of_a_body_are_those_of_a_python_loop(style, wrap, seed):
    """Also those that are drawn afterwards."""
    plain, looped = STYLES[style]
    found = []
    looped = wrap(looped)
    for run in (plain, looped, looped):
        rung.manual_seed(seed)
        result = np.array(run())
        found.append((result, rung.rand(3).numpy()))
    for result, later in found[1:]:
        np.testing.assert_allclose(result, found[0][0], rtol=1e-6)
        np.testing.assert_array_equal(later, found[0][1])
        assert not np.isin(later, result).any()


def test_the_spread_of_a_random_walk():
    rung.manual_seed(0)
    walk = rung.scan(lambda c, _: (c + rung.randn(4000), None), rung.zeros(4000), length=100)[0]
    assert walk.numpy().std() == pytest.approx(10, rel=0.05)


def test_a_generator_that_is_given():
    def run(loop):
        g = rung.Generator(7)
        body = lambda *_: rung.random.normal((2,), key=g)  # noqa: E731
        xs = [body() for _ in range(3)] if loop is None else loop(body)
        return np.array(rung.stack(list(xs))), g.state["draws"].item()

    want, draws = run(None)
    for loop in (
        lambda body: rung.map(body, rung.zeros(3)),
        lambda body: rung.vmap(body)(rung.zeros(3)),
        lambda body: rung.jit(lambda: rung.map(body, rung.zeros(3)))(),
    ):
        found, count = run(loop)
        np.testing.assert_array_equal(found, want)
        assert count == draws == 3


def test_vmap_may_draw_the_same_for_all():
    rung.manual_seed(1)
    first, after = rung.rand(3).tolist(), rung.rand().item()
    rung.manual_seed(1)
    rows = rung.vmap(lambda x: rung.rand(3), randomness="same")(rung.zeros(4)).tolist()
    assert rows == [first] * 4 and rung.rand().item() == after
    with pytest.raises(TraceError, match="how many random numbers"):
        rung.vmap(lambda x: rung.cond(x > 0, lambda: rung.rand(), lambda: x * 1))(rung.ones(3))


def seeded(*_):
    before = rung.rand()
    rung.manual_seed(5)
    return before, rung.rand(), rung.rand()


def test_a_seed_within_a_body():
    found = []
    for run in (
        lambda: [rung.stack(list(ts)) for ts in zip(*[seeded() for _ in range(3)], strict=True)],
        lambda: rung.map(seeded, rung.zeros(3)),
        lambda: rung.vmap(seeded)(rung.zeros(3)),
    ):
        rung.manual_seed(2)
        found.append([*(t.tolist() for t in run()), rung.rand().item()])
    assert found[0] == found[1]
    assert found[0][1:] == found[2][1:]  # before it, the examples of vmap share their seed


def trained(loop):
    """Losses of a model with dropout, by the optimizer in the way of PyTorch."""
    rung.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
    optimizer = optim.Adam(model.parameters(), lr=0.1)

    def step(x):
        loss = (model(x) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    xs = rung.asarray(np.random.default_rng(0).standard_normal((4, 5, 3)).astype(np.float32))
    losses = loop(step, xs)
    return losses.tolist(), [np.array(t) for t in model.state_dict().values()], step(xs[0]).item()


@pytest.mark.parametrize("wrap", [lambda g: g, rung.jit], ids=["lazy", "jit"])
def test_a_loop_that_trains(wrap):
    want = trained(lambda step, xs: rung.stack([step(x) for x in xs]))
    found = trained(wrap(lambda step, xs: rung.map(step, xs)))
    np.testing.assert_allclose(found[0], want[0], rtol=1e-4)
    for a, b in zip(found[1], want[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    assert found[2] == pytest.approx(want[2], rel=1e-3)


@pytest.mark.parametrize("wrap", [lambda g: g, rung.jit], ids=["lazy", "jit"])
@pytest.mark.parametrize("remat", [False, True])
def test_derivatives_see_the_masks_of_the_first_run(wrap, remat):
    w = rung.asarray(np.random.default_rng(0).standard_normal((3, 3)))
    layer = lambda x, w: f.dropout(rung.tanh(x @ w), 0.5, True)  # noqa: E731
    layer = rung.checkpoint(layer) if remat else layer

    def python(w):
        x = rung.ones((2, 3), dtype=rung.float64)
        for _ in range(LENGTH):
            x = layer(x, w)
        return (x**2).sum()

    def looped(w):
        x = rung.ones((2, 3), dtype=rung.float64)
        x = rung.scan(lambda c, _: (layer(c, w), None), x, length=LENGTH)[0]
        return (x**2).sum()

    rung.manual_seed(3)
    value, slope = rung.value_and_grad(python)(w)
    rung.manual_seed(3)
    again, found = wrap(rung.value_and_grad(looped))(w)
    assert again.item() == pytest.approx(value.item(), rel=1e-12)
    np.testing.assert_allclose(found.numpy(), slope.numpy(), rtol=1e-10, atol=1e-14)
    leaf = rung.tensor(w.numpy(), requires_grad=True)
    rung.manual_seed(3)
    looped(leaf).backward()
    np.testing.assert_allclose(leaf.grad.numpy(), slope.numpy(), rtol=1e-10, atol=1e-14)


# ---- other tensors from outside


def updates(loop, total, seen):
    def body(x):
        seen.assign(total)
        total.add_(x)
        total.mul_(2.0)
        return total * 1 + seen

    return loop(body)


def function_loop(body):
    return rung.stack([body(x) for x in XS])


XS = rung.asarray(np.arange(1.0, 4.0))
LOOPS = {
    "scan": lambda body: rung.scan(lambda c, x: (c, body(x)), (), XS)[1],
    "map": lambda body: rung.map(body, XS),
    "fori_loop": lambda body: rung.fori_loop(
        0, 3, lambda i, ys: rung.where(rung.arange(3) == i, body(XS[i]), ys),
        rung.zeros(3, dtype=rung.float64),
    ),
    "while_loop": lambda body: rung.while_loop(
        lambda s: s[0] < 3,
        lambda s: (s[0] + 1, rung.where(rung.arange(3) == s[0], body(XS[s[0]]), s[1])),
        (0, rung.zeros(3, dtype=rung.float64)),
    )[1],
    "nested": lambda body: rung.scan(
        lambda c, x: (c, rung.cond(x > 0, lambda: rung.fori_loop(
            0, 1, lambda i, y: body(x), x * 0), lambda: x)), (), XS)[1],
}  # fmt: skip


@pytest.mark.parametrize("wrap", [lambda g: g, rung.jit], ids=["lazy", "jit"])
@pytest.mark.parametrize("loop", LOOPS)
def test_tensors_from_outside_are_updated_by_each_iteration(loop, wrap):
    def run(loop, wrap=lambda g: g):
        total, seen = rung.zeros((), dtype=rung.float64), rung.zeros((), dtype=rung.float64)
        ys = wrap(lambda: updates(loop, total, seen))()
        return ys.tolist(), total.item(), seen.item()

    assert run(LOOPS[loop], wrap) == run(function_loop)


@rung.function
def only_updates(x, total, n):
    i = 0
    while i < n:
        if x > 0:
            total.add_(x)
        i += 1
    while total < 100:
        total.mul_(2)


def test_statements_that_set_no_variable_update_all_the_same():
    for x, want in ((3.0, 192.0), (-1.0, 100.0)):
        total = rung.asarray(0.0 if x > 0 else 50.0)
        only_updates(rung.asarray(x), total, rung.asarray(4))
        assert total.item() == want


class Held:
    """An object with state."""

    def __init__(self):
        self.t, self.d, self.steps = rung.zeros(3), {"k": rung.zeros(3)}, 0


@rung.function
def updates_places(held, n, x):
    for i in range(n):
        held.t += x * i
        held.t[1:] = held.t[1:] * 2
        if x[0] > 0:
            held.d["k"] -= held.t
        if i == 1:
            held.t.add_(x)
    return held.t * 1


@rung.function
def replaces_items(held, n):
    for i in range(n):
        held.d["k"] = held.d["k"] + i


@rung.function
def counts(held, n):
    for _ in range(n):
        held.steps += 1


@pytest.mark.parametrize("wrap", [lambda g: g, rung.jit], ids=["lazy", "jit"])
def test_attributes_and_items_that_are_updated_in_a_transformed_function(wrap):
    plain, held, x = Held(), Held(), rung.asarray([1.0, 2.0, 3.0])
    want = updates_places(plain, 3, x).tolist()
    found = wrap(lambda n, x: updates_places(held, n, x))(rung.asarray(3), x)
    assert found.tolist() == want == held.t.tolist()
    assert held.d["k"].tolist() == plain.d["k"].tolist()


@pytest.mark.parametrize("run, text", [(replaces_items, "held.d"), (counts, "held.steps")])
def test_what_is_no_tensor_is_not_assigned_in_a_graph(run, text):
    held = Held()
    with pytest.raises(SourceError, match=f"an assignment to {text}"):
        run(held, rung.asarray(2))
    assert held.steps == 0 and held.d["k"].tolist() == [0, 0, 0]
    run(held, 2)
    assert held.steps == 2 or held.d["k"].tolist() == [1, 1, 1]


def test_a_counter_that_every_iteration_moves():
    count = rung.asarray(0)

    def body(c, _):
        count.add_(1)
        return c + count, None

    assert rung.scan(body, 0, length=5)[0].item() == 15
    assert count.item() == 5


def test_gradients_pass_through_what_is_updated():
    def run(loop):
        w = rung.tensor(2.0, requires_grad=True)
        total = rung.zeros(())

        def body(x):
            total.mul_(w)
            total.add_(w * x)
            return total * 1

        ys = loop(body)
        (total + ys.sum()).backward()
        return w.grad.item()

    xs = rung.asarray([1.0, 2.0, 3.0])
    want = run(lambda body: rung.stack([body(x) for x in xs]))
    assert run(lambda body: rung.scan(lambda c, x: (c, body(x)), (), xs)[1]) == pytest.approx(want)


def test_gradients_pass_through_what_a_compiled_function_updates():
    w, total = rung.tensor([1.0, 2.0], requires_grad=True), rung.zeros(2)

    @rung.jit
    def step(x):
        total.add_(w * x)
        return total * 1

    for _ in range(2):
        y = step(rung.asarray([3.0, 4.0]))
    y.sum().backward()
    assert w.grad.tolist() == [6, 8] and total.tolist() == [6, 16]


def test_outputs_before_a_carry_is_tracked_have_gradients():
    w = rung.tensor(3.0, requires_grad=True)
    ys = rung.scan(lambda c, x: (c + w, c * 1.0), rung.zeros(()), length=4)[1]
    ys.sum().backward()
    assert w.grad.item() == 6
    w.grad = None
    rung.scan(lambda c, x: (w, c), rung.zeros(()), length=2)[1].sum().backward()
    assert w.grad.item() == 1


def test_an_update_that_fails_leaves_everything_as_it_was():
    total, flag = rung.zeros(2), rung.asarray(1.0)

    def looks(c, x):
        if flag.item() > 0:
            total.add_(x)
        flag.add_(1)
        return c, None

    with pytest.raises(TraceError, match="has looked at its value"):
        rung.scan(looks, (), rung.ones((3, 2)))
    assert total.tolist() == [0, 0] and flag.item() == 1

    def breaks(c, x):
        total.add_(x)
        raise KeyError

    with pytest.raises(KeyError):
        rung.scan(breaks, (), rung.ones((3, 2)))
    assert total.tolist() == [0, 0]


def test_what_is_only_read_may_be_looked_at_and_kept():
    scale, kept = rung.asarray(2.0), []

    def body(c, x):
        kept.append(scale * 3)
        return c + (x if (scale + 1).item() > 2 else 0 * x), None

    assert rung.scan(body, 0.0, rung.ones(3))[0].item() == 3
    assert kept[0].item() == 6


def test_gradients_that_a_body_leaves_behind():
    w = rung.tensor([1.0, 2.0], requires_grad=True)

    def sgd(c, x, clear):
        loss = (w * x).sum() ** 2
        loss.backward()
        with rung.no_grad():
            w.sub_(0.1 * w.grad)
        if clear:
            w.grad = None
        return c, loss

    xs = rung.asarray(np.ones((3, 2), np.float32) * 0.3)
    with pytest.raises(TraceError, match=r"sets \.grad"):
        rung.scan(lambda c, x: sgd(c, x, False), (), xs)
    assert w.grad is None and w.tolist() == [1, 2]
    losses = rung.scan(lambda c, x: sgd(c, x, True), (), xs)[1].tolist()
    found = w.tolist()
    w.assign(rung.asarray([1.0, 2.0]))
    want = [sgd((), x, True)[1].item() for x in xs]
    np.testing.assert_allclose(losses, want, rtol=1e-6)
    np.testing.assert_allclose(found, w.tolist(), rtol=1e-6)


# ---- Python numbers, and indices that stand for them


@rung.function
def ranged(x, n):
    for i in range(n):
        x = x + i * 0.5
    return x


@rung.function
def rowwise(x, n):
    for i in rung.arange(4):
        x = x + i * 0.5
    return x


@rung.function
def counted(x, n):
    k = total = 0
    while k < n:
        total = total + x * k
        k += 1
    return total


INDEXED = {
    "fori_loop": lambda x: rung.fori_loop(0, 4, lambda i, x: x + i * 0.5, x),
    "fori_loop to a tensor": lambda x: rung.fori_loop(
        0, rung.asarray(4), lambda i, x: x + i * 0.5, x
    ),
    "scan": lambda x: rung.scan(lambda x, i: (x + i * 0.5, None), x, rung.arange(4))[0],
    "range": lambda x: ranged(x, rung.asarray(4)),
    "rows of arange": lambda x: rowwise(x, None),
}


@pytest.mark.parametrize("dtype", [rung.float16, rung.bfloat16, rung.float32, rung.float64])
@pytest.mark.parametrize("loop", INDEXED)
def test_an_index_is_a_python_number(loop, dtype):
    x = rung.zeros(2, dtype=dtype)
    found = INDEXED[loop](x)
    assert found.dtype is dtype and found.tolist() == [3, 3]


@pytest.mark.parametrize("dtype", [rung.float16, rung.float32, rung.float64, rung.int8])
def test_a_number_before_a_loop_takes_the_dtype_of_the_body(dtype):
    x = rung.ones(3, dtype=dtype)
    total, seen = rung.scan(lambda c, x: (c + x, c), 0, x)
    assert total.dtype is seen.dtype is dtype and seen.tolist() == [0, 1, 2]
    total = rung.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + x[0] * c[0]), (0, 0))[1]
    assert total.dtype is dtype and total.item() == 3
    total = counted(x[0], rung.asarray(3))
    assert total.dtype is dtype and total.item() == 3
    assert rung.cond(rung.asarray(True), lambda: 1, lambda: x[0]).dtype is dtype


def test_numbers_of_another_kind():
    assert rung.scan(lambda c, _: (c * 0.5, None), 1, length=2)[0].item() == 0.25
    assert rung.cond(rung.asarray(False), lambda: 1, lambda: 2.5).item() == 2.5
    with pytest.raises(ShapeError, match="carry is i64"):
        rung.scan(lambda c, _: (0.5, None), rung.asarray(0), length=2)
    with pytest.raises(ShapeError, match="carry is a Python number"):
        rung.scan(lambda c, x: (c + x, None), 0, rung.ones((2, 3)))


@pytest.mark.parametrize("start", [0, 2, -3])
def test_narrow_from_a_start_that_is_not_known(start):
    x, at = rung.arange(6.0), rung.asarray(start)
    want = x.narrow(0, start, 3).tolist()
    assert rung.jit(lambda at: x.narrow(0, at, 3))(at).tolist() == want
    assert rung.vmap(lambda at: x.narrow(0, at, 3))(at[None]).tolist() == [want]
    assert rung.map(lambda at: x.narrow(0, at, 3), at[None]).tolist() == [want]
    slope = rung.jit(rung.grad(lambda x, at: (x.narrow(0, at, 3) ** 2).sum()))(x, at)
    assert slope.tolist() == rung.grad(lambda x: (x.narrow(0, start, 3) ** 2).sum())(x).tolist()
