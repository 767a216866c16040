"""What a jitted function reads from outside is read anew: whatever is rebound, replaced or counted
on between calls, the result is that of the function without `jit`."""

from __future__ import annotations

import argparse
import collections
import copy
import dataclasses
import enum
import functools
import gc
import importlib
import itertools
import logging
import operator
import pathlib
import re
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn, optim
from rung.core.settings import configure
from rung.tensor import frames
from rung.tensor.jit import Jit
from rung.tensor.programs import clear_programs
from rung.tensor.reads import Recorder


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    yield
    configure(interpret=False)


SCALE: Any = 2.0
WEIGHT: Any = None
TABLE: dict[str, Any] = {}
STEPS: list[Any] = []
helper: Any = None
config = types.ModuleType("config_of_a_user")
Case = tuple[Callable[[Any], Any], list[Callable[[], object]]]
"""A function, and what is done before each further call."""


@dataclasses.dataclass
class Config:
    scale: float = 1.0
    mode: str = "add"
    inner: Any = None
    table: dict[str, Any] = dataclasses.field(default_factory=dict)


class Slots:
    __slots__ = ("rate",)

    def __init__(self, rate: float) -> None:
        self.rate = rate


class Lazy:
    """Attributes by a property, a class attribute, `__getattr__`, a method."""

    offset = 1.0

    def __init__(self) -> None:
        self._scale = 2.0
        self.values = {"deep": 3.0}

    @property
    def scale(self) -> float:
        return self._scale

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def apply(self, x: Any) -> Any:
        return x * self.scale + self.offset

    @staticmethod
    def fixed(x: Any) -> Any:
        return x * SCALE

    @classmethod
    def of_class(cls, x: Any) -> Any:
        return x * cls.offset


class Mode(enum.Enum):
    ADD = 1
    MULTIPLY = 2


def set_global(name: str, value: Any) -> Callable[[], None]:
    return lambda: globals().__setitem__(name, value)


def global_number() -> Case:
    set_global("SCALE", 2.0)()
    return (lambda x: x * SCALE), [set_global("SCALE", v) for v in (3.0, 0.0, -0.0, 2, True, 2.0)]


def global_tensor() -> Case:
    set_global("WEIGHT", rung.tensor([1.0, 2.0]))()
    return (lambda x: x * WEIGHT), [
        set_global("WEIGHT", rung.tensor([3.0, 4.0])),
        lambda: WEIGHT.assign([5.0, 6.0]),
        set_global("WEIGHT", rung.tensor(7)),
        set_global("WEIGHT", 8.0),
        set_global("WEIGHT", np.array([1.0, 9.0], np.float32)),
    ]


def global_function() -> Case:
    set_global("helper", lambda x: x + 1)()
    return (lambda x: helper(x)), [
        set_global("helper", lambda x: x * 5),
        set_global("helper", functools.partial(rung.add, 7.0)),
        set_global("helper", rung.exp),
    ]


def global_of_a_helper() -> Case:
    set_global("SCALE", 2.0)()

    def inner(x: Any) -> Any:
        return Lazy.fixed(x)

    return (lambda x: inner(x) + 0), [set_global("SCALE", 4.0), set_global("SCALE", 5.0)]


def closure_number() -> Case:
    scale = 2.0

    def f(x: Any) -> Any:
        return x * scale

    def change(value: float) -> Callable[[], None]:
        def apply() -> None:
            nonlocal scale
            scale = value

        return apply

    return f, [change(3.0), change(3.0), change(4.0)]


def closure_through_two_functions() -> Case:
    scale, weight = 2.0, rung.tensor([1.0, 2.0])

    def outer(x: Any) -> Any:
        def inner(y: Any) -> Any:
            return y * scale + sum(weight * s for s in (1, scale))

        return rung.grad(lambda z: inner(z).sum())(x) + inner(x)

    def change(s: float, w: Any) -> Callable[[], None]:
        def apply() -> None:
            nonlocal scale, weight
            scale, weight = s, w

        return apply

    return outer, [change(3.0, weight), change(3.0, rung.tensor([5.0, 5.0])), change(1.0, weight)]


def closure_of_a_factory() -> Case:
    def make(scale: float) -> Any:
        def f(x: Any) -> Any:
            return x * scale

        def change(value: float) -> None:
            nonlocal scale
            scale = value

        return f, change

    (f, change_f), (g, change_g) = make(2.0), make(2.0)
    return (lambda x: f(x) + g(x) * 10), [lambda: change_f(3.0), lambda: change_g(4.0)]


def closure_called_by_the_library() -> Case:
    scale = 2.0
    loss = [lambda w: (w * scale).sum()]

    def change(value: float) -> Callable[[], None]:
        def apply() -> None:
            nonlocal scale
            scale = value

        return apply

    both = rung.value_and_grad(lambda w: loss[0](w))
    return (lambda x: both(x)[1]), [change(3.0), lambda: loss.__setitem__(0, lambda w: w.sum())]


