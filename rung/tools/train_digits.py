"""`rung train digits`: a residual ConvNet on the handwritten digits of scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from rung import data, models, optim
from rung.nn import functional as f
from rung.tensor.autograd import no_grad
from rung.tensor.creation import asarray
from rung.tensor.jit import jit
from rung.tensor.random import manual_seed
from rung.tensor.tensor import Tensor
from rung.tools.training import CHART, Result, Run, train


@dataclass(frozen=True)
class Recipe:
    """What reaches 99 % on the test part: images moved and turned a little, labels smoothed, a
    warm-up and a cosine."""

    epochs: int = 15
    batch_size: int = 64
    lr: float = 3e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    width: int = 24
    seed: int = 0


def accuracy(model: models.ConvNet, examples: data.TensorDataset) -> float:
    """The part of the examples whose label the model finds likeliest."""
    images, labels = examples.arrays
    was_training = model.training
    model.eval()

    @jit(name="predict")
    def predict(x: Tensor) -> Tensor:
        return model(x).argmax(-1)  # type: ignore[no-any-return]

    with no_grad():
        found = np.asarray(predict(asarray(images)))
    model.train(was_training)
    return float((found == labels).mean())


def train_digits(
    recipe: Recipe, out: Path, console: Console, resume: bool = False, check_finite: bool = False
) -> tuple[Result, float]:
    """Train by the recipe; the result and the accuracy on the test part."""
    digits = data.load_digits()
    manual_seed(recipe.seed)
    model = models.ConvNet(width=recipe.width)
    loader = data.DataLoader(
        digits.train,
        recipe.batch_size,
        shuffle=True,
        seed=recipe.seed,
        drop_last=True,
        transform=data.jitter,
    )
    num_steps = recipe.epochs * len(loader)
    warm = max(1, num_steps // 10)
    schedule = optim.WarmUp(warm, optim.Cosine(recipe.lr, max(1, num_steps - warm)))
    optimizer = optim.AdamW(model, lr=schedule, weight_decay=recipe.weight_decay)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return f.cross_entropy(model(x), y, label_smoothing=recipe.label_smoothing)

    run = Run(
        title="digits",
        model=model,
        optimizer=optimizer,
        loader=loader,
        loss_of=loss_of,
        num_steps=num_steps,
        out=out,
        config={"kind": "digits", "width": recipe.width},
        items=recipe.batch_size,
        item_name="images",
        check_finite=check_finite,
    )
    result = train(run, console, resume)
    return result, accuracy(model, digits.test)


def command(
    epochs: Annotated[int, typer.Option(help="passes over the training part", min=1)] = 15,
    batch_size: Annotated[int, typer.Option(help="images in a step", min=2)] = 64,
    lr: Annotated[float, typer.Option(help="highest learning rate")] = 3e-3,
    width: Annotated[int, typer.Option(help="channels of the first block", min=1)] = 24,
    seed: Annotated[int, typer.Option(help="for initial values, order and augmentation")] = 0,
    out: Annotated[Path, typer.Option(help="directory for checkpoint and curve")] = Path(
        "out/digits"
    ),
    resume: Annotated[bool, typer.Option(help="go on from the checkpoint in --out")] = False,
    check_finite: Annotated[
        bool, typer.Option(help="stop at the first NaN or infinity and name it")
    ] = False,
) -> None:
    """Train a residual ConvNet on the 1,797 handwritten digits that come with scikit-learn."""
    console = Console()
    recipe = Recipe(epochs=epochs, batch_size=batch_size, lr=lr, width=width, seed=seed)
    result, found = train_digits(recipe, out, console, resume, check_finite)
    report(console, result, found, out)
    if result.interrupted:
        raise typer.Exit(130)


def report(console: Console, result: Result, found: float, out: Path) -> None:
    """One line about how it went."""
    console.print(
        f"test accuracy [bold]{found:.2%}[/] after {result.step} steps, {result.seconds:.1f} s; "
        f"curve: {out / CHART}"
    )


def register(app: typer.Typer, **options: Any) -> None:
    """Add the command to `rung train`."""
    app.command("digits", **options)(command)
