"""Arguments of torch as ours: a sample is a template with numbered places and the tensors there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import rung
from rung.core.dtype import DType

torch = pytest.importorskip("torch")
Array = np.ndarray[Any, Any]

DTYPES: dict[Any, DType] = {
    torch.bool: rung.bool_,
    torch.uint8: rung.uint8,
    torch.uint16: rung.uint16,
    torch.uint32: rung.uint32,
    torch.uint64: rung.uint64,
    torch.int8: rung.int8,
    torch.int16: rung.int16,
    torch.int32: rung.int32,
    torch.int64: rung.int64,
    torch.float16: rung.float16,
    torch.bfloat16: rung.bfloat16,
    torch.float32: rung.float32,
    torch.float64: rung.float64,
}
DROPPED = ("device", "layout", "memory_format", "pin_memory", "requires_grad", "non_blocking")
"""Arguments of torch about places in memory, which have no meaning here."""
LEGACY = ("size_average", "reduce")
"""Older spellings of `reduction`, dropped where they are None."""


class Unsupported(Exception):
    """A sample asks for something that is not there; the text says what."""


@dataclass(frozen=True)
class Place:
    """Where tensor `number` of a sample stands."""

    number: int


@dataclass(frozen=True)
class Template:
    """A call with `Place`s for tensors: positional arguments (the input first) and named ones."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def taken_apart(sample: Any) -> tuple[Template, list[Any]]:
    """The template of a sample of torch and its tensors, each once."""
    tensors: list[Any] = []
    numbers: dict[int, int] = {}

    def visit(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            if id(x) not in numbers:
                numbers[id(x)] = len(tensors)
                tensors.append(x)
            return Place(numbers[id(x)])
        return mapped(visit, x)

    args = tuple(visit(x) for x in (sample.input, *sample.args))
    return Template(args, {k: visit(v) for k, v in sample.kwargs.items()}), tensors


def mapped(function: Callable[[Any], Any], x: Any) -> Any:
    """x with `function` of what it holds, where it is a tuple, list, dict or slice."""
    if isinstance(x, tuple | list):
        return (list if isinstance(x, list) else tuple)(function(v) for v in x)
    if isinstance(x, dict):
        return {k: function(v) for k, v in x.items()}
    if isinstance(x, slice):
        return slice(function(x.start), function(x.stop), function(x.step))
    return x


def filled(template: Template, tensors: Sequence[Any], other: Callable[[Any], Any]) -> Template:
    """The call with `tensors` in their places, and `other` of everything that is no tensor."""

    def visit(x: Any) -> Any:
        if isinstance(x, Place):
            return tensors[x.number]
        return mapped(visit, x) if isinstance(x, tuple | list | dict | slice) else other(x)

    return Template(visit(template.args), visit(template.kwargs))


# ---- one way


def ours(template: Template) -> Template:
    """A template without what has no meaning here."""
    kept = {
        k: v
        for k, v in template.kwargs.items()
        if k not in DROPPED and not (k in LEGACY and v is None)
    }
    args = tuple(x for x in template.args if not isinstance(x, torch.memory_format | torch.device))
    return Template(args, kept)


def our_argument(x: Any) -> Any:
    """An argument that is no tensor. Raises Unsupported."""
    if isinstance(x, torch.dtype):
        if x not in DTYPES:
            raise Unsupported("complex numbers" if x.is_complex else f"the dtype {x}")
        return DTYPES[x]
    if isinstance(x, complex):
        raise Unsupported("complex numbers")
    return x


def our_tensor(x: Any) -> Any:
    """A tensor of ours with the value of one of torch. Raises Unsupported."""
    if x.layout is not torch.strided or x.is_quantized:
        raise Unsupported("sparse tensors")
    if x.dtype not in DTYPES:
        raise Unsupported("complex numbers" if x.is_complex() else f"the dtype {x.dtype}")
    return rung.array(numpy_of(x).copy())


# ---- the other way


def numpy_of(x: Any) -> Array:
    """The value of a tensor of torch."""
    if x._is_zerotensor():
        return np.zeros(tuple(x.shape), DTYPES[x.dtype].numpy)
    x = x.detach().resolve_conj().resolve_neg().contiguous()
    if x.dtype is torch.bfloat16:
        return x.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()


def leaves(result: Any) -> list[Any]:
    """Everything in a result that is no tuple, list, dict or None, in order."""
    if isinstance(result, tuple | list):
        return [x for part in result for x in leaves(part)]
    if isinstance(result, dict):
        return leaves(list(result.values()))
    return [] if result is None else [result]
