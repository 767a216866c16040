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
from rung import linalg, masked, special, windows
from rung.nn import functional as F
from tests.oracle import adapt as a
from tests.oracle.adapt_linalg import LINALG
from tests.oracle.unmapped import UNMAPPED

T = rung.Tensor
Table = dict[str, Callable[..., Any]]


def _named(owner: Any, names: str, prefix: str = "") -> Table:
    """Names that are the same here."""
    return {prefix + name: getattr(owner, name) for name in names.split()}


_MAIN = _named(
    rung,
    """
    abs acos acosh addbmm addcdiv addcmul addmm addmv addr allclose angle argwhere as_strided
    asin asinh atan atan2 atanh baddbmm bitwise_and bitwise_left_shift bitwise_or
    bitwise_right_shift bitwise_xor block_diag bmm broadcast_shapes broadcast_to cartesian_prod
    cat cdist ceil chunk clamp_max clamp_min column_stack combinations conj copysign corrcoef
    cos cosh cov cummax cummin deg2rad diag_embed diagonal_scatter digamma dist dot dsplit
    dstack erf erfc erfinv exp exp2 expm1 fliplr flipud float_power floor floor_divide fmax fmin
    fmod frac frexp full_like gcd heaviside histc hsplit hstack hypot i0 imag index_add
    index_copy index_fill index_put index_reduce index_select inner isclose isfinite isinf isnan
    isneginf isposinf isreal kron kthvalue lcm ldexp lerp lgamma log log10 log1p log2 logaddexp
    logaddexp2 logcumsumexp logical_and logical_not logical_or logical_xor logit masked_fill
    masked_scatter masked_select matmul maximum median minimum mm mode msort mv nan_to_num
    nanmedian narrow nextafter ones_like outer positive pow put rad2deg ravel real reciprocal
    remainder renorm reshape rot90 rsqrt scatter scatter_add scatter_reduce select
    select_scatter sigmoid sign signbit sin sinc sinh slice_scatter sqrt square stack take
    take_along_dim tan tanh tensor_split tril tril_indices triu triu_indices trunc unravel_index
    vsplit vstack xlogy zeros_like
    """,
)

