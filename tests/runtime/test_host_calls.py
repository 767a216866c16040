"""Ops that run on the host: where they stand in programs, what happens when they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rung
from rung.core import dtype as dt
from rung.core.errors import LinAlgError, LoweringError
from rung.core.settings import configure, settings
from rung.core.source import Source
from rung.ir.interpret import interpret
from rung.ir.node import Graph, Value, make_graph, parameter, provenance
from rung.ir.op import Array, Attrs, Cost, Op
from rung.ir.parse import parse_graph
from rung.ir.passes import run_passes
from rung.ir.text import graph_text
from rung.ir.types import TensorType
from rung.ops.broadcast import reduce_sum, spread
from rung.ops.control import ScanAttrs, scan
from rung.ops.elementwise import multiply
from rung.ops.families import add, structured
from rung.ops.table import OPS
from rung.ops.transcendental import exp
from rung.rules.pipeline import PIPELINE
from rung.runtime import program as program_module
from rung.runtime.memory import array_at
from rung.runtime.native_script import Opcode
from rung.runtime.program import compile_graph
from rung.runtime.script import Script, compile_program

F64 = dt.float64
VECTOR = TensorType(F64, (3,))


@dataclass(frozen=True)
class ShiftAttrs(Attrs):
    """What is added."""

    by: float = 1.0


calls: list[Callable[[Array], None]] = []
"""What the next calls of `shifted` do first; the last one stays."""


def _shifted_ref(attrs: ShiftAttrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    if calls:
        (calls.pop(0) if len(calls) > 1 else calls[0])(operands[0])
    return (operands[0] + attrs.by,)


shifted: Op = structured(
    "shifted",
    "host",
    "x + by, by a call of Python.",
    arity=1,
    attrs=ShiftAttrs,
    type=lambda attrs, types: (types[0],),
    ref=_shifted_ref,
    axes=None,
    host=True,
    cost=lambda attrs, ins, outs: Cost(0, 0),
)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    calls.clear()
    yield
    calls.clear()


def fail(x: Array) -> None:
    raise LinAlgError("shifted: no", fix="another x")


def params(*types: TensorType) -> list[Value]:
    return [parameter(i, f"p{i}", t) for i, t in enumerate(types)]


def chain() -> Graph:
    """exp(shifted(2 x) + x), beside what needs no host."""
    (x,) = params(VECTOR)
    y = exp(add(shifted(add(x, x)), x))
    return make_graph("chain", [x], [y, multiply(x, x), shifted(y, by=0.5)])


def looping() -> Graph:
    """A scan whose body calls the host, in a scan that calls it too."""
    c, x = params(VECTOR, VECTOR)
    inner = make_graph("inner", [c, x], [add(shifted(c), x), c])
    c, x = params(VECTOR, TensorType(F64, (2, 3)))
    made = scan.build([shifted(c, by=-1.0), x], ScanAttrs(inner, 2, 0, 1))
    outer = make_graph("outer", [c, x], made)
    c, x = params(VECTOR, TensorType(F64, (4, 2, 3)))
    made = scan.build([c, x], ScanAttrs(outer, 4, 0, 1))
    return make_graph("looping", [c, x], made)


def lowered(graph: Graph) -> Graph:
    return run_passes(graph, PIPELINE)[0]


def compiled(graph: Graph, aliases: Mapping[int, int] | None = None) -> Script:
    found = compile_program(graph, aliases or {}, lower=lowered)
    assert isinstance(found, Script)
    return found


def drawn(graph: Graph) -> list[Array]:
    rng = np.random.default_rng(0)
    return [np.asarray(rng.uniform(-1, 1, p.shape)) for p in graph.params]


def run(program: Script, inputs: Sequence[Array], aliases: Mapping[int, int]) -> list[Array]:
    """The outputs; those of `aliases` are written over inputs."""
    outputs = [
        inputs[aliases[k]] if k in aliases else np.full(t.shape, np.nan)
        for k, t in enumerate(program.output_types)
    ]
    program.run([a.ctypes.data for a in inputs], [a.ctypes.data for a in outputs])
    return outputs


GRAPHS = {"chain": chain(), "looping": looping()}


@pytest.mark.parametrize("name", GRAPHS)
def test_levels_agree(name: str) -> None:
    graph = GRAPHS[name]
    assert parse_graph(graph_text(graph), {**OPS, "shifted": shifted}) is graph
    arrays = drawn(graph)
    wanted = interpret(graph, arrays)
    program = compiled(graph)
    for _ in range(2):
        for found, want in zip(run(program, arrays, {}), wanted, strict=True):
            np.testing.assert_allclose(found, want, rtol=1e-13)


def test_it_is_called_once_in_each_iteration() -> None:
    graph = GRAPHS["looping"]
    seen: list[Array] = []
    calls.append(lambda x: seen.append(x.copy()))
    program = compiled(graph)
    assert len(program.host_calls) == 2
    run(program, drawn(graph), {})
    assert len(seen) == 4 + 4 * 2


def test_compiled_graphs_hold_none() -> None:
    program = compiled(GRAPHS["chain"])
    assert all(n.op is not shifted for p in program.programs for n in p.graph.nodes)
    assert [c.node.attrs for c in program.host_calls] == [ShiftAttrs(1.0), ShiftAttrs(0.5)]
    with pytest.raises(LoweringError, match="shifted: has no loop form"):
        compile_graph(GRAPHS["chain"]).run([], [])


# ---- errors and state


def summed(x: Value) -> Value:
    """x times its sum, which is not computed element by element."""
    return multiply(x, spread(reduce_sum(x, dims=(0,)), (0,), x.shape))


def updating(kind: str) -> Graph:
    """A state that is done with before the host is called on something else."""
    state, x = params(VECTOR, VECTOR)
    if kind == "loop":
        c, d = params(VECTOR, VECTOR)
        body = make_graph("body", [c, d], [exp(c), shifted(d)])
        new, late = scan.build([state, x], ScanAttrs(body, 3, 0, 2))
    else:
        new, late = exp(state) if kind == "elements" else summed(state), shifted(x)
    return make_graph("updating", [state, x], [new, late])


@pytest.mark.parametrize("kind", ("elements", "sums", "loop"))
def test_state_is_as_it_was_after_a_failure(kind: str) -> None:
    graph = updating(kind)
    program = compiled(graph, {0: 0})
    state, x = drawn(graph)
    before = state.copy()
    calls.append(fail)
    if kind == "loop":
        calls.insert(0, lambda x: None)
    with pytest.raises(LinAlgError, match="shifted: no"):
        run(program, [state, x], {0: 0})
    assert state.tobytes() == before.tobytes()
    calls[:] = [lambda x: None]
    wanted = interpret(graph, [before, x])
    found = run(program, [state, x], {0: 0})
    np.testing.assert_allclose(state, wanted[0], rtol=1e-14)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-14)


def num_copies(program: Script) -> int:
    rows = program._code.data.view(np.int64).reshape(-1, 4)
    return int((rows[:, 0] == Opcode.COPY).sum())


def test_state_is_written_in_place_once_nothing_can_fail() -> None:
    assert num_copies(compiled(updating("sums"), {0: 0})) == 1
    assert num_copies(compiled(updating("elements"), {0: 0})) == 0
    state, x = params(VECTOR, VECTOR)
    late = make_graph("late", [state, x], [summed(add(state, shifted(x)))])
    assert num_copies(compiled(late, {0: 0})) == 0


def test_the_line_of_the_node_is_named() -> None:
    (x,) = params(VECTOR)
    with provenance(Source("/me/train.py", 7)):
        y = shifted(x)
    program = compiled(make_graph("f", [x], [exp(y)]))
    calls.append(fail)
    with pytest.raises(LinAlgError) as caught:
        run(program, [np.zeros(3)], {})
    assert str(caught.value).startswith("shifted: no\n  at train.py:7")
    assert caught.value.fix == "another x"
    calls.clear()
    assert run(program, [np.zeros(3)], {})[0].tolist() == [np.e] * 3


def test_other_errors_pass_as_they_are() -> None:
    def divide(x: Array) -> None:
        raise ZeroDivisionError("in Python")

    calls.append(divide)
    with pytest.raises(ZeroDivisionError, match="in Python"):
        run(compiled(GRAPHS["chain"]), drawn(GRAPHS["chain"]), {})
    calls.clear()
    assert np.isfinite(run(compiled(GRAPHS["chain"]), drawn(GRAPHS["chain"]), {})[0]).all()


# ---- signals and threads


def interrupt(x: Array) -> None:
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_a_host_call_ends_the_run() -> None:
    graph = GRAPHS["looping"]
    program = compiled(graph)
    seen: list[int] = []
    calls[:] = [lambda x: None, interrupt, lambda x: seen.append(1)]
    with pytest.raises(KeyboardInterrupt):
        run(program, drawn(graph), {})
    assert not seen
    calls.clear()
    wanted = interpret(graph, drawn(graph))
    np.testing.assert_allclose(run(program, drawn(graph), {})[0], wanted[0], rtol=1e-13)


def test_ctrl_c_in_a_host_call_leaves_state_whole() -> None:
    """State is not written over before the last call: the run ends, and nothing has happened."""
    graph = updating("loop")
    program = compiled(graph, {0: 0})
    arrays, before = drawn(graph), drawn(graph)
    wanted = interpret(graph, before)
    calls[:] = [lambda x: None, interrupt, lambda x: None]
    with pytest.raises(KeyboardInterrupt):
        run(program, arrays, {0: 0})
    for array, old in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, old)
    calls.clear()
    run(program, arrays, {0: 0})
    np.testing.assert_allclose(arrays[0], wanted[0], rtol=1e-14)


def test_several_threads() -> None:
    graph = GRAPHS["looping"]
    program = compiled(graph)
    wanted = interpret(graph, drawn(graph))
    found: list[list[Array]] = []

    def work() -> None:
        found.extend(run(program, drawn(graph), {}) for _ in range(20))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(found) == 60
    for outputs in found:
        for a, b in zip(outputs, wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-13)


# ---- the cache on disk

PROGRAM = """
import sys
import numpy as np
import rung
from rung.runtime import program as program_module
if sys.argv[1] == "again":
    def no_plan(*_): raise AssertionError("planned again")
    program_module.make_plan = no_plan
