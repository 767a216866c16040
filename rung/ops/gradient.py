"""Ops that only matter to derivatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rung.core import dtype as dt
from rung.ir.node import Value
from rung.ir.op import Array, Attrs, Cost, LoopForm, Sample
from rung.ir.types import TensorType
from rung.ops.eager.elementwise import same
from rung.ops.families import Types, axis_vars, reads, structured
from rung.ops.samples import SHAPES


def _axes(attrs: Attrs, types: Types) -> LoopForm:
    axes = axis_vars(types[0].shape)
    return LoopForm(axes, tuple(reads(types, axes)))


def _no_tangent(
    attrs: Attrs,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    tangents: Sequence[Value | None],
) -> tuple[Value | None, ...]:
    return (None,)


def _copied(attrs: Attrs, operands: Sequence[Array]) -> tuple[Array, ...]:
    return (operands[0].copy(),)


def _samples(rng: np.random.Generator) -> list[Sample]:
    return [Sample((TensorType(d, s),)) for d in dt.ALL for s in SHAPES]


stop_gradient = structured(
    "stop_gradient",
    "gradient",
    "x itself, but a constant to every derivative.",
    arity=1,
    attrs=Attrs,
    type=lambda attrs, types: (types[0],),
    ref=_copied,
    axes=_axes,
    eager=same,
    cost=lambda attrs, ins, outs: Cost(0, 0),
    jvp=_no_tangent,
    elementwise=True,
    samples=_samples,
)

RECORDS = (stop_gradient,)
