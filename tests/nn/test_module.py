"""Modules: attributes, walking, state, modes, paths, trees."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rung
from rung import nn
from rung.core.errors import CheckpointError, RungError
from rung.ir.node import Value
from rung.nn.module import watchers
from rung.tensor.state import raw_value


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, width)
        self.act = nn.GELU()

    def forward(self, x: Any) -> Any:
        return x + self.act(self.proj(x))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter([1.0, 2.0])
        self.register_buffer("count", np.array(0))
        self.register_buffer("mask", np.ones(2, np.float32), persistent=False)
        self.h = nn.ModuleList([Block(2), Block(2)])
        self.head = nn.Linear(2, 3, bias=False)

    def forward(self, x: Any) -> Any:
        x = x * self.scale
        for block in self.h:
            x = block(x)
        return self.head(x)


NAMES = [
    "scale", "h.0.proj.weight", "h.0.proj.bias", "h.1.proj.weight", "h.1.proj.bias", "head.weight"
]  # fmt: skip


def test_names() -> None:
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [name for name, _ in net.named_buffers()] == ["count", "mask"]
    assert list(net.state_dict()) == ["scale", "count", *NAMES[1:]]
    assert [name for name, _ in net.named_modules()] == [
        "", "h", "h.0", "h.0.proj", "h.0.act", "h.1", "h.1.proj", "h.1.act", "head"
    ]  # fmt: skip
    assert net.num_parameters == 2 + 2 * 6 + 6
    assert net.get_submodule("h.1.proj") is net.h[1].proj
    with pytest.raises(RungError, match=r"Net has no module 'h\.2'"):
        net.get_submodule("h.2")


def test_attributes_change_roles() -> None:
    net = Net()
    net.scale = None
    assert "scale" not in dict(net.named_parameters())
    net.scale = nn.Parameter([3.0, 4.0])
    assert "scale" in dict(net.named_parameters())
    net.count = rung.array(5)
    assert "count" in net.state_dict()
    del net.head
    assert "head.weight" not in net.state_dict()


def test_init_must_come_first() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            self.x = 1

    with pytest.raises(RungError, match=r"Wrong.x is assigned before Module.__init__"):
        Wrong()


def test_no_forward() -> None:
    with pytest.raises(RungError, match="Module has no forward"):
        nn.Module()(1)


def test_state_dict_is_a_snapshot_and_loads() -> None:
    a, b = Net(), Net()
    state = a.state_dict()
    a.scale.assign([9.0, 9.0])
    np.testing.assert_array_equal(state["scale"], [1, 2])
    weight = b.head.weight
    report = b.load_state_dict(state)
    assert report == nn.LoadReport((), ())
    assert b.head.weight is weight
    for name, tensor in b.state_dict().items():
        np.testing.assert_array_equal(tensor, state[name])
    assert b.scale.requires_grad


def test_load_state_dict_names_everything_wrong_and_changes_nothing() -> None:
    net = Net()
    state = {k: np.asarray(v) for k, v in Net().state_dict().items()}
    del state["h.0.proj.bias"]
    state["other"] = np.zeros(2)
    state["head.weight"] = np.zeros((4, 2))
    before = np.asarray(net.scale)
    with pytest.raises(CheckpointError) as error:
        net.load_state_dict(state | {"scale": np.zeros(2)})
    text = str(error.value)
    assert "missing: h.0.proj.bias" in text
    assert "unexpected: other" in text
    assert "shape of head.weight: the model has [3, 2], given is [4, 2]" in text
    np.testing.assert_array_equal(net.scale, before)
    del state["head.weight"]
    report = net.load_state_dict(state, strict=False)
    assert report.missing == ("h.0.proj.bias", "head.weight")
    assert report.unexpected == ("other",)


def test_shared_parameters() -> None:
    net = Net()
    net.h[1].proj.weight = net.h[0].proj.weight
    assert "h.1.proj.weight" not in dict(net.named_parameters())
    assert "h.1.proj.weight" in net.state_dict()
    state = net.state_dict()
    del state["h.1.proj.weight"]
    net.load_state_dict(state)
    net.to("f64")
    assert net.h[1].proj.weight is net.h[0].proj.weight
    assert net.h[1].proj.weight.dtype is rung.float64


def test_to_casts_floats_only() -> None:
    net = Net().to(rung.bfloat16)
    assert net.scale.dtype is rung.bfloat16
    assert isinstance(net.scale, nn.Parameter)
    assert net.mask.dtype is rung.bfloat16
    assert net.count.dtype is rung.int64
    assert net(rung.ones((4, 2), dtype="bf16")).dtype is rung.bfloat16


def test_modes_and_apply() -> None:
    net = nn.Sequential(nn.Dropout(0.5), nn.Sequential(nn.Dropout(0.5)))
    assert net[1][0].training
    assert net.eval() is net
    assert not net[1][0].training
    x = np.ones((100,), np.float32)
    np.testing.assert_array_equal(net(x), x)
    seen: list[str] = []
    net.apply(lambda m: seen.append(type(m).__name__))
    assert seen == ["Dropout", "Dropout", "Sequential", "Sequential"]


def test_mode_is_a_guard_of_jit() -> None:
    drop = nn.Dropout(0.5)
    f = rung.jit(lambda x: drop(x) * 1.0)
    x = rung.ones(1000)
    drop.eval()
    assert float(f(x).mean()) == 1
    drop.train()
    assert set(np.asarray(f(x)).tolist()) == {0.0, 2.0}
    drop.eval()
    assert float(f(x).mean()) == 1
    assert len(f.explain_recompiles()) == 2
    assert "training" in f.explain_recompiles()[1]


def paths_of(value: Value) -> set[str]:
    found, stack, seen = set(), [value], set()
    while stack:
        v = stack.pop()
        if v not in seen:
            seen.add(v)
            found.add(v.node.source.path)
            stack.extend(v.node.inputs)
    return found


def test_nodes_carry_the_module_path() -> None:
    net = Net()
    with rung.no_grad():
        paths = paths_of(raw_value(net(rung.ones((3, 2)))))
    assert {"h.0.proj", "h.1.proj", "h.0.act", "h.1.act", "head"} <= paths
    with rung.no_grad():
        paths = paths_of(raw_value(net.h[0](rung.full((3, 2), 5.0))))
    assert "proj" in paths
    net.h[0] = Block(2)
    with rung.no_grad():
        paths = paths_of(raw_value(net(rung.full((3, 2), 7.0))))
    assert "h.0.proj" in paths


def test_a_module_is_a_tree_of_its_parameters() -> None:
    net = Net()
    x = np.array([[1.0, -2.0]], np.float32)

    def loss(model: nn.Module, x: Any) -> Any:
        return (model(x) ** 2).sum()

    value, grads = rung.value_and_grad(loss)(net, x)
    assert isinstance(grads, Net)
    loss(net, x).backward()
    for (name, p), (_, g) in zip(net.named_parameters(), grads.named_parameters(), strict=True):
        np.testing.assert_array_equal(p.grad, g, err_msg=name)
    moved = rung.tree.map(lambda p, g: p - 0.01 * g, net, grads)
    assert float(loss(moved, x)) < float(value)
    assert len(rung.tree.leaves(net)) == len(NAMES)


def test_watchers_see_each_result_inner_first() -> None:
    seen: list[str] = []
    watchers.append(lambda module, result: seen.append(module._path))
    try:
        Net()(rung.ones((1, 2)))
    finally:
        watchers.pop()
    assert seen == ["h.0.proj", "h.0.act", "h.0", "h.1.proj", "h.1.act", "h.1", "head", ""]


def test_containers() -> None:
    row = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    assert len(row) == 3
    assert isinstance(row[-1], nn.Linear)
    assert [type(m).__name__ for m in row[:2]] == ["Linear", "ReLU"]
    row[1] = nn.Tanh()
    assert isinstance(row[1], nn.Tanh)
    with pytest.raises(IndexError, match="module 3 of 3"):
        row[3]
    with pytest.raises(RungError, match=r"ModuleList: modules is \[1\]"):
        nn.ModuleList([1])  # type: ignore[list-item]
    named = nn.ModuleDict({"a": nn.ReLU(), "b": nn.Linear(1, 1)})
    assert named.keys() == ["a", "b"]
    assert "a" in named
    assert list(named.state_dict()) == ["b.weight", "b.bias"]
    with pytest.raises(IndexError, match="no module 'c'"):
        named["c"]
    with pytest.raises(RungError, match="is the name of a method"):
        named["keys"] = nn.ReLU()


def test_repr() -> None:
    text = repr(nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.ReLU())))
    assert text == (
        "Sequential(\n  (0): Linear(2, 3, bias=True)\n  (1): Sequential(\n    (0): ReLU()\n  )\n)"
    )


def test_parameters_in_lists_and_under_names() -> None:
    several = nn.ParameterList([rung.ones(2), nn.Parameter([1.0, 2.0, 3.0])])
    several.append([4.0])
    assert [p.shape for p in several] == [(2,), (3,), (1,)]
    assert list(several.state_dict()) == ["0", "1", "2"]
    several[-1] = [5.0, 6.0]
    assert len(several) == 3 and several[2].shape == (2,)
    with pytest.raises(RungError, match="parameter 3 of 3"):
        several[3]
    named = nn.ParameterDict({"left": rung.ones(2), "right": [1.0]})
    assert named.keys() == list(named) == ["left", "right"] and "left" in named
    assert [p.requires_grad for p in named.values()] == [True, True]
    assert dict(named.items())["right"] is named["right"]
    assert list(nn.Sequential(named).state_dict()) == ["0.left", "0.right"]
    with pytest.raises(RungError, match="no parameter 'up'"):
        named["up"]
    with pytest.raises(RungError, match="name of a method"):
        named["keys"] = [1.0]


def test_what_was_loaded_does_not_change_with_the_array():
    layer = nn.Linear(2, 1, bias=False)
    given = np.ones((1, 2), np.float32)
    layer.load_state_dict({"weight": given})
    given[:] = 5
    assert layer.weight.numpy().tolist() == [[1, 1]]
