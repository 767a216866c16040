"""Methods of tensors that put the result of a function into the tensor, under PyTorch's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

from rung.tensor import arithmetic as a
from rung.tensor import elementwise as e
from rung.tensor import functional as f
from rung.tensor import picking as p
from rung.tensor import shapes
from rung.tensor.state import begin_write

if TYPE_CHECKING:
    from rung.tensor.tensor import Tensor


def in_place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The method that updates a tensor by `function` of it and of further arguments."""

    @wraps(function)
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self._weak:  # a Python number is not updated, its name gets another
            return function(self, *args, **kwargs)
        begin_write(self)
        return self._put(function(self, *args, **kwargs))

    method.__doc__ = f"`{function.__name__}`, put into this tensor: {function.__doc__}"
    return method


class InPlace:
    """`x.name_(…)` is `x` with the value of `x.name(…)`, which must have its shape and a dtype that
    fits into its own."""

    # ---- element-wise

    abs_ = in_place(e.abs)
    add_ = in_place(a.add)
    addcdiv_ = in_place(a.addcdiv)
    addcmul_ = in_place(a.addcmul)
    ceil_ = in_place(e.ceil)
    clip_ = clamp_ = in_place(e.clip)
    clamp_max_ = in_place(a.clamp_max)
    clamp_min_ = in_place(a.clamp_min)
    cos_ = in_place(e.cos)
    div_ = divide_ = in_place(a.divide)
    exp_ = in_place(e.exp)
    floor_ = in_place(e.floor)
    lerp_ = in_place(a.lerp)
    log_ = in_place(e.log)
    mul_ = multiply_ = in_place(e.multiply)
    neg_ = negative_ = in_place(e.negative)
    pow_ = in_place(e.pow)
    reciprocal_ = in_place(e.reciprocal)
    relu_ = in_place(f.relu)
    remainder_ = in_place(e.remainder)
    round_ = in_place(a.round_to)
    rsqrt_ = in_place(e.rsqrt)
    sigmoid_ = in_place(f.sigmoid)
    sin_ = in_place(e.sin)
    sqrt_ = in_place(e.sqrt)
    square_ = in_place(e.square)
    sub_ = subtract_ = in_place(a.subtract)
    tanh_ = in_place(e.tanh)
    trunc_ = in_place(e.trunc)

    # ---- places

    index_add_ = in_place(p.index_add)
    index_copy_ = in_place(p.index_copy)
    index_fill_ = in_place(p.index_fill)
    index_put_ = in_place(p.index_put)
    index_reduce_ = in_place(p.index_reduce)
    masked_fill_ = in_place(p.masked_fill)
    masked_scatter_ = in_place(p.masked_scatter)
    put_ = in_place(p.put)
    scatter_ = in_place(p.scatter)
    scatter_add_ = in_place(p.scatter_add)
    scatter_reduce_ = in_place(p.scatter_reduce)
    tril_ = in_place(shapes.tril)
    triu_ = in_place(shapes.triu)
