"""Sums of products named by letters, as in NumPy and PyTorch: `einsum("bij,bjk->bik", a, b)`.

The operands are contracted two at a time, in the order that `opt_einsum` finds cheapest, each pair
as a `dot_general` or, where nothing is summed, as an element-wise product.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import lru_cache

import opt_einsum

from rung.core.errors import DTypeError, RungError, ShapeError
from rung.ir.node import Value
from rung.ir.types import Shape, TensorType
from rung.ops.broadcast import broadcasted, reduce_sum, reshaped
from rung.ops.contraction import dot_general
from rung.ops.elementwise import multiply
from rung.ops.matrix import diagonal
from rung.ops.movement import move_last
from rung.ops.shorthand import permuted

Labels = tuple[str, ...]
"""A name for each dim: a letter, or "-1", "-2", … for those of an ellipsis, from the last one."""
_DOTS = "..."
_WHAT = "write a letter for each dim, like 'ij,jk->ik'; '...' stands for further dims"


def einsum(subscripts: str, *operands: Value) -> Value:
    """The sums of products of the operands that `subscripts` names: letters (and an ellipsis) for
    the dims of each, and, after `->`, those of the result; all others are summed over. Without `->`
    the result has the dims of the ellipsis, then the letters that stand once, in their order. A
    letter that one operand has twice takes its diagonal; dims of length 1 are repeated.

    Raises RungError for subscripts that are not of this form, ShapeError where they do not fit the
    operands, DTypeError for operands of different dtypes or of bool."""
    terms, output = _parsed(subscripts, [v.type for v in operands])
    for v in operands:
        if v.dtype is not operands[0].dtype or v.dtype.is_bool:
            given = ", ".join(str(v.type) for v in operands)
            raise DTypeError(f"einsum: operands are {given}", fix="cast them to one number dtype")
    sizes = _sizes(subscripts, terms, operands)
    left = [_plain(v, t, sizes) for v, t in zip(operands, terms, strict=True)]
    shapes = tuple(t.value.shape for t in left)
    for i, j in _path(tuple(t.labels for t in left), output, shapes):
        b, a = left.pop(max(i, j)), left.pop(min(i, j))
        keep = {*output, *(x for t in left for x in t.labels)}
        left.append(_contracted(a, b, keep, sizes))
    last = _summed(left[0], set(output))
    return permuted(last.value, tuple(last.labels.index(x) for x in output))


# ---- what is written


@lru_cache(maxsize=1024)
def _path(
    terms: tuple[Labels, ...], output: Labels, shapes: tuple[Shape, ...]
) -> Sequence[tuple[int, int]]:
    """The places of the two operands to contract, step by step; what comes out goes last."""
    if len(terms) <= 2:
        return [(0, 1)] if len(terms) == 2 else []
    names = {x: opt_einsum.get_symbol(k) for k, x in enumerate({x: 0 for t in terms for x in t})}
    inputs = ",".join("".join(names[x] for x in t) for t in terms)
    equation = inputs + "->" + "".join(names[x] for x in output)
    path, _ = opt_einsum.contract_path(equation, *shapes, shapes=True)
    return [_pair(places) for places in path]


def _pair(places: Sequence[int]) -> tuple[int, int]:
    i, j = places
    return i, j


def _parsed(text: str, types: Sequence[TensorType]) -> tuple[list[Labels], Labels]:
    """The labels of each operand and of the result."""
    bare = text.replace(" ", "")
    inputs, arrow, result = bare.partition("->")
    written = inputs.split(",")
    if len(written) != len(types):
        raise ShapeError(
            f"einsum: {text!r} names {len(written)} operands, got {len(types)}",
            fix="separate the letters of the operands by commas",
        )
    terms = [_labels(text, t, type) for t, type in zip(written, types, strict=True)]
    dots = max(([x for x in t if x.startswith("-")] for t in terms), key=len)
    if not arrow:
        every = [x for t in terms for x in t if not x.startswith("-")]
        once = sorted(x for x in set(every) if every.count(x) == 1)
        return terms, (*dots, *once)
    before, _, behind = _letters(text, result)
    output = (*before, *(dots if _DOTS in result else ()), *behind)
    _check_output(text, output, {x for t in terms for x in t})
    return terms, output


def _letters(text: str, term: str) -> tuple[str, str, str]:
    """The letters before and behind an ellipsis. Raises RungError for anything else."""
    before, dots, behind = term.partition(_DOTS)
    wrong = [c for c in before + behind if not c.isalpha()]
    if wrong:
        raise RungError(f"einsum: {wrong[0]!r} in {text!r}", fix=_WHAT)
    return before, dots, behind


def _labels(text: str, term: str, type: TensorType) -> Labels:
    before, dots, behind = _letters(text, term)
    more = type.rank - len(before) - len(behind)
    if more < 0 or (more and not dots):
        raise ShapeError(
            f"einsum: {term!r} in {text!r} names {len(before + behind)} dims of an operand {type}",
            fix=_WHAT,
        )
    return (*before, *(str(-k) for k in range(more, 0, -1)), *behind)


def _check_output(text: str, output: Labels, known: AbstractSet[str]) -> None:
    for x in output:
        if x not in known:
            raise RungError(f"einsum: {x!r} of the result of {text!r} is of no operand", fix=_WHAT)
        if output.count(x) > 1:
            raise RungError(
                f"einsum: {x!r} stands twice in the result of {text!r}",
                fix="name each dim of the result once",
            )


def _sizes(text: str, terms: Sequence[Labels], operands: Sequence[Value]) -> dict[str, int]:
    """The length of each label."""
    found: dict[str, int] = {}
    for labels, v in zip(terms, operands, strict=True):
        for x, n in zip(labels, v.shape, strict=True):
            if n != found.setdefault(x, n) and 1 not in (n, found[x]):
                given = ", ".join(str(v.type) for v in operands)
                name = "the ellipsis" if x.startswith("-") else repr(x)
                raise ShapeError(
                    f"einsum: {name} is {found[x]} and {n} long in {text!r} of {given}",
                    fix="dims of one letter have one length, or 1",
                )
            found[x] = n if found[x] == 1 else found[x]
    return found


# ---- what is computed


@dataclass(frozen=True, eq=False)
class _Term:
    """A value and the labels of its dims, each once."""

    value: Value
    labels: Labels


def _plain(v: Value, labels: Labels, sizes: dict[str, int]) -> _Term:
    """The operand with the diagonals of labels that stand twice, without dims to be repeated."""
    for x in dict.fromkeys(labels):
        while labels.count(x) > 1:
            first = labels.index(x)
            second = labels.index(x, first + 1)
            if v.shape[first] != v.shape[second]:
                raise ShapeError(
                    f"einsum: {x!r} stands for dims {first} and {second} of {v.type}",
                    fix="a diagonal is that of dims of one length",
                )
            v = diagonal(move_last(v, (first, second)))
            labels = (*(y for k, y in enumerate(labels) if k not in (first, second)), x)
    kept = [k for k, x in enumerate(labels) if v.shape[k] == sizes[x]]
    shape = tuple(v.shape[k] for k in kept)
    return _Term(reshaped(v, shape), tuple(labels[k] for k in kept))


def _summed(term: _Term, keep: AbstractSet[str]) -> _Term:
    """The term summed over the labels that are not kept."""
    gone = tuple(k for k, x in enumerate(term.labels) if x not in keep)
    if not gone:
        return term
    labels = tuple(x for x in term.labels if x in keep)
    return _Term(reduce_sum(term.value, dims=gone), labels)


def _contracted(a: _Term, b: _Term, keep: AbstractSet[str], sizes: dict[str, int]) -> _Term:
    """The product of two terms, summed over what is not kept."""
    a = _summed(a, keep | set(b.labels))
    b = _summed(b, keep | set(a.labels))
    shared = [x for x in a.labels if x in b.labels]
    batch = [x for x in shared if x in keep]
    inner = [x for x in shared if x not in keep]
    free = [[x for x in t.labels if x not in shared] for t in (a, b)]
    labels = (*batch, *free[0], *free[1])
    if not inner:
        return _Term(multiply(_laid(a, labels, sizes), _laid(b, labels, sizes)), labels)
    product = dot_general(
        a.value,
        b.value,
        batch=(_places(a, batch), _places(b, batch)),
        contract=(_places(a, inner), _places(b, inner)),
    )
    return _Term(product, labels)


def _places(term: _Term, labels: Sequence[str]) -> tuple[int, ...]:
    return tuple(term.labels.index(x) for x in labels)


def _laid(term: _Term, labels: Labels, sizes: dict[str, int]) -> Value:
    """The term along `labels`, repeated over those that it has not."""
    mine = [x for x in labels if x in term.labels]
    shape = tuple(sizes[x] if x in term.labels else 1 for x in labels)
    laid = reshaped(permuted(term.value, _places(term, mine)), shape)
    return broadcasted(laid, tuple(sizes[x] for x in labels))
