"""`scan`, `while_loop`, `cond` and the like on tensors."""

from __future__ import annotations

import gc
import signal
import threading
import time

import numpy as np
import pytest

import rung
from rung.core.errors import DTypeError, GradientError, RungError, ShapeError, TraceError
from rung.tensor import ruled
from rung.tensor.programs import clear_programs

RNG = np.random.default_rng(0)
W = RNG.standard_normal((4, 4))
XS = RNG.standard_normal((6, 2, 4))


def plain(w, xs):
    """The recurrence in NumPy."""
    h, kept = np.zeros((2, 4)), []
    for x in xs:
        h = np.tanh(h @ w + x)
        kept.append(h.sum())
    return h, np.array(kept)


def recurrence(w, xs):
    def step(h, x):
        h = rung.tanh(h @ w + x)
        return h, h.sum()

    return rung.scan(step, rung.zeros((2, 4), dtype=rung.float64), xs)


@pytest.mark.parametrize("wrap", [lambda f: f, rung.jit], ids=["lazy", "jit"])
def test_scan(wrap):
    h, kept = wrap(recurrence)(rung.asarray(W), rung.asarray(XS))
    want, sums = plain(W, XS)
    np.testing.assert_allclose(h.numpy(), want, rtol=1e-12)
    np.testing.assert_allclose(kept.numpy(), sums, rtol=1e-12)


def test_gradients_of_all_kinds_agree():
    w, xs = rung.asarray(W), rung.asarray(XS)
    loss = lambda w: (recurrence(w, xs)[1] ** 2).sum()  # noqa: E731
    found = rung.grad(loss)(w).numpy()
    leaf = rung.tensor(W, requires_grad=True)
    loss(leaf).backward()
    np.testing.assert_allclose(leaf.grad.numpy(), found, rtol=1e-12)
    np.testing.assert_allclose(rung.jit(rung.grad(loss))(w).numpy(), found, rtol=1e-9)
    direction = RNG.standard_normal(W.shape)
    _, slope = rung.jvp(loss, (w,), (rung.asarray(direction),))
    assert slope.item() == pytest.approx((found * direction).sum(), rel=1e-10)
    step = 1e-6
    ends = [(plain(W + s * direction, XS)[1] ** 2).sum() for s in (step, -step)]
    assert slope.item() == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-6)
    hessian = rung.hessian(loss)(w).numpy().reshape(16, 16)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-8, atol=1e-10)


def test_trees_and_reversed_order():
    def step(carry, x):
        total, count = carry["total"] + x[0] * x[1], carry["count"] + 1
        return {"total": total, "count": count}, (total, {"half": total / 2})

    xs = (rung.asarray(np.arange(4.0)), rung.asarray(np.full(4, 2.0)))
    init = {"total": rung.asarray(0.0, dtype=rung.float64), "count": 0}
    final, (totals, more) = rung.scan(step, init, xs, reverse=True)
    assert final["total"].item() == 12 and final["count"].item() == 4
    np.testing.assert_array_equal(totals.numpy(), [12, 12, 10, 6])
    np.testing.assert_array_equal(more["half"].numpy(), [6, 6, 5, 3])


def test_no_iterations():
    final, ys = rung.scan(lambda c, x: (c + x, c), rung.asarray(3.0), rung.zeros((0,)))
    assert final.item() == 3 and ys.shape == (0,)
    assert rung.fori_loop(5, 5, lambda i, c: c + i, rung.asarray(1)).item() == 1


