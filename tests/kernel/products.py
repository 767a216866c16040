"""Naive kernels of products."""

from __future__ import annotations


def product_text(rows: int, terms: int, columns: int, a: str, b: str) -> str:
    """y[i, j] = Σ a·b over k, with the places of a and b as expressions of i, j and k."""
    return f"""
@kernel
def kernel(
    a: input(f32[{rows * terms}]), b: input(f32[{terms * columns}]),
    y: output(f32[{rows * columns}])
):
    for i in range({rows}):
        for j in range({columns}):
            t: register(f32)
            t[()] = 0.0
            for k in range({terms}):
                t[()] += a[{a}]*b[{b}]
            y[{columns}*i + j] = t[()]
"""
