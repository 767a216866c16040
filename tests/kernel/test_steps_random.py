"""Random schedules of random nests: a step either refuses or keeps the meaning."""

from __future__ import annotations

from collections import Counter
from random import Random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nests import Nests, run

from rung.core.errors import ScheduleError
from rung.kernel.parse import parse_kernel
from rung.kernel.rewrite import axis_names
from rung.kernel.schedule import STEP_TYPES, parse_schedule, schedule_of
from rung.kernel.text import kernel_text

SEEDS = st.integers(0, 2**32)


def follow(seed: int, applied: Counter[str]) -> None:
    """Apply a random schedule to a random kernel and check it after each step."""
    nests = Nests(Random(seed))
    kernel = nests.kernel()
    want = run(kernel)
    for turn in range(nests.rng.randint(1, 7)):
        if not axis_names(kernel.body):
            break
        step = nests.step(kernel, turn)
        try:
            kernel = step.apply(kernel)
        except ScheduleError:
            continue
        applied[step.name] += 1
        for mode in ({}, {"hostile": True}, {"batch": True}):
            for a, b in zip(run(kernel, **mode), want, strict=True):
                note = f"seed {seed} {mode}\n{kernel_text(kernel)}"
                np.testing.assert_array_equal(a, b, err_msg=note)
    text = kernel_text(kernel)
    assert parse_kernel(text) is kernel, f"seed {seed}"
    assert [str(s) for s in schedule_of(kernel)] == list(kernel.schedule)
    assert parse_schedule("\n".join(kernel.schedule)) == schedule_of(kernel)


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS)
def test_steps_keep_the_meaning(seed: int) -> None:
    follow(seed, Counter())


@settings(max_examples=100, deadline=None)
@given(seed=SEEDS)
def test_batched_is_one_by_one(seed: int) -> None:
    kernel = Nests(Random(seed)).kernel()
    for a, b in zip(run(kernel, batch=True), run(kernel), strict=True):
        np.testing.assert_array_equal(a, b, err_msg=f"seed {seed}\n{kernel_text(kernel)}")


def test_every_kind_of_step_is_legal_somewhere() -> None:
    applied: Counter[str] = Counter()
    for seed in range(480):
        follow(seed, applied)
    # the nests are of integers, `wide` is for floats
    assert {t.name for t in STEP_TYPES} - applied.keys() == {"wide"}, applied
