"""One sample of torch's operator table by torch and by us: value, gradient, forward derivative.

A float passes when it is within the distance that `torch.testing.assert_close` allows of what torch
finds, or as near to what torch finds in f64 as torch itself is in this dtype, within a factor 8.
Integers and bools must be equal.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import rung
from tests.oracle.convert import (
    DTYPES,
    Template,
    Unsupported,
    filled,
    leaves,
    numpy_of,
    our_argument,
    our_tensor,
    ours,
    taken_apart,
)

torch = pytest.importorskip("torch")
Array = np.ndarray[Any, Any]
DISTANCES = {"float64": (1e-7, 1e-7), "float32": (1.3e-6, 1e-5), "bfloat16": (1.6e-2, 1e-5),
             "float16": (1e-3, 1e-5)}  # fmt: skip
"""Relative and absolute, of `torch.testing.assert_close`."""
FACTOR = 8.0
WIDE = {torch.float32: torch.float64, torch.bfloat16: torch.float64, torch.float16: torch.float64}


class Mismatch(Exception):
    """The two differ; the text says where and by how much."""


@dataclass(frozen=True)
class Case:
    """A call of an operator: torch's, ours, the arguments, and which tensors move."""

    theirs: Callable[..., Any]
    mine: Callable[..., Any]
    template: Template
    tensors: tuple[Any, ...]
    moving: tuple[int, ...]

    def torch_outputs(self, tensors: Sequence[Any], other: Callable[[Any], Any]) -> list[Any]:
        call = filled(self.template, tensors, other)
        return leaves(self.theirs(*call.args, **call.kwargs))

    def our_outputs(self, tensors: Sequence[Any]) -> list[Any]:
        call = filled(ours(self.template), tensors, our_argument)
        return leaves(self.mine(*call.args, **call.kwargs))

    def exact_tensors(self) -> list[Any]:
        """The tensors of torch with floats as f64."""
        return [
            t.detach().to(WIDE[t.dtype]).requires_grad_(t.requires_grad) if t.dtype in WIDE else t
            for t in self.tensors
        ]


def make_case(theirs: Callable[..., Any], mine: Callable[..., Any], sample: Any) -> Case:
    """The case of a sample of torch."""
    template, tensors = taken_apart(sample)
    moving = tuple(n for n, t in enumerate(tensors) if t.requires_grad)
    return Case(theirs, mine, template, tuple(tensors), moving)


def same(x: Any) -> Any:
    return x


def wide(x: Any) -> Any:
    return WIDE.get(x, x) if isinstance(x, torch.dtype) else x


# ---- value


def check_value(case: Case, shape_only: bool = False) -> None:
    """Raises Mismatch, Unsupported, and what our function raises."""
    mine = case.our_outputs([our_tensor(t) for t in case.tensors])
    with torch.no_grad():
        wanted = case.torch_outputs(case.tensors, same)
    found = [array_of(x) for x in mine]
    if len(found) != len(wanted):
        raise Mismatch(f"{len(found)} results, not {len(wanted)}")
    exact: list[Any] | None = None
    for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
        reference = plain(b)
        check_type(number, a, b, reference)
        if shape_only or differences(a, reference) is None:
            continue
        if exact is None:
            with torch.no_grad():
                exact = case.torch_outputs(case.exact_tensors(), wide)
        check_near(f"result {number}", a, reference, plain(exact[number]))


def array_of(x: Any) -> Array:
    if isinstance(x, rung.Tensor):
        return x.numpy()
    return np.asarray(x)


def plain(x: Any) -> Array:
    """A result of torch as an array."""
    if isinstance(x, torch.Tensor):
        if x.layout is not torch.strided or x.is_complex():
            raise Unsupported("complex numbers" if x.is_complex() else "sparse tensors")
        return numpy_of(x)
    return np.asarray(x)


def check_type(number: int, found: Array, theirs: Any, wanted: Array) -> None:
    """Floats must have the same dtype; integers and bools may be wider or narrower."""
    if found.shape != wanted.shape:
        raise Mismatch(f"result {number} has shape {found.shape}, not {wanted.shape}")
    if isinstance(theirs, torch.Tensor) and theirs.is_floating_point():
        dtype = DTYPES[theirs.dtype]
        if found.dtype != dtype.numpy:
            raise Mismatch(f"result {number} is {found.dtype}, not {dtype}")
    elif found.dtype.kind not in "biuf" or (found.dtype.kind == "f") != (wanted.dtype.kind == "f"):
        raise Mismatch(f"result {number} is {found.dtype}, not {wanted.dtype}")


def differences(found: Array, wanted: Array) -> str | None:
    """Where two arrays differ by more than the dtype allows, in words."""
    if wanted.dtype.kind in "biu":
        unequal = np.nonzero(np.atleast_1d(found != wanted))
        if not len(unequal[0]):
            return None
        at = tuple(i[0] for i in unequal)
        return f"{np.atleast_1d(found)[at]} where {np.atleast_1d(wanted)[at]} is right"
    relative, absolute = DISTANCES.get(str(wanted.dtype), (1e-7, 1e-7))
    a, b = np.atleast_1d(found).astype(np.float64), np.atleast_1d(wanted).astype(np.float64)
    with np.errstate(all="ignore"):
        fine = (a == b) | (np.isnan(a) & np.isnan(b))
        fine |= np.abs(a - b) <= absolute + relative * np.abs(b)
    if fine.all():
        return None
    at = tuple(i[0] for i in np.nonzero(~fine))
    return f"{a[at]!r} where {b[at]!r} is right ({(~fine).sum()} of {fine.size})"