def attribute_of_an_object() -> Case:
    c = Config()

    def f(x: Any) -> Any:
        return x + c.scale if c.mode == "add" else x * c.scale

    return f, [
        lambda: setattr(c, "scale", 3.0),
        lambda: setattr(c, "mode", "multiply"),
        lambda: vars(c).update(scale=5.0),
        lambda: setattr(c, "scale", rung.tensor([1.0, 2.0])),
    ]


def attribute_of_an_attribute() -> Case:
    c = Config(inner=Config(inner=Config(scale=2.0)))

    def f(x: Any) -> Any:
        deep = c.inner
        return x * deep.inner.scale

    return f, [
        lambda: setattr(c.inner.inner, "scale", 3.0),
        lambda: setattr(c.inner, "inner", Config(scale=4.0)),
        lambda: setattr(c, "inner", Config(inner=Config(scale=5.0))),
    ]


def attribute_added_and_deleted() -> Case:
    c = types.SimpleNamespace()

    def f(x: Any) -> Any:
        return x * getattr(c, "scale", 2.0) + (1 if hasattr(c, "extra") else 0)

    return f, [
        lambda: setattr(c, "scale", 3.0),
        lambda: setattr(c, "extra", None),
        lambda: delattr(c, "scale"),
    ]


def attribute_by_getattr() -> Case:
    c, names = Config(scale=2.0), ["scale"]

    def f(x: Any) -> Any:
        for name in names:
            x = x * getattr(c, name)
        return x * vars(c)["scale"] * c.__dict__["scale"]

    return f, [lambda: setattr(c, "scale", 3.0), lambda: names.append("scale")]


def names_and_keys_that_are_computed() -> Case:
    c: Any = types.SimpleNamespace(x0=1.0, x1=2.0)
    table: Any = {"k0": 3.0, "k1": 4.0, (0,): 5.0, (0, 1): 6.0}
    row, last = [1.0, 2.0, 3.0], Config(inner=2)

    def f(x: Any) -> Any:
        for i in range(2):
            x = x + getattr(c, f"x{i}") * getattr(c, "y%d" % i, 1.0) + table[f"k{i}"]  # noqa: UP031
        return x + table[(x.ndim - 1,)] + table[x.ndim - 1, 1] + sum(row[last.inner - 1 :])

    return f, [
        lambda: setattr(c, "x1", 7.0),
        lambda: setattr(c, "y1", 8.0),
        lambda: table.update(k1=9.0),
        lambda: table.__setitem__((0,), 1.0),
        lambda: table.__setitem__((0, 1), 2.0),
        lambda: row.__setitem__(2, 4.0),
        lambda: setattr(last, "inner", 3),
    ]


def keys_that_are_objects() -> Case:
    @dataclasses.dataclass(frozen=True)
    class Key:
        name: str

    table = {Key("a"): Config(scale=2.0), None: 1.0}
    return (lambda x: x * table[Key("a")].scale), [
        lambda: setattr(table[Key("a")], "scale", 3.0),
        lambda: table.__setitem__(Key("a"), Config(scale=4.0)),
    ]


def namespace_of_argparse() -> Case:
    args = argparse.Namespace(lr=0.5)
    return (lambda x: x * args.lr), [lambda: setattr(args, "lr", 0.25)]


def attribute_of_a_module_of_the_user() -> Case:
    config.rate = 2.0
    return (lambda x: x * config.rate), [lambda: setattr(config, "rate", 3.0)]


def slots() -> Case:
    s = Slots(2.0)
    return (lambda x: x * s.rate), [lambda: setattr(s, "rate", 3.0)]


def named_tuple() -> Case:
    Point = collections.namedtuple("Point", "a b")
    c = Config(inner=Point(2.0, 3.0))
    return (lambda x: x * c.inner.a + c.inner.b), [lambda: setattr(c, "inner", Point(4.0, 3.0))]


def properties_and_methods() -> Case:
    z = Lazy()

    def f(x: Any) -> Any:
        return z.apply(x) * z.deep + z.of_class(x)

    return f, [
        lambda: setattr(z, "_scale", 3.0),
        lambda: setattr(z, "offset", 4.0),
        lambda: z.values.__setitem__("deep", 7.0),
        lambda: setattr(z, "apply", lambda x: x * 100),
    ]


def class_attribute() -> Case:
    class Settings:
        rate = 2.0

        def scaled(self, x: Any) -> Any:
            return x * self.rate

    s = Settings()

    def replaced(self: Any, x: Any) -> Any:
        return x * 50

    return (lambda x: s.scaled(x) + Settings.rate), [
        lambda: setattr(Settings, "rate", 3.0),
        lambda: setattr(Settings, "scaled", replaced),
    ]


