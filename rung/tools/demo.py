"""`rung demo`: both models trained in front of you, a sample, and the ladder of one kernel."""

from __future__ import annotations

import inspect
import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.syntax import Syntax

from rung import data
from rung.tensor import random
from rung.tensor.creation import ones
from rung.tensor.tensor import Tensor
from rung.tools import sample, train_digits, train_gpt
from rung.tools.explain import LANGUAGES
from rung.tools.explanation import explain

PROMPT = "class Reader:\n    def "


def command(
    out: Annotated[Path, typer.Option(help="directory for checkpoints and curves")] = Path(
        "out/demo"
    ),
    steps: Annotated[int, typer.Option(help="steps of the GPT", min=1)] = 400,
) -> None:
    """Train a ConvNet on digits and a GPT on Python's own source, and write a sample."""
    console = Console()
    begun = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    # earlier results stay until this run has its own
    place = Path(tempfile.mkdtemp(prefix=".demo-", dir=out))
    try:
        interrupted = _train_both(place, out, steps, console)
        for name in ("digits", "gpt"):
            if (place / name).exists():
                shutil.rmtree(out / name, ignore_errors=True)
                (place / name).rename(out / name)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if interrupted:
        raise typer.Exit(130)
    _show_sample(out / "gpt", console)
    _show_ladder(console)
    console.print(f"\ncurves and checkpoints are in {out}; {time.perf_counter() - begun:.0f} s")


def _train_both(place: Path, out: Path, steps: int, console: Console) -> bool:
    """Train in `place`, which becomes `out`; whether it was interrupted."""
    console.rule("a residual ConvNet on handwritten digits")
    result, accuracy = train_digits.train_digits(train_digits.Recipe(), place / "digits", console)
    train_digits.report(console, result, accuracy, out / "digits")
    if result.interrupted:
        return True
    console.rule("a character GPT on the source of Python's standard library")
    recipe = train_gpt.Recipe(num_steps=steps, validate_every=max(1, steps // 8))
    result = train_gpt.train_gpt(recipe, data.stdlib_text(), place / "gpt", console)
    train_gpt.report(console, result, recipe, out / "gpt")
    return result.interrupted


def _show_sample(directory: Path, console: Console) -> None:
    console.rule("a sample")
    trained = sample.load(directory)
    text = sample.continuation(trained, PROMPT, 400, temperature=0.7, top_k=40, seed=0)
    console.print(PROMPT + "".join(text), markup=False, highlight=False)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("demo")(command)


def normalized(x: Tensor, weight: Tensor) -> Tensor:
    """A row of a layer: mean, variance, and what is left, scaled."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    return centred / (variance + 1e-5).sqrt() * weight


LADDER: Final = (
    ("graph", "the graph: what Python asked for", 40),
    ("kernel", "one kernel, fused: what is computed", 40),
    ("schedule", "its schedule, and the loops it makes: how", 60),
    ("llvm", "LLVM IR", 24),
    ("asm", "machine code", 24),
)


def _show_ladder(console: Console) -> None:
    """Every level of one fused kernel, long ones from their beginning."""
    console.rule("the ladder: one function, from Python to machine code")
    console.print(Syntax(inspect.getsource(normalized), "python", background_color="default"))
    found = explain(normalized, random.normal((64, 256)), ones((256,)))
    console.print(found.overview(), markup=False, highlight=False, soft_wrap=True)
    for level, title, most in LADDER:
        lines = found.text(level, 0).splitlines()
        console.print(f"\n[bold]{title}[/bold]")
        text = "\n".join(lines[:most])
        console.print(Syntax(text, LANGUAGES.get(level, "python"), background_color="default"))
        if len(lines) > most:
            console.print(f"[dim]… and {len(lines) - most} more lines[/dim]")
