"""Which function of ours is meant by which operator of torch.

`TABLE` has a function for a name (`max`, for all variants) or a name with its variant
(`max/binary`). A function here renames and reorders arguments, nothing else. Every other operator
has a reason in `UNMAPPED`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import rung
from tests.oracle import adapt
from tests.oracle.adapt import along, reducing
from tests.oracle.unmapped import UNMAPPED

F = rung.nn.functional
T = rung.Tensor

_SAME = """
abs acos acosh asin asinh atan atan2 atanh bitwise_left_shift bitwise_right_shift ceil positive conj
copysign cos cosh diff diagonal remainder floor floor_divide imag real log log10 log1p log2
logaddexp logical_not logical_and logical_or logical_xor matmul maximum minimum bitwise_and
bitwise_or bitwise_xor nextafter outer pow sin sinh sign signbit tan tanh trunc exp exp2 expm1
reciprocal rsqrt sqrt square isfinite isinf isnan flatten hypot sigmoid erf where topk chunk
split stack zeros_like ones_like empty_like full_like full gather take
"""
_OTHER = {
    "negative": "neg",
    "equal": "eq",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "not_equal": "ne",
    "multiply": "mul",
    "clip": "clamp",
    "bitwise_invert": "bitwise_not",
    "permute_dims": "permute",
    "swapaxes": "transpose",
    "moveaxis": "movedim",
    "expand_dims": "unsqueeze",
    "unstack": "unbind",
}
_METHODS = "item clone contiguous expand reshape_as view view_as unflatten double float half int long bfloat16 bool T mT to"
_NN = """
softmin cross_entropy cosine_similarity adaptive_avg_pool1d adaptive_avg_pool2d
"""

TABLE: dict[str, Callable[..., Any]] = {}
UNDEFINED_CONTENTS = ("empty", "empty_like", "new_empty", "empty_permuted", "new_empty_strided",
                      "empty_strided")  # fmt: skip
"""Operators whose results have any contents: shape and dtype are compared."""
EXPECTED: list[tuple[re.Pattern[str], str]] = []


def reason_unmapped(name: str) -> str | None:
    """Why an operator has no counterpart."""
    for reason, names in UNMAPPED.items():
        for n in names.split():
            if name in (n, n.rstrip("*")) or name.partition("/")[0] == n:
                return reason
            if n.endswith("*") and name.startswith(n[:-1]):
                return reason
    return None