def call_result() -> Case:
    registry = {"a": Config(scale=2.0), "b": Config(scale=3.0)}
    active = ["a"]

    def current() -> Config:
        return registry[active[0]]

    return (lambda x: x * current().scale), [
        lambda: setattr(registry["a"], "scale", 4.0),
        lambda: active.__setitem__(0, "b"),
        lambda: registry.update(b=Config(scale=9.0)),
    ]


def inside_library_results() -> Case:
    parts = {"a": Config(scale=2.0), "b": Config(scale=3.0)}

    def f(x: Any) -> Any:
        first = next(iter(parts.values())).scale
        last = max(parts.items(), key=lambda kv: kv[0])[1].scale
        return x * first + last + parts.get("a").scale + sorted(parts)[-1:].count("b")

    return f, [
        lambda: setattr(parts["a"], "scale", 4.0),
        lambda: setattr(parts["b"], "scale", 5.0),
        lambda: parts.__setitem__("c", Config(scale=6.0)),
        lambda: parts.pop("a") and parts.__setitem__("a", Config(scale=1.0)),
    ]


def items_of_a_dict() -> Case:
    TABLE.clear()
    TABLE.update(w=rung.tensor([1.0, 2.0]), rate=2.0)

    def f(x: Any) -> Any:
        return x * TABLE["w"] * TABLE["rate"] + TABLE.get("bias", 0.0) + ("on" in TABLE)

    return f, [
        lambda: TABLE.update(w=rung.tensor([3.0, 4.0])),
        lambda: TABLE.update(rate=5.0),
        lambda: TABLE.update(bias=1.0),
        lambda: TABLE.update(on=1),
        lambda: TABLE.update(unrelated=1),
        lambda: TABLE.pop("on"),
    ]


def default_dict() -> Case:
    d: Any = collections.defaultdict(lambda: 2.0)
    return (lambda x: x * d["rate"]), [lambda: d.update(rate=3.0), lambda: d.clear()]


def growing_list() -> Case:
    STEPS[:] = [rung.tensor([1.0, 1.0])]

    def f(x: Any) -> Any:
        for s in STEPS:
            x = x + s
        return x * len(STEPS)

    return f, [
        lambda: STEPS.append(rung.tensor([2.0, 3.0])),
        lambda: STEPS.append(4.0),
        lambda: STEPS.__setitem__(0, 7.0),
        lambda: STEPS.reverse(),
        lambda: STEPS.clear(),
    ]


def containers_within_containers() -> Case:
    layers: Any = [{"w": rung.ones(2), "k": (1.0, [2.0])}, {"w": rung.ones(2), "k": (3.0, [4.0])}]

    def f(x: Any) -> Any:
        for i, (w, (a, (b,))) in enumerate(map(dict.values, layers)):
            x = x * w * a + b * (i + 1)
        return x

    return f, [
        lambda: layers[1]["k"][1].__setitem__(0, 9.0),
        lambda: layers[0].update(w=rung.full(2, 3.0)),
        lambda: layers.pop(0),
    ]


def comprehensions_and_generators() -> Case:
    scales = [1.0, 2.0]
    parts = [Config(scale=3.0), Config(scale=4.0)]

    def values() -> Iterator[float]:
        for p in parts:
            yield p.scale
        yield from scales

    def f(x: Any) -> Any:
        a = sum([s * p.scale for s, p in zip(scales, parts, strict=False)])
        b = {k: p.scale for k, p in enumerate(parts)}[1]
        c = any(s > 3 for s in scales)
        *_, d = values()
        return x * a + b + c + sum(values()) + d

    return f, [
        lambda: scales.__setitem__(1, 5.0),
        lambda: setattr(parts[0], "scale", 6.0),
        lambda: parts.append(Config(scale=1.0)),
        lambda: scales.append(8.0),
    ]


def sets() -> Case:
    frozen = {"b"}

    def f(x: Any) -> Any:
        return sum(x * i for i, n in enumerate("abc", 1) if n not in frozen) + len(frozen)

    return f, [lambda: frozen.add("a"), lambda: frozen.discard("b")]


def default_arguments() -> Case:
    c: Any = {"scale": 2.0}

    def f(x: Any, options: Any = c, *, more: Any = (c,)) -> Any:
        return x * options["scale"] + more[0]["scale"]

    return f, [lambda: c.update(scale=3.0)]


def partials() -> Case:
    c = Config(scale=2.0)

    def f(c: Config, x: Any, extra: Any) -> Any:
        return x * c.scale + extra.scale

    return functools.partial(f, c, extra=Config(scale=1.0)), [lambda: setattr(c, "scale", 3.0)]


def bound_methods() -> Case:
    z = Lazy()
    return z.apply, [lambda: setattr(z, "_scale", 3.0), lambda: setattr(z, "offset", 9.0)]


def callable_objects() -> Case:
    class Layer:
        def __init__(self) -> None:
            self.w = rung.tensor([1.0, 2.0])
            self.gain = 2.0

        def __call__(self, x: Any) -> Any:
            return x * self.w * self.gain

    layer = Layer()
    return (lambda x: layer(x)), [
        lambda: setattr(layer, "gain", 3.0),
        lambda: setattr(layer, "w", rung.tensor([5.0, 6.0])),
    ]


