"""The generator of operands: it covers every function, and it finds what is broken on purpose."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import pytest

import rung
from rung.ir.node import Node
from rung.nn import functional as F
from rung.transform import grad
from tests.fuzz import failures
from tests.generate import operands
from tests.generate.operand_cases import CALLS, LEFT_OUT, function_named
from tests.remembered import forget


@pytest.fixture(autouse=True)
def rules_as_they_are() -> Iterator[None]:
    """What a test has changed is not remembered after it."""
    yield
    forget()



def test_every_public_function_that_takes_tensors_has_a_case(capsys: Any) -> None:
    """Printed; a function without a case fails by its name."""
    missing, functions = operands.uncovered(), operands.public_functions()
    with capsys.disabled():
        share = 1 - len(missing) / len(functions)
        print(f"\noperands: {len(functions)} functions, {len(CALLS)} calls, {share:.0%} covered")
    assert not missing
    assert len(functions) > 400
    for name, reason in LEFT_OUT.items():
        assert function_named(name) is not None and reason
    assert F.linear in functions.values()


def test_a_new_function_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    def brand_new(x: operands.Call, y: rung.Tensor) -> Any:
        return x

    brand_new.__annotations__ = {"x": "Operand"}
    monkeypatch.setattr(rung, "brand_new", brand_new, raising=False)
    assert operands.uncovered() == ["brand_new"]


def test_every_mode_and_layout_is_drawn() -> None:
    cases = [operands.draw_case(seed) for seed in range(3000)]
    assert {c.mode for c in cases} == set(operands.MODES)
    assert {x for c in cases for x in c.layouts} == {*operands.LAYOUTS, *operands.ARRAYS}
    assert sum(len(c.objects) < len(c.places) for c in cases) > 600
    assert sum(any(a.size == 0 for a in c.arrays) for c in cases) > 100
    assert sum(any(a.ndim == 0 for a in c.arrays) for c in cases) > 200
    assert sum(c.compiled for c in cases) > 40
    for call in CALLS:
        assert all(reason for _, reason in call.without), call.name


def seeds_of(name: str, modes: Iterable[str], count: int = 40) -> list[int]:
    """Seeds whose cases call a function in one of the modes."""
    calls = (seed for seed in range(200_000) if operands.call_of(seed).name == name)
    return list(islice((s for s in calls if operands.draw_case(s).mode in modes), count))


def found_in(name: str, *modes: str) -> int:
    """How many cases of a function fail."""
    return sum(bool(failures(operands, seed)) for seed in seeds_of(name, modes))


def test_a_cotangent_given_to_each_place_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The total of a repeated operand, once for every place where it stands."""
    right: Callable[..., Any] = grad._by_body

    def wrong(node: Node, cotangents: Any, wanted: Any) -> Any:
        found = right(node, cotangents, wanted)
        known = dict(zip((node.inputs[i] for i in reversed(wanted)), reversed(found), strict=True))
        return [known[node.inputs[i]] for i in wanted]

    assert not found_in("F.linear", "reverse")
    monkeypatch.setattr(grad, "_by_body", wrong)
    forget()
    assert found_in("F.linear", "reverse") > 3
    assert found_in("F.attention", "second", "map of reverse") > 3


def test_a_lost_stride_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = dict(operands.LAYOUTS, strided=lambda a: rung.asarray(np.flip(a, -1) if a.ndim else a))
    monkeypatch.setattr(operands, "LAYOUTS", wrong)
    assert found_in("matmul", "value", "forward", "reverse") > 1


def broken(name: str, monkeypatch: pytest.MonkeyPatch, build: Callable[..., Any]) -> None:
    """Have the calls of a function build something else."""
    changed = [
        operands.Call(c.name, c.spec, build, c.without) if c.name == name else c for c in CALLS
    ]
    monkeypatch.setattr(operands, "CALLS", changed)


def test_a_function_that_confuses_equal_operands_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    broken("subtract", monkeypatch, lambda x, y: rung.add(x, y) if x is y else rung.subtract(x, y))
    assert found_in("subtract", "value") > 2


def test_a_rule_that_is_no_transpose_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    @rung.custom_vjp
    def product(x: Any, y: Any) -> Any:
        return x * y

    product.defvjp(lambda x, y: (x * y, (x, y)), lambda kept, ct: (ct * kept[1], ct))
    broken("multiply", monkeypatch, product)
    assert found_in("multiply", "reverse") > 2


def test_a_wrong_rule_for_many_examples_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = rung.vmap

    def turned(function: Any, **axes: Any) -> Any:
        return lambda *x: [rung.flip(v, axis=0) for v in right(function, **axes)(*x)]

    monkeypatch.setattr(rung, "vmap", turned)
    assert found_in("sin", "map", "map of reverse") > 2
