"""The program `rung`. Each command is a module with `register(app)`; `COMMANDS` lists them all."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from rung.core.errors import RungError
from rung.core.settings import settings
from rung.tools import demo, doctor, explain, ops_table, sample, train

COMMANDS = (train, sample, explain, ops_table, doctor, demo)


def make_app() -> typer.Typer:
    """The program with all its commands."""
    app = typer.Typer(
        name="rung",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="A complete deep-learning system that you can see through.",
    )
    for command in COMMANDS:
        command.register(app)
    return app


def main() -> None:
    """Run the command line; an error of ours is printed without a traceback, with exit code 1."""
    try:
        settings()
        make_app()()
    except RungError as error:
        console = Console(stderr=True)
        console.print(f"[bold red]{type(error).__name__}[/]: ", end="")
        console.print(str(error), markup=False, highlight=False)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
