"""Loss curves of rung and torch from equal initial weights and batches, against torch in float64.

    python -m benchmarks.parity [--tiny] [--only NAME] [--seeds N] [--json FILE]

Three runs of each case and seed: rung in f32, torch in f32, torch in f64. The f64 run stands for
the exact curve: its rounding is 2^29 times finer. Two distances from it are measured.

- *Gradient*: every tenth step both f32 programs get the weights of the f64 run, rounded to f32, and
  the batch. The distance is |g - g64| / |g64| over all parameters; its median over steps and seeds
  counts. It is what one step of training is worth, and hardly varies: rung's must be at most
  `GRADIENT_ALLOWED` times torch's.
- *Curve*: |loss - loss64| at each step of the free runs, by its root mean square and its maximum.
  A rounding error decides on which side of its kink a ReLU falls that is all but zero; from there
  on a curve is 1e-4 instead of 1e-7 away. When that happens first is chance, with the size of the
  rounding errors as its odds, and it spreads the distances of single seeds over four powers of
  ten. So seeds are compared in pairs, by the logarithm of rung's distance over torch's: its mean
  must not be above 0 by more than two standard errors.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.harness import versions

Array = np.ndarray[Any, Any]
Batch = tuple[Array, Array]

GRADIENT_ALLOWED = 1.1
"""rung's gradient error over torch's: 1, and what the median still varies by."""
PROBE_EVERY = 10


@dataclass(frozen=True)
class Case:
    """A model ("mlp" with `sizes`, "gpt" with `config`), and how it is trained by AdamW."""

    name: str
    model: str
    sizes: tuple[int, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 64
    num_steps: int = 200
    lr: float = 1e-3
    weight_decay: float = 0.1
    num_seeds: int = 10


@dataclass(frozen=True)
class Curves:
    """One seed: the losses f64[num_steps] by peer, and the gradient errors f64[probes]."""

    rung: Array
    torch: Array
    exact: Array
    rung_gradient: Array
    torch_gradient: Array

    def distance(self, peer: str) -> Array:
        """|loss - loss64| at each step."""
        found: Array = np.abs(getattr(self, peer) - self.exact)
        return found


CHAR = {"block_size": 128, "vocab_size": 96, "n_layer": 5, "n_head": 4, "n_embd": 128}
CASES = (
    Case("MLP 784-512-512-10", "mlp", sizes=(784, 512, 512, 10)),
    Case("char-GPT 1 M", "gpt", config={**CHAR, "bias": False}, batch_size=8, num_seeds=5),
)
SMALL = {"block_size": 16, "vocab_size": 96, "n_layer": 2, "n_head": 2, "n_embd": 32}
TINY = (
    Case("tiny MLP", "mlp", sizes=(784, 32, 10), batch_size=16, num_steps=20, num_seeds=2),
    Case(
        "tiny GPT", "gpt", config={**SMALL, "bias": False}, batch_size=4, num_steps=20, num_seeds=2
    ),
)


# ---- what all runs start from


def batches(case: Case, seed: int) -> Iterator[Batch]:
    """The batches: digits laid on 28×28 pixels with their labels, or blocks of Python's own
    source with the next characters."""
    from rung import data

    if case.model == "gpt":
        numbers = data.make_corpus(data.stdlib_text(limit=300_000)).train
        loader: Any = data.RandomBlocks(
            numbers, case.config["block_size"], case.batch_size, seed=seed, prefetch=0
        )
    else:
        images, labels = data.load_digits().train.arrays
        large = images.repeat(4, 2).repeat(4, 3)[:, 0, 2:30, 2:30].reshape(len(images), -1)
        loader = data.DataLoader(
            data.TensorDataset(large, labels),
            case.batch_size,
            shuffle=True,
            drop_last=True,
            seed=seed,
            prefetch=0,
        )
    found = loader.forever()
    for _ in range(case.num_steps):
        x, y = next(found)
        yield np.array(x), np.array(y)


def make_model(case: Case, seed: int) -> Any:
    """The model of rung, whose initial weights the others take over."""
    import rung
    from rung import models

    rung.manual_seed(seed)
    if case.model == "gpt":
        return models.GPT(models.GPTConfig(**case.config))
    return models.MLP(case.sizes)


def torch_name(case: Case, name: str) -> str:
    """The name of a parameter of rung in the torch model."""
    if case.model == "gpt":
        return name.replace("transformer.", "").replace(".mlp.", ".")
    _, number, rest = name.split(".")
    return f"{2 * int(number)}.{rest}"


# ---- the runs


class RungRun:
    """rung: a whole step under one jit; another copy of the model to ask for gradients."""

    def __init__(self, case: Case, seed: int) -> None:
        import rung
        from rung import optim
        from rung.nn import functional as f

        self.model, self.probe = make_model(case, seed), make_model(case, seed)
        optimizer = optim.AdamW(self.model.parameters(), lr=case.lr, weight_decay=case.weight_decay)

        def loss_of(model: Any, x: Any, y: Any) -> Any:
            return model.loss(x, y) if case.model == "gpt" else f.cross_entropy(model(x), y)

        @rung.jit
        def train(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = loss_of(self.model, x, y)
            loss.backward()
            optimizer.step()
            return loss

        @rung.jit
        def gradients(x: Any, y: Any) -> Any:
            self.probe.zero_grad()
            loss_of(self.probe, x, y).backward()
            found = {n: p.grad for n, p in self.probe.named_parameters()}
            self.probe.zero_grad()
            return found

        self._train, self._gradients, self._tensor = train, gradients, rung.asarray

    def step(self, batch: Batch) -> float:
        """The loss of a batch, then trained on."""
        return float(self._train(*map(self._tensor, batch)))

    def gradients(self, weights: Mapping[str, Array], batch: Batch) -> dict[str, Array]:
        """Gradients f64 by name, at other weights."""
        for name, p in self.probe.named_parameters():
            p.assign(weights[name])
        found = self._gradients(*map(self._tensor, batch))
        return {n: np.array(g, np.float64) for n, g in found.items()}


class TorchRun:
    """torch, eager, in f32 or f64."""

    def __init__(self, case: Case, seed: int, dtype: str) -> None:
        import torch
        import torch.nn.functional as f

        from benchmarks.peers import torch_models

        ours = {n: np.array(p) for n, p in make_model(case, seed).named_parameters()}
        self.names = {n: torch_name(case, n) for n in ours}
        self.dtype = getattr(torch, dtype)
        if case.model == "gpt":
            self.model: Any = torch_models.GPT(torch_models.GPTConfig(**case.config))
            self.loss_of: Callable[..., Any] = self.model
        else:
            self.model = torch_models.mlp(list(case.sizes))
            self.loss_of = lambda x, y: f.cross_entropy(self.model(x), y)
        self.model.to(self.dtype)
        self.set_weights(ours)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=case.lr, weight_decay=case.weight_decay
        )

    def weights(self) -> dict[str, Array]:
        """The weights, rounded to f32, by their names in rung."""
        named = dict(self.model.named_parameters(remove_duplicate=False))
        return {n: named[t].detach().numpy().astype(np.float32) for n, t in self.names.items()}

    def set_weights(self, weights: Mapping[str, Array]) -> None:
        """Take over weights that are given by their names in rung."""
        import torch

        named = dict(self.model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, array in weights.items():
                named[self.names[name]].copy_(torch.from_numpy(array))

    def backward(self, batch: Batch) -> float:
        """The loss of a batch; its gradients are left at the parameters."""
        import torch

        x, y = map(torch.from_numpy, batch)
        self.optimizer.zero_grad()
        loss = self.loss_of(x.to(self.dtype) if x.is_floating_point() else x, y)
        loss.backward()
        return float(loss.item())

    def step(self, batch: Batch) -> float:
        """The loss of a batch, then trained on."""
        loss = self.backward(batch)
        self.optimizer.step()
        return loss

    def gradients(self, weights: Mapping[str, Array], batch: Batch) -> dict[str, Array]:
        """Gradients f64 by name in rung, at other weights."""
        self.set_weights(weights)
        self.backward(batch)
        named = dict(self.model.named_parameters(remove_duplicate=False))
        return {n: named[t].grad.double().numpy().copy() for n, t in self.names.items()}


def compare(case: Case, seed: int) -> Curves:
    """All three runs, step by step. Raises ArithmeticError if a loss is not finite or does not
    fall."""
    ours = RungRun(case, seed)
    theirs, exact = TorchRun(case, seed, "float32"), TorchRun(case, seed, "float64")
    probes = [ours, TorchRun(case, seed, "float32"), TorchRun(case, seed, "float64")]
    losses: list[list[float]] = []
    errors: list[list[float]] = []
    for number, batch in enumerate(batches(case, seed)):
        if number % PROBE_EVERY == 0:
            weights = exact.weights()
            *found, truth = [p.gradients(weights, batch) for p in probes]
            errors.append([relative_error(g, truth) for g in found])
        losses.append([run.step(batch) for run in (ours, theirs, exact)])
    curves = np.array(losses).T
    for curve in curves:
        if not np.isfinite(curve).all() or curve[-5:].mean() >= curve[0]:
            raise ArithmeticError(f"{case.name}: a loss goes from {curve[0]} to {curve[-1]}")
    return Curves(*curves, *np.array(errors).T)


def relative_error(found: Mapping[str, Array], truth: Mapping[str, Array]) -> float:
    """|found - truth| / |truth| over all arrays."""
    off = sum(float(((found[n] - t) ** 2).sum()) for n, t in truth.items())
    return float(np.sqrt(off / sum(float((t**2).sum()) for t in truth.values())))


# ---- what is said about them


@dataclass(frozen=True)
class Comparison:
    """A distance of torch and of rung, their ratio, and by which factor the ratio may be off."""

    torch: float
    rung: float
    ratio: float
    uncertainty: float

    @property
    def further(self) -> bool:
        """Whether rung is further away, beyond chance."""
        return self.ratio > self.uncertainty


def in_pairs(ours: Sequence[float], theirs: Sequence[float]) -> Comparison:
    """Distances by seed: geometric means, and two standard errors of their ratio."""
    a, b = np.log(ours), np.log(theirs)
    spread = (a - b).std(ddof=1) / np.sqrt(len(a)) if len(a) > 1 else np.inf
    middle = [float(np.exp(v.mean())) for v in (b, a, a - b)]
    return Comparison(*middle, uncertainty=float(np.exp(2 * spread)))


def comparisons(curves: Sequence[Curves]) -> dict[str, Comparison]:
    """Every measure, by name."""
    gradients = [float(np.median([getattr(c, f"{p}_gradient") for c in curves])) for p in PEERS]
    found = {
        "gradient": Comparison(*gradients, gradients[1] / gradients[0], GRADIENT_ALLOWED),
    }
    reductions: dict[str, Callable[[Array], float]] = {
        "curve rms": lambda d: float(np.sqrt((d**2).mean())),
        "curve max": lambda d: float(d.max()),
    }
    for name, reduce in reductions.items():
        theirs, ours = ([reduce(c.distance(p)) for c in curves] for p in PEERS)
        found[name] = in_pairs(ours, theirs)
    return found


PEERS = ("torch", "rung")


def record(case: Case, curves: Sequence[Curves]) -> dict[str, Any]:
    """A case as JSON: every measure, whether rung passes, and the curves."""
    found = comparisons(curves)
    return {
        "case": asdict(case),
        "measures": {n: asdict(c) for n, c in found.items()},
        "passes": not any(c.further for c in found.values()),
        "curves": [{n: list(a) for n, a in vars(c).items()} for c in curves],
    }


def show(found: Sequence[dict[str, Any]], console: Console) -> None:
    """The first curve of each case at some steps, then the measures of all."""
    for one in found:
        console.print(curve_table(one))
    table = Table(title="distance from f64", title_justify="left")
    for name in ("case", "measure"):
        table.add_column(name)
    for name in ("torch", "rung", "rung / torch", "allowed"):
        table.add_column(name, justify="right")
    for one in found:
        label = f"{one['case']['name']}, {len(one['curves'])} seeds"
        for name, m in one["measures"].items():
            distances = [f"{m[p]:.2e}" for p in PEERS]
            table.add_row(label, name, *distances, f"{m['ratio']:.2f}", f"{m['uncertainty']:.2f}")
            label = "ok" if one["passes"] else "further away than torch"
    console.print(table)


def curve_table(one: Mapping[str, Any]) -> Table:
    """The losses of the first seed at some steps."""
    first = Curves(**{n: np.array(a) for n, a in one["curves"][0].items()})
    title = f"{one['case']['name']}: losses of the first seed"
    table = Table(title=title, title_justify="left")
    for name in ("step", "torch f64", "torch f32", "rung f32", "|torch - f64|", "|rung - f64|"):
        table.add_column(name, justify="right")
    count = len(first.exact)
    for step in (s for s in sorted({1, 2, 5, 10, 20, 50, 100, 150, count}) if s <= count):
        losses = [f"{a[step - 1]:.7f}" for a in (first.exact, first.torch, first.rung)]
        gaps = [f"{first.distance(p)[step - 1]:.1e}" for p in PEERS]
        table.add_row(str(step), *losses, *gaps)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit status says whether every case passes."""
    parser = argparse.ArgumentParser(description="Loss curves of rung and torch against float64.")
    parser.add_argument("--tiny", action="store_true", help="quick cases, for a smoke test")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--seeds", type=int, default=0, help="runs of each case")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all curves too")
    given = parser.parse_args(argv)
    chosen = [c for c in (TINY if given.tiny else CASES) if given.only in c.name]
    found = [
        record(c, [compare(c, seed) for seed in range(given.seeds or c.num_seeds)]) for c in chosen
    ]
    show(found, Console(width=None if sys.stdout.isatty() else 120))
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({"versions": versions(), "cases": found}, indent=1))
    return 0 if all(one["passes"] for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
