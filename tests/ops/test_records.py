"""Tests of every op, generated from its record: completeness, types, loop form against reference,
first and second derivatives against finite differences, reverse against forward, refused dtypes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from loop_eval import UFUNCS, Evaluator, evaluate
from op_cases import Case, cases, rng_of, type_of

from rung.core import dtype as dt
from rung.core.errors import DTypeError, GraphError, ShapeError
from rung.ir.interpret import interpret
from rung.ir.node import Value, make_graph, parameter
from rung.ir.op import Array, LoopForm, Op
from rung.ir.types import TensorType
from rung.ops.table import OPS, RECORDS
from rung.transform.grad import vjp_values
from rung.transform.jvp import jvp_values

counts: Counter[str] = Counter()
every_op = pytest.mark.parametrize("op", RECORDS, ids=lambda op: op.name)


# ---- the record itself


def test_names_are_unique():
    assert len(OPS) == len(RECORDS)
    assert all(name == op.name for name, op in OPS.items())


@every_op
def test_no_blank_cell_without_reason(op: Op):
    filled = {
        "axes": op.axes is not None,
        "jvp": bool(op.linear) or op.jvp is not None,
        "transpose": op.transpose is not None,
        "emit": op.emit is not None or op.decompose is not None,
        "samples": op.samples is not None,
    }
    for column, given in filled.items():
        reason = op.blank.get(column, "")
        assert given or reason, f"{op.name}: {column} is blank and says not why"
    assert op.doc.endswith((".", "…")), f"{op.name}: doc is not a sentence"
    assert bool(op.linear) == (op.transpose is not None), f"{op.name}: linear needs a transpose"
    assert set(op.blank) <= set(filled), f"{op.name}: reasons for unknown columns {op.blank}"


@every_op
def test_every_stated_dtype_has_a_case(op: Op):
    if op.samples is None:
        return
    seen = set()
    for case in cases(op):
        types = case.types or [v.type for v in case.build()[1]]
        seen |= {t.dtype for t in types}
    assert set(op.dtypes) <= seen, f"{op.name}: no case for {set(op.dtypes) - seen}"


# ---- value, type and loop form


@every_op
def test_reference_has_the_stated_type_and_form(op: Op):
    for case in cases(op):
        params, results = case.build()
        graph = make_graph(op.name, params, results)
        values = interpret(graph, case.operands)  # checks dtype and shape of what ref gives
        cost = op.cost(case.attrs, case.types, [v.type for v in results])
        assert cost.flops >= 0 and cost.bytes >= 0
        counts["values"] += 1
        if op.axes is None:
            continue
        form = op.axes(case.attrs, case.types)
        check_form(case, form, [v.type for v in results])
        if form.bodies:
            made = evaluate(form, case.operands, [v.type for v in results])
            for a, b in zip(made, values, strict=True):
                check_close(case, form, a, b)
            counts["loop forms"] += 1


def check_form(case: Case, form: LoopForm, results: list[TensorType]) -> None:
    """Axes are the dims of the results (scatters have their own), and all names differ."""
    variables = (*form.axes, *form.reduce)
    assert len({v.name for v in variables}) == len(variables), case
    if form.write is None:
        for type in results:
            lengths = zip(form.axes, type.shape, strict=True)
            assert all(v.extent == n for v, n in lengths if v not in form.opaque), case
    assert form.bodies or form.opaque, f"{case}: neither a body nor opaque axes"


def check_close(case: Case, form: LoopForm, made: Array, wanted: Array) -> None:
    """Equal, or for floats within the rounding errors that the order of operations explains."""
    assert made.dtype == wanted.dtype and made.shape == wanted.shape, case
    if made.dtype.kind in "biu":
        np.testing.assert_array_equal(made, wanted, repr(case))
        return
    a, b = made.astype(np.float64), wanted.astype(np.float64)
    with np.errstate(all="ignore"):
        error = np.abs(a - b)
        allowed = tolerance(case, form, made, b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    bad = ~(same | (error <= allowed))
    assert not bad.any(), f"{case}: {made[bad][:5]} is not {wanted[bad][:5]}"


def tolerance(case: Case, form: LoopForm, made: Array, wanted: Array) -> Array | float:
    type = type_of(made)
    finest = float(np.finfo(np.float64 if type.dtype.bits == 64 else np.float32).eps)
    rounding = np.abs(wanted) * float(dt_eps(type)) if type.dtype.bits == 16 else 0.0
    if form.combine in ("add", "multiply"):
        count = max(int(np.prod([v.extent for v in form.reduce])), 1)
        if form.scan is not None:
            count = form.scan.extent
        return 2 * count * finest * magnitude(case, form, wanted) + rounding
    return 0.0


def dt_eps(type: TensorType) -> float:
    return {"f16": 2.0**-10, "bf16": 2.0**-7, "f32": 2.0**-23, "f64": 2.0**-52}[type.dtype.name]


def magnitude(case: Case, form: LoopForm, wanted: Array) -> Array:
    """The size that rounding errors are relative to: for sums that of the sum of magnitudes."""
    if form.combine == "multiply" or form.write is not None:
        return (
            np.abs(wanted)
            + float(form.write is not None)
            * np.abs(
                np.concatenate(
                    [np.ravel(o) for o in case.operands if o.dtype.kind not in "biu"]
                ).astype(np.float64)
            ).sum()
        )
    elements = Evaluator((*form.axes, *form.reduce), case.operands).full(form.bodies[0])
    elements = np.abs(elements.astype(np.float64))
    if form.scan is not None:
        return UFUNCS["add"].accumulate(elements, form.axes.index(form.scan))
    return np.asarray(elements.sum(tuple(range(len(form.axes), elements.ndim))))


# ---- derivatives, in f64


def smooth_cases(op: Op) -> list[Case]:
    """Cases with finite operands whose floats, operands and results, are f64."""
    found = []
    for case in cases(op):
        floats = [a for a in case.operands if a.dtype.kind not in "biu"]
        finite = all(a.dtype == np.float64 and np.isfinite(a).all() for a in floats)
        if floats and finite and (case.drawn or not edge_case(case)):
            kinds = {v.dtype for v in case.ref() if v.dtype.kind not in "biu"}
            if kinds == {np.dtype(np.float64)}:
                found.append(case)
    return found


def edge_case(case: Case) -> bool:
    return any(np.abs(a).max(initial=0) > 1e6 for a in case.operands if a.dtype.kind == "f")


def directions(case: Case) -> list[Array | None]:
    """A random tangent for each float operand."""
    rng = rng_of(case.op)
    return [rng.standard_normal(a.shape) if a.dtype.kind == "f" else None for a in case.operands]


def differentiable(op: Op) -> bool:
    return bool(op.linear) or op.jvp is not None


@every_op
def test_jvp_is_the_limit_of_differences(op: Op):
    if not differentiable(op):
        return
    found = [] if op.name == "stop_gradient" else smooth_cases(op)
    elements = jumps = 0
    assert found or op.name in ("bitcast", "stop_gradient") or op.family == "control", (
        f"{op.name}: no f64 case to test its derivative on"
    )
    for case in found:
        tangents = directions(case)
        coarse, fine = (differences(case, tangents, h) for h in (2e-4, 1e-4))
        for made, wanted, check in zip(pushed(case, tangents), fine, coarse, strict=True):
            if wanted is None or check is None:
                assert made is None, f"{case}: a tangent of a result that is not a float"
                continue
            allowed = 2e-7 * (1 + np.abs(wanted))
            smooth = np.abs(check - wanted) <= allowed
            bad = smooth & ~(np.abs(wanted - (0.0 if made is None else made)) <= allowed)
            assert not bad.any(), f"{case}: {made} is not {wanted}"
            counts["derivatives"] += 1
            elements += smooth.size
            jumps += smooth.size - np.count_nonzero(smooth)
    assert jumps <= 0.05 * elements, f"{op.name}: jumps or kinks at too many points"


def pushed(case: Case, tangents: list[Array | None]) -> list[Array | None]:
    """The tangents of the results, by the jvp of the record."""
    params, results = case.build()
    moving = [i for i, t in enumerate(tangents) if t is not None]
    symbols = [parameter(len(params) + k, f"t{i}", params[i].type) for k, i in enumerate(moving)]
    outputs = jvp_values(results, [params[i] for i in moving], symbols)
    given = [v for v in outputs if v is not None]
    graph = make_graph("jvp", (*params, *symbols), given)
    values = iter(interpret(graph, [*case.operands, *(tangents[i] for i in moving)]))
    return [None if v is None else next(values) for v in outputs]


def differences(case: Case, tangents: list[Array | None], h: float) -> list[Array | None]:
    """Central differences of fourth order; None for results that are not floats."""

    def at(step: float) -> list[Array]:
        moved = [
            a if t is None else a + step * t for a, t in zip(case.operands, tangents, strict=True)
        ]
        return list(case.ref(moved))

    floats = [r.dtype.kind == "f" for r in case.ref()]
    slopes = iter(slope(lambda s: [r for r, f in zip(at(s), floats, strict=True) if f], h))
    return [next(slopes) if f else None for f in floats]


@every_op
def test_reverse_is_the_transpose_of_forward(op: Op):
    """<ct, J t> = <Jᵀ ct, t>, by the transpose rules alone and by those of the jvp's ops."""
    if not differentiable(op):
        return
    for case in smooth_cases(op):
        tangents = directions(case)
        made = pushed(case, tangents)
        rng = rng_of(op)
        cotangents = [None if m is None else rng.standard_normal(m.shape) for m in made]
        gradients = pulled(case, tangents, cotangents)
        pairs = [(ct, m) for ct, m in zip(cotangents, made, strict=True) if m is not None]
        forward = sum(float((ct * m).sum()) for ct, m in pairs)
        size = sum(float(np.abs(ct * m).sum()) for ct, m in pairs)
        moving = [t for t in tangents if t is not None]
        reverse = sum(
            float((g * t).sum()) for g, t in zip(gradients, moving, strict=True) if g is not None
        )
        assert abs(forward - reverse) <= 1e-11 * (1 + size), case
        counts["transposes"] += 1


