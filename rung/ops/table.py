"""All op records, by name."""

from __future__ import annotations

from typing import Final

from rung.ir.op import Op
from rung.ops import (
    check,
    composite,
    contraction,
    control,
    convolution,
    creation,
    cumulative,
    dynamic,
    elementwise,
    gradient,
    indexing,
    linalg,
    movement,
    norm,
    pooling,
    random,
    reduction,
    scatter,
    softmax,
    sorting,
    transcendental,
)

RECORDS: Final[tuple[Op, ...]] = (
    *elementwise.RECORDS,
    *transcendental.RECORDS,
    *reduction.RECORDS,
    *cumulative.RECORDS,
    *movement.RECORDS,
    *indexing.RECORDS,
    *scatter.RECORDS,
    *check.RECORDS,
    *dynamic.RECORDS,
    *sorting.RECORDS,
    *contraction.RECORDS,
    *convolution.RECORDS,
    *pooling.RECORDS,
    *creation.RECORDS,
    *random.RECORDS,
    *gradient.RECORDS,
    *composite.RECORDS,
    *softmax.RECORDS,
    *norm.RECORDS,
    *control.RECORDS,
    *linalg.RECORDS,
)

OPS: Final[dict[str, Op]] = {op.name: op for op in RECORDS}
"""Every op by its name; the printed text of graphs and scalar expressions use these names."""
