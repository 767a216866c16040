"""What a call costs beside the work: jit of a tiny graph, lazy `x + 1` in a loop, building an op
and a derivative without a look, a `while_loop`.

python -m benchmarks.bench_overhead
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Case, Options, Step, main

GUARDS = 100
"""Attributes that the function with guards reads."""
ROUNDS = 1000
"""Iterations of the `while_loop`."""
LIMITS = {"jit": 15.0, "lazy": 100.0}
"""µs that each may take."""


def prepare_rung(options: Options) -> Step:
    """A jit call of one op on a small tensor; or making `x + 1` and looking at it."""
    import rung

    x = rung.asarray(np.ones(options["size"], np.float32))
    if options["how"] == "jit":
        add = rung.jit(lambda x: x + 1.0)
        return lambda: add(x)
    if options["how"] == "step":
        return jit_step(options["size"])
    if options["how"] == "guards":
        return jit_guards(options["size"])
    if options["how"] == "while":
        count = rung.jit(
            lambda x: rung.while_loop(
                lambda s: s[0] < ROUNDS, lambda s: (s[0] + 1, s[1] * 0.999), (0, x)
            )[1]
        )
        return lambda: count(x)
    if options["how"] in ("build", "backward"):
        return passes(rung, options)
    place = [x]

    def step() -> None:
        place[0] = place[0] + 1.0
        rung.evaluate()

    return step


def passes(library: Any, options: Options) -> Step:
    """`x + y`, or a forward and backward pass of four ops: rung only builds them, torch runs."""
    x, y, w = (library.ones(options["size"]) for _ in range(3))
    if options["how"] == "build":
        return lambda: x + y
    w.requires_grad = True

    def step() -> None:
        w.grad = None
        library.sum(library.tanh(w * x) * y).backward()

    return step


def jit_step(size: int) -> Step:
    """A jit call that updates state."""
    import rung

    state = rung.zeros(size)

    @rung.jit
    def update(x: rung.Tensor) -> rung.Tensor:
        state.assign(state + x)
        return state.sum()

    x = rung.asarray(np.ones(size, np.float32))
    return lambda: update(x)


def jit_guards(size: int) -> Step:
    """A jit call of one op that has read `GUARDS` attributes, which are looked at by each call."""
    import rung

    config = type("Config", (), {})()
    for i in range(GUARDS):
        setattr(config, f"rate_{i}", i / 8)
    names = [f"rate_{i}" for i in range(GUARDS)]
    x = rung.asarray(np.ones(size, np.float32))
    scaled = rung.jit(lambda x: x * sum(getattr(config, name) for name in names))
    return lambda: scaled(x)


def prepare_torch(options: Options) -> Step:
    """The same in eager torch."""
    import torch

    if options["how"] in ("build", "backward"):
        return passes(torch, options)
    x = torch.ones(options["size"])
    place = [x]

    def step() -> None:
        place[0] = place[0] + 1.0

    return (lambda: x + 1.0) if options["how"] == "jit" else step


def prepare_jax(options: Options) -> Step:
    """The same in JAX: under jit, or op by op."""
    import jax
    import jax.numpy as jnp

    x = jnp.ones(options["size"], jnp.float32)
    place = [x]
    if options["how"] == "jit":
        add = jax.jit(lambda x: x + 1.0)
        return lambda: add(x).block_until_ready()
    if options["how"] == "while":
        count = jax.jit(
            lambda x: jax.lax.while_loop(
                lambda s: s[0] < ROUNDS, lambda s: (s[0] + 1, s[1] * 0.999), (0, x)
            )[1]
        )
        return lambda: count(x).block_until_ready()

    def step() -> None:
        place[0] = (place[0] + 1.0).block_until_ready()

    return step


def prepare_limit(options: Options) -> Step:
    """The time that is allowed."""
    return lambda: LIMITS.get(options["how"], 30.0)


PEERS = ("rung", "torch", "jax", "limit")
CASES = (
    Case("jit call of x + 1, 16 elements", {"how": "jit", "size": 16}, PEERS, {"limit": 1.0}),
    Case(f"jit call with {GUARDS} guards", {"how": "guards", "size": 16}, ("rung",)),
    Case("jit call that updates state", {"how": "step", "size": 16}, ("rung",)),
    Case("lazy x + 1 in a loop", {"how": "lazy", "size": 16}, PEERS, {"limit": 1.0}),
    Case("building x + y, 16 elements", {"how": "build", "size": 16}, ("rung", "torch")),
    Case("building four ops and backward", {"how": "backward", "size": 16}, ("rung", "torch")),
    Case("while_loop, 1,000 iterations", {"how": "while", "size": 16}, ("rung", "jax")),
)

BENCHMARK = Benchmark(
    name="overhead",
    doc="cost of a call",
    peers={
        "rung": prepare_rung,
        "torch": prepare_torch,
        "jax": prepare_jax,
        "limit": prepare_limit,
    },
    cases=CASES,
    tiny=CASES,
)

if __name__ == "__main__":
    main(BENCHMARK, "benchmarks.bench_overhead")