def nested_jit() -> Case:
    c = Config(scale=2.0)
    inner = rung.jit(lambda x: x * c.scale)
    return (lambda x: inner(x) + 1), [lambda: setattr(c, "scale", 3.0)]


def converted_by_rung_function() -> Case:
    c = Config(scale=2.0)

    @rung.function
    def f(x: Any) -> Any:
        i = 0.0
        while i < c.scale:
            x = x + c.scale
            i = i + 1
        if x.sum() > 3:
            x = x * c.scale
        return x

    return f, [lambda: setattr(c, "scale", 3.0), lambda: setattr(c, "scale", 1.0)]


def bodies_of_loops_and_vmap() -> Case:
    c, w = Config(scale=2.0), Config(inner=rung.tensor([1.0, 2.0]))

    def f(x: Any) -> Any:
        a = rung.fori_loop(0, 3, lambda i, v: v * c.scale, x)
        b = rung.vmap(lambda v: v * w.inner.sum() + c.scale)(x)
        return a + rung.cond(x.sum() > 0, lambda v: v * c.scale, lambda v: v, b)

    return f, [lambda: setattr(c, "scale", 3.0), lambda: setattr(w, "inner", rung.ones(2))]


def arrays_from_outside() -> Case:
    a, c = np.array([1.0, 2.0], np.float32), Config(inner=np.ones(2, np.float32))

    def f(x: Any) -> Any:
        return x * a + rung.asarray(c.inner) + float(a[0]) + np.sqrt(a).sum()

    return f, [
        lambda: a.__setitem__(0, 4.0),
        lambda: c.inner.fill(7.0),
        lambda: setattr(c, "inner", np.zeros(2, np.float32)),
        lambda: a.__setitem__(slice(None), 9.0),
    ]


def plain_attributes_of_modules() -> Case:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.norm = nn.LayerNorm(2)
            self.gain = 2.0
            self.blocks = nn.ModuleList([nn.Linear(2, 2)])

        def forward(self, x: Any) -> Any:
            x = self.norm(self.fc(x)) * self.gain
            for block in self.blocks:
                x = block(x)
            return x

    rung.manual_seed(0)
    net, other = Net(), nn.Linear(2, 2)
    return (lambda x: net(x)), [
        lambda: setattr(net, "gain", 3.0),
        lambda: setattr(net.norm, "eps", 1.0),
        lambda: setattr(net, "fc", other),
        lambda: setattr(net.fc, "weight", nn.Parameter(rung.eye(2))),
        lambda: setattr(net.fc, "bias", None),
        lambda: net.blocks.append(other),
        lambda: setattr(net, "forward", lambda x: x * 3),
    ]


def module_given_to_the_library() -> Case:
    rung.manual_seed(0)
    net = nn.Linear(2, 1)

    def f(x: Any) -> Any:
        grads = rung.grad(lambda m: (m(x) ** 2).sum())(net)
        return grads.weight

    return f, [lambda: setattr(net, "weight", nn.Parameter(rung.ones((1, 2))))]


def parameters_of_a_module() -> Case:
    rung.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 2))

    def f(x: Any) -> Any:
        return x + sum((p * p).sum() for p in net.parameters()).detach()

    return f, [
        lambda: net.append(nn.Linear(2, 2)),
        lambda: setattr(net[0], "bias", None),
        lambda: setattr(net[0], "weight", nn.Parameter(rung.eye(2))),
    ]


def dropout_rate() -> Case:
    drop = nn.Dropout(0.0)
    return (lambda x: drop(x) * 1), [lambda: setattr(drop, "p", 1.0)]


def enums_and_types() -> Case:
    c = Config(mode="f32", inner=Mode.ADD)

    def f(x: Any) -> Any:
        y = x.astype(c.mode)
        return y + 1 if c.inner is Mode.ADD else y * 3

    return f, [lambda: setattr(c, "inner", Mode.MULTIPLY), lambda: setattr(c, "mode", "f64")]


def written_before_it_is_read() -> Case:
    c = Config()

    def f(x: Any) -> Any:
        c.inner = x * 2
        c.table["y"] = x + 1
        return c.inner + c.table["y"]

    return f, [lambda: setattr(c, "inner", 5.0), lambda: c.table.clear()]


def counted_by_the_function() -> Case:
    c = Config(scale=0.0)

    def f(x: Any) -> Any:
        c.scale += 1
        return x * c.scale

    return f, [lambda: None, lambda: setattr(c, "scale", 5.0), lambda: None]


def collected_by_the_function() -> Case:
    seen: list[Any] = []

    def f(x: Any) -> Any:
        if len(seen) < 2:
            seen.append(1)
        return x * len(seen)

    return f, [lambda: None, lambda: None, lambda: seen.clear()]


