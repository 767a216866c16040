"""`rung demo`: both models trained in front of you, a sample, and the ladder of one kernel."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rung import data
from rung.tools import sample, train_digits, train_gpt

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
        interrupted = _train_both(place, steps, console)
        for name in ("digits", "gpt"):
            if (place / name).exists():
                shutil.rmtree(out / name, ignore_errors=True)
                (place / name).rename(out / name)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    if interrupted:
        raise typer.Exit(130)
    _show_sample(out / "gpt", console)
    console.print(f"\ncurves and checkpoints are in {out}; {time.perf_counter() - begun:.0f} s")


def _train_both(place: Path, steps: int, console: Console) -> bool:
    """Whether it was interrupted."""
    console.rule("a residual ConvNet on handwritten digits")
    result, accuracy = train_digits.train_digits(train_digits.Recipe(), place / "digits", console)
    train_digits.report(console, result, accuracy, place / "digits")
    if result.interrupted:
        return True
    console.rule("a character GPT on the source of Python's standard library")
    recipe = train_gpt.Recipe(num_steps=steps, validate_every=max(1, steps // 8))
    result = train_gpt.train_gpt(recipe, data.stdlib_text(), place / "gpt", console)
    train_gpt.report(console, result, recipe, place / "gpt")
    return result.interrupted


def _show_sample(directory: Path, console: Console) -> None:
    console.rule("a sample")
    trained = sample.load(directory)
    text = sample.continuation(trained, PROMPT, 400, temperature=0.7, top_k=40, seed=0)
    console.print(PROMPT + "".join(text), markup=False, highlight=False)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("demo")(command)
