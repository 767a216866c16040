"""Random graphs over the whole op table, with inputs to run them on.

Each value is computed while the graph is drawn, so that only ops are taken whose result is worth
testing. A value is *exact* if every correct way to compute it gives the same bits: integers, and
floats made of small whole numbers. Ops that jump (floor, less, argmax, …) take exact floats only,
because one rounding before them may change everything behind them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import RungError
from rung.core.source import Source
from rung.ir.array import array_data
from rung.ir.node import Graph, Value, make_graph, parameter, provenance
from rung.ir.op import NO_ATTRS, Array, Attrs, Op
from rung.ir.passes import run_passes
from rung.ir.types import Shape, TensorType, array_type
from rung.ops.convolution import ConvAttrs
from rung.ops.creation import ArrayAttrs, ConstantAttrs, IotaAttrs
from rung.ops.pooling import PutAttrs, WindowAttrs
from rung.ops.table import OPS, RECORDS
from rung.rules.pipeline import PIPELINE
from rung.transform.grad import grad_graph

MAX_OPS = 30
MAX_SIZE = 3000
MAX_INPUTS = 6
LARGEST = {"f16": 300.0, "bf16": 1e4, "f32": 1e4, "f64": 1e4}
"""Floats beyond are not drawn on: what is left would be infinities."""
HUGE = {"f16": 6e4, "bf16": 1e38, "f32": 1e38, "f64": 1e300}
WHOLE = {"f16": 2**11, "bf16": 2**8, "f32": 2**24, "f64": 2**53}
"""Up to here each whole number is a float."""
DIMS = (1, 1, 2, 3, 4, 5, 7, 8, 12, 16, 17, 33)


def names_in(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


JUMPS = names_in(
    "floor ceil round trunc sign floor_divide remainder equal not_equal less less_equal greater "
    "greater_equal signbit copysign nextafter bitcast argmax argmin argsort top_k"
)
"""Ops that are not continuous: they take exact floats."""
SIGNS_OF_ZERO = names_in("signbit copysign bitcast atan2 nextafter")
"""Ops that tell 0.0 from -0.0; they take floats without zeros."""
KEEPS_EXACT = names_in(
    "negative abs sign floor ceil round trunc maximum minimum where cast reshape broadcast_to "
    "permute slice pad flip concat take take_along gather scatter scatter_max scatter_min "
    "dynamic_slice reduce_max reduce_min dynamic_update_slice sort top_k window_max window_take "
    "stop_gradient copysign nextafter bitcast isnan"
)
"""Ops whose floats are exact when their operands are."""
SUMS = names_in(
    "add subtract multiply reduce_sum reduce_prod cumulative_sum cumulative_prod dot_general conv "
    "window_sum scatter_add scatter_prod window_put floor_divide remainder"
)
"""Ops whose floats are exact when their operands are small whole numbers."""


@dataclass(frozen=True, eq=False)
class Known:
    """A value of the graph, and what it is on the inputs drawn."""

    value: Value
    array: Array
    exact: bool

    @property
    def type(self) -> TensorType:
        return self.value.type

    @property
    def shape(self) -> Shape:
        return self.value.shape

    @property
    def dtype(self) -> DType:
        dtype: DType = self.value.dtype
        return dtype


@dataclass(frozen=True, eq=False)
class RandomGraph:
    """A graph, arrays for its parameters, which values are exact, and donated outputs."""

    seed: int
    graph: Graph
    inputs: tuple[Array, ...]
    exact: dict[Value, bool]
    aliases: dict[int, int]


class Refused(Exception):
    """What was drawn cannot be built here; draw something else."""


class Drawer:
    """Draws a graph op by op; `pool` is what there is to compute with."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = np.random.default_rng(seed)
        self.pool: list[Known] = []
        self.params: list[Value] = []
        self.inputs: list[Array] = []
        self.used: set[Value] = set()
        self.line = 0
        self.wild = self.chance(0.08)
        """Inputs hold infinities and NaN, and results may."""
        self.dtypes = self.pick([(dt.float32,), (dt.float32, dt.int32), dt.FLOATS, dt.ALL])

    # ---- choices

    def chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def pick(self, choices: Sequence[Any]) -> Any:
        if not len(choices):
            raise Refused
        return choices[int(self.rng.integers(len(choices)))]

    def below(self, n: int) -> int:
        return int(self.rng.integers(n))

    def shape(self, size: int = MAX_SIZE) -> Shape:
        if self.chance(0.01):
            return self.pick([(0,), (0, 3), (3, 0)])
        found: list[int] = []
        for _ in range(self.pick([0, 1, 1, 2, 2, 2, 3, 3, 4])):
            n = self.pick(DIMS)
            found.append(n if prod(found) * n <= size else 1)
        return tuple(found)

    def known(self, accept: Callable[[Known], bool] = lambda k: True) -> Known:
        """A value that there is; later ones more often, so that graphs become deep."""
        found = [k for k in self.pool if accept(k)]
        if not found:
            raise Refused
        return found[-1 - min(self.below(len(found)), self.below(len(found)))]

    def of_dtypes(self, dtypes: Sequence[DType], rank: int = 0) -> Known:
        return self.known(lambda k: k.dtype in dtypes and len(k.shape) >= rank)

    def whole(self, rank: int = 0) -> Known:
        return self.of_dtypes(dt.INTEGERS, rank)

    def dim(self, x: Known) -> int:
        if not x.shape:
            raise Refused
        return self.below(len(x.shape))

    # ---- values

    def data(self, type: TensorType, exact: bool) -> Array:
        """Random elements: whole numbers where they must be exact."""
        rng, shape, to = self.rng, type.shape, type.dtype.numpy
        if type.dtype.is_bool:
            return rng.integers(0, 2, shape).astype(bool)
        if type.dtype.is_integer:
            if self.chance(0.2):
                low, high = (int(f(type.dtype.numpy)) for f in (_least, _most))
                return rng.integers(low, high, shape, dtype=to, endpoint=True)
            return rng.integers(0 if type.dtype.kind == "u" else -5, 9, shape).astype(to)
        values = rng.integers(-6, 7, shape) if exact else rng.uniform(-2.5, 2.5, shape)
        floats = np.asarray(values, np.float64)
        if self.wild and floats.size:
            odd = rng.random(shape) < 0.1
            floats = np.where(odd, rng.choice([np.inf, -np.inf, np.nan, -0.0], shape), floats)
        return floats.astype(to)

    def input(self, type: TensorType, exact: bool | None = None) -> Known:
        """A new parameter, or a constant array when there are many parameters."""
        exact = not type.dtype.is_float or (self.chance(0.4) if exact is None else exact)
        array = self.data(type, exact)
        if len(self.params) >= MAX_INPUTS or (self.params and self.chance(0.1)):
            return self.constant_array(array, exact)
        value = parameter(len(self.params), f"x{len(self.params)}", type)
        self.params.append(value)
        self.inputs.append(array)
        self.pool.append(Known(value, array, exact))
        return self.pool[-1]

    def constant_array(self, array: Array, exact: bool) -> Known:
        attrs = ArrayAttrs(array_data(array))
        found = OPS["array_constant"].build((), attrs)[0]
        self.pool.append(Known(found, array, exact))
        return self.pool[-1]

    def like(self, type: TensorType, exact: bool | None = None) -> Known:
        """A value of a type: one that there is, or one made."""

        def fits(k: Known) -> bool:
            return k.type == type and (exact is None or k.exact >= exact)

        if any(map(fits, self.pool)) and self.chance(0.8):
            return self.known(fits)
        if self.chance(0.4):
            scalar = self.number(type.dtype)
            return self.broadcast(scalar, type.shape)
        small = [k for k in self.pool if k.dtype is type.dtype and _widens(k.shape, type.shape)]
        small = [k for k in small if exact is None or k.exact >= exact]
        if small and self.chance(0.7):
            return self.broadcast(self.pick(small), type.shape)
        return self.input(type, exact)

    def number(self, dtype: DType) -> Known:
        value: Any = self.pick([0, 1, 2, 3]) if not dtype.is_bool else self.chance(0.5)
        if dtype.is_float:
            value = float(self.pick([0, 1, -1, 2, 0.5, -3, 4]))
        return self.apply(OPS["constant"], [], ConstantAttrs(value, dtype))[0]

    def broadcast(self, x: Known, shape: Shape) -> Known:
        if x.shape == shape:
            return x
        op = OPS["broadcast_to"]
        return self.apply(op, [x], op.attrs(shape=shape))[0]  # type: ignore[call-arg]

    def matching(self, x: Known, exact: bool | None = None) -> Known:
        return self.like(x.type, exact)

    # ---- applying

    def apply(self, op: Op, operands: Sequence[Known], attrs: Attrs = NO_ATTRS) -> list[Known]:
        """The results of an op, added to the pool. Raises Refused if they are not worth having."""
        arrays = [k.array for k in operands]
        if op.name in JUMPS and not all(k.exact for k in operands):
            raise Refused
        if op.name == "cast" and not operands[0].exact and not attrs.dtype.is_float:  # type: ignore[attr-defined]
            raise Refused
        if op.name in SIGNS_OF_ZERO and any(_ambiguous(a) for a in arrays):
            raise Refused
        try:
            with np.errstate(all="ignore"):
                types = op.type(attrs, [k.type for k in operands])
                if "prod" in op.name and not _bounded(operands, op, attrs):
                    raise Refused
                if sum(t.size for t in types) > 4 * MAX_SIZE:
                    raise Refused
                results = op.ref(attrs, arrays)
        except RungError:
            raise Refused from None
        if not self.wild and not all(map(_tame, results)):
            raise Refused
        exact = self.is_exact(op, operands, attrs, results)
        self.line += 1
        with provenance(Source("drawn.py", self.line)):
            values = op.build([k.value for k in operands], attrs)
        self.used.update(k.value for k in operands)
        found = [
            Known(v, a, exact or not v.dtype.is_float) for v, a in zip(values, results, strict=True)
        ]
        self.pool.extend(found)
        return found

    def is_exact(
        self, op: Op, operands: Sequence[Known], attrs: Attrs, results: Sequence[Array]
    ) -> bool:
        """Whether float results are the same bits however they are computed."""
        if not all(k.exact for k in operands):
            return False
        if op.name in KEEPS_EXACT or not operands:
            return True
        if op.name not in SUMS:
            return False
        floats = [k for k in operands if k.dtype.is_float]
        if not floats:
            return True
        limit = WHOLE[floats[0].dtype.name]
        if not all(_is_whole(k.array, limit) for k in floats):
            return False
        sizes = [_magnitude(k, op) for k in operands]
        with np.errstate(all="ignore"):
            if op.name in ("floor_divide", "remainder"):
                return True
            worst = OPS["add"].ref(attrs, sizes) if op.name == "subtract" else op.ref(attrs, sizes)
        return all(_is_whole(w, limit) for w in worst)

    # ---- the whole

    def draw(self) -> RandomGraph:
        """The graph."""
        draws = DRAWS
        if np.random.default_rng((self.seed, 1)).random() < 0.04:
            draws = ROW_DRAWS
            self.wild, dtype = False, dt.float64
            stack, sides = self.pick(((2,), (3,), (4, 2))), self.rng.permutation([2, 3, 4])[:2]
            self.input(TensorType(dtype, (*stack, *map(int, sides))), exact=False)
        for _ in range(1 + self.below(2) if draws is DRAWS else 0):
            self.input(TensorType(self.pick(self.dtypes), self.shape()))
        wanted, tries = 1 + self.below(MAX_OPS), 0
        while self.line < wanted and tries < 300:
            tries += 1
            before = len(self.pool)
            try:
                self.pick(draws)(self)
            except Refused:
                del self.pool[max(before, 1) :]
        return self.finish() if draws is DRAWS else self.derivatives()

    def derivatives(self) -> RandomGraph:
        """The second derivatives of a sum of what is drawn."""
        loose = [k.value for k in self.pool if k.value not in self.used][-3:]
        loose = loose or [self.pool[-1].value]
        params = list(range(len(self.params)))
        first = grad_graph(make_graph("loss", self.params, [_sum_of_squares(loose)]), params)
        loss = make_graph("loss", first.params, [_sum_of_squares(first.outputs[1:])])
        second, _ = run_passes(grad_graph(loss, params), PIPELINE)
        return RandomGraph(self.seed, second, tuple(self.inputs), {}, {})

    def finish(self) -> RandomGraph:
        values = {k.value: k for k in self.pool}
        loose = [k for k in self.pool if k.value not in self.used]
        outputs = [k.value for k in loose[-6:]] or [self.pool[-1].value]
        if self.chance(0.3):
            outputs.append(self.known().value)
        graph = make_graph("random", self.params, outputs)
        exact = {v: k.exact for v, k in values.items()}
        return RandomGraph(self.seed, graph, tuple(self.inputs), exact, self.aliases(graph.outputs))

    def aliases(self, outputs: Sequence[Value]) -> dict[int, int]:
        """Now and then outputs are donated the memory of inputs of their type."""
        found: dict[int, int] = {}
        if self.chance(0.7):
            return found
        for k, v in enumerate(outputs):
            free = [
                i for i, p in enumerate(self.params) if p.type == v.type and i not in found.values()
            ]
            if free and outputs.count(v) == 1:
                found[k] = self.pick(free)
        return found