def imported_inside() -> Case:
    sys.modules[config.__name__] = config
    config.rate = 2.0

    def f(x: Any) -> Any:
        from config_of_a_user import rate

        return x * rate

    return f, [lambda: setattr(config, "rate", 3.0)]


def weak_and_other_holders() -> Case:
    c = Config(scale=2.0)
    r = weakref.ref(c)
    deque = collections.deque([c], maxlen=2)
    return (lambda x: x * r().scale + deque[0].scale), [
        lambda: setattr(c, "scale", 3.0),
        lambda: deque.appendleft(Config(scale=9.0)),
    ]


def requires_grad() -> Case:
    w, b = rung.ones(2).requires_grad_(), rung.zeros(2).requires_grad_()

    def f(x: Any) -> Any:
        w.grad = b.grad = None
        ((w * x + b) ** 2).sum().backward()
        return (w.grad if w.grad is not None else x * 0) + (b.grad if b.grad is not None else 0)

    return f, [lambda: w.requires_grad_(False), lambda: w.requires_grad_(True)]


class Holder:
    """Containers and operators by methods of Python."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)
        self.seen = 0

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __contains__(self, x: Any) -> bool:
        return x in self.items

    def __call__(self, x: Any) -> Any:
        return x * self.items[0]

    def __add__(self, other: Any) -> Any:
        return self.items[0] + other

    def __enter__(self) -> Any:
        return self.items[0]

    def __exit__(self, *_: object) -> None:
        return None


def methods_of_python() -> Case:
    h = Holder(2.0, 3.0)

    def f(x: Any) -> Any:
        with h as first:
            x = x * first
        a, *rest = h
        return h(x) + len(h) + h[1] + (7.0 in h) + (h + a) + sum(rest) + (1 if h else 0)

    return f, [
        lambda: h.items.append(7.0),
        lambda: h.items.__setitem__(0, 5.0),
        lambda: h.items.pop(1),
        lambda: h.items.__setitem__(slice(None), [1.0, 1.0]),
    ]


def spread_arguments() -> Case:
    options, extra = {"a": 2.0, "b": 3.0}, [4.0]

    def inner(x: Any, *args: Any, **named: Any) -> Any:
        return x * named["a"] + named["b"] + sum(args)

    def f(x: Any) -> Any:
        merged = {**options, "c": [*extra, 1.0]}
        return inner(x, *extra, **options) + merged["a"] + merged["c"][0]

    return f, [
        lambda: options.update(a=5.0),
        lambda: options.update(b=6.0),
        lambda: extra.append(7.0),
        lambda: extra.__setitem__(0, 1.0),
    ]


def exceptions_and_matches() -> Case:
    table: dict[str, Any] = {"a": [1.0, 2.0]}

    def f(x: Any) -> Any:
        try:
            x = x * table["scale"]
        except KeyError:
            x = x + 1
        finally:
            x = x + len(table)
        match table["a"]:
            case [one]:
                x = x * one
            case [one, two]:
                x = x * one + two
        match table:
            case {"mode": str(mode)}:
                x = x + len(mode)
        for key in ("b", "a"):
            if (found := table.get(key)) is not None:
                return x * found[0]
        return x

    return f, [
        lambda: table.update(scale=5.0),
        lambda: table.update(scale=6.0),
        lambda: table.update(mode="abc"),
        lambda: table["a"].pop(),
        lambda: table.update(b=[9.0]),
        lambda: table.pop("scale"),
    ]


def tools_of_the_library() -> Case:
    c = Config(scale=2.0, table={"k": 3.0})
    parts = [Config(scale=1.0), Config(scale=5.0)]
    proxy = types.MappingProxyType(c.table)
    chain = collections.ChainMap({}, c.table)
    user = collections.UserDict(a=2.0)

    def f(x: Any) -> Any:
        x = x * operator.attrgetter("scale")(c) + operator.itemgetter("k")(c.table)
        x = x + functools.reduce(lambda a, p: a + p.scale, parts, 0.0)
        x = x + sum(map(operator.attrgetter("scale"), itertools.chain(parts, [c])))
        x = x + max(parts, key=lambda p: p.scale).scale + copy.copy(c).scale
        x = x + dataclasses.replace(c, mode="b").scale + dataclasses.asdict(c)["scale"]
        return x + proxy["k"] + chain["k"] + user["a"] + sum(p.scale for p in reversed(parts))

    return f, [
        lambda: setattr(c, "scale", 3.0),
        lambda: c.table.update(k=4.0),
        lambda: setattr(parts[0], "scale", 7.0),
        lambda: user.update(a=9.0),
        lambda: parts.pop(),
    ]


def inheritance() -> Case:
    class Base:
        gain = 2.0

        def __init__(self) -> None:
            self.bias = 1.0

        def run(self, x: Any) -> Any:
            return x * self.gain + self.bias

    class Child(Base):
        def run(self, x: Any) -> Any:
            return super().run(x) * super().gain

        @functools.cached_property
        def cached(self) -> float:
            return self.bias * 2

    child = Child()
    return (lambda x: child.run(x) + child.cached), [
        lambda: setattr(child, "bias", 3.0),
        lambda: setattr(Base, "gain", 5.0),
        lambda: setattr(Child, "gain", 6.0),
        lambda: setattr(Base, "run", lambda self, x: x),
        lambda: vars(child).pop("cached"),
    ]


def recursion_over_a_tree() -> Case:
    leaf = Config(scale=2.0)
    root = Config(scale=1.0, inner=Config(scale=3.0, inner=leaf))

    def walk(node: Any, x: Any) -> Any:
        return x if node is None else walk(node.inner, x * node.scale)

    def down(x: Any) -> Any:
        node = root
        while node.inner is not None:
            node = node.inner
            x = x + node.scale
        return x

    return (lambda x: walk(root, x) + down(x)), [
        lambda: setattr(leaf, "scale", 5.0),
        lambda: setattr(leaf, "inner", Config(scale=7.0)),
        lambda: setattr(root, "inner", leaf),
    ]


def trees_given_to_the_library() -> Case:
    params: Any = {"w": [rung.ones(2), 2.0], "b": Config(scale=3.0, inner=rung.ones(2))}

    def f(x: Any) -> Any:
        doubled = rung.tree.map(lambda p: p * 2 if not isinstance(p, str | dict) else p, params)
        grads = rung.grad(lambda w: (w[0] * x).sum())([params["w"][0]])
        return doubled["w"][0] * doubled["w"][1] + doubled["b"].scale + grads[0]

    return f, [
        lambda: params["w"].__setitem__(1, 5.0),
        lambda: params["w"].__setitem__(0, rung.full(2, 4.0)),
        lambda: setattr(params["b"], "scale", 6.0),
        lambda: params.update(b=Config(scale=1.0, inner=rung.zeros(2))),
    ]


def generators_that_wait() -> Case:
    c = Config(scale=2.0)

    def values() -> Iterator[Any]:
        for _ in range(2):
            got = yield c.scale
            yield (got or 0) * c.scale

    def f(x: Any) -> Any:
        g = values()
        x = x * next(g)
        x = x + g.send(c.scale)
        return x + next(g)

    return f, [lambda: setattr(c, "scale", 3.0)]


def rules_of_the_user() -> Case:
    c = Config(scale=2.0)

    @rung.custom_vjp
    def clipped(x: Any) -> Any:
        return x * c.scale

    clipped.defvjp(lambda x: (x * c.scale, None), lambda _, ct: (ct * c.table["slope"],))
    c.table["slope"] = 3.0

    def f(x: Any) -> Any:
        w = (x * 1).requires_grad_()
        clipped(w).sum().backward()
        return rung.grad(lambda v: (clipped(v) * v).sum())(x) + w.grad

    return f, [lambda: c.table.update(slope=5.0), lambda: setattr(c, "scale", 7.0)]


def functions_in_containers() -> Case:
    scale = 2.0
    acts: Any = {"a": lambda x: x * scale, "b": lambda x: x + scale}
    name = ["a"]

    def change(value: float) -> Callable[[], None]:
        def apply() -> None:
            nonlocal scale
            scale = value

        return apply

    def f(x: Any) -> Any:
        return acts[name[0]](x) + [g(x) for g in acts.values()][-1]

    return f, [
        change(3.0),
        lambda: name.__setitem__(0, "b"),
        lambda: acts.update(b=lambda x: x * 7),
        change(4.0),
    ]


def numbers_of_numpy() -> Case:
    c = Config(scale=np.float32(2.0), inner=(np.int64(3), np.dtype("float32")))
    return (lambda x: (x * c.scale * c.inner[0]).astype(c.inner[1])), [
        lambda: setattr(c, "scale", np.float64(2.0)),
        lambda: setattr(c, "inner", (np.int64(4), np.dtype("float64"))),
    ]


def long_functions() -> Case:
    """Jumps and constants beyond 255 need prefixes of instructions."""
    c = Config(scale=2.0)
    names = {"rung": rung, "c": c}
    lines = "\n".join(f"    x = x + {i}.5 if c.scale > {i} else x" for i in range(400))
    exec(f"def f(x):\n{lines}\n    return x * c.scale", names)
    return names["f"], [lambda: setattr(c, "scale", 3.0), lambda: setattr(c, "scale", 350.0)]


CASES = [
    case
    for name, case in sorted(globals().items())
    if isinstance(case, types.FunctionType) and case.__annotations__.get("return") == "Case"
]


def outcome(f: Any, x: Any) -> Any:
    """The value and dtype of a result."""
    y = f(x)
    return y.dtype.name, np.signbit(y.numpy()).tolist(), y.tolist()


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.__name__)
def test_what_is_read_from_outside_is_read_anew(case: Callable[[], Case]) -> None:
    def run(wrap: Callable[[Any], Any]) -> list[Any]:
        f, changes = case()
        f, x = wrap(f), rung.tensor([1.0, 3.0])
        found = [outcome(f, x), outcome(f, x)]
        for change in changes:
            change()
            found += [outcome(f, x), outcome(f, x)]
        return found

    compiled: list[Jit[Any, Any]] = []

    def wrap(f: Any) -> Any:
        compiled.append(rung.jit(f))
        return compiled[-1]

    assert run(wrap) == run(lambda f: f)
    assert "could not be followed" not in str(compiled[0].explain_recompiles())


NAMED = {
    global_number: "global SCALE: 3.0 was 2.0",
    closure_number: "closure variable scale: 3.0 was 2.0",
    attribute_of_an_object: "Config.scale: 3.0 was 1.0",
    items_of_a_dict: "item 'w' of a dict",
    growing_list: "the items of a list",
    arrays_from_outside: "the elements of an array float32[2]",
    requires_grad: "whether a tensor requires a gradient",
}


@pytest.mark.parametrize("case", NAMED, ids=lambda c: c.__name__)
def test_recompiles_are_explained(case: Callable[[], Case]) -> None:
    f, changes = case()
    f = rung.jit(f)
    f(rung.ones(2))
    changes[0]()
    f(rung.ones(2))
    assert f.explain_recompiles()[-1].startswith("changed outside: ")
    assert NAMED[case] in f.explain_recompiles()[-1]


def test_what_has_not_changed_is_not_traced_again() -> None:
    count: list[int] = []
    c, seen = Config(scale=2.0), {"loss": 0.0}

    @rung.jit
    def f(x: Any) -> Any:
        count.append(1)
        seen["loss"] = len(str(c.scale))
        parts = [x]
        parts.append(x * c.scale)
        c.table["last"] = parts
        return sum(parts)

    for _ in range(5):
        f(rung.ones(2))
        seen["other"] = 1
        c.scale = float("2")
        c.mode = "else"
    assert len(count) == 1


def test_a_number_that_keeps_changing_costs_no_compilation() -> None:
    clear_programs()
    c = Config(scale=0.0)
    f = rung.jit(lambda x: x * c.scale)
    programs = set()
    for i in range(30):
        c.scale = i / 8
        assert f(rung.ones(1)).item() == i / 8
        programs.add(id(f._last.runnable))
    assert len(programs) == 3
    assert len(next(iter(f._entries.values()))) <= 16, "old traces are let go"


def test_traces_do_not_keep_tensors_that_are_gone() -> None:
    state = Config(inner=rung.ones(2))
    f = rung.jit(lambda x: state.inner * 2 + x)
    weak = []
    for _ in range(40):
        weak.append(weakref.ref(state.inner))
        state.inner = f(state.inner)
    gc.collect()
    assert sum(w() is not None for w in weak) <= 20


def test_hyperparameters_of_optimizers() -> None:
    def run(wrap: Any) -> list[float]:
        p, q = rung.ones(1).requires_grad_(), rung.ones(1).requires_grad_()
        optimizer = optim.SGD([p], lr=0.5, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad()
            (p * 2 + q).sum().backward()
            optimizer.step()

        step = wrap(step)
        seen = []
        for change in (
            lambda: None,
            lambda: setattr(optimizer, "lr", 0.25),
            lambda: optimizer.param_groups[0].__setitem__("momentum", 0.5),
            lambda: optimizer.param_groups[0].__setitem__("weight_decay", 0.5),
            lambda: optimizer.add_param_group({"params": [q]}),
            lambda: optimizer.param_groups[0].__setitem__("lr", 1.0),
        ):
            change()
            step()
            seen += [p.item(), q.item()]
        return seen

    assert run(rung.jit) == pytest.approx(run(lambda f: f))


def test_the_random_generator_is_read_anew() -> None:
    f = rung.jit(lambda: rung.rand(2))
    f()
    rung.manual_seed(7)
    drawn = f().tolist()
    rung.manual_seed(7)
    assert rung.rand(2).tolist() == drawn


def test_tracing_leaves_a_debugger_in_place() -> None:
    lines: list[int] = []
    c = Config(scale=2.0)

    def f(x: Any) -> Any:
        y = x * c.scale
        return y + 1

    def tracer(frame: Any, event: str, arg: Any) -> Any:
        if frame.f_code is f.__code__:
            lines.append(frame.f_lineno)
            return tracer
        return None

    compiled = rung.jit(f)
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        compiled(rung.ones(1))
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
    start = f.__code__.co_firstlineno
    assert {start + 1, start + 2} <= set(lines)
    c.scale = 5.0
    assert compiled(rung.ones(1)).item() == 6


PLAIN_PACKAGE = """
class Conf:
    def __init__(self, **values):
        self.__dict__["_values"] = values

    def __getattr__(self, name):
        return self._values[name]

    def __getitem__(self, name):
        return self._values[name]

    @property
    def first(self):
        return next(iter(self._values.values()))

