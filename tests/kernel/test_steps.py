"""Each schedule step: the text that it gives, the same results, and what it refuses."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rung.core import dtype as dt
from rung.core.errors import ParseError, ScheduleError
from rung.ir.expr import const, imul, isub, raw_call, var
from rung.kernel.deps import accesses, carried, pinned, ragged_end
from rung.kernel.interpret import interpret
from rung.kernel.loop import For, Kernel
from rung.kernel.parse import parse_kernel
from rung.kernel.schedule import (
    STEP_TYPES,
    apply_schedule,
    parse_schedule,
    schedule_of,
    schedule_text,
)
from rung.kernel.text import kernel_text, stmt_text


def kernel(body: str, params: str = "x: input(f32[64]), y: output(f32[64])") -> Kernel:
    lines = "".join(f"    {line}\n" for line in body.strip().splitlines())
    return parse_kernel(f"@kernel\ndef f({params}):\n{lines}")


def run(k: Kernel, **options: bool) -> list[np.ndarray]:
    """The arrays that are written, after a run on whole numbers."""
    rng = np.random.default_rng(3)
    arrays = {
        b.name: rng.integers(-4, 5, b.shape).astype(b.dtype.numpy)
        for b in sorted(k.params, key=lambda b: b.name)
        if b.role != "temp"
    }
    given = [arrays.get(b.name, np.zeros(b.shape, b.dtype.numpy)) for b in k.params]
    interpret(k, given, **options)
    return [a for b, a in zip(k.params, given, strict=True) if b.role != "temp"]


def scheduled(k: Kernel, text: str, one_by_one: bool = True) -> Kernel:
    """`k` with a schedule applied; results must stay."""
    new = apply_schedule(k, parse_schedule(text))
    modes = [{}, {"hostile": True}, *([{"batch": False}] if one_by_one else [])]
    want = run(k, batch=not one_by_one)
    for options in modes:
        for a, b in zip(run(new, **options), want, strict=True):
            np.testing.assert_array_equal(a, b)
    assert parse_kernel(kernel_text(new)) is new
    return new


COPY = "for i in range(50):\n    y[i] = x[i]"
PAIRS = "for i in range(8):\n    for j in range(8):\n        y[8*i + j] = x[8*i + j]"
SUM = "y[0] = 0.0\nfor k in range(50):\n    y[0] += x[k]"
RUNNING = """
s: register(f32)
s[()] = 0.0
for k in range(50):
    s[()] += x[k]
    y[k] = s[()]
"""
ROWS = """
for i in range(8):
    m: register(f32)
    m[()] = 0.0
    for k in range(8):
        m[()] += x[8*i + k]
    y[i] = m[()]
"""
TWO = "for i in range(8):\n    t[i] = x[i]*2.0\nfor j in range(8):\n    y[j] = t[j] + x[j]"
TEMP = "x: input(f32[64]), t: temp(f32[8]), y: output(f32[64])"

TRIANGLE = """
for i in range(8):
    for k in range(40):
        for j in range(4):
            accumulate(y[4*i + j], 'add', x[k], guard=4*i + j >= k)"""
UNSEEN = """
for i in range(8):
    s: register(f32)
    s[()] = 0.0
    for k in range(4):
        s[()] += x[k]
    for j in range(2):
        y[2*i + j] = where(2*i + j >= 9, s[()], 0.0)"""
AFTER_SUM = """
s: register(f32)
s[()] = 0.0
for k in range(50):
    s[()] += x[k]
for i in range(32):
    y[i] = s[()]*x[i + 32]"""
LINES = """
for i in range(2):
    for j in range(2):
        for k in range(16):
            y[k] += x[32*i + 16*j + k]"""
ROWS_APART = """
for i in range(2):
    for j in range(2):
        for k in range(8):
            y[k] += x[8*i + 32*j + k]"""

RESULTS = {
    "split": (
        COPY,
        "split('i', 14, 'i0', 'i1')",
        """