x = rung.asarray(np.array([[4.0, 1.0], [1.0, 3.0]]))
@rung.jit
def f(x):
    def step(c, _):
        return rung.linalg.cholesky(c @ c.mT + x), c.sum()
    c, sums = rung.scan(step, x, rung.zeros((3,)))
    return (rung.linalg.solve(c, x) * 2).sum() + sums.sum()
print(f(x).item().hex(), rung.grad(f)(x).numpy().tobytes().hex())
"""


def test_a_second_process_plans_nothing(tmp_path: Path) -> None:
    source = tmp_path / "user.py"
    source.write_text(PROGRAM)
    env = {**os.environ, "RUNG_CACHE_DIR": str(tmp_path / "cache")}
    outputs = []
    for word in ("first", "again"):
        command = [sys.executable, str(source), word]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] != ""


def test_the_cache_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = settings()
    configure(cache_dir=str(tmp_path), verify=False)
    try:
        graph = GRAPHS["looping"]
        first = run(compiled(graph), drawn(graph), {})

        def no_plan(*_: object) -> None:
            raise AssertionError("planned again")

        monkeypatch.setattr(program_module, "make_plan", no_plan)
        again = run(compiled(graph), drawn(graph), {})
        for a, b in zip(first, again, strict=True):
            assert a.tobytes() == b.tobytes()
    finally:
        configure(cache_dir=before.cache_dir, verify=before.verify)


# ---- from tensors


def test_state_of_a_jit_step_is_as_it_was_after_a_failure() -> None:
    """`count` and `total` are updated beside an inverse that does not exist."""
    count, total = rung.zeros(()), rung.zeros((2, 2))

    @rung.jit
    def step(x: rung.Tensor) -> rung.Tensor:
        count.assign(count + 1)
        found = rung.linalg.inv(x)
        total.assign(total + found)
        return found.sum()

    good, bad = rung.eye(2), rung.ones((2, 2))
    assert step(good).item() == 2
    with pytest.raises(LinAlgError, match="singular"):
        step(bad)
    assert count.item() == 1 and total.tolist() == [[1, 0], [0, 1]]
    assert step(good).item() == 2
    assert count.item() == 2 and total.tolist() == [[2, 0], [0, 2]]


def test_explain_shows_host_calls() -> None:
    x = rung.asarray(np.eye(3))

    def f(x: Any) -> Any:
        y = rung.linalg.cholesky(x * 2)
        return rung.linalg.det(y).exp()

    found = rung.explain(f, x)
    assert [c.op for c in found.host_calls] == ["cholesky", "det"]
    text = str(found)
    assert "host calls" in text
    assert "cholesky" in text and "y = rung.linalg.cholesky(x * 2)" in text
    assert all(c.measured_us > 0 for c in found.host_calls)
    assert found.measured_us >= sum(c.measured_us for c in found.host_calls)
    assert "cholesky(" in found.text("graph")


def test_arrays_at_addresses() -> None:
    memory = np.arange(6.0)
    view = array_at(memory.ctypes.data, TensorType(F64, (2, 3)))
    view[1, 2] = 9
    assert memory[5] == 9
    assert array_at(0, TensorType(F64, (0, 3))).shape == (0, 3)