def check_near(what: str, found: Array, wanted: Array, exact: Array) -> None:
    """Raise Mismatch unless `found` is as near to `exact` as `wanted` is."""
    text = differences(found, wanted)
    if text is None:
        return
    if wanted.dtype.kind == "f" or str(wanted.dtype) == "bfloat16":
        a, b, c = (np.asarray(x).astype(np.float64) for x in (found, wanted, exact))
        with np.errstate(all="ignore"):
            mine, theirs = np.abs(a - c), np.abs(b - c)
        steady = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
        alike = (a == b) | (np.isnan(a) & np.isnan(b))
        if theirs.shape == mine.shape and (steady | alike).all() and steady.any():
            bound = FACTOR * theirs[steady].max()
            if (mine[steady] <= bound).all():
                return
            text += f"; {mine[steady].max():.3g} from f64, torch {theirs[steady].max():.3g}"
    raise Mismatch(f"{what}: {text}")


# ---- derivatives


def drawn(seed: str, like: Any) -> Any:
    """A tensor of torch of the shape and dtype of `like`, the same for the same seed."""
    rng = np.random.default_rng(zlib.crc32(seed.encode()))
    return torch.tensor(rng.standard_normal(tuple(like.shape))).to(like.dtype)


def torch_gradients(case: Case, tensors: Sequence[Any], other: Any) -> list[Any] | None:
    """The gradients by the moving tensors of a weighted sum of all results; None without any."""
    outputs = case.torch_outputs(tensors, other)
    floats = [
        (n, y) for n, y in enumerate(outputs) if isinstance(y, torch.Tensor) and y.requires_grad
    ]
    if not floats:
        return None
    if any(y.is_complex() for _, y in floats):
        raise Unsupported("complex numbers")
    given = [tensors[n] for n in case.moving]
    weights = [drawn(f"output {n}", y) for n, y in floats]
    found = torch.autograd.grad([y for _, y in floats], given, weights, allow_unused=True)
    zeros = [torch.zeros_like(t) for t in given]
    return [z if g is None else g for g, z in zip(found, zeros, strict=True)]


def our_function(case: Case, numbers: list[int]) -> Callable[..., Any]:
    """Ours, of the moving tensors alone; gives the results that torch has derivatives of."""
    fixed = [our_tensor(t) for t in case.tensors]

    def function(*moving: Any) -> Any:
        tensors = list(fixed)
        for n, x in zip(case.moving, moving, strict=True):
            tensors[n] = x
        outputs = case.our_outputs(tensors)
        return [outputs[n] for n in numbers]

    return function


def smooth(outputs: Sequence[Any]) -> list[int]:
    """The numbers of the results that torch has derivatives of."""
    return [
        n for n, y in enumerate(outputs) if isinstance(y, torch.Tensor) and y.requires_grad
    ]


def check_gradient(case: Case) -> bool:
    """Reverse mode; False where there is nothing to compare."""
    if not case.moving:
        return False
    wanted = torch_gradients(case, case.tensors, same)
    if wanted is None:
        return False
    outputs = case.torch_outputs(case.tensors, same)
    numbers = smooth(outputs)
    primals = [our_tensor(case.tensors[n]) for n in case.moving]
    _, pull_back = rung.vjp(our_function(case, numbers), *primals)
    weights = [drawn(f"output {n}", outputs[n]) for n in numbers]
    found = [array_of(g) for g in pull_back([our_tensor(w) for w in weights])]
    _check_all("gradient", found, wanted, lambda: torch_gradients(case, case.exact_tensors(), wide))
    return True


def _check_all(
    what: str, found: list[Array], wanted: list[Any], exactly: Callable[[], list[Any] | None]
) -> None:
    exact: list[Any] | None = None
    for number, (a, b) in enumerate(zip(found, wanted, strict=True)):
        reference = plain(b)
        if a.shape != reference.shape:
            raise Mismatch(f"{what} {number} has shape {a.shape}, not {reference.shape}")
        if differences(a, reference) is None:
            continue
        exact = exactly() if exact is None else exact
        check_near(f"{what} {number}", a, reference, plain(exact[number] if exact else b))


def check_forward(case: Case) -> bool:
    """Forward mode; False where there is nothing to compare."""
    if not case.moving:
        return False
    numbers = smooth(case.torch_outputs(case.tensors, same))
    if not numbers:
        return False
    tangents = [drawn(f"input {n}", case.tensors[n]) for n in case.moving]
    try:
        wanted = torch_tangents(case, case.tensors, tangents, same, numbers)
    except (RuntimeError, NotImplementedError):
        return False
    primals = [our_tensor(case.tensors[n]) for n in case.moving]
    _, moved = rung.jvp(
        our_function(case, numbers), primals, [our_tensor(t) for t in tangents]
    )
    found = [array_of(x) for x in moved]
    exact = [t.to(WIDE.get(t.dtype, t.dtype)) for t in tangents]
    _check_all(
        "tangent", found, wanted,
        lambda: torch_tangents(case, case.exact_tensors(), exact, wide, numbers),
    )  # fmt: skip
    return True


def torch_tangents(
    case: Case, tensors: Sequence[Any], tangents: Sequence[Any], other: Any, numbers: list[int]
) -> list[Any]:
    """The tangents of the results `numbers`."""
    from torch.autograd import forward_ad

    with forward_ad.dual_level():
        moved = [t.detach() if t.requires_grad else t for t in tensors]
        for n, t in zip(case.moving, tangents, strict=True):
            moved[n] = forward_ad.make_dual(moved[n], t)
        outputs = case.torch_outputs(moved, other)
        pairs = [forward_ad.unpack_dual(outputs[n]) for n in numbers]
        return [torch.zeros_like(p.primal) if p.tangent is None else p.tangent for p in pairs]