def pulled(
    case: Case, tangents: list[Array | None], cotangents: list[Array | None]
) -> list[Array | None]:
    """The cotangents of the float operands."""
    gradient = Gradient(case, tangents, cotangents)
    values = iter(gradient.evaluate(gradient.found))
    return [None if v is None else next(values) for v in gradient.all]


class Gradient:
    """The reverse derivative of a case as values: `wanted` float operands, `found` cotangents of
    them that are not zero."""

    def __init__(
        self, case: Case, tangents: list[Array | None], cotangents: list[Array | None]
    ) -> None:
        self.params, results = case.build()
        self.operands = case.operands
        self.wanted = [p for p, t in zip(self.params, tangents, strict=True) if t is not None]
        self.symbols = [None if ct is None else self.new(v) for v, ct in zip(
            results, cotangents, strict=True)]  # fmt: skip
        self.arrays = [ct for ct in cotangents if ct is not None]
        self.all = vjp_values(results, self.wanted, self.symbols)
        self.found = [v for v in self.all if v is not None]

    def new(self, like: Value) -> Value:
        """A parameter behind those that there are."""
        made = parameter(len(self.params), f"s{len(self.params)}", like.type)
        self.params.append(made)
        return made

    def evaluate(
        self,
        values: Sequence[Value],
        more: Sequence[Array] = (),
        operands: Sequence[Array] | None = None,
    ) -> list[Array]:
        """Values of it at the operands, or at others; `more`: what new parameters are."""
        graph = make_graph("gradient", self.params, values)
        given = self.operands if operands is None else operands
        return list(interpret(graph, [*given, *self.arrays, *more]))


