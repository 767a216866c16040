"""`rung.function`: each part of the language, and what is refused, with the line."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

import rung
from rung.core.errors import GradientError, RungError, ShapeError, SourceError
from rung.ir.text import graph_text

CALLS: list[str] = []


def tensor(x, dtype=rung.float64):
    return rung.asarray(np.asarray(x), dtype=dtype)


def value(x):
    return x.item() if isinstance(x, rung.Tensor) else x


def helper(x):
    if x > 1:
        return x * 10
    return x


def factorial(n):
    return n if n < 2 else n * factorial(n - 1)


def calls_helper(x):
    return helper(x) + helper(2 * x)


def keywords(x, /, y=2.0, *rest, scale=3.0, **more):
    if x > y:
        return scale * x + len(rest) + len(more)
    return y


def logic(x):
    a = x > 0 and x < 2
    b = x < -1 or (x > 5 and not x > 7)
    return (1 if a else 0) + (10 if b else 0) + (100 if 0 < x <= 1 else 0)


def loop_else(x):
    for i in range(5):
        if x > i * 10:
            x = x - 1
        else:
            break
    else:
        x = x + 1000
    while x < 3:
        x = x + 1
        if x > 2.5:
            break
    else:
        x = x + 100
    return x


def over_a_list(x):
    total = x * 0
    for i, y in enumerate([x, x + 1, x + 2, x + 3]):
        if y > 3:
            continue
        if total > 4:
            break
        total += y * (i + 1)
    return total


def nested_return(x):
    for i in range(4):
        for j in range(4):
            if x + i * j > 6:
                return x * 100 + i * 10 + j
            if j > i:
                break
        x = x + 0.25
    return x


def in_place(x):
    y = x * 1
    filled = rung.zeros((4,), dtype=rung.float64)
    for i in range(4):
        if x > i:
            y += x
            filled[i] = y
    return (filled * rung.arange(1, 5)).sum() + y


def trees(x):
    state = {"x": x, "seen": (0.0, x)}
    while abs(state["x"]) < 10:
        state = {"x": state["x"] * 2, "seen": (state["seen"][0] + 1, state["x"])}
    return state["seen"][0] * 100 + state["seen"][1]


def inner_functions(x):
    def double(y):
        if y > 3:
            return y * 2
        return y

    shift = 1.0
    add = lambda y: y + shift if y > 0 else y - shift  # noqa: E731
    while x < 20:
        x = double(x) + 1
    return add(x)


def with_block(x):
    with rung.no_grad():
        if x > 1:
            x = x * 3
    with rung.enable_grad():
        if x > 5:
            return x
    return -x


def changed_in_the_loop(x):
    y = x
    while y > 1:
        z = y / 2
        if z > 1:
            y = z - 0.1
        else:
            y = z
    return y


def number_of_another_type(x):
    total, count = 0, 0
    while total < 5:
        total = total + x
        count += 1
    return total * 100 + count


def behind_a_jump(x):
    for i in range(3):
        if x < i:
            x = x + 1
            continue
        else:  # noqa: RET507
            x = x * 1.5
            continue
        if x > 2:
            break
    return x


def python_alone(x, mode="double"):
    for word in ("a", "b"):
        if mode == "double" and word == "a":
            x = x * 2
        elif mode is None:
            return None
    return x


@pytest.mark.parametrize(
    "program",
    [
        calls_helper, keywords, logic, loop_else, over_a_list, nested_return, in_place, trees,
        inner_functions, with_block, changed_in_the_loop, number_of_another_type, python_alone,
        behind_a_jump, lambda x: x if x > 1 else -x,
    ],
)  # fmt: skip
@pytest.mark.parametrize("x", [-2.0, 0.5, 1.5, 2.75, 6.5, 30.0])
def test_equals_python(program, x):
    if program is number_of_another_type and x < 0:
        return  # never ends
    f = rung.function(program)
    want = value(program(x))
    assert value(f(tensor(x))) == pytest.approx(want, rel=1e-12)
    assert value(rung.jit(f)(tensor(x))) == pytest.approx(want, rel=1e-12)
    assert value(f(x)) == pytest.approx(want, rel=1e-12)


def test_signatures_closures_and_methods():
    factor = 2.0

    @rung.function
    def scaled(x, *, by=3.0):
        if x > 0:
            return factor * x * by
        return x

    assert scaled.__name__ == "scaled" and scaled(tensor(1.0)).item() == 6
    factor = 5.0
    assert scaled(tensor(1.0), by=1.0).item() == 5

    class Model(rung.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = rung.tensor(3.0)

        @rung.function
        def forward(self, x):
            if x > 0:
                return self.weight * x
            return x

    model = Model()
    assert model(rung.asarray(2.0)).item() == 6 and model(rung.asarray(-2.0)).item() == -2
    out = rung.function(lambda x, k=2.0: keywords(x, 1.0, 5, 6, scale=k, other=1))
    assert out(tensor(4.0)).item() == 11


def test_two_lambdas_on_a_line():
    a, b = rung.function(lambda x: 1 if x > 0 else 2), rung.function(lambda x: 3 if x > 0 else 4)
    assert (a(tensor(1.0)).item(), b(tensor(-1.0)).item()) == (1, 4)


def test_python_conditions_choose_while_tracing():
    assert rung.function(python_alone)(tensor(2.0), mode=None) is None
    assert rung.function(factorial)(5) == 120


def test_only_one_branch_is_computed_and_no_python_between_iterations():
    @rung.jit
    @rung.function
    def count(n):
        CALLS.append("traced")
        i = 0
        while i < n:
            i = i + 1
        return i

    CALLS.clear()
    assert [count(tensor(n, rung.int64)).item() for n in (3, 1000, 0)] == [3, 1000, 0]
    assert CALLS == ["traced"]
    text = graph_text(count.compile(tensor(3, rung.int64)).runnable.graph)
    assert "while_loop" in text


def test_nodes_have_the_lines_of_the_user():
    @rung.function
    def f(x):
        while x < 10:
            x = x * 3  # this one
        return x

    graph = rung.jit(f).compile(tensor(1.0)).runnable.graph
    loop = next(v.node for v in graph.outputs if v.node.op.name == "while_loop")
    lines = [n.source.text for n in (loop, loop.attrs.body.outputs[0].node)]
    assert lines == ["while x < 10:", "x = x * 3  # this one"]


def test_asserts():
    @rung.function
    def checked(x):
        assert x > 0, f"not positive: {x}"
        if x > 1:
            assert x < 5
            x = x + 1
        return x

    assert checked(0.5) == 0.5
    with pytest.raises(AssertionError, match="not positive: -1"):
        checked(-1.0)
    with pytest.raises(AssertionError, match="not positive: Tensor"):
        checked(tensor(-1.0))
    with pytest.raises(SourceError, match="assert on a tensor whose value is not known"):
        rung.jit(checked)(tensor(2.0))


def test_limits():
    @rung.function(max_iterations=3)
    def doubled(x):
        while x < 100:
            x = x * 2
        return x

    assert doubled(tensor(1.0)).item() == 8 and doubled(1.0) == 128
    with pytest.raises(GradientError, match="no reverse derivative"):
        rung.grad(rung.function(lambda x: halved(x)))(tensor(5.0))
    with pytest.raises(RungError, match="max_iterations=0"):
        rung.function(lambda x: x, max_iterations=0)


def halved(x):
    while x > 1:
        x = x / 2
    return x


# ---- what is refused


def one_branch(x):
    if x > 0:
        y = x * 2
    return y


def other_branch(x):
    if x > 0:
        pass
    else:
        y = x * 2
    return y


def only_in_the_loop(x):
    while x > 1:
        x = x / 2
        y = x
    return y


def changing_shape(x):
    v = rung.zeros((1,))
    while x > 1:
        x = x / 2
        v = rung.concat([v, v])
    return v


def changing_dtype(x):
    n = rung.asarray(1)
    while x > 1:
        x = x / 2
        n = n * 0.5
    return n


def branches_of_two_shapes(x):
    if x > 1:
        y = rung.zeros((2,))
    else:
        y = rung.zeros((3,))
    return y


def branches_of_two_words(x):
    if x > 1:
        mode = "up"
    else:
        mode = "down"
    return mode


def growing_list(x):
    found = [x]
    while x > 1:
        x = x / 2
        found.append(x)
    return found


def some_return(x):  # noqa: RET503
    if x > 1:
        return x
    x = x + 1


def with_try(x):
    if x > 1:
        try:
            x = x / 2
        except ValueError:
            x = x * 2
    return x


def with_raise(x):
    if x < 10:
        raise ValueError("too small")
    return x


def with_global(x):
    global CALLS
    while x > 1:
        x = x / 2
        CALLS = [x]
    return x


def with_attribute(x, holder):
    for row in x:
        holder.last = row
    return x


def with_effect(x):
    if x > 1:
        print("large")
    return x


def changes_outer(x):
    if x > 1:
        CALLS.append("here")
    return x


def array_condition(x):
    if rung.stack([x, x]) > 1:
        x = x + 1
    return x


def range_as_value(x):
    return list(range(x.astype(rung.int64)))


def with_delete(x, d):
    if x > 1:
        del d["a"]
        x = x + 1
    return x


def jump_in_try(x):
    for i in range(3):
        try:
            if x > i:
                break
        finally:
            x = x + 1
    return x


def with_walrus(x):
    while (y := x / 2) > 1:
        x = y
    return x


def with_nonlocal(x):
    def inner():
        nonlocal x
        x = x + 1

    inner()
    return x


def generator(x):
    yield x


class Holder:
    last = None


REFUSED = [
    (one_branch, (), SourceError, "if: y is only set if the condition holds", "y = x * 2",
     "give y a value before the if"),
    (other_branch, (), SourceError, "if: y is only set in the else part", "y = x * 2",
     "give y a value before the if"),
    (only_in_the_loop, (), SourceError, "while loop: y is only set inside of the loop", "y = x",
     "before the loop"),
    (changing_shape, (), ShapeError, r"while loop: v is f32\[1\] before an iteration and f32\[2\]",
     "v = rung.concat([v, v])", "final shape"),
    (changing_dtype, (), ShapeError, r"while loop: n is i64\[\] before an iteration and f32\[\]",
     "n = n * 0.5", "final shape and dtype"),
    (branches_of_two_shapes, (), ShapeError, r"if: y is f32\[2\] on one path and f32\[3\]",
     "y = rung.zeros((3,))", "same shape"),
    (branches_of_two_words, (), SourceError, "if: mode is 'up' on one path and 'down'",
     'mode = "down"', "only tensors and numbers"),
    (growing_list, (), SourceError, "while loop: found is .* before an iteration",
     "found.append(x)", "fill a tensor"),
    (some_return, (), SourceError, "if: one path returns a value and another returns None", "",
     "one structure"),
    (with_try, (), SourceError, "if on a tensor: try cannot become part of a graph", "try:",
     "put the try around"),
    (with_raise, (), SourceError, "if on a tensor: raise cannot", "raise ValueError",
     "check before"),
    (with_global, (), SourceError, "while loop on a tensor: .*CALLS", "CALLS = [x]", "return the"),
    (with_attribute, (Holder(),), SourceError, "for loop on a tensor: an assignment to holder.last",
     "holder.last = row", "local variable"),
    (with_effect, (), SourceError, r"a call for its effect \(print\('large'\)\)", 'print("large")',
     "return what it shows"),
    (changes_outer, (), SourceError, "a change of CALLS, which is not local", "CALLS.append",
     "change a local variable"),
    (array_condition, (), ShapeError, r"the truth of a tensor bool\[2\] with 2 elements",
     "if rung.stack([x, x]) > 1:", "all() or any()"),
    (range_as_value, (), SourceError, "a range up to a tensor is used outside", "list(range(",
     "rung.arange"),
    (with_delete, ({"a": 1},), SourceError, "del cannot become part", 'del d["a"]', "leave it out"),
    (jump_in_try, (), SourceError, "jump_in_try: break inside of try", "try:", "jump behind"),
    (with_walrus, (), SourceError, ":= cannot be transformed", "while (y := x / 2) > 1:",
     "statement of its own"),
    (with_nonlocal, (), SourceError, "nonlocal x cannot be transformed", "nonlocal x", "return"),
    (generator, (), SourceError, "generator is a generator or a coroutine", "def generator(x):",
     "return a list"),
]  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=[c[0].__name__ for c in REFUSED])
def test_refused(case):
    function, more, error, message, line, fix = case
    x = tensor([5.0, 6.0]) if function is with_attribute else tensor(5.0)
    with pytest.raises(error, match=message) as e:
        rung.function(function)(x, *more)
    text = str(e.value)
    assert re.search(r"at test_function_language.py:\d+ ", text), text
    assert line in text.splitlines()[1] and fix in text.splitlines()[2], text


@pytest.mark.parametrize(
    "function, more", [(with_raise, ()), (with_try, ()), (with_delete, ({"a": 1},)),
                       (changes_outer, ()), (with_effect, ()), (with_global, ())]
)  # fmt: skip
def test_what_is_refused_for_tensors_works_in_python(function, more, capsys):
    if function is with_raise:
        with pytest.raises(ValueError, match="too small"):
            rung.function(function)(5.0)
    else:
        again = [dict(m) for m in more]
        assert rung.function(function)(5.0, *more) == function(5.0, *again)


def test_what_is_no_function_of_python():
    for given in (np.sin, functools.partial(helper, 1.0), rung.jit(helper)):
        with pytest.raises(SourceError, match="not a function written in Python"):
            rung.function(given)
    made: dict[str, object] = {}
    exec("def f(x): return x", made)
    with pytest.raises(SourceError, match="the source of f is not to be found"):
        rung.function(made["f"])(1.0)


def test_a_variable_without_a_value_is_named():
    def f(x, flag):
        if flag:
            y = x
        if x > 0:
            x = x + y
        return x

    assert rung.function(f)(tensor(1.0), True).item() == 2
    with pytest.raises(SourceError, match="y is read, but has no value on this path"):
        rung.function(f)(tensor(1.0), False)