counter = 0

def scaled(conf, x):
    global counter
    counter = counter + 1
    return x * conf.rate
"""
PACKAGE_OF_MODELS = """
import rung

gain = 2.0

def layer(x):
    return rung.abs(x) * gain
"""


def test_installed_packages(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "plain_package.py").write_text(PLAIN_PACKAGE)
    (folder / "package_of_models.py").write_text(PACKAGE_OF_MODELS)
    monkeypatch.syspath_prepend(str(folder))
    plain, models = (importlib.import_module(n) for n in ("plain_package", "package_of_models"))
    conf = plain.Conf(rate=2.0, other=3.0)

    @rung.jit
    def f(x: Any) -> Any:
        x = plain.scaled(conf, models.layer(x))
        return x + conf.other + conf["other"] + conf.first

    assert f(rung.ones(1)).item() == 2 * 2 + 3 + 3 + 2
    assert f(rung.ones(1)).item() == 12
    assert len(f.explain_recompiles()) == 1, "what a library has for itself is not looked at"
    conf._values["rate"] = 4.0
    assert f(rung.ones(1)).item() == 2 * 4 + 3 + 3 + 4
    conf._values["other"] = 1.0
    assert f(rung.ones(1)).item() == 14
    models.gain = 3.0
    assert f(rung.ones(1)).item() == 18


def test_what_only_reports_is_no_reason_to_trace_again(capsys: pytest.CaptureFixture[str]) -> None:
    logger, lock, started = logging.getLogger("rung.tests"), threading.Lock(), time.time()
    pattern, path = re.compile("a+"), pathlib.Path("a/b.txt")

    @rung.jit
    def f(x: Any) -> Any:
        logger.info("shape %s after %s", x.shape, time.time() - started)
        with lock:
            print("traced")
        if pattern.match("aab") and path.suffix == ".txt":
            x = x + 1
        return x

    for i in range(3):
        logging.getLogger(f"rung.tests.{i}")
        assert f(rung.ones(1)).item() == 2
    assert capsys.readouterr().out == "traced\n"


def test_an_average_of_weights_reads_its_decay() -> None:
    def run(wrap: Any) -> list[float]:
        model = nn.Linear(1, 1)
        with rung.no_grad():
            model.weight.fill_(1)
        average = optim.ExponentialMovingAverage(model, decay=0.5)
        update = wrap(lambda: average.update_parameters(model))
        seen = []
        for decay in (0.5, 0.5, 0.25, 0.0):
            average.decay = decay
            with rung.no_grad():
                model.weight.mul_(2)
            update()
            seen.append(average.module.weight.item())
        return seen

    assert run(rung.jit) == run(lambda f: f)


def test_what_cannot_be_followed_is_never_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instruction that the recorder fails on: such a trace holds for one call."""

    def fail(*_: object) -> None:
        raise RuntimeError("an instruction of a newer Python")

    for name in ("LOAD_ATTR", "LOAD_METHOD"):
        monkeypatch.setitem(frames._HANDLERS, name, fail)
    c = Config(scale=2.0)
    f = rung.jit(lambda x: x * c.scale)
    assert [f(rung.ones(1)).item(), f(rung.ones(1)).item()] == [2, 2]
    c.scale = 3.0
    assert f(rung.ones(1)).item() == 3
    assert "could not be followed" in f.explain_recompiles()[-1]


