"""rung: a deep-learning system that you can climb, from Python to machine code.

The main namespace follows the Python array API standard where it applies, with PyTorch's names
beside it where they differ. Tensors are lazy; a look at a value compiles and runs what is pending.
"""

# ruff: noqa: F401

from math import e, inf, nan, pi

from rung import autodiff, data, models, nn, optim
from rung.autodiff.source import grad_source
from rung.core.dtype import (
    DType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from rung.core.errors import (
    AxisError,
    CheckpointError,
    DeviceError,
    DTypeError,
    GradientError,
    IndexingError,
    InterchangeError,
    LinAlgError,
    LoweringError,
    NonFiniteError,
    RungError,
    SettingsError,
    ShapeError,
    SourceError,
    TraceError,
)
from rung.core.settings import configure, settings
from rung.source.function import function
from rung.tensor import functional, linalg, random, tree
from rung.tensor.autograd import (
    enable_grad,
    grad,
    is_grad_enabled,
    jvp,
    no_grad,
    value_and_grad,
    vjp,
)
from rung.tensor.checkpoint import checkpoint, checkpoint_name, save_names, save_within
from rung.tensor.control import (
    associative_scan,
    cond,
    fori_loop,
    map,
    scan,
    switch,
    while_loop,
)
from rung.tensor.creation import (
    arange,
    array,
    asarray,
    empty,
    empty_like,
    eye,
    full,
    full_like,
    linspace,
    meshgrid,
    one_hot,
    ones,
    ones_like,
    tensor,
    zeros,
    zeros_like,
)
from rung.tensor.custom import custom_jvp, custom_vjp, stop_gradient
from rung.tensor.dtypes import astype, can_cast, finfo, iinfo, isdtype, result_type
from rung.tensor.elementwise import (
    abs,
    acos,
    acosh,
    add,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    ceil,
    clip,
    conj,
    copysign,
    cos,
    cosh,
    divide,
    equal,
    erf,
    exp,
    exp2,
    expm1,
    floor,
    floor_divide,
    greater,
    greater_equal,
    hypot,
    imag,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    log,
    log1p,
    log2,
    log10,
    logaddexp,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    maximum,
    minimum,
    multiply,
    negative,
    nextafter,
    not_equal,
    positive,
    pow,
    real,
    reciprocal,
    remainder,
    round,
    rsqrt,
    sign,
    signbit,
    sin,
    sinh,
    sqrt,
    square,
    subtract,
    tan,
    tanh,
    trunc,
    where,
)
from rung.tensor.functional import log_softmax, relu, sigmoid, softmax
from rung.tensor.inspection import API_VERSION as __array_api_version__
from rung.tensor.inspection import __array_namespace_info__
from rung.tensor.interchange import from_dlpack, from_numpy
from rung.tensor.jit import jit
from rung.tensor.pending import evaluate
from rung.tensor.products import einsum, matmul, outer, tensordot, vecdot
from rung.tensor.random import Generator, manual_seed, rand, randint, randn, randperm
from rung.tensor.reductions import (
    all,
    any,
    argmax,
    argmin,
    count_nonzero,
    cumulative_prod,
    cumulative_sum,
    diff,
    logsumexp,
    max,
    mean,
    min,
    norm,
    prod,
    std,
    sum,
    var,
)
from rung.tensor.sets import unique_all, unique_counts, unique_inverse, unique_values
from rung.tensor.shapes import (
    broadcast_arrays,
    broadcast_shapes,
    broadcast_to,
    chunk,
    concat,
    diagonal,
    expand_dims,
    flatten,
    flip,
    matrix_transpose,
    moveaxis,
    pad,
    permute_dims,
    repeat,
    reshape,
    roll,
    split,
    squeeze,
    stack,
    swapaxes,
    tile,
    tril,
    triu,
    unstack,
)
from rung.tensor.sorting import (
    argsort,
    bincount,
    gather,
    nonzero,
    searchsorted,
    sort,
    take,
    take_along_axis,
    topk,
)
from rung.tensor.tensor import Tensor
from rung.tensor.transforms import hessian, hvp, jacfwd, jacobian, jacrev, linearize, vmap
from rung.tools.explanation import explain
from rung.tools.residuals import inspect_residuals

bool = bool_
cat = concat
cumsum = cumulative_sum
cumprod = cumulative_prod
newaxis = None
__version__ = "0.1.0"