_RENAMED: Table = {
    "add": T.add,
    "aminmax": a.reducing(rung.aminmax),
    "all": a.reducing(rung.all),
    "amax": a.reducing(rung.max),
    "amin": a.reducing(rung.min),
    "any": a.reducing(rung.any),
    "arange": a.arange,
    "argmax": a.argument(rung.argmax),
    "argmin": a.argument(rung.argmin),
    "argsort": lambda x, *args, **options: a.sort(x, *args, **options)[1],
    "atleast_1d": a.of_list(rung.atleast_1d),
    "atleast_2d": a.of_list(rung.atleast_2d),
    "atleast_3d": a.of_list(rung.atleast_3d),
    "bincount": rung.bincount,
    "bitwise_not": rung.bitwise_invert,
    "bucketize": a.bucketize,
    "broadcast_tensors": rung.broadcast_arrays,
    "clamp": rung.clip,
    "conj": rung.conj,
    "count_nonzero": a.reducing(rung.count_nonzero),
    "cross": a.cross,
    "cumprod": a.cumulative(rung.cumprod),
    "cumsum": a.cumulative(rung.cumsum),
    "cumulative_trapezoid": a.trapezoid(rung.cumulative_trapezoid),
    "diag": a.diag,
    "diagflat": a.diagflat,
    "diagonal": T.diagonal,
    "diff": a.diff,
    "div": T.div,
    "empty": a.full_of(rung.empty),
    "empty_like": rung.empty_like,
    "eq": rung.equal,
    "eye": a.eye,
    "equal": rung.array_equal,
    "fill": a.fill,
    "flatten": a.flatten,
    "flip": a.flip,
    "full": a.full,
    "gather": a.at_least_one(rung.gather, 2),
    "ge": rung.greater_equal,
    "gradient": a.gradient,
    "gt": rung.greater,
    "histogram": a.histogram,
    "isin": a.isin,
    "le": rung.less_equal,
    "linspace": a.linspace,
    "log_softmax": a.in_dtype(rung.log_softmax),
    "logspace": a.logspace,
    "logsumexp": a.reducing(rung.logsumexp),
    "lt": rung.less,
    "max": a.extreme(rung.max, rung.argmax),
    "max/binary": rung.maximum,
    "mean": a.reducing(a.in_dtype(rung.mean)),
    "meshgrid": a.meshgrid,
    "min": a.extreme(rung.min, rung.argmin),
    "min/binary": rung.minimum,
    "movedim": rung.moveaxis,
    "mul": rung.multiply,
    "mvlgamma": special.multigammaln,
    "nanmean": a.reducing(a.in_dtype(rung.nanmean)),
    "nanquantile": a.quantile(rung.nanquantile),
    "nansum": a.reducing(rung.nansum),
    "narrow_copy": rung.narrow,
    "ne": rung.not_equal,
    "neg": rung.negative,
    "nonzero": a.nonzero,
    "norm": a.norm,
    "ones": a.full_of(rung.ones),
    "permute": T.permute,
    "permute_copy": T.permute,
    "polygamma": a.polygamma,
    "prod": a.reducing(rung.prod),
    "quantile": a.quantile(rung.quantile),
    "repeat": a.repeat,
    "repeat_interleave": a.repeat_interleave,
    "roll": a.roll,
    "round": T.round,
    "rsub": a.swapped(T.sub),
    "scalar_tensor": a.scalar_tensor,
    "searchsorted": a.searchsorted,
    "sgn": rung.sign,
    "slice": a.slice_of,
    "softmax": a.in_dtype(rung.softmax),
    "sort": a.sort,
    "split": a.split,
    "split_with_sizes": a.split,
    "split_with_sizes_copy": a.split,
    "squeeze": a.squeeze,
    "squeeze_copy": a.squeeze,
    "std": a.unbiased(rung.std),
    "std_mean": a.unbiased(rung.std_mean),
    "sub": T.sub,
    "sum": a.reducing(rung.sum),
    "tensordot": a.tensordot,
    "tile": rung.tile,
    "topk": a.topk,
    "trace": linalg.trace,
    "transpose": a.transpose,
    "transpose_copy": a.transpose,
    "trapezoid": a.trapezoid(rung.trapezoid),
    "trapz": a.trapezoid(rung.trapezoid),
    "true_divide": rung.divide,
    "unbind": rung.unstack,
    "unbind_copy": rung.unstack,
    "unfold": T.unfold,
    "unfold_copy": T.unfold,
    "unique": a.unique,
    "unique_consecutive": a.unique_consecutive,
    "unsafe_chunk": rung.chunk,
    "unsafe_split": a.split,
    "unsqueeze": a.unsqueeze,
    "unsqueeze_copy": a.unsqueeze,
    "var": a.unbiased(rung.var),
    "var_mean": a.unbiased(rung.var_mean),
    "vdot": rung.dot,
    "where": a.where,
    "view_copy": T.view,
    "zeros": a.full_of(rung.zeros),
    "constant_pad_nd": a.constant_pad,
}

_METHODS: Table = {
    **_named(
        T,
        """
        T bfloat16 bool byte char clone contiguous double expand expand_as float half int item
        long mT reshape_as short sum_to_size t unflatten view view_as
        """,
    ),
    "T": lambda x: x.T,
    "to": a.to,
    "H": lambda x: x.T,
    "mT": lambda x: x.mT,
    "mH": lambda x: x.mT,
    "t_copy": T.t,
    "zero_": a.on_copy(T.zero_),
    "alias_copy": T.clone,
    "as_strided_copy": rung.as_strided,
    "diagonal_copy": T.diagonal,
    "expand_copy": T.expand,
    "new_empty": a.like(rung.empty),
    "new_full": a.like(rung.full),
    "new_ones": a.like(rung.ones),
    "new_zeros": a.like(rung.zeros),
    "__getitem__": a.getitem,
    **_named(T, "__radd__ __rmul__ __rand__ __ror__ __rxor__"),
    **_named(T, "__rmatmul__ __rmod__ __rpow__ __rsub__"),
    "__rdiv__": T.__rtruediv__,
}

_LINALG: Table = {
    **LINALG,
    "linalg.cross": a.linalg_cross,
    "linalg.diagonal": T.diagonal,
    "linalg.matrix_norm": a.matrix_norm,
    "linalg.vecdot": a.vecdot,
    "linalg.vector_norm": a.vector_norm,
}

_SPECIAL: Table = {
    **_named(
        special,
        "entr erfcx i0e i1 i1e log_ndtr ndtr ndtri xlog1py zeta",
        "special.",
    ),
    "special.polygamma/special_polygamma_n_0": a.polygamma,
}

