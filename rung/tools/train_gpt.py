"""`rung train gpt`: a GPT for characters, on any text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from rung import data, models, nn, optim
from rung.core.errors import CheckpointError
from rung.tensor.autograd import no_grad
from rung.tensor.creation import asarray
from rung.tensor.jit import jit
from rung.tensor.random import manual_seed
from rung.tensor.tensor import Tensor
from rung.tools.training import CHART, CHECKPOINT, Result, Run, train


@dataclass(frozen=True)
class Recipe:
    """Sizes of the model and how it is trained."""

    num_steps: int = 400
    batch_size: int = 16
    block_size: int = 128
    n_layer: int = 5
    n_head: int = 4
    n_embd: int = 128
    dropout: float = 0.0
    lr: float = 2e-3
    weight_decay: float = 0.1
    clip: float = 1.0
    seed: int = 0
    validate_every: int = 100
    save_every: int = 500


@dataclass(frozen=True)
class CharacterModel:
    """A GPT and the characters that its tokens stand for."""

    model: models.GPT
    vocabulary: data.Vocabulary

    @property
    def config(self) -> dict[str, Any]:
        """What a checkpoint says about it."""
        sizes = asdict(self.model.config)
        return {"kind": "gpt", "sizes": sizes, "characters": self.vocabulary.characters}


def new_model(recipe: Recipe, vocabulary: data.Vocabulary) -> CharacterModel:
    """A model of the recipe's sizes with new weights."""
    sizes = models.GPTConfig(
        block_size=recipe.block_size,
        vocab_size=len(vocabulary),
        n_layer=recipe.n_layer,
        n_head=recipe.n_head,
        n_embd=recipe.n_embd,
        dropout=recipe.dropout,
        bias=False,
    )
    return CharacterModel(models.GPT(sizes), vocabulary)


def saved_model(saved: nn.Checkpoint) -> CharacterModel:
    """The model that a checkpoint is of, without its weights. Raises CheckpointError."""
    config = saved.config
    if config.get("kind") != "gpt":
        raise CheckpointError(f"{saved.path} is of {config.get('kind')!r}, not of a GPT")
    try:
        sizes = models.GPTConfig(**config["sizes"])
        vocabulary = data.Vocabulary(config["characters"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{saved.path}: its configuration is not known: {error}") from None
    return CharacterModel(models.GPT(sizes), vocabulary)


def train_gpt(
    recipe: Recipe,
    text: str,
    out: Path,
    console: Console,
    resume: bool = False,
    check_finite: bool = False,
) -> Result:
    """Train on the text; with `resume` the sizes and the vocabulary are those of the checkpoint."""
    manual_seed(recipe.seed)
    if resume:
        trained = saved_model(nn.read_checkpoint(out / CHECKPOINT))
    else:
        trained = new_model(recipe, data.Vocabulary(text))
    model = trained.model
    corpus = data.make_corpus(text, vocabulary=trained.vocabulary)
    block_size = model.config.block_size
    loader = data.RandomBlocks(corpus.train, block_size, recipe.batch_size, seed=recipe.seed)
    warm = max(1, recipe.num_steps // 20)
    cosine = optim.Cosine(recipe.lr, max(1, recipe.num_steps - warm), final=recipe.lr / 10)
    optimizer = optim.AdamW(
        model.parameter_groups(recipe.weight_decay),
        lr=optim.WarmUp(warm, cosine),
        betas=(0.9, 0.99),
    )
    tokens = recipe.batch_size * block_size
    console.print(
        f"gpt: {model.num_parameters:,} parameters, {len(text):,} characters "
        f"({len(trained.vocabulary)} different), {tokens:,} in a step"
    )
    run = Run(
        title="gpt",
        model=model,
        optimizer=optimizer,
        loader=loader,
        loss_of=model.loss,
        num_steps=recipe.num_steps,
        out=out,
        config=trained.config,
        items=tokens,
        item_name="tokens",
        clip=recipe.clip,
        check_finite=check_finite,
        save_every=recipe.save_every,
        validate=validation(model, corpus.val, recipe.batch_size),
        validate_every=recipe.validate_every,
    )
    return train(run, console, resume)


def validation(
    model: models.GPT, numbers: Any, batch_size: int, num_batches: int = 4
) -> Callable[[], float] | None:
    """A function that gives the loss on fixed blocks of the validation part; None if that is
    shorter than a block."""
    size = model.config.block_size
    if len(numbers) <= size:
        return None
    blocks = data.RandomBlocks(numbers, size, batch_size, seed=1, prefetch=0)
    batches = [tuple(asarray(a) for a in blocks.make(0, i)) for i in range(num_batches)]

    @jit(name="validation")
    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return model.loss(x, y)

    def validate() -> float:
        model.eval()
        with no_grad():
            found = [float(loss_of(*batch)) for batch in batches]
        model.train()
        return float(np.mean(found))

    return validate


def command(
    text: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="a text file, or a directory of .py, .txt and .md files; "
            "the source of Python's standard library unless given",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(help="steps in all", min=1)] = 400,
    out: Annotated[Path, typer.Option(help="directory for checkpoint and curve")] = Path("out/gpt"),
    batch_size: Annotated[int, typer.Option(help="blocks in a step", min=1)] = 16,
    block_size: Annotated[int, typer.Option(help="characters in a block", min=2)] = 128,
    layers: Annotated[int, typer.Option(help="blocks of the model", min=1)] = 5,
    heads: Annotated[int, typer.Option(help="heads of attention", min=1)] = 4,
    width: Annotated[int, typer.Option(help="features", min=1)] = 128,
    dropout: Annotated[float, typer.Option(help="part that is dropped", min=0, max=1)] = 0.0,
    lr: Annotated[float, typer.Option(help="highest learning rate")] = 2e-3,
    seed: Annotated[int, typer.Option(help="for initial values and order")] = 0,
    save_every: Annotated[int, typer.Option(help="steps between checkpoints", min=1)] = 500,
    resume: Annotated[bool, typer.Option(help="go on from the checkpoint in --out")] = False,
    check_finite: Annotated[
        bool, typer.Option(help="stop at the first NaN or infinity and name it")
    ] = False,
) -> None:
    """Train a GPT for characters."""
    console = Console()
    recipe = Recipe(
        num_steps=steps,
        batch_size=batch_size,
        block_size=block_size,
        n_layer=layers,
        n_head=heads,
        n_embd=width,
        dropout=dropout,
        lr=lr,
        seed=seed,
        save_every=save_every,
        validate_every=max(1, steps // 8),
    )
    given = data.stdlib_text() if text is None else data.read_text(text)
    result = train_gpt(recipe, given, out, console, resume, check_finite)
    report(console, result, recipe, out)
    if result.interrupted:
        raise typer.Exit(130)


def report(console: Console, result: Result, recipe: Recipe, out: Path) -> None:
    """One line about how it went."""
    losses = result.history.validation or result.history.losses
    kind = "validation loss" if result.history.validation else "loss"
    tokens = len(result.history.losses) * recipe.batch_size * recipe.block_size
    found = f"{kind} [bold]{losses[-1][1]:.4f}[/]" if losses else "no step"
    console.print(
        f"{found} after {result.step} steps ({tokens:,} tokens), {result.seconds:.1f} s; "
        f"curve: {out / CHART}"
    )


def register(app: typer.Typer, **options: Any) -> None:
    """Add the command to `rung train`."""
    app.command("gpt", **options)(command)
