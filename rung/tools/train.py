"""`rung train`: the models that can be trained from the command line."""

from __future__ import annotations

import typer

from rung.tools import train_digits, train_gpt

MODELS = (train_digits, train_gpt)


def register(app: typer.Typer) -> None:
    """Add `rung train …` to the program."""
    group = typer.Typer(no_args_is_help=True, help="Train a model.")
    for model in MODELS:
        model.register(group)
    app.add_typer(group, name="train")
