"""Memory that is shared with others: what the caller writes into his arrays does not reach what was
computed before, and what is written through an export reaches one tensor alone."""

from __future__ import annotations

import array as pyarray
import gc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn
from rung.core.settings import configure
from rung.data import DataLoader
from rung.nn import functional as f
from rung.tensor.programs import clear_programs

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    yield
    configure(interpret=False)


ONE = rung.ones(3)
READS: dict[str, Callable[[np.ndarray], Any]] = {
    "operator": lambda a: ONE * a,
    "operator, array first": lambda a: a * ONE,
    "function": lambda a: rung.add(ONE * 0, a),
    "asarray": lambda a: rung.asarray(a),
    "asarray, then used": lambda a: rung.asarray(a) + 0,
    "asarray to another dtype": lambda a: rung.asarray(a, dtype="f64"),
    "tensor": lambda a: rung.tensor(a),
    "from_dlpack, then used": lambda a: rung.from_dlpack(a) + 0,
    "from_dlpack, copied": lambda a: rung.from_dlpack(a, copy=True),
    "from_numpy, then used": lambda a: rung.from_numpy(a) + 0,
    "shared, then used": lambda a: rung.asarray(a, copy=False) + 0,
    "shared, then cloned": lambda a: rung.asarray(a, copy=False).clone(),
    "shared, then detached": lambda a: rung.asarray(a, copy=False).detach(),
    "shared, then deepcopied": lambda a: rung.Tensor(rung.asarray(a, copy=False)),
    "shared, then a part": lambda a: rung.asarray(np.stack([a, a])[0:1], copy=False)[0],
    "shared, then stacked": lambda a: rung.stack([rung.asarray(a, copy=False)])[0],
    "memoryview": lambda a: rung.asarray(memoryview(a)),
    "read-only view": lambda a: rung.asarray(_read_only(a)),
    "read-only view of memoryview": lambda a: rung.asarray(memoryview(a).toreadonly()),
    "frombuffer": lambda a: rung.asarray(np.frombuffer(memoryview(a), np.float32)),
    "torch tensor": lambda a: rung.asarray(torch.from_numpy(a)),
    "torch tensor by dlpack": lambda a: rung.from_dlpack(torch.from_numpy(a)) + 0,
    "in a list": lambda a: rung.asarray([a, a])[0],
    "stack": lambda a: rung.stack([a, a])[0],
    "where": lambda a: rung.where(np.ones(3, bool), a, 0.0),
    "setitem": lambda a: _set(rung.zeros(3), a),
    "assign": lambda a: rung.zeros(3).assign(a),
    "update": lambda a: _added(rung.zeros(3), a),
    "take": lambda a: rung.take(rung.arange(9) * 1.0, a.astype(np.int64)),
    "linear": lambda a: f.linear(rung.asarray(a)[None], np.eye(3, dtype=np.float32))[0],
    "jit": lambda a: rung.jit(lambda x: x * 1)(a),
    "jit, returned": lambda a: rung.jit(lambda x: x)(a),
    "jit, in a tree": lambda a: rung.jit(lambda t: t["x"][0])({"x": [a]}),
    "grad": lambda a: rung.grad(lambda x: (x * x).sum() / 2)(a),
    "vmap": lambda a: rung.vmap(lambda x: x * 1)(a),
}


def _read_only(a: np.ndarray) -> np.ndarray:
    view = a[:]
    view.flags.writeable = False
    return view


def _set(x: Any, a: np.ndarray) -> Any:
    x[:] = a
    return x


def _added(x: Any, a: np.ndarray) -> Any:
    x += a
    return x


@pytest.mark.parametrize("name", READS)
def test_what_is_pending_has_read_its_arrays(name: str) -> None:
    buffer = np.zeros(3, np.float32)
    found = []
    for i in range(3):
        buffer[:] = i
        found.append(READS[name](buffer))
    buffer[:] = 9
    assert [x.tolist() for x in found] == [[i] * 3 for i in range(3)]


