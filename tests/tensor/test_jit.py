"""jit: signatures, capture by reference, write-back, donation, errors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import rung
from rung.core.errors import TraceError
from rung.core.settings import configure
from rung.tensor.jit import guard
from rung.tensor.programs import clear_programs


@pytest.fixture(autouse=True, params=["interpreted", "compiled"])
def executor(request: pytest.FixtureRequest) -> Iterator[None]:
    configure(interpret=request.param == "interpreted")
    yield
    configure(interpret=False)


def test_traces_once_for_each_signature() -> None:
    traces: list[str] = []

    @rung.jit
    def f(x: Any, n: int = 1) -> Any:
        traces.append(f"{x.dtype}{list(x.shape)} {n}")
        return x * n

    for _ in range(3):
        assert f(rung.ones(2)).tolist() == [1, 1]
    assert f(rung.ones(3)).tolist() == [1, 1, 1]
    assert f(rung.ones(2, rung.int64)).tolist() == [1, 1]
    assert f(rung.ones(2), 5).tolist() == [5, 5]
    assert f(rung.ones(2), n=5).tolist() == [5, 5]
    assert f(np.ones(2, np.float32)).tolist() == [1, 1]
    assert traces == ["f32[2] 1", "f32[3] 1", "i64[2] 1", "f32[2] 5", "f32[2] 5"]
    assert f.explain_recompiles() == [
        "first call",
        "argument [0]: f32[3] was f32[2]",
        "argument [0]: i64[2] was f32[2]",
        "the arguments have another structure; tuple(tuple(*, *), dict()); tuple(tuple(*), dict())",
        "the arguments have another structure; tuple(tuple(*), dict(*)); tuple(tuple(*), dict())",
    ]


def test_reasons_are_printed_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    configure(debug=1)
    try:
        rung.jit(lambda x: x + 1, name="plus")(rung.ones(1))
    finally:
        configure(debug=0)
    assert "rung: jit plus: first call" in capsys.readouterr().err


@dataclass
class Batch:
    x: Any
    label: str


def test_trees_in_and_out() -> None:
    @rung.jit
    def f(batch: Batch, *rest: Any, options: dict[str, Any]) -> Any:
        return {"sum": batch.x + rest[0][1], "label": batch.label, "none": None}, [options["k"]]

    out, (k,) = f(
        Batch(rung.ones(2), "a"), (1, rung.ones(2)), options={"k": rung.tensor(3), "m": 4}
    )
    assert out["sum"].tolist() == [2, 2]
    assert (out["label"], out["none"], k.item()) == ("a", None, 3)


def test_results_that_are_arguments_or_tensors_from_outside() -> None:
    outside = rung.ones(2)

    @rung.jit
    def f(x: Any) -> Any:
        return x, outside, x + 1

    x = rung.tensor([5.0, 6.0])
    same, out, new = f(x)
    assert same.tolist() == [5, 6]
    assert out is outside
    assert new.tolist() == [6, 7]
    x += 1
    assert same.tolist() == [5, 6]


def test_tensors_from_outside_are_read_anew() -> None:
    w = rung.tensor([1.0, 2.0])

    @rung.jit
    def f(x: Any) -> Any:
        return x * w

    x = rung.ones(2)
    assert f(x).tolist() == [1, 2]
    w += 1
    assert f(x).tolist() == [2, 3]
    w.assign([7, 8])
    assert f(x).tolist() == [7, 8]


def test_updates_are_written_back() -> None:
    count, mean = rung.tensor(0), rung.zeros(3)
    mean.realize(), count.realize()

    @rung.jit
    def f(x: Any) -> Any:
        nonlocal_count = count
        nonlocal_count += 1
        mean.assign(mean * 0.5 + x * 0.5)
        mean[0] = 9
        return mean + 0

    x = rung.full(3, 4.0)
    f(x)
    where = mean._buffer.pointer
    for _ in range(3):
        last = f(x)
    assert count.item() == 4
    np.testing.assert_allclose(mean.numpy(), [9, 3.75, 3.75])
    np.testing.assert_allclose(last.numpy(), mean.numpy())
    assert mean._buffer.pointer == where, "nobody else holds it, so it is updated in place"


def test_updates_do_not_reach_those_who_hold_the_old_value() -> None:
    p = rung.zeros(3) + 0

    @rung.jit
    def step(x: Any) -> Any:
        old = p.clone()
        p.assign(p + x)
        return old

    seen = p.numpy()
    copy = p.clone()
    view = p[0:2]
    pending = p * 2
    old = step(rung.ones(3))
    older = step(p)
    assert seen.tolist() == copy.tolist() == pending.tolist() == old.tolist() == [0, 0, 0]
    assert view.tolist() == [0, 0]
    assert older.tolist() == [1, 1, 1]
    assert p.tolist() == [2, 2, 2]


def test_swapped_state() -> None:
    a, b = rung.tensor([1.0]), rung.tensor([2.0])

    @rung.jit
    def swap() -> None:
        old = a.clone()
        a.assign(b)
        b.assign(old)

    swap()
    assert (a.item(), b.item()) == (2, 1)
    swap()
    assert (a.item(), b.item()) == (1, 2)


def test_swapped_state_that_simplifying_uncovers() -> None:
    a, b, c = rung.ones(100) * 1, rung.ones(100) * 2, rung.ones(100) * 3

    @rung.jit
    def rotate() -> Any:
        old = a * 1
        a.assign(b * 1)
        b.assign(c * 1)
        c.assign(old + 0)
        return old * 1, c * 2

    for _ in range(3):
        before = [t.numpy()[7] for t in (a, b, c)]
        old, double = rotate()
        assert [t.numpy()[7] for t in (a, b, c)] == [before[1], before[2], before[0]]
        assert (old.numpy()[7], double.numpy()[7]) == (before[0], 2 * before[0])


def test_state_that_is_only_written() -> None:
    a = rung.zeros(2)

    @rung.jit
    def f(x: Any) -> Any:
        a.assign(x)
        return x * 2

    x = rung.tensor([1.0, 2.0])
    f(x)
    a += 1
    assert (x.tolist(), a.tolist()) == ([1, 2], [2, 3])
    assert f(x).tolist() == [2, 4]
    assert a.tolist() == [1, 2]


def test_donation_reuses_the_buffer() -> None:
    @rung.jit(donate=(0,))
    def f(x: Any, y: Any) -> Any:
        return x + y

    x, y = rung.ones(1000) * 1, rung.ones(1000) * 2
    x.realize()
    where = x._buffer.pointer
    z = f(x, y)
    assert z._buffer.pointer == where
    assert z.numpy()[0] == 3
    assert y.numpy()[0] == 2
    held = z.numpy()
    f(z, y)
    assert held[0] == 3


def test_random_state_moves_on() -> None:
    rung.manual_seed(3)

    @rung.jit
    def f() -> Any:
        return rung.rand(4), rung.rand(4)

    draws = [t.numpy() for _ in range(2) for t in f()]
    rung.manual_seed(3)
    eager = [rung.rand(4).numpy() for _ in range(4)]
    np.testing.assert_array_equal(draws, eager)
    assert len({d.tobytes() for d in draws}) == 4


def test_guards_make_a_new_trace() -> None:
    mode = {"training": True}

    @rung.jit
    def f(x: Any) -> Any:
        guard(lambda: mode["training"], "training")
        return x * 2 if mode["training"] else x

    x = rung.ones(1)
    assert f(x).item() == 2
    mode["training"] = False
    assert f(x).item() == 1
    mode["training"] = True
    assert f(x).item() == 2
    assert [r.split(",")[0] for r in f.explain_recompiles()] == [
        "first call",
        "changed outside: training",
    ]


def test_nested_and_methods() -> None:
    class Model:
        def __init__(self) -> None:
            self.w = rung.tensor(2.0)

        @rung.jit
        def forward(self, x: Any) -> Any:
            return inner(x) * self.w

    @rung.jit
    def inner(x: Any) -> Any:
        return x + 1

    model = Model()
    assert model.forward(rung.tensor(3.0)).item() == 8
    model.w += 1
    assert model.forward(rung.tensor(3.0)).item() == 12
    assert model.forward.explain_recompiles() == ["first call"]
    compiled = Model.forward.compile(model, rung.tensor(3.0))
    assert len(compiled.runnable.graph.params) == 2
    model.w.requires_grad = True
    with pytest.raises(TraceError, match="no_grad"):
        inner_of_w = rung.jit(lambda: inner(model.w))
        inner_of_w.compile()


def test_a_varying_number_costs_traces_but_few_programs() -> None:
    clear_programs()

    @rung.jit
    def f(x: Any, rate: float) -> Any:
        return x * rate

    x = rung.ones(2)
    for i in range(10):
        assert f(x, i / 8).tolist() == [i / 8, i / 8]
    programs = {id(e.runnable) for entries in f._entries.values() for e in entries}
    assert len(programs) == 3


LOOKS = {
    "bool": lambda x: bool(x.sum() > 0),
    "item": lambda x: x.sum().item(),
    "numpy": lambda x: x.numpy(),
    "float": lambda x: float(x.sum()),
    "mask": lambda x: x[x > 0],
    "nonzero": lambda x: rung.nonzero(x),
    "tolist": lambda x: x.tolist(),
    "outside": lambda x: OUTSIDE.item(),
}
OUTSIDE = rung.tensor(1.0)


@pytest.mark.parametrize("name", LOOKS)
def test_looks_at_values_are_errors_on_the_users_line(name: str) -> None:
    look = LOOKS[name]

    @rung.jit
    def f(x: Any) -> Any:
        return look(x)

    with pytest.raises(TraceError, match="not known while jit traces f") as caught:
        f(rung.ones(3))
    assert f"test_jit.py:{look.__code__.co_firstlineno}" in str(caught.value)
    assert f(rung.ones(3)) if False else True
    assert (rung.ones(1) + 1).item() == 2, "the failed trace is over"


def test_constants_may_be_looked_at() -> None:
    @rung.jit
    def f(x: Any) -> Any:
        table = rung.arange(3) + 1
        return x * int(table[1])

    assert f(rung.ones(1)).item() == 2


def test_printing_a_traced_tensor_is_no_look() -> None:
    @rung.jit
    def f(x: Any) -> Any:
        assert repr(x) == "Tensor(f32[3], traced)"
        return x

    f(rung.ones(3))


def test_a_leaked_tensor_is_an_error() -> None:
    leaked: list[Any] = []

    @rung.jit
    def f(x: Any) -> Any:
        leaked.append(x + 1)
        return x

    f(rung.ones(3))
    with pytest.raises(TraceError, match="while jit traced f is used after the trace"):
        leaked[0] + 1
    with pytest.raises(TraceError, match=r"tensor.assign"):
        leaked[0].numpy()


def test_a_leaked_constant_is_fine() -> None:
    kept: list[Any] = []

    @rung.jit
    def f(x: Any) -> Any:
        if not kept:
            kept.append(rung.tril(rung.ones((2, 2))))
        return x @ kept[0]

    assert f(rung.ones((1, 2))).tolist() == [[2, 1]]
    assert f(rung.ones((3, 2))).shape == (3, 2)
    assert kept[0].tolist() == [[1, 0], [1, 1]]


def test_an_error_while_tracing_changes_nothing() -> None:
    p = rung.tensor([1.0])

    @rung.jit
    def f(x: Any) -> Any:
        p.assign(x)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        f(rung.tensor([5.0]))
    assert p.item() == 1


def test_arguments_must_be_hashable() -> None:
    with pytest.raises(TraceError, match="set, which cannot be hashed"):
        rung.jit(lambda x: x)({1, 2})


def train(p: Any, q: Any, x: Any, y: Any) -> Any:
    loss = ((x @ p + q - y) ** 2).mean()
    loss.backward()
    with rung.no_grad():
        for t in (p, q):
            t -= 0.1 * t.grad
            t.grad = None
    return loss


@pytest.mark.parametrize("way", ["lazy", "jit"])
def test_a_training_step_with_backward(way: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 3)).astype(np.float32)
    y = x @ np.array([1.0, -2, 3], np.float32) + 0.5
    p = rung.zeros(3).requires_grad_()
    q = rung.tensor(0.0, requires_grad=True)
    step = rung.jit(train) if way == "jit" else train
    losses = [float(step(p, q, rung.tensor(x), rung.tensor(y))) for _ in range(160)]
    assert losses[-1] < 1e-3 < 1 < losses[0]
    np.testing.assert_allclose(p.numpy(), [1, -2, 3], atol=0.1)


def test_a_training_step_over_captured_parameters() -> None:
    p = rung.tensor([1.0, 2.0], requires_grad=True)

    @rung.jit
    def step(x: Any) -> Any:
        loss = (p * x).sum()
        loss.backward()
        with rung.no_grad():
            p.assign(p - p.grad)
        return loss

    x = rung.tensor([1.0, 1.0])
    assert step(x).item() == 3
    assert p.grad.tolist() == [1, 1]
    assert p.tolist() == [0, 1]
    assert step(x).item() == 1, "the gradient adds up, as it does outside of jit"
    assert p.grad.tolist() == [2, 2]
    assert p.tolist() == [-2, -1]
    assert step(x).item() == -3
    assert p.grad.tolist() == [3, 3]
    assert step.explain_recompiles() == ["first call", "changed outside: whether .grad is set"]
    p.grad = None
    step(x)
    assert p.grad.tolist() == [1, 1]
    assert len(step.explain_recompiles()) == 2


def test_gradients_pass_through_jit() -> None:
    p = rung.tensor([1.0, 2.0], requires_grad=True)

    @rung.jit
    def f(x: Any) -> Any:
        return (p * x).sum()

    loss = f(rung.tensor([3.0, 4.0]))
    loss.backward()
    assert p.grad.tolist() == [3, 4]
    x = rung.tensor([5.0, 6.0], requires_grad=True)
    f(x).backward()
    assert x.grad.tolist() == [1, 2]
    assert rung.grad(f)(rung.ones(2)).tolist() == [1, 2]
    with rung.no_grad():
        assert f(rung.ones(2)).item() == 3


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w * 2,
        lambda w: w[::-1],
        lambda w: w.reshape(3, 40).T.reshape(40, 3),
        lambda w: w * 0,
    ],
    ids=["doubled", "flipped", "transposed", "cleared"],
)
def test_state_is_scattered_into_what_is_made_of_it(change):
    start = np.arange(120, dtype=np.float32).reshape(40, 3)
    state, rows = rung.asarray(start.copy()), np.array([3, 5, 38])

    @rung.jit
    def step(updates):
        changed = change(state)
        changed[rung.asarray(rows)] += updates
        state.assign(changed)
        return changed.sum()

    expected = start
    for _ in range(3):
        expected = change(expected).copy()
        expected[rows] += 1
        total = step(rung.ones((3, 3)))
        assert np.array_equal(np.array(state), expected)
        assert float(total) == expected.sum()


def test_numbers_among_the_arguments_count_by_their_bits() -> None:
    f = rung.jit(lambda x, n: x * n)
    x = rung.ones(1)
    found = [np.signbit(f(x, n).numpy()).item() for n in (0.0, -0.0, 0.0, -0.0, 0, True)]
    assert found == [False, True, False, True, False, False]
    nans = [float("nan") for _ in range(3)]
    for nan in nans:
        assert np.isnan(f(x, nan).numpy()).all()
    assert len(f.explain_recompiles()) == 5