def test_unknown_instructions_look_into_all_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LIST_EXTEND", "BUILD_LIST", "UNPACK_SEQUENCE", "GET_ITER", "BINARY_OP"):
        monkeypatch.delitem(frames._HANDLERS, name)
    for case in (growing_list, spread_arguments, comprehensions_and_generators):
        test_what_is_read_from_outside_is_read_anew(case)


@pytest.mark.parametrize("broken", ["read_attribute", "read_item", "read_content", "read_global"])
def test_these_tests_find_faults(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one kind of read, some case fails."""
    read = getattr(Recorder, broken)

    def forgets(self: Recorder, *args: Any, **kwargs: Any) -> Any:
        add, self._add = self._add, lambda *_, **__: None  # type: ignore[method-assign]
        try:
            return read(self, *args, **kwargs)
        finally:
            self._add = add  # type: ignore[method-assign]

    monkeypatch.setattr(Recorder, broken, forgets)
    with pytest.raises(AssertionError):
        for case in CASES:
            test_what_is_read_from_outside_is_read_anew(case)


def test_each_thread_has_its_own_record() -> None:
    configs = [Config(scale=float(i)) for i in range(4)]
    found: dict[int, list[float]] = {}

    def work(i: int) -> None:
        configure(interpret=True)
        f = rung.jit(lambda x: x * configs[i].scale)
        found[i] = []
        for _ in range(5):
            configs[i].scale += 1
            found[i].append(f(rung.ones(1)).item())

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {i: [i + k + 1.0 for k in range(5)] for i in range(4)}