def collatz(n):
    return rung.while_loop(
        lambda s: s[0] != 1,
        lambda s: (rung.where(s[0] % 2 == 0, s[0] // 2, 3 * s[0] + 1), s[1] + 1),
        (n, rung.asarray(0)),
    )[1]


def test_while_loop_and_vmap():
    numbers = np.array([1, 7, 27, 97])
    want = [0, 16, 111, 118]
    assert [collatz(rung.asarray(n)).item() for n in numbers] == want
    np.testing.assert_array_equal(rung.vmap(collatz)(rung.asarray(numbers)).numpy(), want)
    np.testing.assert_array_equal(rung.jit(rung.vmap(collatz))(rung.asarray(numbers)).numpy(), want)


def test_while_loop_with_a_limit_has_a_gradient():
    def root(a):
        return rung.while_loop(
            lambda x: rung.abs(x * x - a) > 1e-12, lambda x: 0.5 * (x + a / x), a, limit=60
        )

    a = rung.asarray(2.0, dtype=rung.float64)
    assert rung.jit(root)(a).item() == pytest.approx(2**0.5, rel=1e-12)
    assert rung.grad(root)(a).item() == pytest.approx(0.5 / 2**0.5, rel=1e-6)
    short = rung.while_loop(lambda x: x < 100, lambda x: x * 2, rung.asarray(1), limit=3)
    assert short.item() == 8


def test_branches():
    x = rung.asarray(3.0)
    for flag, want in ((True, 6.0), (False, 4.0)):
        assert rung.cond(rung.asarray(flag), lambda x: x * 2, lambda x: x + 1, x).item() == want
        found = rung.grad(
            lambda x, flag=flag: rung.cond(rung.asarray(flag), lambda x: x * x, lambda x: x, x)
        )(x)
        assert found.item() == (6.0 if flag else 1.0)
    branches = [lambda x: x, lambda x: -x, lambda x: x * 10]
    for index, want in ((-3, 3.0), (0, 3.0), (1, -3.0), (2, 30.0), (9, 30.0)):
        assert rung.switch(rung.asarray(index), branches, x).item() == want
    each = rung.vmap(lambda i: rung.switch(i, branches, x))(rung.asarray(np.array([0, 1, 2, 7])))
    np.testing.assert_array_equal(each.numpy(), [3, -3, 30, 30])


def test_only_the_branch_that_is_taken_is_computed():
    forever = lambda x: rung.while_loop(lambda c: c == c, lambda c: c + 1, x)  # noqa: E731
    found = rung.cond(rung.asarray(True), lambda x: x + 1, forever, rung.asarray(1))
    assert found.item() == 2


def test_fori_loop_and_map():
    total = rung.fori_loop(0, 10, lambda i, a: a + i, rung.asarray(0, dtype=rung.int32))
    assert total.item() == 45
    bound = rung.asarray(7)
    total = rung.fori_loop(0, bound, lambda i, a: a + i, rung.asarray(0, dtype=rung.int32))
    assert total.item() == 21
    found = rung.map(lambda a, b: a * b, rung.arange(5), rung.arange(5))
    np.testing.assert_array_equal(found.numpy(), np.arange(5) ** 2)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 8, 13])
@pytest.mark.parametrize("reverse", [False, True])
def test_associative_scan(length, reverse):
    x = RNG.standard_normal((2, length))
    found = rung.associative_scan(lambda a, b: a + b, rung.asarray(x), axis=1, reverse=reverse)
    want = np.cumsum(x[:, ::-1], 1)[:, ::-1] if reverse else np.cumsum(x, 1)
    np.testing.assert_allclose(found.numpy(), want, rtol=1e-12, atol=1e-14)
    decay, drive = RNG.uniform(0, 1, (2, length))
    a, b = rung.associative_scan(
        lambda p, q: (p[0] * q[0], p[1] * q[0] + q[1]), (rung.asarray(decay), rung.asarray(drive))
    )
    state, states = 0.0, []
    for m, c in zip(decay, drive, strict=True):
        state = state * m + c
        states.append(state)
    np.testing.assert_allclose(b.numpy(), states, rtol=1e-12)
    np.testing.assert_allclose(a.numpy(), np.cumprod(decay), rtol=1e-12)


def test_outer_values_and_jit_inside():
    scale = rung.tensor(2.0, requires_grad=True)
    half = rung.jit(lambda x: x / 2)
    final, _ = rung.scan(lambda c, x: (c + half(x) * scale, None), rung.zeros(()), rung.ones((4,)))
    assert final.item() == 4
    final.backward()
    assert scale.grad.item() == 2


