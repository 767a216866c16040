"""Every rule: it fires, and both sides have the same value, bit for bit where it says so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import pytest
from rule_cases import CASES

from rung.core import dtype as dt
from rung.core.errors import RungError
from rung.ir.interpret import interpret
from rung.ir.node import PARAMETER, Graph, Value, make_graph, parameter, topological_order
from rung.ir.op import NO_ATTRS, Array
from rung.ir.rule import Apply, Counts, Pattern, Rule, RuleSet, Variable, rewrite
from rung.ir.types import TensorType
from rung.ir.verify import verify
from rung.ops.samples import edge_values
from rung.rules.algebra import keeps_value
from rung.rules.decompose import DECOMPOSE
from rung.rules.fast_math import FAST_MATH
from rung.rules.movement import add_scattered
from rung.rules.simplify import SIMPLIFY

ALL_RULES = [*SIMPLIFY.rules, *DECOMPOSE.rules, *FAST_MATH.rules]
ROUNDED = {"power_two", "power_minus_one", "add_scattered"}
"""Rules of `simplify` that say that they round otherwise: within two units in the last place."""
ANY_ZERO = {"reduce_nothing", "moved_negative", "sum_of_pads", "subtract_from_negative"}
"""Rules that say that they change the sign of a zero."""


def programs(rule: Rule) -> Iterator[Value]:
    """Values on which the rule must fire."""
    if rule.pattern is None:
        for case in CASES[rule.name]:
            yield case()
        return
    for dtype, shape in product(dt.ALL, ((2, 3), ())):
        kinds = product(*[(dtype, dt.bool_) if dtype is not dt.bool_ else (dtype,)
                          for _ in _variables(rule.pattern)])  # fmt: skip
        for chosen in kinds:
            types = [TensorType(d, shape) for d in chosen]
            try:
                values = dict(_values(rule.pattern, types))
                value = _instance(rule.pattern, values)
            except RungError:
                continue
            if rule.where is None or rule.where(*[values[v] for v in rule.variables]):
                yield value
                break


def _variables(pattern: Pattern) -> list[Variable]:
    if isinstance(pattern, Variable):
        return [pattern]
    return list(dict.fromkeys(v for p in pattern.operands for v in _variables(p)))


def _values(pattern: Pattern, types: list[TensorType]) -> Iterator[tuple[Variable, Value]]:
    for i, (variable, type) in enumerate(zip(_variables(pattern), types, strict=True)):
        made = None if variable.sample is None else variable.sample(type)
        yield variable, parameter(i, variable.name, type) if made is None else made


def _instance(pattern: Pattern, values: dict[Variable, Value]) -> Value:
    if isinstance(pattern, Variable):
        return values[pattern]
    operands = [_instance(p, values) for p in pattern.operands]
    return pattern.op.build(operands, pattern.attrs or NO_ATTRS)[0]


def arguments(params: Sequence[Value], rng: np.random.Generator, edges: bool) -> list[Array]:
    found = []
    for p in params:
        size, dtype = p.type.size, p.type.dtype
        if edges:
            flat = rng.choice(edge_values(dtype), size)
        elif dtype.is_float:
            flat = rng.normal(0, 3, size)
        else:
            flat = rng.integers(0, 2 if dtype.is_bool else 100, size)
        found.append(np.asarray(flat).astype(dtype.numpy).reshape(p.shape))
    return found


def program(value: Value) -> Graph:
    """The graph of one output, with unused parameters where numbers are left out."""
    leaves = [n.results[0] for n in topological_order([value]) if n.op is PARAMETER]
    given = {v.node.attrs.index: v for v in leaves}
    unused = TensorType(dt.bool_, ())
    count = max(given, default=-1) + 1
    return make_graph("f", [given.get(i, parameter(i, "_", unused)) for i in range(count)], [value])


def assert_same(a: Array, b: Array, rounded: bool, zero_signs: bool = True) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape
    if a.dtype.kind in "biu":
        np.testing.assert_array_equal(a, b)
        return
    exact = a.astype(np.float64), b.astype(np.float64)
    if rounded:
        ulp = float(np.finfo(np.float64).eps if a.dtype == np.float64 else 2.0**-6)
        np.testing.assert_allclose(*exact, rtol=2 * ulp)
        return
    np.testing.assert_array_equal(*exact)
    if not zero_signs:
        return
    number = ~np.isnan(exact[0])
    np.testing.assert_array_equal(*(np.signbit(e[number]) for e in exact))


def check(rule: Rule, value: Value, edges: bool) -> None:
    before = program(value)
    counts: Counts = {}
    after = rewrite(before, RuleSet("one", [rule]), counts=counts)
    assert counts[rule.name].hits >= 1, f"{rule.name} does not fire on {before.nodes}"
    verify(after)
    rng = np.random.default_rng(len(before.nodes))
    for _ in range(4):
        args = arguments(before.params, rng, edges)
        with np.errstate(all="ignore"):
            pairs = zip(interpret(before, args), interpret(after, args), strict=True)
            for a, b in pairs:
                assert_same(a, b, rule.name in ROUNDED, rule.name not in ANY_ZERO)


@pytest.mark.parametrize("rule", [*SIMPLIFY.rules, *DECOMPOSE.rules], ids=lambda r: r.name)
def test_both_sides_are_equal(rule: Rule) -> None:
    fired = 0
    for value in programs(rule):
        fired += 1
        check(rule, value, edges=rule is not add_scattered)  # the order matters to infinities
        check(rule, value, edges=False)
    assert fired


@pytest.mark.parametrize("rule", FAST_MATH.rules, ids=lambda r: r.name)
def test_fast_math_is_near_on_ordinary_numbers(rule: Rule) -> None:
    fired = 0
    for value in programs(rule):
        if value.dtype in (dt.float32, dt.float64):
            fired += 1
            before = program(value)
            after = rewrite(before, RuleSet("one", [rule]))
            assert after is not before
            rng = np.random.default_rng(0)
            args = [np.asarray(rng.uniform(0.5, 3, p.shape)).astype(p.dtype.numpy)
                    for p in before.params]  # fmt: skip
            for a, b in zip(interpret(before, args), interpret(after, args), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert fired


def test_every_rule_has_a_picture_and_every_case_a_rule() -> None:
    for rule in ALL_RULES:
        assert "→" in rule.doc, f"{rule.name} has no picture"
    assert set(CASES) == {r.name for r in ALL_RULES if r.pattern is None}


@pytest.mark.parametrize(
    "value", [case() for cases in CASES.values() for case in cases][::3], ids=repr
)
def test_all_rules_together_end_and_keep_the_value(value: Value) -> None:
    together = SIMPLIFY + DECOMPOSE
    before = program(value)
    after = rewrite(before, together)
    assert rewrite(after, together) is after
    args = arguments(before.params, np.random.default_rng(1), edges=True)
    with np.errstate(all="ignore"):
        for a, b in zip(interpret(before, args), interpret(after, args), strict=True):
            assert_same(a, b, rounded=False, zero_signs=False)


def test_keeps_value_is_true_of_every_pair() -> None:
    for a, b in product(dt.ALL, dt.ALL):
        if keeps_value(a, b):
            edges = edge_values(a)
            back = edges.astype(np.float64) if a.is_float else edges
            there = edges.astype(b.numpy)
            same = there.astype(a.numpy)
            np.testing.assert_array_equal(same.astype(back.dtype), back)
        elif a.is_integer and b.is_integer:
            assert any(not dt.fits(int(v), b) for v in edge_values(a))


def test_apply_is_a_pattern() -> None:
    patterns = [r.pattern for r in ALL_RULES if r.pattern is not None]
    assert patterns and all(isinstance(p, Apply) for p in patterns)