_MASKED: Table = {
    **{
        f"masked.{name}": a.masked(getattr(masked, name))
        for name in ["sum", "prod", "amax", "amin", "mean", "logsumexp"]
    },
    **_named(masked, "softmax log_softmax softmin logaddexp", "masked."),
    "masked.argmax": a.masked_argument(masked.argmax),
    "masked.argmin": a.masked_argument(masked.argmin),
    "masked.cumprod": a.masked_along(masked.cumprod),
    "masked.cumsum": a.masked_along(masked.cumsum),
    "masked.median": a.masked_median,
    "masked.normalize": a.masked_normalize,
    "masked.norm": a.masked_norm,
    "masked.std": a.masked_unbiased(masked.std),
    "masked.var": a.masked_unbiased(masked.var),
}

_WINDOWS: Table = _named(
    windows,
    """
    bartlett blackman cosine exponential gaussian general_cosine general_hamming hamming hann
    kaiser nuttall
    """,
    "signal.windows.",
)

_NN: Table = {
    **_named(
        F,
        """
        adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
        adaptive_max_pool2d adaptive_max_pool3d avg_pool1d avg_pool2d avg_pool3d bilinear
        binary_cross_entropy celu channel_shuffle conv1d conv2d conv3d conv_transpose1d
        conv_transpose2d conv_transpose3d cosine_embedding_loss cross_entropy elu
        feature_alpha_dropout gaussian_nll_loss gelu glu group_norm hardshrink hardsigmoid
        hardswish hardtanh hinge_embedding_loss huber_loss instance_norm kl_div l1_loss
        layer_norm leaky_relu linear local_response_norm logsigmoid margin_ranking_loss
        max_pool1d max_pool2d max_pool3d max_unpool1d max_unpool2d max_unpool3d mish mse_loss
        multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss nll_loss normalize
        pad pairwise_distance pixel_shuffle pixel_unshuffle poisson_nll_loss prelu relu relu6
        rms_norm selu silu smooth_l1_loss soft_margin_loss softplus softshrink softsign
        tanhshrink threshold triplet_margin_loss unfold
        """,
        "nn.functional.",
    ),
    "nn.functional.batch_norm": a.batch_norm,
    "nn.functional.binary_cross_entropy_with_logits": a.bcewl,
    "nn.functional.ctc_loss": F.ctc_loss,
    "nn.functional.embedding": a.embedding(F.embedding),
    "nn.functional.embedding_bag": a.embedding(F.embedding_bag),
    "nn.functional.cosine_similarity": a.flattened_scalar(F.cosine_similarity),
    "nn.functional.one_hot": a.one_hot,
    "nn.functional.scaled_dot_product_attention": a.attention,
    "nn.functional.interpolate": a.interpolate,
    "nn.functional.normalize": a.flattened_scalar(F.normalize),
    "nn.functional.triplet_margin_with_distance_loss": a.triplet,
    "nn.functional.pdist": rung.pdist,
    "nn.functional.softmin": a.in_dtype(F.softmin),
    "nn.functional.upsample_bilinear": a.upsample("bilinear"),
    "nn.functional.upsample_nearest": a.upsample("nearest"),
}

TABLE: Table = {
    **_MAIN, **_RENAMED, **_METHODS, **_LINALG, **_SPECIAL, **_MASKED, **_WINDOWS, **_NN,
}  # fmt: skip

UNDEFINED_CONTENTS = ("empty", "empty_like", "new_empty")
"""Operators whose results have any contents: shape and dtype are compared."""


def _expected(*lines: tuple[str, str]) -> list[tuple[re.Pattern[str], str]]:
    return [(re.compile(pattern), reason) for pattern, reason in lines]


EXPECTED = _expected(
    (
        r"nn.functional.max_unpool\dd float\d\d \d+ (compiled )?gradient",
        "where several elements go to one place, torch passes the derivative of the one that stays "
        "to all of them",
    ),
    (
        r"tensordot \w+ \d+ value: ShapeError: dot_general: contracted dims differ",
        "torch sums one side where the other has length 1; here the lengths must be equal",
    ),
    (
        r"logcumsumexp float64 \d+ forward: Mismatch",
        "torch adds 1e-13 to denominators in forward mode",
    ),
    (r"gather \w+ \d+ value: ShapeError", "torch takes an empty index of another rank"),
    (r"cat \w+ \d+ value: AxisError", "torch leaves out empty vectors among matrices"),
    (r"prod bool \d+ value: DTypeError", "arithmetic on bool is an error here"),
    (
        r"linalg.cholesky float64 \d+ forward|"
        r"linalg.(eigvalsh|pinv/hermitian) \w+ \d+ (compiled )?value: Mismatch",
        "of matrices that are not symmetric the symmetric part counts here, one triangle in torch",
    ),
    (
        r"nn.functional.ctc_loss float\d\d \d+ (compiled )?gradient",
        "torch's derivative takes for granted that log_softmax made the input",
    ),
    (
        r"cholesky_solve float\d\d \d+ (compiled )?(gradient|forward)",
        "torch gives derivatives by the triangle that is not read, too",
    ),
    (
        r"linalg.norm/subgradients_at_zero float\d\d \d+ (compiled )?(gradient|forward)",
        "norms of negative orders have no derivative at 0; torch says 0",
    ),
    (r"nn.functional.batch_norm \w+ \d+ value: ShapeError", "a vector has no channels"),
    (
        r"arange \w+ \d+ value: Mismatch",
        "torch counts the steps of float bounds in integers, and lets negative numbers wrap in u8",
    ),
)
"""What a line about a failure begins with, and why that is no fault."""

