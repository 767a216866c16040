"""`checkpoint`: what a function computes is not kept for its derivative, but computed once more.

    y = rung.checkpoint(block)(x)

In a pending graph the results pass through a node that knows what they were made from. Its reverse
rule makes the function's graph again, from operands that are there only once the cotangents of the
results are (`after`), and takes the derivative of that. A policy names values that are kept.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from rung.core.errors import RungError
from rung.ir.node import Node, Value
from rung.ir.subgraph import between, dependent
from rung.ops.composite import CompositeAttrs
from rung.ops.contraction import dot_general
from rung.ops.convolution import conv
from rung.tensor import tree
from rung.tensor.leaf import read_from_outside
from rung.tensor.operate import as_tensor
from rung.tensor.recompute import CHECKPOINT, NAME, CheckpointAttrs, NameAttrs, Policy
from rung.tensor.state import TensorState, graph_value, new_tensor, raw_value, state
from rung.tensor.tensor import Tensor

Function = Callable[..., Any]


# ---- policies


def save_nothing(nodes: Sequence[Node]) -> Sequence[Node]:
    """Everything is computed once more."""
    return ()


def save_everything(nodes: Sequence[Node]) -> Sequence[Node]:
    """Nothing is computed once more, as without `checkpoint`."""
    return nodes


def save_products(nodes: Sequence[Node]) -> Sequence[Node]:
    """Products and convolutions are kept, also within composites such as `linear`."""
    return [n for n in nodes if _has_product(n)]


def _has_product(node: Node) -> bool:
    if node.op in (dot_general, conv):
        return True
    attrs = node.attrs
    return isinstance(attrs, CompositeAttrs) and any(map(_has_product, attrs.body.nodes))


def save_names(*names: str) -> Policy:
    """What has one of these names: given by `checkpoint_name`, or the results of composites
    ("attention", "linear", "layer_norm", …)."""

    def policy(nodes: Sequence[Node]) -> Sequence[Node]:
        kept: list[Node] = []
        for node in nodes:
            attrs = node.attrs
            if isinstance(attrs, NameAttrs) and attrs.name in names:
                kept += [node, node.inputs[0].node]  # a derivative may read the one or the other
            elif isinstance(attrs, CompositeAttrs) and attrs.name in names:
                kept.append(node)
        return kept

    return policy


def checkpoint_name(x: Any, name: str) -> Tensor:
    """x under a name, for `save_names`; the identity otherwise."""
    tensor = as_tensor(x)
    (value,) = NAME.build([graph_value(tensor)], NameAttrs(name))
    return new_tensor(value, requires_grad=tensor._requires_grad)


def save_within(nbytes: int) -> Policy:
    """What costs most to compute for its size is kept, up to `nbytes` bytes in all."""

    def policy(nodes: Sequence[Node]) -> Sequence[Node]:
        kept: list[Node] = []
        left = nbytes
        for node in sorted(nodes, key=_work_for_size, reverse=True):
            size = sum(t.nbytes for t in node.types)
            if _work_for_size(node) > 1 and size <= left:
                kept.append(node)
                left -= size
        return kept

    return policy


def _work_for_size(node: Node) -> float:
    """Operations for each byte of the results."""
    cost = node.op.cost(node.attrs, [v.type for v in node.inputs], list(node.types))
    return cost.flops / max(sum(t.nbytes for t in node.types), 1)


POLICIES: dict[str, Policy] = {
    "nothing": save_nothing,
    "everything": save_everything,
    "products": save_products,
}


# ---- the user's side


def checkpoint(function: Function, *, policy: str | Policy = "nothing") -> Function:
    """`function`, whose inner values are computed once more for the reverse derivative instead of
    kept: less memory, more time, the same numbers.

    Arguments and results are trees of tensors; tensors that it reads from outside (parameters) get
    their gradients as ever. `policy` says what is kept all the same: "nothing", "products" (of
    matrices, and convolutions), "everything", `save_names(name, …)`, `save_within(bytes)`, or
    any function that picks of the nodes whose results the derivative reads. Raises RungError for an
    unknown policy."""
    chosen = POLICIES.get(policy) if isinstance(policy, str) else policy
    if chosen is None:
        raise RungError(
            f"checkpoint: unknown policy {policy!r}", fix=f"policies: {', '.join(POLICIES)}"
        )

    @functools.wraps(function)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        if not state.grad_enabled or chosen is save_everything:
            return result
        given = [x for x in tree.leaves((args, kwargs)) if isinstance(x, TensorState)]
        return _marked(result, [graph_value(t) for t in given], chosen)

    return checkpointed


def _marked(result: Any, inputs: Sequence[Value], policy: Policy) -> Any:
    """The results, behind a node that can make them again."""
    leaves, structure = tree.flatten(result)
    tensors = [as_tensor(x) for x in leaves]
    values = [raw_value(t) for t in tensors]
    nodes = between(values, inputs)
    inner = dependent(nodes, inputs)
    marked = [i for i, v in enumerate(values) if v in inner and v not in inputs]
    if not marked:
        return result
    edge = [*dict.fromkeys(inputs), *read_from_outside(nodes, inner)]
    attrs = CheckpointAttrs(policy, len(marked))
    made = CHECKPOINT.build([*(values[i] for i in marked), *edge], attrs)
    for i, value in zip(marked, made, strict=True):
        tensors[i] = new_tensor(value, requires_grad=tensors[i]._requires_grad)
    return tree.unflatten(structure, tensors)