def test_indices_given_as_arrays_are_read_at_once() -> None:
    x, at = rung.arange(5) * 10, np.array([0])
    taken, written = [], []
    for i in range(3):
        at[:] = i
        taken.append(x[at])
        written.append(_put(rung.zeros(3), at))
    at[:] = 4
    assert [t.tolist() for t in taken] == [[0], [10], [20]]
    assert [w.tolist() for w in written] == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]


def _put(x: Any, at: np.ndarray) -> Any:
    x[at] = 1
    return x


def test_a_model_on_a_buffer_that_is_filled_again() -> None:
    model, buffer = nn.Linear(2, 1), np.zeros((1, 2), np.float32)
    outs = []
    for i in range(3):
        buffer[:] = i
        outs.append(model(rung.asarray(buffer)))
    expected = [model(rung.full((1, 2), float(i))).item() for i in range(3)]
    assert [o.item() for o in outs] == expected


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("size", [1, 2])
def test_batches_of_a_data_set_that_reuses_its_memory(
    size: int, whole: bool, prefetch: int
) -> None:
    class Reused:
        buffer = np.zeros(2, np.float32)

        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: int) -> np.ndarray:
            self.buffer[:] = i
            return self.buffer

    class Batches(Reused):
        several = np.zeros((size, 2), np.float32)

        def batch(self, numbers: np.ndarray) -> tuple[np.ndarray]:
            self.several[...] = numbers[:, None]
            return (self.several,)

    data = Batches() if whole else Reused()
    loader = DataLoader(data, batch_size=size, shuffle=False, prefetch=prefetch)
    batches = [b for (b,) in loader]
    assert [b.tolist()[0][0] for b in batches] == list(range(0, 4, size))


@pytest.mark.parametrize("kind", ["bytearray", "array"])
def test_buffers_of_python_that_change(kind: str) -> None:
    source: Any = pyarray.array("f", [1.0]) if kind == "array" else bytearray(b"\x01")
    x = rung.asarray(source)
    source[0] = 7
    assert x.tolist() == [1]


def test_memory_that_nobody_can_change_is_shared() -> None:
    plain = np.frombuffer(np.arange(3.0).tobytes())
    assert np.shares_memory(rung.asarray(plain).numpy(), plain)
    x = rung.arange(3) * 1.0
    assert np.shares_memory(rung.asarray(x.numpy()).numpy(), x.numpy())


def test_shared_memory_is_the_value_until_it_is_used() -> None:
    buffer = np.zeros(2, np.float32)
    x = rung.asarray(buffer, copy=False)
    before = x + 1
    step = rung.jit(lambda: x * 2)
    assert step().tolist() == [0, 0]
    buffer[:] = 5
    assert x.tolist() == [5, 5]
    assert (x + 1).tolist() == [6, 6]
    assert before.tolist() == [1, 1]
    assert step().tolist() == [10, 10]
    x += 1
    assert (x.tolist(), buffer.tolist()) == ([6, 6], [5, 5])


SHARING: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "clone": lambda x: (x, x.clone()),
    "detach": lambda x: (x, x.detach()),
    "of a detached one": lambda x: (x.detach(), x),
    "equal results": lambda x: _computed(x + 1, x + 1),
    "equal constants": lambda x: _computed(rung.zeros(4), rung.zeros(4)),
    "reshape": lambda x: _computed(x * 2, (x * 2).reshape(2, 2)),
    "part": lambda x: (x, x[0:2]),
    "of a part": lambda x: (x[0:2], x),
    "results of jit": lambda x: rung.jit(lambda y: (y + 1, y + 1))(x),
    "argument of jit": lambda x: (rung.jit(lambda y: y)(x), x),
    "gradient": lambda x: _gradients(x),
    "pending": lambda x: (x, x + 1),
    "state of a module": lambda x: _module_state(x),
    "snapshot of NumPy": lambda x: (x, rung.asarray(x.numpy())),
}