@every_op
def test_repeated_operands(op: Op):
    """One value at several places: its gradient is the sum of those of separate equal values, its
    tangent that of all moving together."""
    if not differentiable(op):
        return
    for case in smooth_cases(op):
        for places in equal_types(case):
            check_repeated(case, places)


def equal_types(case: Case) -> list[list[int]]:
    """The float operands of one type, where there are several."""
    found: dict[TensorType, list[int]] = {}
    for i, type in enumerate(case.types):
        if type.dtype.is_float:
            found.setdefault(type, []).append(i)
    return [places for places in found.values() if len(places) > 1]


def check_repeated(case: Case, places: list[int]) -> None:
    operands = [case.operands[places[0] if i in places else i] for i in range(len(case.operands))]
    apart = [parameter(i, f"x{i}", t) for i, t in enumerate(case.types)]
    first = apart[places[0]]
    rng = rng_of(case.op)
    direction = rng.standard_normal(first.shape)
    at = [first if i in places else p for i, p in enumerate(apart)]
    results = {k: case.op.build(v, case.attrs) for k, v in (("apart", apart), ("one", at))}
    floats = [k for k, v in enumerate(results["one"]) if v.dtype.is_float]
    cts = [rng.standard_normal(results["one"][k].shape) for k in floats]
    symbols = [parameter(len(apart) + n, f"ct{n}", results["one"][k].type)
               for n, k in enumerate(floats)]  # fmt: skip
    move = parameter(len(apart) + len(cts), "move", first.type)
    made: dict[str, list[Array]] = {}
    for kind, wanted in (("apart", [apart[i] for i in places]), ("one", [first])):
        outputs = [results[kind][k] for k in floats]
        pulled_back = vjp_values(outputs, wanted, symbols)
        pushed_on = jvp_values(outputs, wanted, [move] * len(wanted))
        known = [v for v in (*pulled_back, *pushed_on) if v is not None]
        graph = make_graph("derivatives", (*apart, *symbols, move), known)
        values = iter(interpret(graph, [*operands, *cts, direction]))
        total = sum((next(values) for v in pulled_back if v is not None), np.zeros(first.shape))
        made[kind] = [total, *(np.zeros(()) if v is None else next(values) for v in pushed_on)]
    for a, b in zip(made["one"], made["apart"], strict=True):
        assert np.allclose(a, b, 1e-12, 1e-12, equal_nan=True), f"{case}: at places {places}"
    counts["repeated operands"] += 1