def _sum_of_squares(values: Sequence[Value]) -> Value:
    add, multiply, reduce_sum = OPS["add"], OPS["multiply"], OPS["reduce_sum"]
    total: Value | None = None
    for v in values:
        (square,) = multiply.build((v, v), NO_ATTRS)
        dims = tuple(range(len(v.shape)))
        (term,) = reduce_sum.build((square,), reduce_sum.attrs(dims=dims))  # type: ignore[call-arg]
        total = term if total is None else add.build((total, term), NO_ATTRS)[0]
    assert total is not None
    return total


def _least(dtype: Any) -> int:
    return int(np.iinfo(dtype).min)


def _most(dtype: Any) -> int:
    return int(np.iinfo(dtype).max)


def _is_float(a: Array) -> bool:
    return dt.as_dtype(a.dtype).is_float


def _ambiguous(a: Array) -> bool:
    """Whether it holds zeros (of either sign) or NaN (of any bits)."""
    return _is_float(a) and bool(np.any((a == 0) | (a != a)))


def _tame(a: Array) -> bool:
    if not _is_float(a):
        return True
    wide = np.asarray(a, np.float64)
    return bool(np.all(np.abs(wide) <= LARGEST[dt.as_dtype(a.dtype).name]))


def _is_whole(a: Array, limit: float) -> bool:
    """Only whole numbers up to `limit` (and infinities and NaN, which stay what they are)."""
    wide = np.asarray(a, np.float64)
    wide = wide[np.isfinite(wide)]
    return bool(np.all((wide == np.trunc(wide)) & (np.abs(wide) <= limit)))