def _computed(*tensors: Any) -> Any:
    rung.tensor(0).realize()
    for t in tensors:
        t.realize()
    return tensors


def _gradients(x: Any) -> Any:
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    (a + b).sum().backward()
    return _computed(a.grad, b.grad)


def _module_state(x: Any) -> Any:
    layer = nn.Linear(2, 2)
    return layer.weight.detach(), layer.state_dict()["weight"]


def _write_torch(x: Any) -> None:
    torch.from_dlpack(x).fill_(77)


def _write_numpy(x: Any) -> None:
    np.from_dlpack(_Legacy(x))[...] = 77


class _Legacy:
    """Hands out capsules of DLPack before its version 1, which cannot say "read only"."""

    def __init__(self, x: Any) -> None:
        self.x = x

    def __dlpack__(self, **_: Any) -> Any:
        return self.x.__dlpack__(max_version=(1, 0))

    def __dlpack_device__(self) -> Any:
        return self.x.__dlpack_device__()


@pytest.mark.parametrize("write_into", [_write_torch, _write_numpy])
@pytest.mark.parametrize("name", SHARING)
def test_a_write_through_an_export_reaches_one_tensor_alone(
    name: str, write_into: Callable[[Any], None]
) -> None:
    x = rung.arange(4) * 1.0
    x.realize()
    exported, other = SHARING[name](x)
    expected = SHARING[name](rung.arange(4) * 1.0)[1].tolist() if "module" not in name else None
    before = expected if expected is not None else other.tolist()
    write_into(exported)
    assert other.tolist() == before
    assert np.unique(exported.numpy()).tolist() == [77]


def test_numpy_arrays_of_a_tensor_cannot_be_written() -> None:
    x = rung.arange(3)
    for a in (x.numpy(), np.asarray(x), x[0:2].numpy()):
        with pytest.raises(ValueError, match="read-only"):
            a[0] = 9
        with pytest.raises(ValueError, match="WRITEABLE"):
            a.flags.writeable = True
    np.array(x)[0] = 9
    assert x.tolist() == [0, 1, 2]


def test_an_export_lives_beside_later_uses_of_its_tensor() -> None:
    x = rung.zeros(3) + 1
    seen = torch.from_dlpack(x)
    seen.add_(1)
    later, copy = x * 10, x.clone()
    seen.add_(1)
    assert (x.tolist(), later.tolist(), copy.tolist()) == ([3] * 3, [20] * 3, [2] * 3)
    x += 1
    assert seen.tolist() == [3, 3, 3], "an update puts the new value elsewhere"
    seen.add_(5)
    assert x.tolist() == [4, 4, 4]


@pytest.mark.parametrize("interpret", [True, False])
def test_programs_do_not_write_into_what_is_exported(interpret: bool) -> None:
    configure(interpret=interpret)
    state = rung.zeros(3) * 1

    @rung.jit
    def step(x: Any) -> Any:
        state.assign(state + x)
        return state * 10

    one = rung.ones(3)
    views = []
    for i in range(5):
        views.append((torch.from_dlpack(step(one)), 10.0 * (i + 1)))
        views.append((torch.from_dlpack(state), i + 1.0))
    for view, value in views:
        assert view.tolist() == [value] * 3


def test_an_export_of_what_has_a_derivative_is_a_copy() -> None:
    w = rung.ones(3).requires_grad_()
    y = w * 2
    torch.from_dlpack(y).fill_(9)
    (y * y).sum().backward()
    assert w.grad.tolist() == [8, 8, 8]


def test_buffers_of_a_program_that_is_gone_are_not_written_over():
    """What it kept ready for its next run is counted as what it is: held by these tensors alone."""
    x = rung.asarray(np.zeros(3, np.float32))
    state = x + 1
    state.realize()
    same = state.clone()
    clear_programs()
    gc.collect()

    @rung.jit
    def step():
        state.assign(state * 2)

    for _ in range(3):
        step()
    assert same.tolist() == [1, 1, 1] and state.tolist() == [8, 8, 8]
