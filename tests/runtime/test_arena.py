"""The arena planner: sound for any lifetimes, deterministic, close to the lower bound."""

import random
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.core.errors import LoweringError
from rung.runtime.arena import Interval, plan_arena


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Interval]:
    count = draw(st.integers(0, 25))
    found = []
    for i in range(count):
        first = draw(st.integers(0, 12))
        life = draw(st.integers(0, 6))
        found.append(Interval(f"b{i}", draw(st.integers(0, 1000)), first, first + life))
    return found


@settings(deadline=None)
@given(lifetimes())
def test_no_two_live_buffers_overlap(intervals):
    plan = plan_arena(intervals)
    assert all(offset % 64 == 0 and offset >= 0 for offset in plan.offsets.values())
    for a, b in combinations(intervals, 2):
        together = a.first <= b.last and b.first <= a.last
        start_a, start_b = plan.offsets[a.name], plan.offsets[b.name]
        apart = start_a + a.nbytes <= start_b or start_b + b.nbytes <= start_a
        empty = a.nbytes == 0 or b.nbytes == 0
        assert apart or not together or empty
    for interval in intervals:
        assert plan.offsets[interval.name] + interval.nbytes <= plan.total_bytes
    sizes = [-(-interval.nbytes // 64) * 64 for interval in intervals]
    assert plan.peak_bytes <= plan.total_bytes <= sum(sizes)


@settings(deadline=None)
@given(lifetimes(), st.randoms(use_true_random=False))
def test_order_of_intervals_does_not_matter(intervals, shuffler: random.Random):
    shuffled = list(intervals)
    shuffler.shuffle(shuffled)
    assert plan_arena(shuffled) == plan_arena(intervals)


def test_chain_of_buffers_alternates_between_two():
    chain = [Interval(f"v{i}", 6400, i, i + 1) for i in range(50)]
    assert plan_arena(chain).total_bytes == 2 * 6400


def test_forward_and_backward_of_a_deep_net_reach_the_lower_bound():
    """Activations live from their stage to its mirror image: a stack."""
    depth = 200
    stack = [Interval(f"a{i}", 4096 * (i % 7 + 1), i, 2 * depth - i) for i in range(depth)]
    temporaries = [Interval(f"t{i}", 64_000, i, i) for i in range(2 * depth)]
    plan = plan_arena(stack + temporaries)
    assert plan.total_bytes <= 1.05 * plan.peak_bytes


def test_nothing_needs_nothing():
    plan = plan_arena([])
    assert (plan.offsets, plan.total_bytes, plan.peak_bytes) == ({}, 0, 0)


@pytest.mark.parametrize(
    "bad",
    [
        [Interval("a", 8, 3, 2)],
        [Interval("a", -8, 0, 0)],
        [Interval("a", 8, 0, 0), Interval("a", 8, 1, 1)],
    ],
    ids=["life", "size", "name"],
)
def test_ill_formed_intervals(bad):
    with pytest.raises(LoweringError, match="'a'"):
        plan_arena(bad)


def test_what_waits_lies_behind_what_others_use_meanwhile() -> None:
    plan = plan_arena(
        [Interval("late", 64, 5, 9), Interval("waits", 128, 0, 4, floor=1000)]
    )
    assert plan.offsets["waits"] == 1024 and plan.offsets["late"] == 0
    assert plan.total_bytes == 1024 + 128