def test_stop_gradient_inside():
    def total(x):
        return rung.scan(lambda c, v: (c + rung.stop_gradient(v) * v, None), rung.zeros(()), x)[0]

    x = rung.asarray([1.0, 2.0])
    np.testing.assert_allclose(rung.grad(total)(x).numpy(), [1, 2])
    each = rung.vmap(lambda v: rung.stop_gradient(v) * v)
    np.testing.assert_allclose(rung.grad(lambda x: each(x).sum())(x).numpy(), [1, 2])


def test_threads_do_not_matter():
    w, xs = (
        rung.asarray(RNG.standard_normal((64, 64)) / 8),
        rung.asarray(RNG.standard_normal((10, 32, 64))),
    )
    step = lambda h, x: (rung.tanh(h @ w + x), None)  # noqa: E731
    run = rung.jit(lambda xs: rung.scan(step, rung.zeros((32, 64), dtype=rung.float64), xs)[0])
    before = rung.settings().threads
    found = []
    try:
        for threads in (1, 2):
            rung.configure(threads=threads)
            found.append(run(xs).numpy())
    finally:
        rung.configure(threads=before)
    np.testing.assert_array_equal(*found)


def interrupted_after(seconds: float) -> threading.Thread:
    main = threading.main_thread().ident

    def interrupt():
        time.sleep(seconds)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    return thread


def test_an_endless_loop_can_be_interrupted():
    forever = rung.while_loop(lambda c: c >= 0, lambda c: c * 1.0, rung.asarray(1.0))
    thread = interrupted_after(0.5)
    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        forever.numpy()
    thread.join()
    assert time.perf_counter() - start < 20
    del forever  # still pending, so the next look at anything would compute it
    assert (rung.ones((3,)) + 1).sum().item() == 6


