"""What recomputing costs and saves: training GPT-2 with a checkpoint per block, and without.

python -m benchmarks.bench_checkpoint

Two numbers: the time of a step, and the temporary memory that its program plans (what lives besides
weights, gradients that are results, and the optimizer's state). Peak memory of the processes is
printed too; most of that is weights and the optimizer's state, which nothing makes smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Case, Options, Step, main


def prepare(blocks: bool) -> Callable[[Options], Step]:
    """The step with or without checkpoints; its time or, for kind "memory", its megabytes."""

    def made(options: Options) -> Step:
        import rung
        from rung import models, optim

        rung.manual_seed(0)
        model = models.GPT(models.GPTConfig(**options["config"], checkpoint_blocks=blocks))
        optimizer = optim.AdamW(model.parameters(), lr=3e-4, weight_decay=0.01)
        rng = np.random.default_rng(0)
        shape = (options["batch"], options["context"])
        x, y = (rung.asarray(rng.integers(0, model.config.vocab_size, shape)) for _ in range(2))

        @rung.jit
        def train(x: Any, y: Any) -> Any:
            optimizer.zero_grad()
            loss = model.loss(x, y)
            loss.backward()
            optimizer.step()
            return loss

        if options["kind"] == "memory":
            megabytes = train.compile(x, y).runnable.program.arena_bytes / 1e6
            return lambda: megabytes

        def step() -> None:
            train(x, y).numpy()

        return step

    return made


SMALL = {"block_size": 16, "vocab_size": 20, "n_layer": 2, "n_head": 2, "n_embd": 32}


def cases(name: str, **options: Any) -> list[Case]:
    """Time and memory of a model: at most 1.35 times and 0.6 times as much."""
    return [
        Case(f"{name}, time", {**options, "kind": "time"}, targets={"plain": 1 / 1.35}),
        Case(
            f"{name}, temporary memory, MB",
            {**options, "kind": "memory"},
            targets={"plain": 1 / 0.6},
            rounds=1,
            times=1,
        ),
    ]


BENCHMARK = Benchmark(
    name="checkpoint",
    doc="a training step with a checkpoint per block (`rung`) and without (`plain`)",
    peers={"rung": prepare(True), "plain": prepare(False)},
    cases=cases("GPT-2, batch 2, context 256", config={}, batch=2, context=256),
    tiny=cases("small GPT", config=SMALL, batch=2, context=16),
    memory=True,
)

if __name__ == "__main__":
    main(BENCHMARK, "benchmarks.bench_checkpoint")
