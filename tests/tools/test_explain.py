"""explain: every level of real programs, the user's lines, times, the command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import rung
from rung import models, nn, optim
from rung.codegen.llvm.target import host, verify
from rung.core.errors import ParseError, RungError
from rung.ir.node import PARAMETER
from rung.kernel.parse import parse_kernel
from rung.kernel.text import kernel_text
from rung.models.gpt import Block, GPTConfig
from rung.ops.parse import parse
from rung.tools.cli import make_app
from rung.tools.explain import example, load
from rung.tools.explanation import LEVELS, Explanation, explain

SMALL = GPTConfig(block_size=16, vocab_size=20, n_layer=1, n_head=2, n_embd=32, bias=False)


@pytest.fixture(scope="module")
def block() -> Explanation:
    """A block of GPT with its derivatives."""
    layer = Block(SMALL)

    def loss(x: rung.Tensor) -> rung.Tensor:
        return (layer(x) ** 2).mean()

    x = rung.asarray(np.random.default_rng(0).standard_normal((2, 16, 32)).astype(np.float32))
    return explain(rung.grad(loss), x)


def test_every_kernel_of_a_gpt_block_names_its_lines(block: Explanation) -> None:
    assert len(block.kernels) >= 5
    for k in block.kernels:
        assert k.sources
        assert all(s.line and s.text for s in k.sources)
        assert Path(k.sources[0].file).exists()
    files = {Path(s.file).name for k in block.kernels for s in k.sources}
    assert files == {"gpt.py", "test_explain.py"}
    lines = [s.text for k in block.kernels for s in k.sources]
    assert any("f.attention(q, k, v" in line for line in lines)


def test_every_level_of_a_gpt_block_reads_back(block: Explanation) -> None:
    for k in block.kernels:
        assert parse(k.text("graph")) is k.graph
        assert parse_kernel(k.text("kernel")) is k.naive
        assert parse_kernel(k.text("schedule")) is k.scheduled
        verify(k.text("llvm"), host())
        for symbol, _ in k.compiled.lowered.phases:
            assert f"{symbol}:" in k.text("asm")
    assert kernel_text(block.kernels[0].naive) in block.text("kernel")


def test_kernels_compute_the_nodes_they_show(block: Explanation) -> None:
    """All nodes of the program are in some kernel, and costs add up to at least theirs."""
    shown = {n.op.name for k in block.kernels for n in k.graph.nodes}
    needed = {n.op.name for n in block.lowered.nodes if n.op is not PARAMETER}
    assert needed <= shown
    assert all(k.flops > 0 or k.nbytes > 0 for k in block.kernels)
    products = [n for n in block.lowered.nodes if n.op.name == "dot_general"]
    least = sum(2 * n.results[0].type.size for n in products)
    assert sum(k.flops for k in block.kernels) >= least


def test_times_and_roof(block: Explanation) -> None:
    for k in block.kernels:
        assert k.measured_us > 0
        assert k.least_us == pytest.approx(block.roof.least_us(k.flops, k.nbytes))
    assert block.measured_us == pytest.approx(sum(k.measured_us for k in block.kernels))


def test_the_overview(block: Explanation) -> None:
    text = str(block)
    assert "after decompose" in text and "decompose_op" in text
    assert "memory: peak" in text and "arena" in text
    assert f"{len(block.kernels)} kernels" in text
    table = text.split("from\n")[1].splitlines()
    assert len([line for line in table if line.strip()]) == len(block.kernels)


def test_one_kernel_has_all_levels(block: Explanation) -> None:
    text = block.text(kernel=1)
    for level in LEVELS:
        assert f"---- {level}\n" in text
        assert block.kernels[1].text(level) in text
        assert block.kernels[1].text(level) in block.text(level, kernel=1) or level == "graph"
    with pytest.raises(RungError, match="no kernel 99"):
        block.text(kernel=99)
    with pytest.raises(RungError, match="no level 'verilog'"):
        block.text("verilog")


def test_matmul_counts_its_work() -> None:
    x, w = rung.zeros((64, 48)), rung.zeros((48, 32))
    found = explain(lambda x, w: x @ w, x, w)
    (k,) = found.kernels
    assert k.flops == 2 * 64 * 48 * 32
    assert k.nbytes == 4 * (64 * 48 + 48 * 32 + 64 * 32)


def test_a_look_up_does_not_count_the_whole_table() -> None:
    table, index = rung.zeros((5000, 8)), rung.zeros((4,), dtype=rung.int64)
    kernels = explain(lambda t, i: rung.take(t, i, axis=0), table, index).kernels
    assert len(kernels) == 2  # one checks the positions
    assert all(k.nbytes < 1000 for k in kernels)


def test_memory_of_a_training_step() -> None:
    """State is updated in place, and explaining a step does not take it."""
    model = models.MLP([8, 16, 4])
    optimizer = optim.AdamW(model.parameters(), lr=0.1)

    @rung.jit
    def step(x: rung.Tensor, y: rung.Tensor) -> rung.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    before = {n: np.array(p.numpy()) for n, p in model.named_parameters()}
    x, y = rung.ones((3, 8)), rung.zeros((3,), dtype=rung.int64)
    found = explain(step, x, y)
    assert found.memory.donated >= 3 * len(before)
    assert found.memory.copied == 0
    total = found.memory.inputs + found.memory.outputs + found.memory.arena
    assert found.memory.peak == total + found.memory.constants
    for name, p in model.named_parameters():
        assert np.array_equal(p.numpy(), before[name])
    step(x, y)
    assert any(not np.array_equal(p.numpy(), before[n]) for n, p in model.named_parameters())


def test_a_function_of_constants_is_refused() -> None:
    with pytest.raises(RungError, match="computes nothing"):
        explain(lambda: 3)


# ---- the command

PROGRAM = """
import rung

