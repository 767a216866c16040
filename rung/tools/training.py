"""The training loop of the commands: progress, checkpoints, a curve, and what stops it.

Ctrl-C finishes the step under way and leaves a checkpoint. With `check_finite`, a step whose loss
or gradients are not finite is not applied: training stops with NonFiniteError, which names the step
and the first bad tensor.
"""

from __future__ import annotations

import csv
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from rung import nn
from rung.core.errors import CheckpointError, NonFiniteError, RungError
from rung.data.loader import Loader
from rung.nn.module import Module, watchers
from rung.optim.clip import clip_grad_norm_
from rung.optim.optimizer import Optimizer
from rung.tensor.autograd import no_grad
from rung.tensor.jit import jit
from rung.tensor.random import default_generator
from rung.tensor.shapes import stack
from rung.tensor.tensor import Tensor
from rung.tools.chart import Curve, line_chart, smoothed, write_chart

CHECKPOINT: Final = "checkpoint.safetensors"
HISTORY: Final = "history.csv"
CHART: Final = "loss.svg"
LossFunction = Callable[..., Tensor]


@dataclass(frozen=True)
class Run:
    """What to train and how. `loss_of(*batch)` is the loss f32[] of a batch of `loader`.

    `items`: how many items (tokens, images) a batch has, counted as `item_name`. `validate` gives
    a loss for the curve every `validate_every` steps; checkpoints are written every `save_every`
    steps and at the end."""

    title: str
    model: Module
    optimizer: Optimizer
    loader: Loader
    loss_of: LossFunction
    num_steps: int
    out: Path
    config: dict[str, Any]
    items: int
    item_name: str
    clip: float | None = None
    check_finite: bool = False
    save_every: int = 500
    validate: Callable[[], float] | None = None
    validate_every: int = 0


