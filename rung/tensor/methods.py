"""Methods of tensors that are functions of the main namespace under the names of PyTorch."""

from __future__ import annotations

from rung.tensor import arithmetic as a
from rung.tensor import arrange as g
from rung.tensor import elementwise as e
from rung.tensor import matrices as m
from rung.tensor import picking as p
from rung.tensor import reductions as r
from rung.tensor import special as sp
from rung.tensor import statistics as st
from rung.tensor.linalg import outer, trace
from rung.tensor.sets import unique, unique_consecutive


class Methods:
    """Functions whose first argument is the tensor."""

    # ---- element-wise

    acos = arccos = e.acos
    acosh = arccosh = e.acosh
    asin = arcsin = e.asin
    asinh = arcsinh = e.asinh
    atan = arctan = e.atan
    atan2 = arctan2 = e.atan2
    atanh = arctanh = e.atanh
    addcdiv = a.addcdiv
    addcmul = a.addcmul
    allclose = a.allclose
    bitwise_and = e.bitwise_and
    bitwise_not = e.bitwise_invert
    bitwise_or = e.bitwise_or
    bitwise_xor = e.bitwise_xor
    clamp_max = a.clamp_max
    clamp_min = a.clamp_min
    copysign = e.copysign
    deg2rad = a.deg2rad
    digamma = sp.digamma
    erfc = sp.erfc
    erfinv = sp.erfinv
    float_power = a.float_power
    floor_divide = e.floor_divide
    fmax = a.fmax
    fmin = a.fmin
    fmod = a.fmod
    frac = a.frac
    heaviside = a.heaviside
    hypot = e.hypot
    isclose = a.isclose
    ldexp = a.ldexp
    lerp = a.lerp
    lgamma = sp.gammaln
    logaddexp = e.logaddexp
    logaddexp2 = a.logaddexp2
    logical_xor = e.logical_xor
    logit = a.logit
    nan_to_num = a.nan_to_num
    nextafter = e.nextafter
    rad2deg = a.rad2deg
    remainder = e.remainder
    signbit = e.signbit
    sinc = a.sinc
    xlogy = a.xlogy

    # ---- reductions and order

    aminmax = st.aminmax
    cummax = st.cummax
    cummin = st.cummin
    diff = r.diff
    histc = st.histc
    kthvalue = st.kthvalue
    logcumsumexp = st.logcumsumexp
    median = st.median
    mode = st.mode
    msort = g.msort
    nanmean = st.nanmean
    nanmedian = st.nanmedian
    nanquantile = st.nanquantile
    nansum = st.nansum
    quantile = st.quantile
    unique = unique
    unique_consecutive = unique_consecutive

    # ---- products

    addmm = m.addmm
    addmv = m.addmv
    addr = m.addr
    baddbmm = m.baddbmm
    bmm = m.bmm
    dist = m.dist
    inner = m.inner
    kron = m.kron
    mm = m.mm
    mv = m.mv
    outer = ger = outer
    renorm = m.renorm
    trace = trace

    # ---- moving, picking, writing

    argwhere = p.argwhere
    diag = g.diag
    diag_embed = g.diag_embed
    fliplr = g.fliplr
    flipud = g.flipud
    index_add = p.index_add
    index_copy = p.index_copy
    index_fill = p.index_fill
    index_put = p.index_put
    index_reduce = p.index_reduce
    index_select = p.index_select
    masked_fill = p.masked_fill
    masked_scatter = p.masked_scatter
    masked_select = p.masked_select
    narrow = g.narrow
    put = p.put
    ravel = g.ravel
    rot90 = g.rot90
    scatter = p.scatter
    scatter_add = p.scatter_add
    scatter_reduce = p.scatter_reduce
    select = g.select
    sum_to_size = g.sum_to_size
    t = g.transposed
    take_along_dim = p.take_along_dim
    tensor_split = g.tensor_split
    unfold = g.windows
