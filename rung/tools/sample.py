"""`rung sample`: text from a trained GPT."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from rung import nn
from rung.core.errors import RungError
from rung.tensor.random import Generator
from rung.tools.train_gpt import CharacterModel, saved_model
from rung.tools.training import CHECKPOINT


def load(directory: Path) -> CharacterModel:
    """The model of the checkpoint in a directory (or of that file). Raises CheckpointError."""
    path = directory if directory.is_file() else directory / CHECKPOINT
    saved = nn.read_checkpoint(path)
    trained = saved_model(saved)
    trained.model.load_state_dict(saved.part("model"))
    trained.model.eval()
    return trained


def continuation(
    trained: CharacterModel,
    prompt: str,
    num_tokens: int,
    temperature: float,
    top_k: int | None,
    seed: int,
) -> Iterator[str]:
    """The characters that follow the prompt, one by one."""
    if not prompt:
        raise RungError("sample: the prompt is empty", fix="give at least one character")
    tokens = trained.vocabulary.encode(prompt)
    generator = Generator(seed)
    for token in trained.model.stream(tokens, num_tokens, temperature, top_k, generator):
        yield trained.vocabulary.decode([token])


def command(
    directory: Annotated[Path, typer.Argument(help="where `rung train gpt` left its checkpoint")],
    prompt: Annotated[str, typer.Option(help="how the text begins")] = "def ",
    tokens: Annotated[int, typer.Option(help="characters to write", min=1)] = 500,
    temperature: Annotated[float, typer.Option(help="0 = the likeliest", min=0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="draw among so many; 0 = all", min=0)] = 40,
    seed: Annotated[int, typer.Option(help="another seed, another text")] = 0,
) -> None:
    """Write text with a trained GPT."""
    trained = load(directory)
    begun = time.perf_counter()
    sys.stdout.write(prompt)
    for character in continuation(trained, prompt, tokens, temperature, top_k or None, seed):
        sys.stdout.write(character)
        sys.stdout.flush()
    seconds = time.perf_counter() - begun
    sys.stdout.write("\n")
    sys.stdout.flush()
    print(f"{tokens} characters, {tokens / seconds:,.0f} a second", file=sys.stderr)


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("sample")(command)