def _magnitude(k: Known, op: Op) -> Array:
    """The operand with which every partial result of a sum is largest."""
    if not k.dtype.is_float:
        return k.array
    size = np.abs(np.nan_to_num(np.asarray(k.array, np.float64), posinf=1, neginf=1))
    return np.maximum(size, 1) if "prod" in op.name else size


def _bounded(operands: Sequence[Known], op: Op, attrs: Attrs) -> bool:
    """Whether no partial product can overflow, whatever their order (infinity times 0 is NaN)."""
    if not operands[0].dtype.is_float:
        return True
    with np.errstate(all="ignore"):
        (worst,) = op.ref(attrs, [_magnitude(x, op) for x in operands])
    return bool(np.all(worst <= HUGE[operands[0].dtype.name]))


def _widens(small: Shape, large: Shape) -> bool:
    try:
        return np.broadcast_shapes(small, large) == large
    except ValueError:
        return False


# ---- how each op is drawn


def attrs_of(op: str, **fields: Any) -> tuple[Op, Attrs]:
    return OPS[op], OPS[op].attrs(**fields)


def draw_elementwise(d: Drawer) -> None:
    """Any element-wise op on one value there is and others like it."""
    op = d.pick(ELEMENTWISE)
    x = d.of_dtypes(op.dtypes)
    attrs = NO_ATTRS
    if op.name == "cast":
        attrs = op.attrs(dtype=d.pick(d.dtypes if d.chance(0.7) else dt.ALL))
    elif op.name == "bitcast":
        same = [t for t in dt.INTEGERS + dt.FLOATS if t.bits == x.dtype.bits]
        attrs = op.attrs(dtype=d.pick(same))
    elif op.name == "check_range":
        low, high = (int(f(x.array, initial=0)) for f in (np.min, np.max))
        attrs = op.attrs(low=low, high=high, what="index")
    elif op.name == "where":
        condition = d.like(x.type.with_dtype(dt.bool_))
        d.apply(op, [condition, x, d.matching(x)])
        return
    exact = True if op.name in JUMPS else None
    operands = [x, *(d.matching(x, exact) for _ in range((op.arity or 1) - 1))]
    d.rng.shuffle(operands)  # type: ignore[arg-type]
    d.apply(op, operands, attrs)


