"""Products of f32 matrices: on one thread against the FMA peak of the same run, on all threads
against torch and JAX.

    python -m benchmarks.bench_matmul
"""

from __future__ import annotations

import numpy as np

from benchmarks.harness import Benchmark, Case, Options, Step, main

ONE = {"RUNG_THREADS": "1", "OMP_NUM_THREADS": "1"}
PEAK = "peak"


def operands(options: Options) -> tuple[np.ndarray, np.ndarray]:
    """Two matrices, m×k and k×n."""
    m, k, n = options["shape"]
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    return a.astype(np.float32), b.astype(np.float32)


def prepare_rung(options: Options) -> Step:
    """`a @ b` under jit."""
    import rung

    a, b = (rung.asarray(x) for x in operands(options))
    product = rung.jit(lambda a, b: a @ b)
    return lambda: product(a, b)


def prepare_torch(options: Options) -> Step:
    """`torch.matmul`, which calls MKL."""
    import torch

    a, b = (torch.from_numpy(x) for x in operands(options))
    if options.get("threads"):
        torch.set_num_threads(options["threads"])
    return lambda: torch.matmul(a, b)


def prepare_jax(options: Options) -> Step:
    """`jnp.matmul` under jit."""
    import jax
    import jax.numpy as jnp

    a, b = (jnp.asarray(x) for x in operands(options))
    product = jax.jit(jnp.matmul)
    return lambda: product(a, b).block_until_ready()


def prepare_peak(options: Options) -> Step:
    """The time that the product would take at the peak rate of multiply-adds, measured now."""
    from rung.runtime.roof import measure_roof

    m, k, n = options["shape"]

    def step() -> float:
        roof = measure_roof()
        rate = roof.fma_one_gflops if options.get("threads") == 1 else roof.fma_all_gflops
        return 2.0 * m * k * n / rate / 1e3

    return step


def case(shape: tuple[int, int, int], threads: int = 0, rounds: int = 9) -> Case:
    """A product on one thread, or on all."""
    m, k, n = shape
    name = f"{m}x{k}x{n}" if len(set(shape)) > 1 else f"{m}"
    options = {"shape": shape, "threads": threads}
    work = 2.0 * m * k * n
    if threads == 1:
        peers = ("rung", PEAK, "torch")
        return Case(f"{name}, 1 thread", options, peers, {PEAK: 0.92}, ONE, work, rounds)
    return Case(name, options, ("rung", "torch", "jax"), {"torch": 1.05}, {}, work, rounds)


BENCHMARK = Benchmark(
    name="matmul",
    doc="products of f32 matrices",
    peers={
        "rung": prepare_rung,
        PEAK: prepare_peak,
        "torch": prepare_torch,
        "jax": prepare_jax,
    },
    cases=(
        case((512, 512, 512), 1),
        case((1024, 1024, 1024), 1),
        case((256, 256, 256)),
        case((512, 512, 512)),
        case((1024, 1024, 1024)),
        case((2048, 2048, 2048), rounds=5),
        case((64, 784, 512)),
    ),
    tiny=(case((64, 64, 64), 1), case((32, 48, 16))),
)

if __name__ == "__main__":
    main(BENCHMARK, "benchmarks.bench_matmul")
