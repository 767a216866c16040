"""Scaled dot-product attention, as a composite."""

from __future__ import annotations

from math import sqrt

from rung.core.errors import RungError, ShapeError
from rung.ir.node import Value
from rung.ops.broadcast import broadcasted, reshaped
from rung.ops.composite import Call, composite_with_kernel
from rung.ops.contraction import dot_general
from rung.ops.dropout import dropped
from rung.ops.eager import functions as kernels
from rung.ops.eager.elementwise import Kernel
from rung.ops.elementwise import greater_equal, plus, where
from rung.ops.families import add, require_same_dtype
from rung.ops.shorthand import as_type, counting, number, require_float, times, wide
from rung.ops.softmax import masked_softmax, softmax


def _rule(call: Call) -> Kernel | None:
    """For attention without dropout."""
    if call.number("dropout"):
        return None
    scale = call.static["scale"]
    factor = 1 / sqrt(max(call.types[0].shape[-1], 1)) if scale is None else call.number("scale")
    causal = bool(call.static["causal"])
    return kernels.attention(call.types, call.names, causal, factor, call.exact)


@composite_with_kernel(_rule)
def attention(
    q: Value,
    k: Value,
    v: Value,
    mask: Value | None = None,
    key: Value | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Value:
    """softmax(q kᵀ * scale + mask) v (Vaswani et al., 2017).

    q is [batch…, heads, T, D], k [batch…, kv_heads, S, D], v [batch…, kv_heads, S, E]; the result
    is [batch…, heads, T, E]. With fewer kv_heads, each serves heads/kv_heads consecutive heads of q
    (grouped queries); nothing is copied for it. `scale` is 1/sqrt(D) unless given. `mask`
    broadcasts to [batch…, heads, T, S]: bool (true = may look) or float (added). With `causal`,
    query i sees the keys up to i + S - T. A query that may look at nothing gives 0. `dropout` drops
    that part of the weights by the random `key`. 16-bit floats are computed in f32 and rounded
    once.
    """
    groups = _check(q, k, v, mask)
    *batch, heads, num_q, depth = q.shape
    num_batch = len(batch) + 1
    same = tuple(range(num_batch))
    many = (*batch, heads // groups, groups, num_q) if groups > 1 else (*batch, heads, num_q)
    query = reshaped(q, (*many, depth))
    last = len(many)
    first = num_q - k.shape[-2]  # a query sees the keys up to its own place, counted from the end
    seen = ((((0, last - 1), (1, num_batch), first)),) if causal else ()
    scores = dot_general(
        wide(query), wide(k), batch=(same, same), contract=((last,), (num_batch + 1,)), domain=seen
    )
    scores = times(scores, 1 / sqrt(max(depth, 1)) if scale is None else scale)
    scores = _masked(scores, mask, (*q.shape[:-1], k.shape[-2]), causal)
    empty_rows = mask is not None or (causal and num_q > k.shape[-2])
    weights = masked_softmax(scores) if empty_rows else softmax(scores)
    if dropout:
        if key is None:
            raise RungError("attention: dropout needs a random key", fix="pass key=")
        weights = dropped(weights, key, dropout)
    seen = ((((0, last - 1), (0, last), first)),) if causal else ()
    result = dot_general(
        weights, wide(v), batch=(same, same), contract=((last,), (num_batch,)), domain=seen
    )
    return as_type(reshaped(result, (*q.shape[:-1], v.shape[-1])), v.dtype)


def _check(q: Value, k: Value, v: Value, mask: Value | None) -> int:
    """How many heads of q each head of k serves."""
    for label, x in (("q", q), ("k", k), ("v", v)):
        require_float("attention", label, x)
        if x.type.rank < 3 or x.type.rank != q.type.rank:
            raise ShapeError(
                f"attention: q {q.type}, k {k.type}, v {v.type}",
                fix="each is [batch…, heads, positions, features]",
            )
    require_same_dtype("attention", ("q", "k", "v"), (q.type, k.type, v.type))
    if q.shape[-1] != k.shape[-1]:
        raise ShapeError(f"attention: q {q.type} and k {k.type} differ in their last dim")
    if k.shape[:-1] != v.shape[:-1]:
        raise ShapeError(f"attention: k {k.type} and v {v.type} differ in heads or positions")
    if q.shape[:-3] != k.shape[:-3]:
        raise ShapeError(f"attention: q {q.type} and k {k.type} differ in their batch dims")
    heads, kv_heads = q.shape[-3], k.shape[-3]
    if not kv_heads or heads % kv_heads:
        raise ShapeError(
            f"attention: q {q.type} has {heads} heads, k {k.type} has {kv_heads}",
            fix="the heads of k must divide those of q",
        )
    return heads // kv_heads


def _masked(scores: Value, mask: Value | None, full: tuple[int, ...], causal: bool) -> Value:
    """Scores with -inf where the query may not look; `full` is [batch…, heads, T, S]."""
    if mask is not None:
        laid = reshaped(broadcasted(mask, full), scores.shape)
        if mask.dtype.is_bool:
            scores = where(laid, scores, number(float("-inf"), scores))
        else:
            scores = add(scores, as_type(laid, scores.dtype))
    if causal:
        rank, num_q, num_k = scores.type.rank, *full[-2:]
        row = counting(scores.shape, rank - 2)
        row = plus(row, num_k - num_q) if num_k != num_q else row
        seen = greater_equal(row, counting(scores.shape, rank - 1))
        scores = where(seen, scores, number(float("-inf"), scores))
    return scores
