"""A call for every public function that takes tensors: what its operands are, and the arguments
beside them.

    "linear": "f[...B,T] f[O,T] f[O]"        x, weight, bias; letters are lengths, drawn for a case

An operand is a kind and dims. Kinds: `f` floats, `p` positive ones, `u` within (0, 1), `s` within
(-1, 1), `g` above 1, `b` bools, `i` integers, `n` integers from 0, `m` from 1, `<C` positions along
a dim of length C, `w` a symmetric positive matrix, `l` a triangular one. Dims: letters, numbers, a
number and a letter (`2C`); `*` stands for dims that broadcast against those of the other operands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import rung
from rung import linalg, masked, random, special
from rung.nn import functional as F

Function = Callable[..., Any]


@dataclass(frozen=True)
class Call:
    """A way to call a function: kinds and dims of its operands, `build(*operands)`, and the modes
    that it can not have (`derive`, `map`), each with a reason."""

    name: str
    spec: str
    build: Function
    without: tuple[tuple[str, str], ...] = ()
    plain: bool = False
    """The function is called with the operands as they are."""

    def lacks(self, mode: str) -> bool:
        """Whether the mode is meaningless."""
        return any(mode == m for m, _ in self.without)


OWNERS: dict[str, Any] = {
    "": rung,
    "F.": F,
    "linalg.": linalg,
    "special.": special,
    "masked.": masked,
    "random.": random,
    "Tensor.": rung.Tensor,
}
CALLS: list[Call] = []
_GIVEN: dict[str, list[tuple[str, Function | None, Iterable[tuple[str, str]]]]] = {}
"""What `each` got for a name."""
SIZE = ("map", "the shape of the result depends on values")
WHOLE = ("derive", "the results are integers, bools, or piecewise constant")
LOOKS = ("map", "it looks at values")


def function_named(name: str) -> Function:
    """The function under `F.linear`, `linalg.inv`, `add`."""
    prefix = next(p for p in sorted(OWNERS, reverse=True) if name.startswith(p))
    found: Function = getattr(OWNERS[prefix], name.removeprefix(prefix))
    return found


def each(
    names: str, spec: str, build: Function | None = None, without: Iterable[tuple[str, str]] = ()
) -> None:
    """Calls of functions that are alike; `build(function, *operands)`, plainly called without."""
    for name in names.split():
        function = function_named(name)
        _GIVEN.setdefault(name, []).append((spec, build, without))

        def call(*operands: Any, function: Function = function) -> Any:
            return function(*operands) if build is None else build(function, *operands)

        CALLS.append(Call(name, spec, call, tuple(without), build is None))


# ---- element-wise

each("""abs angle asinh atan conj cos cosh deg2rad erf erfc exp exp2 expm1 negative positive rad2deg
real relu sigmoid sin sinc sinh square tanh i0 F.celu F.elu F.gelu F.hardshrink F.hardsigmoid
F.hardswish F.hardtanh F.leaky_relu F.logsigmoid F.mish F.relu6 F.rrelu F.selu F.silu F.softplus
F.softshrink F.softsign F.tanh F.tanhshrink special.erfcx special.i0e special.i1 special.i1e
special.log_ndtr special.ndtr nan_to_num""", "f[*]")  # fmt: skip
each("acos asin atanh tan erfinv", "s[*]")
each("acosh", "g[*]")
each("log log10 log1p log2 reciprocal rsqrt sqrt lgamma digamma special.entr", "p[*]")
each("logit special.ndtri", "u[*]")
each("special.multigammaln", "g[*]", lambda f, x: f(x, 2))
each("polygamma", "p[*]", lambda f, x: f(1, x))
each("ceil floor round trunc sign imag isfinite isinf isnan isneginf isposinf isreal signbit "
     "logical_not", "f[*]", without=[WHOLE])  # fmt: skip
each("frac", "f[*]")
each("frexp", "f[*]", lambda f, x: f(x)[0])
each("bitwise_invert", "i[*]", without=[WHOLE])
each("add subtract multiply maximum minimum hypot logaddexp logaddexp2 copysign fmax fmin atan2",
     "f[*] f[*]")  # fmt: skip
each("divide fmod remainder", "f[*] p[*]")
each("pow float_power", "p[*] f[*]")
each("xlogy special.xlog1py", "f[*] p[*]")
each("special.zeta", "g[*] p[*]", without=[("derive", "no derivative by x is promised")])
each("ldexp", "f[*] i[*]")
each("floor_divide equal not_equal less less_equal greater greater_equal logical_and logical_or "
     "logical_xor isclose nextafter", "f[*] f[*]", without=[WHOLE])  # fmt: skip
each("heaviside", "f[*] f[*]", without=[WHOLE])
each("bitwise_and bitwise_or bitwise_xor gcd lcm", "i[*] i[*]", without=[WHOLE])
each("bitwise_left_shift bitwise_right_shift", "i[*] n[*]", without=[WHOLE])
each("add multiply maximum", "i[*] i[*]", without=[WHOLE])
each("clip", "f[*] s[*] g[*]")
each("clip", "f[*]", lambda f, x: f(x, -0.5, 0.75))
each("clamp_max clamp_min", "f[*] f[*]")
each("where", "b[*] f[*] f[*]")
each("lerp addcmul", "f[*] f[*] f[*]")
each("addcdiv", "f[*] f[*] p[*]")
each("masked_fill", "f[A,B] b[B] f[]")
each("F.threshold", "f[*]", lambda f, x: f(x, 0.1, -2.0))
each("F.prelu", "f[A,C,B] f[C]")
each("F.prelu", "f[A,B] f[1]")
each("astype", "f[*]", lambda f, x: f(x, "f64"))
each("checkpoint_name", "f[*]", lambda f, x: f(x, "here"))
each("stop_gradient", "f[*]", without=[("derive", "it has none, which is its purpose")])
each("empty_like", "f[*]", lambda f, x: f(x).shape, [WHOLE, ("map", "the contents are undefined")])
each("ones_like zeros_like", "f[*]", without=[WHOLE])
each("full_like", "f[*]", lambda f, x: f(x, 3.0), [WHOLE])

# ---- reductions, order

each("sum mean prod logsumexp norm max min var std", "f[A,B]")
each("sum mean prod logsumexp norm max min var std nansum nanmean", "f[A,B,C]",
     lambda f, x: f(x, axis=1))  # fmt: skip
each("std_mean var_mean aminmax", "f[A,B]", lambda f, x: f(x, axis=-1, keepdims=True))
each("all any", "b[A,B]", lambda f, x: f(x, axis=0), [WHOLE])
each("count_nonzero argmax argmin", "f[A,B]", lambda f, x: f(x, axis=0), [WHOLE])
each("cumsum cumprod", "f[A,B]", lambda f, x: f(x, axis=0))
each("cummax cummin logcumsumexp", "f[A,B]", lambda f, x: f(x, 1))
each("diff", "f[A,B] f[A,2] f[A,1]", lambda f, x, a, b: f(x, axis=1, prepend=a, append=b))
each("diff", "f[A] f[A]", lambda f, x, y: f(x, prepend=y))
each("softmax log_softmax F.softmin sort msort", "f[A,B]")
each("argsort", "f[A,B]", without=[WHOLE])
each("kthvalue topk", "f[A,3]", lambda f, x: f(x, 2))
each("median nanmedian", "f[A,B]", lambda f, x: f(x, axis=1))
each("mode", "f[A,B]")
each("quantile nanquantile", "f[A,B] u[2]", lambda f, x, q: f(x, q, axis=1))
each("searchsorted bucketize", "f[A] f[B]", lambda f, x, y: f(
    *((x.sort(), y) if f is rung.searchsorted else (y, x.sort()))), [WHOLE])  # fmt: skip
each("isin", "i[A,B] i[C]", without=[WHOLE])
each("trapezoid cumulative_trapezoid", "f[A,B] f[B]")
each("gradient", "f[A,4]", lambda f, x: f(x, axis=1))
each("cov corrcoef", "f[3,4]")
each("cov", "f[2,4] m[4] p[4]", lambda f, x, n, w: f(x, fweights=n, aweights=w))
each("histc", "f[A]", lambda f, x: f(x, 4, -3, 3), [WHOLE])
each("histogram", "f[A] p[A]", lambda f, x, w: f(x, 4, (-3.0, 3.0), w)[0], [WHOLE])
each("bincount", "n[A] p[A]", lambda f, x, w: f(x, w, length=6))
each("unique", "i[A,B]", without=[WHOLE, SIZE])
each("unique_all unique_consecutive unique_counts unique_inverse unique_values", "i[A]",
     without=[WHOLE, SIZE])  # fmt: skip
each("nonzero argwhere", "f[A,B]", without=[WHOLE, SIZE])
each("allclose array_equal", "f[A,B] f[A,B]", without=[WHOLE, LOOKS])
each("renorm", "f[A,B]", lambda f, x: f(x, 2.0, 0, 1.0))

# ---- shapes

each("flatten ravel squeeze fliplr flipud matrix_transpose tril triu rot90 flip", "f[A,B]")
each("diagonal tril triu", "f[A,B,C]")
each("broadcast_to", "f[B]", lambda f, x: f(x, (3, *x.shape)))
each("expand_dims", "f[A,B]", lambda f, x: f(x, 1))
each("reshape", "f[A,B]", lambda f, x: f(x, (-1,)) if x.size else f(x, (0,)))
each("permute_dims", "f[A,B,C]", lambda f, x: f(x, (2, 0, 1)))
each("moveaxis swapaxes", "f[A,B,C]", lambda f, x: f(x, 0, 2))
each("roll", "f[A,B]", lambda f, x: f(x, 1, axis=1))
each("tile", "f[A,B]", lambda f, x: f(x, (2, 1)))
each("repeat", "f[A,B]", lambda f, x: f(x, 2, axis=1))
each("pad", "f[A,B]", lambda f, x: f(x, ((1, 0), (2, 1))))
each("unstack", "f[2,B]")
each("split chunk tensor_split", "f[4,B]", lambda f, x: f(x, 2))
each("hsplit", "f[A,4]", lambda f, x: f(x, 2))
each("vsplit", "f[4,A]", lambda f, x: f(x, 2))
each("dsplit", "f[A,B,4]", lambda f, x: f(x, 2))
each("cat", "f[A,B] f[C,B] f[A,B]", lambda f, *x: f(x, axis=0))
each("stack column_stack dstack hstack vstack", "f[A,B] f[A,B] f[A,B]", lambda f, *x: f(x))
each("block_diag", "f[A,B] f[A,B] f[C]")
each("broadcast_arrays", "f[*] f[*]")
each("meshgrid cartesian_prod", "f[A] f[A]")
each("atleast_1d atleast_2d atleast_3d", "f[A] f[]")
each("combinations", "f[A]")
each("diag diagflat diag_embed", "f[A]")
each("as_strided", "f[3,4]", lambda f, x: f(x.reshape(3, 4), (2, 2), (4, 1), 1))
each("narrow", "f[A,4]", lambda f, x: f(x, 1, 1, 2))
each("narrow", "f[A,4] n[]", lambda f, x, at: f(x, 1, rung.minimum(at, 2), 2))
each("select", "f[A,3]", lambda f, x: f(x, 1, 2))
each("diagonal_scatter", "f[A,A] f[A]")
each("select_scatter", "f[A,3] f[A]", lambda f, x, y: f(x, y, 1, 1))
each("slice_scatter", "f[4,A] f[2,A]", lambda f, x, y: f(x, y, 0, 1, 3))

# ---- picking

each("take index_select", "f[C,A] <C[B]", lambda f, x, i: (
    f(x, i, axis=0) if f is rung.take else f(x, 0, i)))  # fmt: skip
each("take_along_axis", "f[C,A] <C[B,A]", lambda f, x, i: f(x, i, axis=0))
each("take_along_dim", "f[C,A] <C[B,A]", lambda f, x, i: f(x, i, 0))
each("gather", "f[C,A] <C[B,A]", lambda f, x, i: f(x, 0, i))
each("index_add index_copy", "f[C,A] <C[C] f[C,A]", lambda f, x, i, y: f(
    x, 0, i if f is rung.index_add else i.argsort(), y))  # fmt: skip
each("index_fill", "f[C,A] <C[B] f[]", lambda f, x, i, v: f(x, 0, i, v))
each("index_put", "f[C,A] <C[B] f[B,A]", lambda f, x, i, y: f(x, (i,), y, accumulate=True))
each("index_reduce", "f[C,A] <C[C] f[C,A]", lambda f, x, i, y: f(x, 0, i, y, "amax"))
each("put", "f[C] <C[B] f[B]", lambda f, x, i, y: f(x, i, y, accumulate=True))
each("scatter", "f[C,A] <C[C,A] f[C,A]", lambda f, x, i, y: f(x, 0, i.argsort(axis=0), y))
each("scatter_add", "f[C,A] <C[C,A] f[C,A]", lambda f, x, i, y: f(x, 0, i, y))
each("scatter_reduce", "p[C,A] <C[C,A] p[C,A]", lambda f, x, i, y: f(x, 0, i, y, "prod"))
each("masked_select", "f[A,B] b[A,B]", without=[SIZE])
each("masked_scatter", "f[A,B] b[A,B] f[A,B]")
each("one_hot", "n[A]", lambda f, x: f(x, 6), [WHOLE])
each("unravel_index", "n[A]", lambda f, x: f(x, (2, 3)), [WHOLE])

# ---- products

each("matmul", "f[*,A,B] f[*,B,A]")
each("matmul", "f[A] f[A]")
each("mm", "f[A,B] f[B,C]")
each("mv", "f[A,B] f[B]")
each("bmm", "f[N,A,B] f[N,B,C]")
each("dot inner vecdot outer kron", "f[A] f[A]")
each("inner", "f[A,B] f[C,B]")
each("kron", "f[A,B] f[B,A]")
each("tensordot", "f[A,B,C] f[B,C,A]")
each("einsum", "f[A,B] f[B,A] f[A]", lambda f, x, y, z: f("ab,ba,a->b", x, y, z))
each("einsum", "f[A,A]", lambda f, x: f("ii->i", x))
each("addmm", "f[A,C] f[A,B] f[B,C]")
each("addmv", "f[A] f[A,B] f[B]")
each("addr", "f[A,B] f[A] f[B]")
each("addbmm", "f[A,C] f[N,A,B] f[N,B,C]")
each("baddbmm", "f[N,A,C] f[N,A,B] f[N,B,C]")
each("cdist", "f[A,B] f[C,B]")
each("pdist", "f[A,B]")
each("dist", "f[*] f[*]")
each("linalg.multi_dot", "f[A,B] f[B,A] f[A,B]", lambda f, *x: f(x))
each("linalg.cross", "f[A,3] f[A,3]")

# ---- matrices

each("linalg.trace linalg.det linalg.slogdet linalg.inv linalg.matrix_norm linalg.eigvalsh "
     "linalg.svdvals linalg.cholesky linalg.cond", "w[N,A,A]")  # fmt: skip
each("linalg.norm", "f[A,B]")
each("linalg.matrix_norm", "f[A,B]", lambda f, x: f(x, ord=1))
each("linalg.vector_norm", "f[A,B]", lambda f, x: f(x, axis=1, ord=3))
each("linalg.matrix_power", "f[A,A]", lambda f, x: f(x, 3))
each("linalg.matrix_rank", "w[A,A]", without=[WHOLE])
each("linalg.pinv", "w[A,A]")
each("linalg.eigh", "w[A,A]", lambda f, x: f(x)[0])
each("linalg.svd", "w[A,A]", lambda f, x: f(x)[1])
each("linalg.qr", "w[A,A]", lambda f, x: abs(f(x)[1]))
each("linalg.solve", "w[A,A] f[A,B]")
each("linalg.lstsq", "w[A,A] f[A,B]", lambda f, a, b: f(a, b)[0])
each("linalg.cholesky_solve", "f[A,B] l[A,A]")
each("linalg.solve_triangular", "l[A,A] f[A,B]")

# ---- masked

MASKED = "masked.amax masked.amin masked.mean masked.norm masked.prod masked.std masked.sum "
each(MASKED + "masked.var masked.logsumexp masked.median", "f[A,B] b[A,B]",
     lambda f, x, m: f(x, axis=1, mask=_some(m)))  # fmt: skip
each("masked.softmax masked.log_softmax masked.softmin masked.cumsum masked.cumprod",
     "f[A,B] b[A,B]", lambda f, x, m: rung.nan_to_num(f(x, 1, mask=_some(m))))  # fmt: skip
each("masked.normalize", "f[A,B] b[A,B]", lambda f, x, m: f(x, 2.0, 1, mask=_some(m)))
each("masked.argmax masked.argmin", "f[A,B] b[A,B]",
     lambda f, x, m: f(x, axis=1, mask=_some(m)), [WHOLE])  # fmt: skip
each("masked.logaddexp", "f[A,B] f[A,B] b[A,B]",
     lambda f, x, y, m: f(x, y, input_mask=_some(m), other_mask=_some(m)))  # fmt: skip


def _some(mask: Any) -> Any:
    """The mask with the first two of each row true: a deviation of one element has a kink."""
    return rung.logical_or(mask, rung.arange(mask.shape[-1]) < 2)


# ---- layers

each("F.linear", "f[*,T] f[O,T] f[O]")
each("F.linear", "f[A,T] f[A,T]")
each("F.bilinear", "f[N,A] f[N,B] f[O,A,B] f[O]")
each("F.embedding", "<C[A,B] f[C,D]")
each("F.embedding_bag", "<C[A,B] f[C,D]")
each("F.layer_norm", "f[A,B,3] f[3] f[3]", lambda f, x, w, b: f(x, 3, w, b))
each("F.rms_norm", "f[A,3] f[3]", lambda f, x, w: f(x, 3, w))
each("F.group_norm", "f[N,4,B] f[4] f[4]", lambda f, x, w, b: f(x, 2, w, b))
each("F.instance_norm", "f[N,C,3] f[C] f[C]", lambda f, x, w, b: f(x, None, None, w, b))
each("F.batch_norm", "f[3,C,B] f[C] p[C] f[C] f[C]", lambda f, *x: f(*x))
each("F.batch_norm", "f[3,C,B] f[C] f[C]", lambda f, x, w, b: f(x, None, None, w, b, True))
each("F.local_response_norm", "f[N,3,B]", lambda f, x: f(x, 2))
each("F.normalize", "f[A,B]")
each("F.cosine_similarity F.pairwise_distance", "f[A,B] f[A,B]")
each("F.attention F.scaled_dot_product_attention", "f[N,2,T,D] f[N,2,S,D] f[N,2,S,E]")
each("F.scaled_dot_product_attention", "f[N,T,D] f[N,T,D] f[N,T,D]",
     lambda f, q, k, v: f(q, k, v, is_causal=True))  # fmt: skip
each("F.attention", "f[1,T,T] f[1,T,T] f[1,T,T] f[T,T]")
each("F.glu", "f[A,4]")
each("F.dropout F.alpha_dropout F.dropout1d", "f[N,C,B]",
     lambda f, x: f(x, 0.3, training=True, key=rung.random.key(7)))  # fmt: skip
each("F.dropout2d F.feature_alpha_dropout", "f[N,C,A,B]",
     lambda f, x: f(x, 0.3, training=True, key=rung.random.key(7)))  # fmt: skip
each("F.dropout3d", "f[N,C,A,B,2]",
     lambda f, x: f(x, 0.3, training=True, key=rung.random.key(7)))  # fmt: skip
each("F.channel_shuffle", "f[N,4,A,B]", lambda f, x: f(x, 2))
each("F.pixel_shuffle", "f[N,4,A,B]", lambda f, x: f(x, 2))
each("F.pixel_unshuffle", "f[N,C,2A,2B]", lambda f, x: f(x, 2))
each("F.interpolate", "f[N,C,A,B]", lambda f, x: f(x, scale_factor=2.0, mode="bilinear"))
each("F.pad", "f[N,C,4]", lambda f, x: f(x, (1, 2), mode="reflect"))

# ---- convolution and pooling

each("F.conv1d", "f[N,C,4] f[O,C,3] f[O]", lambda f, *x: f(*x, padding=1))
each("F.conv1d", "f[3,3,3] f[3,3,3]", lambda f, *x: f(*x, padding=1))
each("F.conv2d", "f[N,C,4,3] f[O,C,2,2] f[O]")
each("F.conv3d", "f[N,C,3,3,3] f[O,C,2,2,2] f[O]")
each("F.conv_transpose1d", "f[N,C,3] f[C,O,2] f[O]", lambda f, *x: f(*x, stride=2))
each("F.avg_pool1d F.max_pool1d", "f[N,C,4]", lambda f, x: f(x, 2))
each("F.avg_pool2d F.max_pool2d", "f[N,C,4,5]", lambda f, x: f(x, 2))
each("F.avg_pool3d F.max_pool3d", "f[N,C,4,5,2]", lambda f, x: f(x, 2))
each("F.lp_pool1d", "p[N,C,4]", lambda f, x: f(x, 2.0, 2))
each("F.lp_pool2d", "p[N,C,4,5]", lambda f, x: f(x, 2.0, 2))
each("F.lp_pool3d", "p[N,C,4,5,2]", lambda f, x: f(x, 2.0, 2))
each("F.adaptive_avg_pool1d F.adaptive_max_pool1d", "f[N,C,5]", lambda f, x: f(x, 2))
each("F.adaptive_avg_pool2d F.adaptive_max_pool2d", "f[N,C,5,4]", lambda f, x: f(x, 2))
each("F.adaptive_avg_pool3d F.adaptive_max_pool3d", "f[N,C,5,4,3]", lambda f, x: f(x, 2))
each("F.global_avg_pool", "f[N,C,A,B]")
each("F.max_unpool1d", "f[N,C,4]", lambda f, x: f(*F.max_pool1d(x, 2, return_indices=True), 2))
each("F.max_unpool2d", "f[N,C,4,4]",
     lambda f, x: f(*F.max_pool2d(x, 2, return_indices=True), 2))  # fmt: skip
each("F.max_unpool3d", "f[N,C,4,4,2]",
     lambda f, x: f(*F.max_pool3d(x, 2, return_indices=True), 2))  # fmt: skip
each("F.unfold", "f[N,C,3,4]", lambda f, x: f(x, 2))
each("F.fold", "f[N,8,4]", lambda f, x: f(x, (3, 3), 2))

# ---- losses

each("F.mse_loss F.l1_loss F.huber_loss F.smooth_l1_loss F.poisson_nll_loss "
     "F.hinge_embedding_loss F.soft_margin_loss F.binary_cross_entropy_with_logits",
     "f[A,B] f[A,B]")  # fmt: skip
each("F.binary_cross_entropy", "u[A,B] u[A,B]")
each("F.binary_cross_entropy", "u[A,B] u[A,B] p[A,B]")
each("F.binary_cross_entropy_with_logits", "f[A,B] u[A,B] p[A,B]")
each("F.kl_div", "f[A,B] u[A,B]")
each("F.gaussian_nll_loss", "f[A,B] f[A,B] p[A,B]")
each("F.cross_entropy", "f[A,C] <C[A] p[C]")
each("F.cross_entropy", "f[A,B] f[A,B]")
each("F.nll_loss", "f[A,C] <C[A] p[C]")
each("F.multi_margin_loss", "f[A,C] <C[A]")
each("F.multilabel_margin_loss", "f[A,C] <C[A,C]")
each("F.multilabel_soft_margin_loss", "f[A,C] u[A,C]")
each("F.margin_ranking_loss", "f[A] f[A] f[A]")
each("F.cosine_embedding_loss", "f[A,B] f[A,B] b[A]",
     lambda f, x, y, t: f(x, y, rung.where(t, 1, -1)))  # fmt: skip
each("F.triplet_margin_loss F.triplet_margin_with_distance_loss", "f[A,B] f[A,B] f[A,B]")
each("F.ctc_loss", "f[4,2,3]", lambda f, x: f(
    rung.log_softmax(x), rung.tensor([[1, 2], [2, 1]]), (4, 3), (2, 1)))  # fmt: skip

# ---- random numbers from operands, with a key

each("random.bernoulli", "u[A,B]", lambda f, x: f(x, key=rung.random.key(3)), [WHOLE])
each("random.categorical", "f[A,B]", lambda f, x: f(x, key=rung.random.key(3)), [WHOLE])
each("random.choice", "f[3,A]", lambda f, x: f(x, (2,), key=rung.random.key(3)))
each("random.fold_in", "n[]", lambda f, x: f(rung.random.key(3), x), [WHOLE])
each("random.split", "n[]", lambda f, x: f(rung.random.fold_in(rung.random.key(3), x)), [WHOLE])
each("randperm", "f[A]", lambda f, x: f(x, key=rung.random.key(3)))

# ---- control flow

each("scan", "f[A] f[3,A]", lambda f, c, xs: f(lambda c, x: (c * x.sin() + c, c * x), c, xs))
each("scan", "f[A] f[A]", lambda f, c, k: f(lambda c, _: (c * k.sin(), c), c, length=3))
each("fori_loop", "f[A] f[A]", lambda f, c, k: f(0, 3, lambda i, c: c * k.cos() + i, c))
each("while_loop", "f[A] f[A]", lambda f, c, k: f(
    lambda c: (c * c).sum() < 40, lambda c: c + k * k + 0.5, c, limit=5))  # fmt: skip
each("map", "f[3,A] f[3,A]", lambda f, x, y: f(lambda x, y: x * y.sin(), x, y))
each("associative_scan", "f[3,A]", lambda f, x: f(lambda a, b: a * b + a, x))
each("cond", "f[A] f[A]", lambda f, x, y: f(
    x.sum() > 0, lambda x, y: x * y, lambda x, y: x.sin() - y, x, y))  # fmt: skip
each("switch", "f[A] f[A] n[]", lambda f, x, y, i: f(
    i % 3, [lambda x, y: x * y, lambda x, y: x - y, lambda x, y: y * 2], x, y))  # fmt: skip

# ---- methods that are no functions, operators, indexing, updates in place

each("Tensor.__add__ Tensor.__sub__ Tensor.__mul__ Tensor.__rsub__ Tensor.__radd__ Tensor.__rmul__",
     "f[*] f[*]", lambda f, x, y: f(x, y))  # fmt: skip
each("Tensor.__truediv__ Tensor.__mod__ Tensor.__rpow__", "f[*] p[*]", lambda f, x, y: f(x, y))
each("Tensor.__rtruediv__ Tensor.__pow__", "p[*] f[*]", lambda f, x, y: f(x, y))
each("Tensor.__matmul__ Tensor.__rmatmul__", "f[A,A] f[A,A]", lambda f, x, y: f(x, y))
each("Tensor.__floordiv__", "f[*] p[*]", lambda f, x, y: f(x, y), [WHOLE])
each("Tensor.__neg__ Tensor.__abs__ Tensor.__pos__", "f[*]", lambda f, x: f(x))
each("Tensor.add Tensor.subtract Tensor.sub", "f[*] f[*]", lambda f, x, y: f(x, y, alpha=2))
each("Tensor.divide Tensor.div", "f[*] p[*]", lambda f, x, y: f(x, y))
each("Tensor.where", "f[A,B] b[A,B] f[A,B]", lambda f, x, c, y: f(x, c, y))
each("Tensor.round", "f[*]", lambda f, x: f(x, 1), [WHOLE])
each("Tensor.diagonal", "f[A,B,C]", lambda f, x: f(x, 0, 0, 2))
each("Tensor.expand Tensor.tile", "f[A,B]", lambda f, x: f(x, 2, *x.shape))
each("Tensor.expand_as Tensor.view_as Tensor.reshape_as", "f[A,B] f[A,B]",
     lambda f, x, y: f(x, y))  # fmt: skip
each("Tensor.permute Tensor.transpose", "f[A,B]", lambda f, x: f(x, 1, 0))
each("Tensor.view Tensor.reshape", "f[A,B]", lambda f, x: f(x, x.shape[1], x.shape[0]))
each("Tensor.t", "f[A,B]", lambda f, x: f(x))
each("Tensor.sum_to_size", "f[A,B]", lambda f, x: f(x, 1, x.shape[1]))
each("Tensor.unflatten", "f[4,A]", lambda f, x: f(x, 0, (2, 2)))
each("Tensor.unfold", "f[5,A]", lambda f, x: f(x, 0, 3, 2))
each("Tensor.clone Tensor.copy Tensor.double Tensor.contiguous", "f[A,B]", lambda f, x: f(x))
each("Tensor.__getitem__", "f[C,A] <C[B]", lambda f, x, i: f(x, i))
each("Tensor.__getitem__", "f[C,A] <C[B] <A[B]", lambda f, x, i, j: f(x, (i, j)))
each("Tensor.__getitem__", "f[A,B,3]", lambda f, x: f(x, (slice(None, None, -1), None, ..., 1)))
each("Tensor.__getitem__", "f[A,B] b[A]", lambda f, x, m: f(x, m), [SIZE])


def _updated(update: Function) -> Function:
    """`update(z, y)` of a copy z of x, also where y is x, and so the copy itself; gives z."""

    def build(f: Function, x: Any, *others: Any) -> Any:
        copy = x * 1
        update(f, copy, *(copy if y is x else y for y in others))
        return copy

    return build


each("Tensor.add_ Tensor.sub_ Tensor.mul_ Tensor.__iadd__ Tensor.__imul__ Tensor.__isub__ "
     "Tensor.copy_ Tensor.assign", "f[A,B] f[A,B]", _updated(lambda f, z, y: f(z, y)))  # fmt: skip
each("Tensor.div_ Tensor.__itruediv__", "f[A,B] p[A,B]", _updated(lambda f, z, y: f(z, y)))
each("Tensor.clamp_ Tensor.clip_", "f[A,B]", _updated(lambda f, z: f(z, -0.5, 0.75)))
each("Tensor.__setitem__", "f[C,A] f[C,A]", _updated(lambda f, z, y: f(z, slice(1, None), y[:-1])))
each("Tensor.__setitem__", "f[C,A] <C[] f[A]", _updated(lambda f, z, i, y: f(z, i, y)))


def _each_update(names: str) -> None:
    """Methods that put the result of the function of the name into the tensor: its calls, with
    operands that do not broadcast the first one."""
    for name in names.split():
        for spec, build, without in _GIVEN[name]:
            call = build or (lambda f, *operands: f(*operands))
            each(f"Tensor.{name}_", spec.replace("*", "A,B"), _updated(call), without)


_each_update("""abs addcdiv addcmul ceil clamp_max clamp_min cos exp floor index_add index_copy
index_fill index_put index_reduce lerp log masked_fill masked_scatter negative pow put reciprocal
relu remainder round rsqrt scatter scatter_add scatter_reduce sigmoid sin sqrt square tanh tril triu
trunc""")
_each_update("divide multiply subtract")
each("Tensor.neg_", "f[A,B]", _updated(lambda f, z: f(z)))

# ---- what is no case

LEFT_OUT: dict[str, str] = {
    "asarray": "takes anything; every operand is made by it or by `tensor`",
    "array": "as asarray",
    "tensor": "every operand is made by it",
    "from_dlpack": "an exchange of buffers, tests/tensor/test_tensor.py",
    "from_numpy": "an exchange of buffers, tests/tensor/test_tensor.py",
    "can_cast": "answers about dtypes",
    "result_type": "answers about dtypes",
    "evaluate": "looks at what is pending",
    "explain": "a tool",
    "inspect_residuals": "a tool",
    "manual_seed": "takes no tensor",
    "random.key": "takes no tensor",
    "random.as_array": "for numbers that are no tensor",
    "special.round": "round",
    "Tensor.backward": "tests/tensor/test_autograd.py; it is what `grad` is",
}
"""Public functions that take tensors but have no case, and why."""