def draw_common(d: Drawer) -> None:
    """The arithmetic that most programs are made of."""
    op = OPS[d.pick(COMMON)]
    x = d.of_dtypes(op.dtypes)
    d.apply(op, [x, *(d.matching(x) for _ in range((op.arity or 1) - 1))])


def draw_reduction(d: Drawer) -> None:
    name = d.pick(["reduce_sum", "reduce_sum", "reduce_max", "reduce_min", "reduce_prod"])
    x = d.known()
    if x.dtype.is_bool:
        name = d.pick(["reduce_any", "reduce_all"])
    elif x.dtype in (dt.float32, dt.float64) and d.chance(0.1):
        name = "euclidean_norm"
    dims = tuple(i for i in range(len(x.shape)) if d.chance(0.5))
    d.apply(*_with(attrs_of(name, dims=dims), x))


def draw_arg(d: Drawer) -> None:
    x = d.known(lambda k: k.exact and not k.dtype.is_bool and k.array.size > 0)
    d.apply(*_with(attrs_of(d.pick(["argmax", "argmin"]), dim=d.dim(x)), x))


def draw_softmax(d: Drawer) -> None:
    x = d.of_dtypes(dt.FLOATS, rank=1)
    d.apply(*_with(attrs_of("softmax", dim=d.dim(x)), x))