@dataclass
class History:
    """Losses by number of finished steps, and validation losses."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    validation: list[tuple[int, float]] = field(default_factory=list)

    def write(self, path: Path) -> None:
        """Write `step,loss,validation` rows."""
        later = dict(self.validation)
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("step", "loss", "validation"))
            for step, loss in self.losses:
                rows.writerow((step, repr(loss), repr(later[step]) if step in later else ""))

    @staticmethod
    def read(path: Path, until: int) -> History:
        """The rows up to step `until`; none if there is no such file."""
        found = History()
        if not path.exists():
            return found
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                step = int(row["step"])
                if step <= until:
                    found.losses.append((step, float(row["loss"])))
                    if row["validation"]:
                        found.validation.append((step, float(row["validation"])))
        return found


@dataclass(frozen=True)
class Result:
    """How a run ended: after `step` steps, interrupted or not, in `seconds` of this process."""

    step: int
    interrupted: bool
    seconds: float
    history: History


# ---- one step


def make_step(run: Run) -> Callable[..., float]:
    """A function that trains on one batch and returns the loss."""
    if run.check_finite:
        return _checked_step(run)

    @jit(name="train_step")
    def train_step(*batch: Tensor) -> Tensor:
        run.optimizer.zero_grad()
        loss = run.loss_of(*batch)
        loss.backward()
        _apply(run)
        return loss.detach()

    return lambda *batch: float(train_step(*batch))


def _apply(run: Run) -> None:
    if run.clip is not None:
        clip_grad_norm_(run.model, run.clip)
    run.optimizer.step()
    run.optimizer.zero_grad()


def _checked_step(run: Run) -> Callable[..., float]:
    """Gradients and update as two programs, the second only when the first found all finite."""
    named = list(run.model.named_parameters())

    @jit(name="gradients")
    def gradients(*batch: Tensor) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        run.optimizer.zero_grad()
        loss = run.loss_of(*batch)
        loss.backward()
        found = [p.grad for _, p in named]
        run.optimizer.zero_grad()
        flags = [loss.isfinite(), *(g.isfinite().all() for g in found if g is not None)]
        return loss.detach(), stack(flags), found

    @jit(name="update")
    def update(*grads: Tensor | None) -> None:
        for (_, p), g in zip(named, grads, strict=True):
            p.grad = g
        _apply(run)

    def step(*batch: Tensor) -> float:
        before = {k: t.detach() for k, t in default_generator().state.items()}
        loss, finite, found = gradients(*batch)
        if not np.asarray(finite).all():
            default_generator().set_state(before)
            names = [name for name, _ in named]
            raise NonFiniteError(first_bad(run, batch, names, found))
        update(*found)
        return float(loss)

    return step


def _bad(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype.is_float and not bool(x.isfinite().all())


def first_bad(
    run: Run, batch: Sequence[Tensor], names: Sequence[str], grads: Sequence[Tensor | None]
) -> str:
    """What the first tensor is that is not finite: a part of the batch, a parameter, the result of
    a module in the order in which they ran, the loss, a gradient from the last layer back."""
    for i, x in enumerate(batch):
        if _bad(x):
            return f"part {i} of the batch {x._type}"
    for name, p in run.model.named_parameters():
        if _bad(p):
            return f"parameter {name} {p._type}"
    found: list[str] = []

    def watch(module: Module, result: Any) -> None:
        if not found and _bad(result):
            name = module._path or "the model"
            found.append(f"the result of {name} ({type(module).__name__}) {result._type}")

    watchers.append(watch)
    try:
        with no_grad():
            loss = run.loss_of(*batch)
    finally:
        watchers.remove(watch)
    if found:
        return found[0]
    if _bad(loss):
        return "the loss"
    for name, g in reversed(list(zip(names, grads, strict=True))):
        if _bad(g):
            return f"the gradient of {name}"
    return "a tensor that was finite when computed again"


# ---- the loop


@contextmanager
def _finish_first() -> Iterator[list[bool]]:
    """Ctrl-C inside only asks to stop; pressed again it stops at once."""
    asked: list[bool] = []

    def ask(*_: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(True)

    try:
        before = signal.signal(signal.SIGINT, ask)
    except ValueError:  # not the main thread, which gets no Ctrl-C
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def train(run: Run, console: Console, resume: bool = False) -> Result:
    """Train until `num_steps` steps are finished, Ctrl-C, or an error.

    With `resume` it goes on from the checkpoint in `out`, bit for bit as if it had not stopped.
    Raises CheckpointError, NonFiniteError."""
    path = run.out / CHECKPOINT
    start = 0
    if resume:
        start = nn.load_checkpoint(path, run.model, run.optimizer, loader=run.loader).step
        console.print(f"resumed {path} after step {start}")
    elif path.exists():
        raise RungError(
            f"{path} exists", fix="go on with --resume, or choose another directory with --out"
        )
    history = History.read(run.out / HISTORY, start)
    begun = time.perf_counter()
    with _finish_first() as asked, _Display(run, console, start) as display:
        step = _loop(run, start, history, display, asked)
    seconds = time.perf_counter() - begun
    _save(run, step, history)
    if asked:
        console.print(f"stopped after step {step}; {path} is complete: go on with --resume")
    return Result(step, bool(asked), seconds, history)


def _loop(run: Run, start: int, history: History, display: _Display, asked: list[bool]) -> int:
    one = make_step(run)
    step = start
    batches = run.loader.forever()
    saved = start
    run.model.train()
    while step < run.num_steps and not asked:
        batch = next(batches)
        try:
            loss = one(*batch)
        except NonFiniteError as error:
            raise NonFiniteError(
                f"step {step + 1}: {error.message} is not finite; the update was not applied",
                fix="a lower learning rate, or look at the data of this step",
            ) from None
        step += 1
        history.losses.append((step, loss))
        if run.validate is not None and run.validate_every and step % run.validate_every == 0:
            history.validation.append((step, run.validate()))
            run.model.train()
        display.show(step, loss)
        if step - saved >= run.save_every:
            _save(run, step, history)
            saved = step
    batches.close()  # type: ignore[attr-defined]
    return step


def _save(run: Run, step: int, history: History) -> None:
    nn.save_checkpoint(
        run.out / CHECKPOINT,
        run.model,
        run.optimizer,
        loader=run.loader,
        step=step,
        config=run.config,
    )
    try:
        history.write(run.out / HISTORY)
        write_chart(run.out / CHART, loss_chart(run.title, history))
    except OSError as error:
        raise CheckpointError(
            f"the curve in {run.out} cannot be written: {error.strerror or error}; "
            f"{CHECKPOINT} of step {step} is complete"
        ) from None


def loss_chart(title: str, history: History) -> str:
    """The curve of a run as SVG: raw, smoothed, validation."""
    curves = [
        Curve("raw", history.losses, faint=True),
        Curve("training loss", smoothed(history.losses, len(history.losses) // 60)),
    ]
    if history.validation:
        curves.append(Curve("validation loss", history.validation, colour=1, dots=True))
    return line_chart(title, "step", "cross entropy", curves)


class _Display:
    """A progress bar with the live loss; plain lines where the output is no terminal."""

    def __init__(self, run: Run, console: Console, start: int) -> None:
        self.run = run
        self.console = console
        self.last = start
        self.loss = math.nan
        self.at = time.perf_counter()
        self.rate = 0.0
        self.every = max(1, run.num_steps // 10)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]}  {task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(
            run.title, total=run.num_steps, completed=start, loss="…", rate=""
        )

    def __enter__(self) -> _Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def show(self, step: int, loss: float) -> None:
        """After each step; redraws a few times a second."""
        self.loss = loss if math.isnan(self.loss) else 0.9 * self.loss + 0.1 * loss
        now = time.perf_counter()
        line = not self.console.is_terminal and (step % self.every == 0 or step == 1)
        if now - self.at < 0.2 and step < self.run.num_steps and not line:
            return
        self.rate = (step - self.last) * self.run.items / max(now - self.at, 1e-9)
        self.last, self.at = step, now
        rate = f"{self.rate:,.0f} {self.run.item_name}/s"
        self.bar.update(self.task, completed=step, loss=f"{self.loss:.4f}", rate=rate)
        if line:
            total = self.run.num_steps
            self.console.print(f"{self.run.title}: {step}/{total}  loss {self.loss:.4f}  {rate}")