@every_op
def test_second_derivatives(op: Op):
    """Forward over reverse is the limit of differences of the gradient, and reverse over reverse
    its transpose."""
    if not differentiable(op) or op.name == "stop_gradient":
        return
    elements = jumps = 0
    for case in smooth_cases(op):
        directed = directions(case)
        rng = rng_of(op)
        cotangents = [
            rng.standard_normal(r.shape) if r.dtype.kind == "f" else None for r in case.ref()
        ]
        gradient = Gradient(case, directed, cotangents)
        if not gradient.found:
            continue
        moving = [t for t in directed if t is not None]
        pulls = [rng.standard_normal(v.shape) for v in gradient.found]
        at = lambda h, g=gradient, c=case, d=directed: g.evaluate(  # noqa: E731
            g.found, operands=[a if t is None else a + h * t for a, t in zip(
                c.operands, d, strict=True)])  # fmt: skip
        coarse, fine = (slope(at, h) for h in (2e-4, 1e-4))
        moved = [gradient.new(v) for v in gradient.wanted]
        pulling = [gradient.new(v) for v in gradient.found]
        forward = jvp_values(gradient.found, gradient.wanted, moved)
        reverse = vjp_values(gradient.found, gradient.wanted, pulling)
        known = [v for v in (*forward, *reverse) if v is not None]
        values = iter(gradient.evaluate(known, [*moving, *pulls]))
        ahead = [0.0 if v is None else next(values) for v in forward]
        back = [0.0 if v is None else next(values) for v in reverse]
        for made, wanted, check in zip(ahead, fine, coarse, strict=True):
            allowed = 2e-6 * (1 + np.abs(wanted))
            smooth = np.abs(check - wanted) <= allowed
            bad = smooth & ~(np.abs(wanted - made) <= allowed)
            assert not bad.any(), f"{case}: {made} is not {wanted}"
            elements += smooth.size
            jumps += smooth.size - np.count_nonzero(smooth)
        pairs = [p * a for p, a in zip(pulls, ahead, strict=True)]
        size = sum(float(np.abs(x).sum()) for x in pairs)
        transposed = sum(float((b * t).sum()) for b, t in zip(back, moving, strict=True))
        assert abs(sum(float(x.sum()) for x in pairs) - transposed) <= 1e-10 * (1 + size), case
        counts["second derivatives"] += 1
    assert jumps <= 0.05 * elements, f"{op.name}: jumps or kinks at too many points"


def slope(at: Callable[[float], list[Array]], h: float) -> list[Array]:
    """Central differences of fourth order of several arrays."""
    steps = [at(k * h) for k in (-2, -1, 1, 2)]
    return [(8 * (c - b) - (d - a)) / (12 * h) for a, b, c, d in zip(*steps, strict=True)]


# ---- refusals


@every_op
def test_other_dtypes_are_refused(op: Op):
    refused = [d for d in dt.ALL if d not in op.dtypes]
    for case in cases(op)[:1]:
        if not case.operands or not refused:
            return
        first = case.types[0].dtype
        for dtype in refused:
            types = [t.with_dtype(dtype) if t.dtype is first else t for t in case.types]
            with pytest.raises(DTypeError, match=op.name) as caught:
                op.type(case.attrs, types)
            assert caught.value.fix
            counts["refusals"] += 1


@every_op
def test_wrong_number_of_operands_is_refused(op: Op):
    if op.arity is None:
        return
    operands = [parameter(i, f"x{i}", TensorType(dt.float32, (2,))) for i in range(op.arity + 1)]
    with pytest.raises(GraphError, match=f"{op.name}: takes {op.arity} operands"):
        op.build(operands)


@every_op
def test_elementwise_shapes_must_agree(op: Op):
    if not op.elementwise or op.arity == 1:
        return
    types = next(c.types for c in cases(op) if c.types[0].rank == 2)
    for k in range(1, len(types)):
        wrong = [t.with_shape((3,)) if i == k else t for i, t in enumerate(types)]
        with pytest.raises(ShapeError, match=f"{op.name}: shapes differ") as caught:
            op.type(op.attrs(), wrong)
        assert "broadcast" in str(caught.value.fix)
        counts["refusals"] += 1