def test_state_is_whole_after_an_interrupt():
    """A run that writes over state ends first."""
    first, second = rung.zeros(()), rung.zeros(())

    @rung.jit
    def step(n):
        first.assign(first + 1)
        total = rung.while_loop(lambda c: c < n, lambda c: c + 1, rung.asarray(0.0))
        second.assign(second + total - total + 1)
        return total

    step(rung.asarray(10.0)).item()
    thread = interrupted_after(0.2)
    with pytest.raises(KeyboardInterrupt):
        step(rung.asarray(1e7)).item()
        time.sleep(5)  # where the machine was faster
    thread.join()
    assert first.item() == second.item()


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda x: rung.scan(lambda c, v: (c.astype(rung.float64), v), x[0], x),
            ShapeError, r"scan of function: carry is f32\[3\] before .* f64\[3\] after",
        ),
        (
            lambda x: rung.scan(lambda c, v: ({"a": c}, v), {"b": x[0]}, x),
            RungError, "the carry is .* before an iteration",
        ),
        (lambda x: rung.scan(lambda c, v: c, x[0], x), RungError, r"not \(carry, y\)"),
        (lambda x: rung.scan(lambda c, v: (c, v), x[0]), RungError, "number of iterations"),
        (
            lambda x: rung.scan(lambda c, v: (c, None), x[0], (x, x[0])),
            ShapeError, r"lengths differ: xs\[0\] has 2, xs\[1\] has 3",
        ),
        (
            lambda x: rung.scan(lambda c, v: (c if c.sum() > 0 else v, v), x[0], x),
            TraceError, "the value of a tensor is not known",
        ),
        (
            lambda x: rung.while_loop(lambda c: c, lambda c: c, x),
            DTypeError, r"the condition gives f32\[2, 3\], not one bool",
        ),
        (lambda x: rung.while_loop(lambda c: True, lambda c: c, x, limit=0), RungError, "limit=0"),
        (
            lambda x: rung.grad(lambda x: rung.while_loop(
                lambda c: c.sum() < 3, lambda c: c * 2, x).sum())(x),
            GradientError, "no reverse derivative",
        ),
        (lambda x: rung.cond(x, lambda: 1, lambda: 2), DTypeError, "not a scalar bool"),
        (
            lambda x: rung.cond(rung.asarray(True), lambda x: x, lambda x: x[None], x),
            ShapeError, "branch 1 gives",
        ),
        (
            lambda x: rung.cond(rung.asarray(True), lambda x: x, lambda x: (x, x), x),
            RungError, "branch 1 gives",
        ),
        (lambda x: rung.switch(rung.asarray(0), [], x), RungError, "no branches"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call(rung.asarray(np.arange(1.0, 7.0, dtype=np.float32).reshape(2, 3)))


def test_a_tensor_of_an_iteration_does_not_leak():
    kept = []

    def step(c, x):
        kept.append(c + x)
        return c, None

    rung.scan(step, rung.zeros(()), rung.ones((3,)))
    with pytest.raises(TraceError, match="made inside scan of step is used outside"):
        kept[0].numpy()


# ---- rules of users and checkpoints within bodies


@rung.custom_vjp
def doubled_gradient(x):
    return rung.sin(x)


doubled_gradient.defvjp(lambda x: (rung.sin(x), x), lambda x, ct: (2 * ct * rung.cos(x),))


@rung.custom_jvp
def tripled_tangent(x):
    return rung.sin(x)


tripled_tangent.defjvp(lambda p, t: (rung.sin(p[0]), 3 * t[0] * rung.cos(p[0])))


def through(f, loop):
    """f three times in a row on a vector, in Python or in a loop, summed."""
    if loop == "python":
        return lambda x: f(f(f(x))).sum()
    if loop == "scan":
        return lambda x: rung.scan(lambda c, _: (f(c), None), x, length=3)[0].sum()
    if loop == "cond":
        once = lambda x: rung.cond(x.sum() < 1e9, f, rung.exp, x)  # noqa: E731
        return lambda x: once(once(once(x))).sum()
    nested = lambda x: rung.fori_loop(0, 1, lambda i, c: f(c), x)  # noqa: E731
    return lambda x: rung.scan(lambda c, _: (nested(c), None), x, length=3)[0].sum()


@pytest.mark.parametrize("loop", ["scan", "cond", "nested"])
@pytest.mark.parametrize("f", [doubled_gradient, tripled_tangent], ids=["vjp", "jvp"])
def test_rules_of_users_within_bodies(f, loop):
    x = rung.asarray([0.3, -0.7, 1.1], dtype=rung.float64)
    expected = rung.grad(through(f, "python"))(x).numpy()
    looped = through(f, loop)
    np.testing.assert_allclose(looped(x).numpy(), through(f, "python")(x).numpy(), rtol=1e-12)
    for grad in (rung.grad(looped), rung.jit(rung.grad(looped)), rung.grad(rung.jit(looped))):
        np.testing.assert_allclose(grad(x).numpy(), expected, rtol=1e-12)
    xs = rung.stack([x, 2 * x])
    each = rung.vmap(rung.grad(looped))(xs).numpy()
    np.testing.assert_allclose(each[0], expected, rtol=1e-12)
    if f is tripled_tangent:
        ones = rung.ones_like(x)
        tangent = rung.jvp(looped, (x,), (ones,))[1].numpy()
        np.testing.assert_allclose(tangent, expected.sum(), rtol=1e-12)


def test_a_rule_that_reads_from_outside_is_refused():
    scale = rung.asarray(2.0)

    @rung.custom_vjp
    def f(x):
        return x * 1.0

    f.defvjp(lambda x: (x * 1.0, None), lambda _, ct: (ct * scale,))
    run = lambda x: rung.scan(lambda c, _: (f(c), None), x, length=3)[0]  # noqa: E731
    with pytest.raises(TraceError, match="reads a tensor from outside"):
        rung.grad(run)(rung.asarray(1.0)).numpy()


@pytest.mark.parametrize("policy", ["nothing", rung.save_names("kept")])
def test_checkpoint_within_a_body(policy):
    w = rung.asarray(np.random.default_rng(0).standard_normal((8, 8)) / 3)
    x = rung.asarray(np.random.default_rng(1).standard_normal((4, 8)))

    def layer(x, w):
        inner = rung.checkpoint_name(rung.tanh(x @ w), "kept")
        return rung.exp(rung.sin(inner)) - rung.tanh(inner * 2)

    def loss(layer):
        return lambda w: rung.scan(lambda c, _: (layer(c, w), None), x, length=5)[0].sum()

    plain, again = loss(layer), loss(rung.checkpoint(layer, policy=policy))
    expected = rung.grad(plain)(w).numpy()
    np.testing.assert_allclose(rung.grad(again)(w).numpy(), expected, rtol=1e-12)
    kept = [
        rung.jit(rung.grad(f)).compile(w).runnable.program.arena_bytes for f in (plain, again)
    ]
    assert kept[1] < kept[0]


def test_what_one_function_updates_in_place_is_not_seen_by_another():
    def updating(x):
        x += 1
        return x * 1

    ten = lambda x: x * 10  # noqa: E731
    x = rung.asarray([1.0, 2.0])
    for number, branches in enumerate([(ten, updating), (updating, ten)]):
        assert rung.switch(number, branches, x).tolist() == [10, 20]
        assert rung.switch(1 - number, branches, x).tolist() == [2, 3]
    assert rung.cond(x.sum() > 0, ten, updating, {"a": x}["a"]).tolist() == [10, 20]
    assert x.tolist() == [1, 2]

    def condition(c):
        c += 5
        return c < 10

    assert rung.while_loop(condition, lambda c: c + 1, rung.asarray(0.0)).item() == 5


@pytest.mark.parametrize("wrap", [lambda f: f, rung.jit], ids=["lazy", "jit"])
def test_a_tensor_from_outside_is_not_updated_by_one_example(wrap):
    total = rung.zeros(3)

    def add(x):
        total.assign(total + x)
        return x

    with pytest.raises(TraceError, match="from outside is updated by what vmap") as raised:
        wrap(rung.vmap(add))(rung.ones((2, 3)))
    assert "return the new value" in str(raised.value)
    np.testing.assert_array_equal(total.numpy(), np.zeros(3))


def test_what_is_made_of_something_small_waits_for_its_reader():
    """The big factor is no value that is kept while the loop runs."""
    big = rung.ones((256, 256))

    def scaled(big, small, x):
        factor = rung.broadcast_to(small.sum(), big.shape)
        end = rung.scan(lambda c, _: (rung.tanh(c), None), x, length=3)[0]
        return big * factor + end.sum()

    step = rung.jit(scaled)
    args = (big, rung.ones(4), rung.ones(2))
    assert step.compile(*args).runnable.program.arena_bytes < big.nbytes
    np.testing.assert_allclose(step(*args).numpy(), scaled(*args).numpy(), rtol=1e-6)


def test_programs_that_are_called_leave_what_waits_alone():
    """The memory of a called program (temporaries of a product chain) and a value that waits for
    the loop to end are planned together."""
    x = rung.asarray(np.random.default_rng(2).standard_normal((64, 64)) / 8)

    def run(x):
        waits = (x @ x).cumsum(0)
        chain = lambda c, _: (rung.softmax(c @ x, -1) @ (c @ c).cumsum(1), None)  # noqa: E731
        return rung.scan(chain, x, length=4)[0] + waits.cumsum(1)

    c = x.numpy()
    for _ in range(4):
        e = np.exp(c @ x.numpy() - (c @ x.numpy()).max(-1, keepdims=True))
        c = (e / e.sum(-1, keepdims=True)) @ (c @ c).cumsum(1)
    wanted = c + (x.numpy() @ x.numpy()).cumsum(0).cumsum(1)
    np.testing.assert_allclose(rung.jit(run)(x).numpy(), wanted, rtol=1e-9, atol=1e-12)


def test_bodies_are_let_go_with_their_programs():
    clear_programs()
    gc.collect()
    before = len(ruled._plain)
    x = rung.scan(lambda c, _: (rung.tanh(c) * 1.25, None), rung.ones(3), length=2)[0]
    x.numpy()
    del x
    clear_programs()
    gc.collect()
    assert len(ruled._plain) <= before