def draw_cumulative(d: Drawer) -> None:
    x = d.known(lambda k: not k.dtype.is_bool)
    name = d.pick(["cumulative_sum", "cumulative_sum", "cumulative_prod"])
    d.apply(*_with(attrs_of(name, dim=d.dim(x)), x))


def draw_reshape(d: Drawer) -> None:
    x = d.known()
    shape = [n for n in x.shape if n != 1 or d.chance(0.5)]
    if len(shape) > 1 and d.chance(0.6):
        i = d.below(len(shape) - 1)
        shape[i : i + 2] = [shape[i] * shape[i + 1]]
    elif shape:
        i = d.below(len(shape))
        factor = d.pick([f for f in range(1, shape[i] + 1) if shape[i] % f == 0] or [1])
        shape[i : i + 1] = [factor, shape[i] // factor]
    if d.chance(0.3):
        shape.insert(d.below(len(shape) + 1), 1)
    d.apply(*_with(attrs_of("reshape", shape=tuple(shape)), x))


def draw_broadcast(d: Drawer) -> None:
    x = d.known(lambda k: k.array.size <= MAX_SIZE // 8)
    shape = [d.pick((1, 2, 3, 5)) if n == 1 else n for n in x.shape]
    if d.chance(0.5):
        shape.insert(0, d.pick((1, 2, 4, 7)))
    d.broadcast(x, tuple(shape))


def draw_permute(d: Drawer) -> None:
    x = d.known(lambda k: len(k.shape) > 1)
    dims = tuple(map(int, d.rng.permutation(len(x.shape))))
    d.apply(*_with(attrs_of("permute", dims=dims), x))


def draw_slice(d: Drawer) -> None:
    x = d.known()
    starts = tuple(d.below(n // 2 + 1) for n in x.shape)
    stops = tuple(n - d.below((n - s) // 2 + 1) for s, n in zip(starts, x.shape, strict=True))
    steps = tuple(d.pick((1, 1, 1, 2, 3)) for _ in x.shape)
    d.apply(*_with(attrs_of("slice", starts=starts, stops=stops, steps=steps), x))


def draw_pad(d: Drawer) -> None:
    x = d.known(lambda k: k.array.size <= MAX_SIZE // 2)
    low = tuple(d.pick((0, 0, 1, 2, -1)) if n > 2 else d.pick((0, 1)) for n in x.shape)
    high = tuple(d.pick((0, 0, 1, 3, -1)) if n > 2 else d.pick((0, 2)) for n in x.shape)
    interior = tuple(d.pick((0, 0, 0, 1)) for _ in x.shape)
    value: Any = d.chance(0.5) if x.dtype.is_bool else d.pick((0, 1))
    fields = {"low": low, "high": high, "interior": interior, "value": value}
    d.apply(*_with(attrs_of("pad", **fields), x))


def draw_flip(d: Drawer) -> None:
    x = d.known()
    dims = tuple(i for i in range(len(x.shape)) if d.chance(0.5))
    d.apply(*_with(attrs_of("flip", dims=dims), x))


def draw_concat(d: Drawer) -> None:
    x = d.known()
    dim = d.dim(x)
    rest = [d.known(lambda k: _joins(x, k, dim)) for _ in range(d.pick((1, 1, 2)))]
    op, attrs = attrs_of("concat", dim=dim)
    d.apply(op, [x, *rest], attrs)


def _joins(x: Known, y: Known, dim: int) -> bool:
    if x.dtype is not y.dtype or len(x.shape) != len(y.shape):
        return False
    return all(a == b or i == dim for i, (a, b) in enumerate(zip(x.shape, y.shape, strict=True)))


def index(d: Drawer, shape: Shape) -> Known:
    """Positions of any kind of integer."""
    if d.chance(0.3):
        return (
            d.whole() if not shape else d.known(lambda k: k.dtype.is_integer and k.shape == shape)
        )
    dtype = d.pick((dt.int32, dt.int64, dt.uint8, dt.int8))
    return d.input(TensorType(dtype, shape))


def draw_take(d: Drawer) -> None:
    x = d.known()
    op, attrs = attrs_of("take", dim=d.dim(x))
    shape = d.pick(((), (3,), (5,), (2, 3)))
    d.apply(op, [x, index(d, shape)], attrs)


def draw_take_along(d: Drawer) -> None:
    x = d.known()
    dim = d.dim(x)
    shape = tuple(d.pick((1, 2, 4)) if i == dim else n for i, n in enumerate(x.shape))
    op, attrs = attrs_of("take_along", dim=dim)
    d.apply(op, [x, index(d, shape)], attrs)


COMBINING = ("scatter_max", "scatter_min", "scatter_prod")


def draw_gather(d: Drawer) -> None:
    x = d.known(lambda k: len(k.shape) > 0)
    batch = d.below(2) if len(x.shape) > 1 else 0
    depth = 1 + d.below(len(x.shape) - batch)
    many = d.pick(((), (3,), (2, 2)))
    name = d.pick(("gather", "gather", "scatter", "scatter_add", *COMBINING))
    op, attrs = attrs_of(name, batch_dims=batch)
    places = index(d, (*x.shape[:batch], *many, depth))
    if name == "gather":
        d.apply(op, [x, places], attrs)
        return
    updates = d.like(TensorType(x.dtype, (*x.shape[:batch], *many, *x.shape[batch + depth :])))
    d.apply(op, [x, places, updates], attrs)


def draw_dynamic(d: Drawer) -> None:
    x = d.known(lambda k: len(k.shape) > 0 and k.array.size > 0)
    dims = tuple(i for i in range(len(x.shape)) if d.chance(0.6))
    sizes = tuple(1 + d.below(x.shape[i]) for i in dims)
    starts = [index(d, ()) for _ in dims]
    if d.chance(0.5):
        op, attrs = attrs_of("dynamic_slice", dims=dims, sizes=sizes)
        d.apply(op, [x, *starts], attrs)
        return
    shape = list(x.shape)
    for i, n in zip(dims, sizes, strict=True):
        shape[i] = n
    op, attrs = attrs_of("dynamic_update_slice", dims=dims)
    d.apply(op, [x, d.like(TensorType(x.dtype, tuple(shape))), *starts], attrs)


def draw_sort(d: Drawer) -> None:
    x = d.known()
    dim = d.dim(x)
    name = d.pick(("sort", "argsort", "top_k"))
    if name == "top_k":
        k = 1 + d.below(max(x.shape[dim], 1))
        found = attrs_of(name, k=min(k, x.shape[dim]), dim=dim, largest=d.chance(0.5))
    else:
        found = attrs_of(name, dim=dim, descending=d.chance(0.5))
    d.apply(*_with(found, x))


def draw_dot(d: Drawer) -> None:
    a = d.known(lambda k: not k.dtype.is_bool and len(k.shape) > 0)
    order = [int(i) for i in d.rng.permutation(len(a.shape))]
    num_batch, num_summed = d.pick(((0, 1), (0, 1), (1, 1), (0, 2), (0, 0), (1, 0)))
    batch, summed = order[:num_batch], order[num_batch:][:num_summed]
    shape = [a.shape[i] for i in (*batch, *summed)] + list(d.pick(((), (4,), (17,), (3, 2))))
    places = [int(i) for i in d.rng.permutation(len(shape))]
    b = d.like(TensorType(a.dtype, tuple(shape[places.index(i)] for i in range(len(shape)))))
    n = len(batch)
    batches = (tuple(batch), tuple(places[:n]))
    contract = (tuple(summed), tuple(places[n : n + len(summed)]))
    domain = []
    while d.chance(0.25):
        side, other = d.pick(((0, 0), (0, 1), (1, 0), (1, 1)))
        ranks = len(a.shape), len(b.shape)
        if ranks[side] and ranks[other]:
            pair = (side, d.below(ranks[side])), (other, d.below(ranks[other]))
            domain.append((*pair, d.pick((-3, -1, 0, 1))))
    fields = {"batch": batches, "contract": contract, "domain": tuple(domain)}
    op, attrs = attrs_of("dot_general", **fields)
    d.apply(op, [a, b], attrs)


def draw_product_of_rows(d: Drawer) -> None:
    """A product of two stacks of matrices, matrix by matrix."""
    a = d.known(lambda k: len(k.shape) > 2)
    last = len(a.shape) - 1
    summed, stack = last - d.below(2), a.shape[:-2]

    def fits(k: Known) -> bool:
        alike = k.shape[:-2] == stack and len(k.shape) == last + 1
        return alike and a.shape[summed] in k.shape[-2:]

    if any(map(fits, d.pool)) and d.chance(0.8):
        b = d.known(fits)
    else:
        shape = (*stack, *map(int, d.rng.permutation([a.shape[summed], d.pick((2, 3, 4))])))
        b = d.input(TensorType(a.dtype, shape), exact=False)
    place = last if b.shape[last] == a.shape[summed] else last - 1
    dims = tuple(range(last - 1))
    op, attrs = attrs_of("dot_general", batch=(dims, dims), contract=((summed,), (place,)))
    d.apply(op, [a, b], attrs)


def draw_rest_of_rows(d: Drawer) -> None:
    """Values with a sum or the largest of each row taken from them, multiplied by it, …"""
    x = d.known(lambda k: len(k.shape) > 2)
    op, attrs = attrs_of(d.pick(("reduce_sum", "reduce_max")), dims=(len(x.shape) - 1,))
    weight = d.known(lambda k: k.type == x.type)
    term = d.apply(OPS["multiply"], [x, weight])[0] if d.chance(0.5) else x
    (row,) = d.apply(op, [term], attrs)
    again = d.apply(*_with(attrs_of("reshape", shape=(*x.shape[:-1], 1)), row))[0]
    rest = d.apply(OPS[d.pick(("subtract", "multiply"))], [x, d.broadcast(again, x.shape)])[0]
    d.apply(OPS[d.pick(("multiply", "add"))], [rest, d.known(lambda k: k.type == x.type)])


def draw_softmax_of_rows(d: Drawer) -> None:
    x = d.known(lambda k: len(k.shape) > 2)
    d.apply(*_with(attrs_of("softmax", dim=len(x.shape) - 1), x))


def draw_conv(d: Drawer) -> None:
    num = d.pick((1, 1, 2))
    groups, channels, kernels = d.pick((1, 1, 2)), d.pick((1, 2, 3)), d.pick((1, 2, 5))
    dtype = d.pick([t for t in d.dtypes if t.is_float])
    lengths = tuple(d.pick((4, 5, 8, 11)) for _ in range(num))
    x = d.like(TensorType(dtype, (d.pick((1, 2)), groups * channels, *lengths)))
    sizes = tuple(d.pick((1, 2, 3)) for _ in range(num))
    weight = d.like(TensorType(dtype, (groups * kernels, channels, *sizes)))
    fields = dict(zip(("sizes", "strides", "padding", "dilation"), windows(d, sizes), strict=True))
    del fields["sizes"]
    base = tuple(d.pick((1, 1, 2)) for _ in range(num))
    attrs = ConvAttrs(**fields, base_dilation=base, groups=groups)
    d.apply(OPS["conv"], [x, weight], attrs)


def windows(d: Drawer, sizes: Shape) -> tuple[Any, Any, Any, Any]:
    """sizes, strides, padding, dilation."""
    num = len(sizes)
    strides = tuple(d.pick((1, 1, 2)) for _ in range(num))
    padding = tuple((d.pick((0, 0, 1)), d.pick((0, 0, 1))) for _ in range(num))
    return sizes, strides, padding, tuple(d.pick((1, 1, 2)) for _ in range(num))


def draw_pool(d: Drawer) -> None:
    """Pooling, alone or with the position of the maximum and what is taken or put there."""
    x = d.known(lambda k: not k.dtype.is_bool and len(k.shape) > 0 and k.array.size > 0)
    num = 1 + d.below(min(len(x.shape), 2))
    sizes, strides, padding, dilation = windows(d, tuple(d.pick((1, 2, 3)) for _ in range(num)))
    base = tuple(d.pick((1, 1, 2)) for _ in range(num))
    if d.chance(0.4):
        attrs = WindowAttrs(sizes, strides, padding, dilation, base)
        d.apply(OPS["window_sum"], [x], attrs)
        return
    plain = WindowAttrs(sizes, strides, padding, dilation, (1,) * num)
    top = d.apply(OPS["window_max"], [x], plain)[0]
    if not x.exact or not np.all(np.isfinite(np.asarray(x.array, np.float64))):
        return
    position = d.apply(OPS["window_argmax"], [x, top], plain)[0]
    if d.chance(0.5):
        d.apply(OPS["window_take"], [d.matching(x), position], plain)
    lengths = x.shape[len(x.shape) - num :]
    put = PutAttrs(**vars(plain), lengths=lengths)
    if d.chance(0.5):
        d.apply(OPS["window_put"], [d.matching(top), position], put)


def draw_creation(d: Drawer) -> None:
    if d.chance(0.5):
        d.input(TensorType(d.pick(d.dtypes), d.shape()))
        return
    shape = d.shape(500) or (3,)
    dtype = d.pick([t for t in d.dtypes if not t.is_bool])
    d.apply(OPS["iota"], [], IotaAttrs(shape, d.below(len(shape)), dtype))


def draw_random(d: Drawer) -> None:
    key = d.like(TensorType(dt.uint32, (2,)))
    if d.chance(0.3):
        key = d.apply(OPS["fold_in"], [key, d.like(TensorType(dt.uint32, ()))])[0]
    words = d.pick(("xor", "first", "second"))
    d.apply(*_with(attrs_of("random_bits", shape=d.shape(500), words=words), key))


def _with(op: tuple[Op, Attrs], x: Known) -> tuple[Op, list[Known], Attrs]:
    return op[0], [x], op[1]


ELEMENTWISE = [op for op in RECORDS if op.elementwise]
COMMON = (
    "add", "add", "multiply", "multiply", "subtract", "divide", "maximum", "exp", "tanh", "sqrt",
    "negative", "log",
)  # fmt: skip
WEIGHTS: dict[Callable[[Drawer], None], int] = {
    draw_elementwise: 30, draw_common: 16, draw_reduction: 10, draw_arg: 2, draw_softmax: 2,
    draw_cumulative: 3, draw_reshape: 5, draw_broadcast: 4, draw_permute: 5, draw_slice: 5,
    draw_pad: 3, draw_flip: 2, draw_concat: 3, draw_take: 2, draw_take_along: 2, draw_gather: 4,
    draw_dynamic: 3, draw_sort: 3, draw_dot: 6, draw_conv: 2, draw_pool: 3, draw_creation: 4,
    draw_random: 1,
}  # fmt: skip
DRAWS = [draw for draw, weight in WEIGHTS.items() for _ in range(weight)]
ROW_DRAWS = [draw_product_of_rows] * 3 + [draw_rest_of_rows, draw_softmax_of_rows, draw_common]
"""As in derivatives of attention: what fits a row of small matrices becomes one kernel."""
CONTROL = ("composite", "scan", "while_loop", "switch", "switch_each", "after")
NOT_DRAWN = frozenset((*CONTROL, *(op.name for op in RECORDS if op.host)))
"""What runs on the host stands between graphs, not in one: tests/runtime/test_host_calls.py.
Control flow is tested in tests/transform/test_control.py. The other composites have tests of
their own; they are made of what is drawn."""


def random_graph(seed: int) -> RandomGraph:
    """The graph number `seed`."""
    return Drawer(seed).draw()


def types_of(arrays: Sequence[Array]) -> list[TensorType]:
    """Their types."""
    return [array_type(a) for a in arrays]