FLOATS_ALONE = "int64 int32 uint8 bool"
LEFT_OUT: list[tuple[str, str, str]] = [
    (
        "arithmetic on bool is an error here, as in the array API",
        "bool",
        """
        mul maximum minimum fmin fmax max/binary min/binary __radd__ __rmul__ square sign sgn
        outer kron conj real diff clamp_min clamp_max index_add sum_to_size positive inner
        """,
    ),
    (
        "layers and losses compute in floats here, integers give floats",
        FLOATS_ALONE,
        """
        nn.functional.avg_pool1d nn.functional.avg_pool2d nn.functional.avg_pool3d
        nn.functional.bilinear nn.functional.conv1d nn.functional.conv2d nn.functional.conv3d
        nn.functional.conv_transpose1d nn.functional.conv_transpose2d
        nn.functional.conv_transpose3d nn.functional.cosine_embedding_loss
        nn.functional.feature_alpha_dropout/without_train nn.functional.hardtanh
        nn.functional.interpolate/area nn.functional.interpolate/bicubic
        nn.functional.interpolate/bilinear nn.functional.interpolate/linear
        nn.functional.interpolate/nearest nn.functional.interpolate/nearest-exact
        nn.functional.interpolate/trilinear nn.functional.linear
        nn.functional.local_response_norm nn.functional.margin_ranking_loss
        nn.functional.pairwise_distance nn.functional.relu6 nn.functional.triplet_margin_loss
        nn.functional.triplet_margin_with_distance_loss nn.functional.upsample_bilinear
        nn.functional.upsample_nearest masked.logsumexp
        """,
    ),
    (
        "an integer beside a float factor becomes a float here; torch drops its fraction",
        "int64 int32 uint8",
        "addmv addbmm baddbmm addmm addr addcmul",
    ),
    (
        "integers between two ends: torch rounds each half from its own end",
        "int64 int32 uint8",
        "linspace linspace/tensor_overload logspace logspace/tensor_overload",
    ),
    (
        "a Python integer that does not fit the dtype is an error here; torch lets it wrap",
        "uint8",
        "add sub rsub index_add full_like",
    ),
    ("-x of unsigned integers wraps before the cast in torch", "uint8", "nn.functional.softmin"),
    ("torch multiplies u8 in u8 here, but elsewhere in i64", "uint8", "masked.cumprod"),
    (
        "which of equal elements comes first is open in torch (ours is always stable)",
        "bfloat16 int64 int32 uint8 bool",
        "topk kthvalue mode sort argsort",
    ),
    (
        "differences of unsigned integers wrap in torch",
        "uint8",
        "trapz trapezoid cumulative_trapezoid",
    ),
    (
        "the weights of 16-bit attention are rounded to 16 bits before the second product",
        "bfloat16",
        "nn.functional.scaled_dot_product_attention",
    ),
    ("the loss of 16-bit logits is f32 here", "bfloat16", "nn.functional.cross_entropy"),
]
"""Dtypes in which an operator is not compared: the reason, the dtypes, the operators."""


def left_out(name: str, dtype: str) -> str | None:
    """Why an operator is not compared in a dtype."""
    for reason, dtypes, names in LEFT_OUT:
        among = names.split()
        if dtype in dtypes.split() and (name in among or name.partition("/")[0] in among):
            return reason
    return None


def reason_unmapped(name: str) -> str | None:
    """Why an operator has no counterpart."""
    for reason, names in UNMAPPED.items():
        for n in names.split():
            whole = name in (n, f"{n}/{name.partition('/')[2]}")
            if whole or (n.endswith("*") and name.startswith(n[:-1])):
                return reason
    return None