def scaled(x: "f32[8, 16]", factor):
    y = x * factor
    return y.sum(1)

def typed(x: "f32[4, 4]"):
    return x.exp()

constant = 3
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "user_program.py"
    path.write_text(PROGRAM)
    return path


def run(*words: str) -> str:
    result = CliRunner().invoke(make_app(), ["explain", *words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command(program: Path) -> None:
    out = run(f"{program}:scaled", "--arg", "f32[8,16]", "--arg", "2.5")
    assert "user_program.py:6   return y.sum(1) (and 1 more lines)" in out
    assert "memory: peak" in out
    out = run(f"{program}:scaled", "--arg", "f32[8,16]", "--arg", "2.5", "--level", "kernel")
    assert "user_program.py:5   y = x * factor" in out


def test_arguments_from_annotations(program: Path) -> None:
    out = run(f"{program}:typed", "--level", "kernel", "--kernel", "0")
    assert "exp(x0[" in out


def test_levels_of_the_command(program: Path) -> None:
    assert "define void @" in run(f"{program}:typed", "--level", "llvm")
    assert ".text" in run(f"{program}:typed", "--level", "asm")
    assert "v0 = exp(" in run(f"{program}:typed", "--level", "graph")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nowhere.py:f", "no file 'nowhere.py'"),
        ("{}", "no file"),
        ("{}:missing", "has no 'missing'"),
        ("{}:constant", "cannot be called"),
    ],
)
def test_places_that_do_not_exist(program: Path, place: str, message: str) -> None:
    with pytest.raises(RungError, match=message):
        load(place.format(program))


def test_examples() -> None:
    assert example("3") == 3
    assert example("'text'") == "text"
    assert example("f32[2, 3]").shape == (2, 3)
    assert example("i64").shape == ()
    assert example("bool[4]").dtype == rung.bool
    with pytest.raises(ParseError, match="neither a type nor a Python literal"):
        example("g32[3]")
