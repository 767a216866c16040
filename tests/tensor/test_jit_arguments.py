"""What a jitted function does to its arguments is what it does to them without `jit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn
from rung.core.errors import RungError, TraceError
from rung.core.settings import configure


@pytest.fixture(autouse=True, params=["interpreted", "compiled"])
def executor(request: pytest.FixtureRequest) -> Iterator[None]:
    configure(interpret=request.param == "interpreted")
    yield
    configure(interpret=False)


@dataclass
class Pair:
    a: Any
    b: Any


def vector(*values: float) -> Any:
    return rung.tensor(list(values), dtype="f32")


def subtract(p: Any, g: Any) -> None:
    p -= 0.1 * g


def fill_cache(cache: Any, k: Any, at: Any) -> Any:
    cache[:, at] = k
    return cache.sum()


def tree(t: Any) -> Any:
    t["w"] *= 2
    t["list"][1] += t["w"]
    return t["list"][0] + 1


def fields(pair: Pair) -> None:
    pair.a += pair.b
    pair.b.assign(pair.a * 2)


def twice(x: Any, y: Any) -> Any:
    x *= 2
    return y + 0


def old_and_new(x: Any) -> Any:
    old = x.clone()
    x += 1
    return old, x, x * 2


def swap(x: Any, y: Any) -> None:
    old = x.clone()
    x.assign(y)
    y.assign(old)


def rotate(x: Any, y: Any, z: Any) -> Any:
    old = x * 1
    x.assign(y * 1)
    y.assign(z * 1)
    z.assign(old + 0)
    return old, z * 2


def replaced_item(d: Any, x: Any) -> None:
    d["w"] = d["w"] - x
    d["new"] = {"inner": x * 2, "text": "a"}


def appended(items: Any, x: Any) -> Any:
    items.append(x + len(items))
    return items[0]


def moved(d: Any) -> None:
    d["b"], d["a"] = d["a"], d["b"]
    d["a"][0] += 1


def popped(d: Any) -> Any:
    return d.pop("label") * d["x"]


def set_field(pair: Pair) -> None:
    pair.a = pair.a + pair.b
    pair.b = "done" if pair.b is None else pair.b


def only_written(x: Any, y: Any) -> None:
    x.assign(y)
    y.zero_()


def constant(x: Any) -> None:
    x.fill_(3)


def chained(x: Any) -> Any:
    for _ in range(3):
        x += x
    x[0] = 7
    x[1:] *= 0.5
    return x.sum()


def written_with_own_value(x: Any) -> Any:
    x.assign(x)
    return x


def by_name(x: Any, *, state: Any) -> Any:
    state["n"] += 1
    return x * state["n"]


def ints(n: Any, mask: Any) -> Any:
    n += 1
    mask |= n > 2
    return n


PROGRAMS: dict[str, tuple[Callable[..., Any], Callable[[], tuple[Any, ...]]]] = {
    "step": (subtract, lambda: (vector(1, 2), vector(1, 1))),
    "cache": (fill_cache, lambda: (rung.zeros((2, 3)), vector(5, 6), 1)),
    "cache at a tensor": (fill_cache, lambda: (rung.zeros((2, 3)), vector(5, 6), rung.tensor(2))),
    "tree": (tree, lambda: ({"w": vector(1, 2), "list": [vector(3, 4), vector(5, 6)]},)),
    "dataclass": (fields, lambda: (Pair(vector(1, 2), vector(3, 4)),)),
    "two tensors": (twice, lambda: (vector(2), vector(3))),
    "the same tensor twice": (twice, lambda: (vector(2),) * 2),
    "the same tensor in a tree": (lambda d: twice(d["x"], d["y"][0]), lambda: _shared_tree()),
    "old and new": (old_and_new, lambda: (vector(1, 2),)),
    "swap": (swap, lambda: (vector(1), vector(2))),
    "swap of one": (swap, lambda: (vector(1),) * 2),
    "rotate": (rotate, lambda: (vector(1), vector(2), vector(3))),
    "item of a dict": (replaced_item, lambda: ({"w": vector(1, 2)}, vector(1, 1))),
    "append": (appended, lambda: ([vector(1)], vector(2))),
    "moved containers": (moved, lambda: ({"a": [vector(1)], "b": [vector(2)]},)),
    "pop": (popped, lambda: ({"x": vector(1), "label": vector(2), "z": 3},)),
    "field": (set_field, lambda: (Pair(vector(1), vector(2)),)),
    "field of another kind": (set_field, lambda: (Pair("a", "b"),)),
    "only written": (only_written, lambda: (vector(1), vector(2))),
    "only written, one": (only_written, lambda: (vector(1),) * 2),
    "constant": (constant, lambda: (vector(1),)),
    "chained": (chained, lambda: (vector(1, 2, 3),)),
    "own value": (written_with_own_value, lambda: (vector(1),)),
    "integers": (ints, lambda: (rung.tensor(1), rung.tensor([False]))),
}


def _shared_tree() -> Any:
    x = vector(2)
    return ({"x": x, "y": [x]},)


def plain(x: Any) -> Any:
    """Values of a tree, comparable by `==`."""
    if isinstance(x, rung.Tensor | np.ndarray):
        return np.asarray(x).tolist()
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [plain(v) for v in x]
    return {k: plain(v) for k, v in vars(x).items()} if isinstance(x, Pair) else x


@pytest.mark.parametrize("name", PROGRAMS)
def test_arguments_are_updated_as_without_jit(name: str) -> None:
    function, make = PROGRAMS[name]
    compiled = rung.jit(function)
    for _ in range(2):  # the second time by the fast path, with other tensors
        ours, expected = make(), make()
        for _ in range(3):
            try:
                wanted = plain(function(*expected))
            except (KeyError, TypeError) as error:
                with pytest.raises(type(error)):
                    compiled(*ours)
                break
            assert plain(compiled(*ours)) == wanted
            assert plain(ours) == plain(expected)


def test_arguments_by_name() -> None:
    ours, expected = {"n": vector(1)}, {"n": vector(1)}
    compiled = rung.jit(by_name)
    for _ in range(3):
        assert plain(compiled(vector(2), state=ours)) == plain(by_name(vector(2), state=expected))
        assert plain(ours) == plain(expected)


def test_whether_arguments_are_the_same_tensor_is_part_of_the_signature() -> None:
    f = rung.jit(twice)
    a, b = vector(2), vector(3)
    assert f(a, b).item() == 3
    assert f(a, a).item() == 8
    assert f(a, b).item() == 3
    assert f(b, b).item() == 6
    assert (a.item(), b.item()) == (16, 6)
    assert f.explain_recompiles() == ["first call", "other arguments are the same tensor"]


def test_an_update_is_made_in_the_memory_that_nobody_else_holds() -> None:
    f = rung.jit(subtract)
    p, g = vector(1, 2) * 1, vector(1, 1)
    p.realize()
    where = p._buffer.pointer
    for _ in range(3):
        f(p, g)
    assert p._buffer.pointer == where
    seen, copy, pending = p.numpy(), p.clone(), p * 10
    f(p, g)
    np.testing.assert_allclose(seen, [0.7, 1.7], rtol=1e-6)
    np.testing.assert_allclose(copy.numpy(), [0.7, 1.7], rtol=1e-6)
    np.testing.assert_allclose(pending.numpy(), [7, 17], rtol=1e-6)
    np.testing.assert_allclose(p.numpy(), [0.6, 1.6], rtol=1e-6)


@pytest.mark.parametrize("captured_is_written", [False, True])
def test_an_argument_that_is_read_from_outside_too(captured_is_written: bool) -> None:
    def run(wrap: Any) -> list[Any]:
        w, other = vector(1), vector(10)

        def f(x: Any) -> Any:
            if captured_is_written:
                w.assign(w * 2)
            x += 1
            return x * w

        f = wrap(f)
        seen = []
        for x in (other, w, other, w, w):
            seen += [f(x).item(), w.item(), other.item()]
        return seen

    assert run(rung.jit) == run(lambda f: f)


def test_a_parameter_given_beside_its_module() -> None:
    def run(wrap: Any) -> Any:
        rung.manual_seed(0)
        model = nn.Linear(1, 1, bias=False).requires_grad_(False)

        def f(model: Any, w: Any) -> Any:
            w.fill_(2)
            return model(rung.ones(1))

        f = wrap(f)
        return [f(model, model.weight).item(), model.weight.item(), f(model, vector(5)).item()]

    assert run(rung.jit) == run(lambda f: f) == [2, 2, 2]


def test_gradients_of_arguments_are_read_and_set() -> None:
    def run(wrap: Any) -> list[Any]:
        p, q = vector(1, 2).requires_grad_(), vector(3, 4).requires_grad_()

        def step(params: Any) -> None:
            for t in params:
                if t.grad is not None:
                    t.grad *= 0.5
                    t -= t.grad
                    t.grad = None

        step = wrap(step)
        seen = []
        for i in range(4):
            ((p * p).sum() + (q.sum() if i % 2 else 0.0)).backward()
            held = p.grad
            with rung.no_grad():
                step([p, q])
            seen += [p.tolist(), q.tolist(), held.tolist(), p.grad is None, q.grad is None]
        return seen

    assert run(rung.jit) == run(lambda f: f)


def test_gradients_of_arguments_pile_up() -> None:
    def run(wrap: Any) -> list[Any]:
        p = vector(1, 2)

        def step(p: Any, x: Any) -> Any:
            p.requires_grad_()
            loss = (p * x).sum()
            loss.backward()
            return loss

        step = wrap(step)
        return [step(p, vector(1, 3)).item() for _ in range(3)] + [p.grad.tolist(), p.requires_grad]

    assert run(rung.jit) == run(lambda f: f)


def test_a_gradient_is_followed_through_an_update() -> None:
    def run(wrap: Any) -> list[Any]:
        w, x = vector(2, 3).requires_grad_(), vector(1, 1)

        def f(x: Any) -> None:
            x *= w

        f = wrap(f)
        f(x)
        f(x)
        x.sum().backward()
        return [x.tolist(), w.grad.tolist()]

    assert run(rung.jit) == run(lambda f: f)


def test_a_leaf_is_not_updated_while_gradients_are_followed() -> None:
    with pytest.raises(RungError, match="updated in place"):
        rung.jit(subtract)(vector(1.0).requires_grad_(), vector(1.0))


def test_arrays_are_updated_in_their_own_memory() -> None:
    p, rows = np.ones(2, np.float32), np.ones((2, 3), np.float32)
    f = rung.jit(subtract)
    for _ in range(2):
        f(p, np.ones(2, np.float32))
        f(rows[:, 1], vector(1, 1))
    np.testing.assert_allclose(p, [0.8, 0.8])
    np.testing.assert_allclose(rows, [[1, 0.8, 1]] * 2)


def test_one_array_given_twice() -> None:
    a, b = np.ones(2, np.float32), np.full(2, 3, np.float32)
    f = rung.jit(twice)
    assert [f(a, a).tolist(), f(a, b).tolist(), f(a, a).tolist()] == [[2, 2], [3, 3], [8, 8]]
    assert a.tolist() == [8, 8]


def test_donated_arguments_may_be_updated() -> None:
    @rung.jit(donate=(0,))
    def f(x: Any, y: Any) -> Any:
        x += y
        y += x
        return x

    x, y = vector(1) * 1, vector(2) * 1
    assert f(x, y).item() == 3
    assert y.item() == 5
    with pytest.raises(RungError, match="donated"):
        x + 1
    same = vector(4) * 1
    assert f(same, same).item() == 16


def test_methods_and_nested_functions_update_arguments() -> None:
    class Cache:
        @rung.jit
        def put(self, store: Any, x: Any) -> Any:
            inner(store, x)
            return store.sum()

    @rung.jit
    def inner(store: Any, x: Any) -> None:
        store += x

    store = vector(0, 0)
    cache = Cache()
    assert [cache.put(store, vector(1, 2)).item() for _ in range(3)] == [3, 6, 9]
    assert store.tolist() == [3, 6]


def test_arguments_that_cannot_be_changed_from_outside_are_an_error() -> None:
    class Box:
        def __init__(self, x: Any) -> None:
            self.x = x

        def __tree_flatten__(self) -> Any:
            return [self.x], None

        @staticmethod
        def __tree_unflatten__(_: Any, children: Any) -> Any:
            return Box(children[0])

    def f(box: Any) -> None:
        box.x = box.x + 1

    with pytest.raises(TraceError, match="an argument that is Box is changed"):
        rung.jit(f)(Box(vector(1)))


def test_an_error_while_tracing_leaves_arguments_alone() -> None:
    def f(x: Any, d: Any) -> None:
        x += 1
        d["x"] = x
        raise ValueError("no")

    x, d = vector(1), {"x": 1}
    with pytest.raises(ValueError, match="no"):
        rung.jit(f)(x, d)
    assert (x.item(), d) == (1, {"x": 1})