for i0 in range(4):
    for i1 in range(minimum(14, 50 - 14*i0), at_most=14):
        y[14*i0 + i1] = x[14*i0 + i1]""",
    ),
    "split exact": (
        COPY,
        "split('i', 10, 'i0', 'i1')",
        """
for i0 in range(5):
    for i1 in range(10):
        y[10*i0 + i1] = x[10*i0 + i1]""",
    ),
    "split ragged": (
        COPY,
        "split('i', 14, 'i0', 'i1')\nsplit('i1', 4, 'a', 'b')",
        """
for i0 in range(4):
    for a in range((minimum(14, 50 - 14*i0) + 3)//4, at_most=4):
        for b in range(minimum(4, minimum(14, 50 - 14*i0) - 4*a), at_most=4):
            y[14*i0 + 4*a + b] = x[14*i0 + 4*a + b]""",
    ),
    "fuse": (
        PAIRS,
        "fuse('i', 'j', 't')",
        """
for t in range(64):
    y[t] = x[t]""",
    ),
    "peel": (
        COPY,
        "split('i', 14, 'i0', 'i1')\npeel('i0')\nvectorize('i1', 16)",
        """
for i0 in range(3):
    for i1 in vector(14, lanes=16):
        y[14*i0 + i1] = x[14*i0 + i1]
for i1 in vector(8, lanes=16):
    y[i1 + 42] = x[i1 + 42]""",
    ),
    "branch": (
        COPY,
        "split('i', 14, 'i0', 'i1')\nparallel('i0')\nbranch('i1')\nunroll('i1')",
        """
for i0 in parallel(4):
    if i0 < 3:
        for i1 in unroll(14):
            y[14*i0 + i1] = x[14*i0 + i1]
    if i0 >= 3:
        for i1 in unroll(8):
            y[i1 + 42] = x[i1 + 42]""",
    ),
    "reorder": (
        PAIRS,
        "reorder(('j', 'i'))",
        """
for j in range(8):
    for i in range(8):
        y[8*i + j] = x[8*i + j]""",
    ),
    "reorder distributes": (
        ROWS,
        "reorder(('k', 'i'))",
        """
m: register(f32[8])
for i in range(8):
    m[i] = 0.0
for k in range(8):
    for i in range(8):
        m[i] += x[8*i + k]
for i in range(8):
    y[i] = m[i]""",
    ),
    "fission": (
        "for i in range(8):\n    y[i] = x[i]\n    y[i + 8] = y[i]",
        "fission('i')",
        """
for i in range(8):
    y[i] = x[i]
for i in range(8):
    y[i + 8] = y[i]""",
    ),
    "fuse_loops": (
        TWO,
        "fuse_loops('i', 'j')",
        """
for i in range(8):
    t[i] = x[i]*2.0
    y[i] = t[i] + x[i]""",
    ),
    "inline": (
        TWO,
        "inline('t')",
        """
for j in range(8):
    y[j] = x[j]*2.0 + x[j]""",
    ),
    "compute_at": (
        TWO,
        "split('j', 4, 'j0', 'j1')\ncompute_at('t', 'j0')",
        """
for j0 in range(2):
    t_j0: scratch(f32[4])
    for t_i in range(4):
        t_j0[t_i] = x[4*j0 + t_i]*2.0
    for j1 in range(4):
        y[4*j0 + j1] = t_j0[j1] + x[4*j0 + j1]""",
    ),
    "prefetch": (
        COPY,
        "prefetch('x', 'i', 16)",
        """
for i in range(50):
    prefetch(x[i + 16])
    y[i] = x[i]""",
    ),
    "prefetch lines": (
        LINES,
        "prefetch('x', 'i', 1)",
        """
for i in range(2):
    prefetch(x[32*i + 32])
    prefetch(x[32*i + 48])
    for j in range(2):
        for k in range(16):
            y[k] += x[32*i + 16*j + k]""",
    ),
    "prefetch rows": (
        ROWS_APART,
        "prefetch('x', 'i', 2)",
        """
for i in range(2):
    prefetch(x[8*i + 16])
    prefetch(x[8*i + 48])
    for j in range(2):
        for k in range(8):
            y[k] += x[32*j + 8*i + k]""",
    ),
    "prefetch rest": (
        AFTER_SUM,
        "prefetch_rest('k')",
        """
s: register(f32)
s[()] = 0.0
prefetch(x[32])
prefetch(x[48])
prefetch(y[0])
prefetch(y[16])
for k in range(50):
    s[()] += x[k]
for i in range(32):
    y[i] = s[()]*x[i + 32]""",
    ),
    "narrow": (
        TRIANGLE,
        "narrow('k')",
        """
for i in range(8):
    for k in range(4*i + 1, at_most=40):
        for j in range(4):
            y[4*i + j] += x[k]
    for k_z in range(3):
        for j in range(4):
            accumulate(y[4*i + j], 'add', x[4*i + k_z + 1], guard=4*i + j >= 4*i + k_z + 1)""",
    ),
    "narrow over a ragged loop": (
        TRIANGLE,
        "split('k', 3, 'k', 'l')\nnarrow('k')",
        """
for i in range(8):
    for k in range(minimum((4*i//3) + 2, (4*i + 1)//3), at_most=14):
        for l in range(minimum(3, 40 - 3*k), at_most=3):
            for j in range(4):
                y[4*i + j] += x[3*k + l]
    for k_z in range((4*i//3) + 2 - minimum((4*i//3) + 2, (4*i + 1)//3), at_most=14):
        for l in range(minimum(3, 40 - 3*k_z - 3*minimum((4*i//3) + 2, (4*i + 1)//3)), at_most=3):
            for j in range(4):
                accumulate(y[4*i + j], 'add', x[3*k_z + 3*minimum((4*i//3) + 2, (4*i + 1)//3) + l], guard=4*i + j >= 3*k_z + 3*minimum((4*i//3) + 2, (4*i + 1)//3) + l)""",  # noqa: E501
    ),
    "narrow both ends": (
        """
for i in range(8):
    for k in range(40):
        accumulate(y[i], 'add', x[k], guard=k >= 3*i and i + 9 > k and x[k] > 0.0)""",
        "narrow('k')",
        """
for i in range(8):
    for k in range(maximum(i + 9, 3*i) - 3*i, at_most=40):
        accumulate(y[i], 'add', x[3*i + k], guard=x[3*i + k] > 0.0)""",
    ),
    "narrow two guards": (
        """
for i in range(40):
    accumulate(y[0], 'add', x[i], guard=i >= 3)
    accumulate(y[1], 'add', x[i], guard=20 > i)""",
        "narrow('i')",
        """
for i_a in range(3):
    y[1] += x[i_a]
for i in range(17):
    y[0] += x[i + 3]
    y[1] += x[i + 3]
for i_z in range(20):
    y[0] += x[i_z + 20]""",
    ),
    "skip": (
        UNSEEN,
        "skip('k')",
        """
for i in range(8):
    s: register(f32)
    s[()] = 0.0
    if 2*i - 8 >= 0:
        for k in range(4):
            s[()] += x[k]
    for j in range(2):
        y[2*i + j] = where(2*i + j >= 9, s[()], 0.0)""",
    ),
    "accumulate": (
        SUM,
        "accumulate('y', 'k')",
        """
y_k: register(f32)
y_k[()] = 0.0
for k in range(50):
    y_k[()] += x[k]
y[0] = y_k[()]""",
    ),
    "accumulate onto": (
        "for k in range(50):\n    y[0] += x[k]",
        "accumulate('y', 'k')",
        """
y_k: register(f32)
y_k[()] = 0.0
for k in range(50):
    y_k[()] += x[k]
y[0] += y_k[()]""",
    ),
    "wide": (
        SUM,
        "accumulate('y', 'k')\nwide('y_k')",
        """
y_k: register(f64)
y_k[()] = f64(0.0)
for k in range(50):
    y_k[()] += cast[f64](x[k])
y[0] = cast[f32](y_k[()])""",
    ),
    "cascade": (
        SUM,
        "cascade('k', 16)",
        """
y[0] = 0.0
for k_s in range(4):
    y_k: register(f32)
    y_k[()] = 0.0
    for k_p in range(minimum(16, 50 - 16*k_s), at_most=16):
        y_k[()] += x[16*k_s + k_p]
    y[0] += y_k[()]""",
    ),
    "cascade twice": (
        SUM,
        "cascade('k', 5)\ncascade('k_s', 4)",
        """
y[0] = 0.0
for k_s_s in range(3):
    y_k_s: register(f32)
    y_k_s[()] = 0.0
    for k_s_p in range(minimum(4, 10 - 4*k_s_s), at_most=4):
        y_k: register(f32)
        y_k[()] = 0.0
        for k_p in range(5):
            y_k[()] += x[20*k_s_s + 5*k_s_p + k_p]
        y_k_s[()] += y_k[()]
    y[0] += y_k_s[()]""",
    ),
    "cascade of columns": (
        LINES,
        "vectorize('k', 16)\ncascade('i', 1)",
        """
for i_s in range(2):
    y_i: register(f32[16])
    for k in vector(16, lanes=16):
        y_i[k] = 0.0
    for i_p in range(1):
        for j in range(2):
            for k in vector(16, lanes=16):
                y_i[k] += x[32*i_p + 32*i_s + 16*j + k]
    for k in vector(16, lanes=16):
        y[k] += y_i[k]""",
    ),
    "cascade of running sums": (
        RUNNING,
        "cascade('k', 8)",
        """
s: register(f32)
s[()] = 0.0
for k_s in range(7):
    s_k: register(f32)
    s_k[()] = 0.0
    for k_p in range(minimum(8, 50 - 8*k_s), at_most=8):
        s_k[()] += x[8*k_s + k_p]
        y[8*k_s + k_p] = s[()] + s_k[()]
    s[()] += s_k[()]""",
    ),
    "lanes": (
        SUM,
        "lanes('k', 8, 2)",
        """
y[0] = 0.0
for k_w0 in range(1):
    y_k: register(f32[2, 8])
    for k_u in unroll(2):
        for k_l in vector(8, lanes=8):
            y_k[k_u, k_l] = 0.0
    for k_o in range(3):
        for k_u in unroll(2):
            for k_l in vector(8, lanes=8):
                y_k[k_u, k_l] += x[16*k_o + 8*k_u + k_l]
    for k_l in vector(2, lanes=8):
        y_k[0, k_l] += x[k_l + 48]
    for k_l in vector(8, lanes=8):
        y_k[0, k_l] += y_k[1, k_l]
    for k_l in vector(8, lanes=8):
        y[0] += y_k[0, k_l]""",
    ),
    "pack": (
        ROWS,
        "pack('x', 'i', ('k',))",
        """
for i in range(8):
    x_packed: scratch(f32[8])
    for x_packed_k in range(8):
        x_packed[x_packed_k] = x[8*i + x_packed_k]
    m: register(f32)
    m[()] = 0.0
    for k in range(8):
        m[()] += x_packed[k]
    y[i] = m[()]""",
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_text(name: str) -> None:
    before, steps, after = RESULTS[name]
    params = TEMP if "t[" in before else "x: input(f32[64]), y: output(f32[64])"
    new = scheduled(kernel(before, params), steps)
    assert "\n".join(map(stmt_text, new.phases)) == after.strip()
    assert schedule_text(schedule_of(new)) == steps + "\n"


REFUSED = {
    "narrow stores": (
        "for i in range(8):\n    accumulate(y[0], 'add', x[i], guard=i >= 3)\n    y[i + 1] = x[i]",
        "narrow('i')",
        "loop 'i' does more than accumulate",
    ),
    "narrow by data": (
        "for i in range(8):\n    accumulate(y[0], 'add', x[i], guard=x[i] > 0.0)",
        "narrow('i')",
        "no comparison bounds loop 'i'",
    ),
    "skip seen": (SUM, "skip('k')", "is not used under one condition alone"),
    "skip two ways": (
        UNSEEN + "\n        y[20] = s[()]", "skip('k')", "is not used under one condition alone"
    ),
    "no loop": (COPY, "unroll('z')", "unroll('z'): no loop 'z'"),
    "factor": (COPY, "split('i', 0, 'a', 'b')", "the factor 0 is less than 1"),
    "name taken": (PAIRS, "split('i', 2, 'a', 'j')", "there is an axis 'j' already"),
    "name": (PAIRS, "split('i', 2, 'a', 'b c')", "'b c' cannot name an axis"),
    "fuse not perfect": (ROWS, "fuse('i', 'k', 't')", "'k' is not all there is in loop 'i'"),
    "fuse ragged": (
        COPY,
        "split('i', 14, 'a', 'b')\nfuse('a', 'b', 't')",
        "the extent of 'a' or 'b' is not a constant",
    ),
    "peel parallel": (
        COPY,
        "split('i', 14, 'a', 'b')\nparallel('a')\npeel('a')",
        "peel('a'): the loop is parallel",
    ),
    "unroll ragged": (
        COPY,
        "split('i', 14, 'a', 'b')\nunroll('b')",
        "the extent of 'b' is not a constant\n  fix: peel or branch first",
    ),
    "vectorize lanes": (COPY, "vectorize('i', 12)", "12 lanes: not a power of two"),
    "vectorize long": (COPY, "vectorize('i', 16)", "loop 'i' has 50 iterations for 16 lanes"),
    "vectorize outer": (PAIRS, "vectorize('i', 16)", "loop 'j' is inside of loop 'i'"),
    "vectorize recurrence": (
        "for i in range(8):\n    y[i + 1] = y[i]",
        "vectorize('i', 8)",
        "iterations of 'i' depend: one reads y[i] and writes y[i + 1]",
    ),
    "vectorize read of a sum": (
        "for i in range(8):\n    y[0] += x[i]\n    y[i + 8] = y[0]",
        "vectorize('i', 8)",
        "iterations of 'i' depend: one adds into y[0] and reads y[0]",
    ),
    "parallel sum": (
        SUM,
        "parallel('k')",
        "iterations of 'k' depend: one adds into y[0] and adds into y[0]",
    ),
    "parallel inner": (PAIRS, "parallel('j')", "loop 'j' is not outermost"),
    "reorder recurrence": (
        "for i in range(7):\n    for j in range(7):\n        y[8*i + j + 8] = y[8*i + j + 1]",
        "reorder(('j', 'i'))",
        "an order of 'i' and 'j' is needed: an iteration reads y[8*i + j + 1]"
        " and writes y[8*i + j + 8]",
    ),
    "reorder extent": (
        COPY,
        "split('i', 14, 'a', 'b')\nreorder(('b', 'a'))",
        "the extent of 'b' depends on 'a'",
    ),
    "reorder around a local": (
        "for i in range(4):\n    m: register(f32)\n    for k in range(3):\n"
        "        m[()] = x[k]\n        y[4*k + i] = m[()]",
        "reorder(('k', 'i'))",
        "what is in loop 'i' cannot be taken apart",
    ),
    "reorder twice": (PAIRS, "reorder(('i', 'i'))", "an axis is named twice"),
    "fission": (
        "for i in range(8):\n    y[i + 1] = x[i]\n    y[i + 2] = y[i]",
        "fission('i')",
        "'i' cannot be distributed: an iteration writes y[i + 1] and reads y[i]",
    ),
    "fuse_loops apart": (SUM, "fuse_loops('k', 'k')", "does not follow loop 'k' directly"),
    "fuse_loops order": (
        "for i in range(8):\n    y[i] = x[i]\nfor j in range(8):\n    y[j + 8] = y[7 - j]",
        "fuse_loops('i', 'j')",
        "'i' cannot be distributed: an iteration writes y[i] and reads y[7 - i]",
    ),
    "lanes of nothing": (COPY, "lanes('i', 8)", "nothing is reduced over 'i'"),
    "lanes around loops": (ROWS, "lanes('i', 8)", "more than plain statements in loop 'i'"),
    "accumulate nothing": (COPY, "accumulate('y', 'i')", "does more with 'y' than accumulate"),
    "accumulate moving": (
        "for i in range(8):\n    y[i] += x[i]",
        "accumulate('y', 'i')",
        "the index of 'y' depends on 'i'",
    ),
    "cascade nothing": (COPY, "cascade('i', 8)", "adds up nothing of more than 8 terms"),
    "cascade short": (SUM, "cascade('k', 50)", "adds up nothing of more than 50 terms"),
    "cascade of a product": (
        SUM.replace("y[0] +=", "y[0] *="),
        "cascade('k', 8)",
        "adds up nothing of more than 8 terms",
    ),
    "cascade moving": (
        "for i in range(40):\n    y[i] += x[i]",
        "cascade('i', 8)",
        "adds up nothing of more than 8 terms",
    ),
    "wide memory": (SUM, "wide('y')", "'y' is no register of f32"),
    "accumulate no buffer": (SUM, "accumulate('q', 'k')", "no buffer 'q'"),
    "pack written": (
        "for i in range(8):\n    for j in range(4):\n        y[j] = y[j] + 1.0",
        "pack('y', 'i', ('j',))",
        "loop 'i' writes what is packed",
    ),
    "pack two ways": (
        "for i in range(8):\n    for j in range(4):\n        y[j] = x[j] + x[j + 1]",
        "pack('x', 'i', ('j',))",
        "loop 'i' reads 'x' in 2 ways",
    ),
    "pack more": (PAIRS, "pack('x', 'i', ())", "the read depends on 'j' too"),
    "inline output": (COPY, "inline('y')", "'y' is not a temp buffer filled by one phase"),
    "prefetch rest": (SUM, "prefetch_rest('k')", "no loop behind 'k' reads a parameter"),
    "prefetch": (SUM, "prefetch('y', 'k', 1)", "loop 'k' does not step through 'y'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    before, steps, message = REFUSED[name]
    with pytest.raises(ScheduleError) as raised:
        apply_schedule(kernel(before), parse_schedule(steps))
    assert message in str(raised.value)


BAD_SCHEDULES = {
    "split": "line 1: expected a step such as split('i', 4, 'i0', 'i1')",
    "explode('i')": "line 1: unknown step explode; there are "
    + ", ".join(t.name for t in STEP_TYPES),
    "peel()": "line 1: peel: axis is missing",
    "peel('i', 2)": "line 1: peel takes axis",
    "peel(axis='i', axis='j')": "line 1: peel takes axis",
    "peel(3)": "line 1: peel: axis is 3, expected str",
    "reorder(('i', 2))": "line 1: reorder: axes is ('i', 2), expected tuple[str, ...]",
    "\npeel(open('x'))": "line 2: expected text, a number or a tuple",
    "split('i', True, 'a', 'b')": "line 1: split: factor is True, expected int",
}


@pytest.mark.parametrize("text", BAD_SCHEDULES)
def test_bad_schedules(text: str) -> None:
    with pytest.raises(ParseError) as raised:
        parse_schedule(text)
    assert raised.value.message == BAD_SCHEDULES[text]


# ---- dependences


def loops(body: str) -> list[For]:
    """The nested loops of a body, outermost first."""
    found = [kernel(body).phases[0]]
    while isinstance(found[-1], For):
        found.append(found[-1].body.stmts[0])
    return found[:-1]


def test_ragged_end() -> None:
    i = var("i", 8)
    rest = isub(const(100), imul(i, 14))
    e = raw_call("minimum", (const(14), rest), dt.int64)
    assert ragged_end(e) == (14, {i: 14}, const(100))
    assert ragged_end(const(3)) is None


@pytest.mark.parametrize(
    ("body", "free"),
    [
        ("for i in range(8):\n    y[i] = 0.0", True),
        ("for i in range(8):\n    y[i + 8] = y[i]", True),
        ("for i in range(9):\n    y[i + 8] = y[i]", False),
        ("for i in range(8):\n    y[2*i] = y[2*i + 1]", True),
        ("for i in range(8):\n    y[i//2] = 0.0", False),
        ("for i in range(64):\n    y[8*(i%8) + i//8] = 0.0", True),
        ("for i in range(8):\n    for j in range(8):\n        y[8*i + j] = y[8*i]", True),
        ("for i in range(8):\n    for j in range(9):\n        y[7*i + j] = 0.0", False),
        ("for i in range(8):\n    y[cast[i64](x[i])] = 0.0", False),
        ("for i in range(8):\n    y[cast[i64](x[0]) + i] = 0.0", True),
        ("for i in range(8):\n    y[0] = x[i]", False),
        ("for i in range(8):\n    for j in range(1):\n        y[j + i] = 0.0", True),
    ],
)
def test_carried(body: str, free: bool) -> None:
    loop = kernel(body).phases[0]
    assert isinstance(loop, For)
    assert (carried(loop) is None) is free


def test_tiles_of_a_flat_buffer_are_apart() -> None:
    k = apply_schedule(
        kernel("for i in range(5):\n    for j in range(10):\n        y[10*i + j] = 0.0"),
        parse_schedule("split('j', 4, 'j0', 'j1')\nreorder(('j0', 'i', 'j1'))"),
    )
    (outer,) = k.phases
    assert isinstance(outer, For)
    assert carried(outer) is None
    access = accesses(outer.body)[0]
    assert pinned(access, access, (outer,)) == {outer.axis}


# ---- the register tile


MATMUL = """
for i in range(100):
    for j in range(70):
        acc: register(f32)
        acc[()] = 0.0
        for k in range(64):
            acc[()] += a[64*i + k]*b[70*k + j]
        out[70*i + j] = maximum(acc[()] + bias[j], 0.0)
"""
MATMUL_PARAMS = (
    "a: input(f32[6400]), b: input(f32[4480]), bias: input(f32[70]), out: output(f32[7000])"
)
TILE = """
split('i', 14, 'i0', 'i1')
split('j', 32, 'j0', 'j1')
reorder(('j0', 'i0', 'k', 'i1', 'j1'))
split('i0', 3, 'm', 'i0')
fuse('j0', 'm', 't')
parallel('t')
pack('b', 't', ('k', 'j1'), 'panel')
branch('j1')
branch('i1')
split('j1', 16, 'j2', 'jv')
split('panel_j1', 16, 'panel_j2', 'panel_jv')
vectorize('jv', 16)
vectorize('panel_jv', 16)
unroll('j2')
unroll('i1')
"""
TEMP_MATMUL = MATMUL.replace("        acc: register(f32)\n", "").replace("acc[()]", "c[70*i + j]")


def test_matmul_becomes_a_register_tile(golden) -> None:
    naive = kernel(MATMUL, MATMUL_PARAMS)
    tiled = scheduled(naive, TILE.strip(), one_by_one=False)
    golden("kernel_matmul.txt", kernel_text(tiled))


def test_accumulate_makes_the_same_tile_from_a_temp_buffer(golden) -> None:
    naive = kernel(TEMP_MATMUL, MATMUL_PARAMS + ", c: temp(f32[7000])")
    steps = TILE.replace("pack(", "accumulate('c', 'k')\npack(")
    tiled = scheduled(naive, steps.strip(), one_by_one=False)
    assert [b.name for b in tiled.params] == ["a", "b", "bias", "out"]
    golden("kernel_matmul_temp.txt", kernel_text(tiled))


def test_a_schedule_takes_milliseconds() -> None:
    naive = kernel(MATMUL, MATMUL_PARAMS)
    steps = parse_schedule(TILE)
    best = float("inf")
    for _ in range(5):
        start = time.process_time()
        apply_schedule(naive, steps)
        best = min(best, time.process_time() - start)
    assert best < 0.05
