"""Element-wise chains and row-wise functions: softmax, layer norm, GELU, bias + GELU + residual.

python -m benchmarks.bench_fused
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.harness import Benchmark, Case, Options, Step, main

FUNCTIONS = ("softmax", "layer_norm", "gelu", "bias_gelu_residual")


def operands(options: Options) -> list[np.ndarray]:
    """x and a residual of the shape, a weight and a bias for the last dim."""
    rows, columns = options["shape"]
    rng = np.random.default_rng(0)
    shapes = [(rows, columns), (rows, columns), (columns,), (columns,)]
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def prepare_rung(options: Options) -> Step:
    """Under jit, so that a call is one program."""
    import rung
    from rung.nn import functional as f

    functions: dict[str, Callable[..., Any]] = {
        "softmax": lambda x, r, w, b: f.softmax(x, -1),
        "layer_norm": lambda x, r, w, b: f.layer_norm(x, w.shape, w, b),
        "gelu": lambda x, r, w, b: f.gelu(x),
        "bias_gelu_residual": lambda x, r, w, b: r + f.gelu(x + b),
    }
    arrays = [rung.asarray(a) for a in operands(options)]
    function = rung.jit(functions[options["function"]])
    return lambda: function(*arrays)


def torch_function(name: str) -> Callable[..., Any]:
    """The same in torch."""
    import torch.nn.functional as f

    functions: dict[str, Callable[..., Any]] = {
        "softmax": lambda x, r, w, b: f.softmax(x, -1),
        "layer_norm": lambda x, r, w, b: f.layer_norm(x, w.shape, w, b),
        "gelu": lambda x, r, w, b: f.gelu(x),
        "bias_gelu_residual": lambda x, r, w, b: r + f.gelu(x + b),
    }
    return functions[name]


def prepare_torch(options: Options) -> Step:
    """Eager torch."""
    import torch

    arrays = [torch.from_numpy(a) for a in operands(options)]
    function = torch_function(options["function"])

    def step() -> object:
        with torch.no_grad():
            return function(*arrays)

    return step


def prepare_jax(options: Options) -> Step:
    """JAX under jit."""
    import jax
    import jax.numpy as jnp

    def layer_norm(x: Any, w: Any, b: Any) -> Any:
        mean = x.mean(-1, keepdims=True)
        return (x - mean) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * w + b

    functions: dict[str, Callable[..., Any]] = {
        "softmax": lambda x, r, w, b: jax.nn.softmax(x, -1),
        "layer_norm": lambda x, r, w, b: layer_norm(x, w, b),
        "gelu": lambda x, r, w, b: jax.nn.gelu(x, approximate=False),
        "bias_gelu_residual": lambda x, r, w, b: r + jax.nn.gelu(x + b, approximate=False),
    }
    arrays = [jnp.asarray(a) for a in operands(options)]
    function = jax.jit(functions[options["function"]])
    return lambda: function(*arrays).block_until_ready()


def cases(shape: tuple[int, int], least: float) -> list[Case]:
    """Every function at one size."""
    size = "x".join(map(str, shape))
    return [
        Case(f"{name} {size}", {"function": name, "shape": shape}, targets={"torch": least})
        for name in FUNCTIONS
    ]


BENCHMARK = Benchmark(
    name="fused",
    doc="element-wise and row-wise functions of f32",
    peers={"rung": prepare_rung, "torch": prepare_torch, "jax": prepare_jax},
    cases=[*cases((4096, 4096), 2.0), *cases((256, 1024), 1.2)],
    tiny=cases((8, 32), 1.2)[-2:],
)

if __name__ == "__main__":
    main(BENCHMARK, "benchmarks.bench_fused")
