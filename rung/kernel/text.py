"""The printed form of kernels: Python syntax that `rung.kernel.parse` reads back.

    @kernel
    def scale(x: input(f32[100]), y: output(f32[100])):
        for i0 in parallel(7):
            for i1 in range(minimum(16, 100 - 16*i0), at_most=16):
                y[16*i0 + i1] = x[16*i0 + i1]*2.0

Index arithmetic (i64) is infix where it is in canonical linear form, else a call (`add(a, b)`); the
arithmetic of other dtypes is infix as it stands. A call whose dtype does not follow from its
operands names it: `cast[f32](x)`. A bare number is i64 or f32; others are `f64(0.5)`, `i32(3)`.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isinf, isnan

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.ir.expr import (
    Call,
    Const,
    Expr,
    Read,
    Size,
    Var,
    factors,
    from_terms,
    ifloordiv,
    imod,
    imul,
    is_sized,
    linear_terms,
    postorder,
)  # fmt: skip
from rung.kernel.loop import (
    Accumulate,
    Alloc,
    Block,
    Buffer,
    For,
    If,
    Kernel,
    Opaque,
    Prefetch,
    Stmt,
    Store,
    row_major,
)  # fmt: skip

OR, AND, NOT, COMPARE, SUM, PRODUCT, UNARY, ATOM = range(1, 9)

INFIX = {
    "add": ("+", SUM),
    "subtract": ("-", SUM),
    "multiply": ("*", PRODUCT),
    "divide": ("/", PRODUCT),
    "floor_divide": ("//", PRODUCT),
    "remainder": ("%", PRODUCT),
}
COMPARISONS = {
    "less": "<",
    "less_equal": "<=",
    "greater": ">",
    "greater_equal": ">=",
    "equal": "==",
    "not_equal": "!=",
}
LOGIC = {"logical_and": ("and", AND), "logical_or": ("or", OR)}
AUGMENTED = {"add": "+=", "multiply": "*=", "logical_and": "&=", "logical_or": "|="}
PREDICATES = frozenset(
    {*COMPARISONS, *LOGIC, "logical_not", "logical_xor", "isnan", "isinf", "isfinite", "signbit"}
)
FLOWS = {"serial": "range", "parallel": "parallel", "unroll": "unroll", "vector": "vector"}


def default_dtype(op: str, args: tuple[Expr, ...]) -> DType:
    """The dtype that a printed call of `op` has unless it names another."""
    return dt.bool_ if op in PREDICATES or not args else args[-1].dtype


# ---- expressions


def expr_text(e: Expr) -> str:
    """An expression as Python text."""
    texts: Texts = {}
    for x in postorder(e):
        texts[x] = _text(x, texts)
    return texts[e][0]


Texts = dict[Expr, tuple[str, int]]
"""Text and binding strength of the parts of an expression."""


def _text(e: Expr, texts: Texts) -> tuple[str, int]:
    """Text and binding strength, from those of the parts."""
    if isinstance(e, Var | Size):
        return e.name, ATOM
    if isinstance(e, Const):
        return _const_text(e)
    if isinstance(e, Read):
        place = f"{source_name(e.source)}[{_listed(e.index, texts) or '()'}]"
        guarded = place if e.guard is None else f"load({place}, guard={texts[e.guard][0]})"
        return guarded, ATOM
    assert isinstance(e, Call)
    return _linear_text(e, texts) or _infix_text(e, texts) or (_call_text(e, texts), ATOM)


def _listed(parts: tuple[Expr, ...], texts: Texts) -> str:
    return ", ".join(texts[p][0] for p in parts)


def _at_least(e: Expr, strength: int, texts: Texts) -> str:
    text, own = texts[e]
    return text if own >= strength else f"({text})"


def _const_text(e: Const) -> tuple[str, int]:
    value = e.value
    if isinstance(value, float):
        text = "nan" if isnan(value) else "inf" if isinf(value) else repr(abs(value))
        if not isnan(value) and repr(value).startswith("-"):
            text = "-" + text
    else:
        text = repr(value)
    if e.dtype in (dt.bool_, dt.int64, dt.float32):
        return text, UNARY if text.startswith("-") else ATOM
    return f"{e.dtype}({text})", ATOM


def source_name(source: object) -> str:
    """What is read: a buffer, or an operand by its number."""
    return source.name if isinstance(source, Buffer) else f"operand({source})"


def place_text(buffer: object, index: tuple[Expr, ...]) -> str:
    """`buffer[index]`"""
    return f"{source_name(buffer)}[{', '.join(map(expr_text, index)) or '()'}]"


def _linear_text(e: Call, texts: Texts) -> tuple[str, int] | None:
    """Index arithmetic in canonical form, or None."""
    if e.dtype is not dt.int64 or e.op not in ("add", "multiply"):
        return None
    terms, constant = linear_terms(e)
    if e in terms:
        return _product_text(e, texts)
    if from_terms(terms, constant) is not e:
        return None
    parts = [(c, _scaled(abs(c), t, texts)) for t, c in terms.items()]
    if constant:
        parts.append((constant, str(abs(constant))))
    parts.sort(key=lambda p: p[0] < 0)
    first, *rest = parts
    text = f"-{first[1]}" if first[0] < 0 else first[1]
    text += "".join(f" {'-' if c < 0 else '+'} {t}" for c, t in rest)
    return text, SUM if rest else PRODUCT


def _product_text(e: Call, texts: Texts) -> tuple[str, int] | None:
    """A term that is a product with sizes, in canonical form, or None."""
    if e.op != "multiply" or not factors(e)[1] or imul(e.args[0], e.args[1]) is not e:
        return None
    again = isinstance(e.args[0], Call) and e.args[0].op == "multiply"
    left = _at_least(e.args[0], PRODUCT if again else UNARY, texts)
    right = _at_least(e.args[1], UNARY, texts)
    return f"{left}*{right}", PRODUCT


def _scaled(scale: int, term: Expr, texts: Texts) -> str:
    product = texts[term][1] == PRODUCT and isinstance(term, Call) and term.op == "multiply"
    text = _at_least(term, PRODUCT if product else UNARY, texts)
    return text if scale == 1 else f"{scale}*{text}"


def _infix_text(e: Call, texts: Texts) -> tuple[str, int] | None:
    args = e.args
    if len(args) != 2:
        if e.op == "logical_not" and e.dtype.is_bool:
            return f"not {_at_least(args[0], NOT, texts)}", NOT
        return None
    if e.op in COMPARISONS and e.dtype.is_bool:
        left, right = _at_least(args[0], SUM, texts), _at_least(args[1], SUM, texts)
        return f"{left} {COMPARISONS[e.op]} {right}", COMPARE
    if e.op in LOGIC and e.dtype.is_bool:
        word, strength = LOGIC[e.op]
        right = _at_least(args[1], strength + 1, texts)
        return f"{_at_least(args[0], strength, texts)} {word} {right}", strength
    if e.op not in INFIX or not args[0].dtype is args[1].dtype is e.dtype:
        return None
    if e.dtype is dt.int64 and not _canonical_quotient(e):
        return None
    sign, strength = INFIX[e.op]
    left, right = _at_least(args[0], strength, texts), _at_least(args[1], strength + 1, texts)
    return (f"{left} {sign} {right}" if strength == SUM else f"{left}{sign}{right}"), strength


def _canonical_quotient(e: Call) -> bool:
    divisor = e.args[1]
    if is_sized(divisor):
        return True
    if not isinstance(divisor, Const) or divisor.value <= 0:
        return False
    if e.op == "floor_divide":
        return ifloordiv(e.args[0], int(divisor.value)) is e
    return e.op == "remainder" and imod(e.args[0], int(divisor.value)) is e


def _call_text(e: Call, texts: Texts) -> str:
    name = e.op if default_dtype(e.op, e.args) is e.dtype else f"{e.op}[{e.dtype}]"
    return f"{name}({_listed(e.args, texts)})"


# ---- statements


def buffer_text(buffer: Buffer) -> str:
    """`role(dtype[shape])`, with the strides where they are not row-major, and the number of
    elements where it depends on sizes."""
    shape = ", ".join(map(str, buffer.shape))
    kind = f"{buffer.dtype}[{shape}]" if shape else f"{buffer.dtype}"
    if buffer.strides != row_major(buffer.shape):
        kind += f", strides={buffer.strides!r}"
    if buffer.elements is not None:
        kind += f", elements={expr_text(buffer.elements)}"
    return f"{buffer.role}({kind})"


def _guard(guard: Expr | None) -> str:
    return "" if guard is None else f", guard={expr_text(guard)}"


def _store_lines(s: Store) -> str:
    place, value = place_text(s.buffer, s.index), expr_text(s.value)
    return f"{place} = {value}" if s.guard is None else f"store({place}, {value}{_guard(s.guard)})"


def _accumulate_line(s: Accumulate) -> str:
    place, value = place_text(s.buffer, s.index), expr_text(s.value)
    if s.guard is not None:
        return f"accumulate({place}, {s.combine!r}, {value}{_guard(s.guard)})"
    sign = AUGMENTED.get(s.combine)
    return f"{place} {sign} {value}" if sign else f"{place} @= {s.combine}({value})"


def _for_line(s: For) -> str:
    options = f", lanes={s.lanes}" if s.lanes else ""
    if not (isinstance(s.extent, Const) and s.extent.value == s.axis.extent):
        options = f", at_most={s.axis.extent}" + options
    return f"for {s.axis.name} in {FLOWS[s.kind]}({expr_text(s.extent)}{options}):"


def _opaque_line(s: Opaque) -> str:
    outputs = ", ".join(b.name for b in s.outputs)
    inputs = ", ".join(b.name for b in s.inputs)
    options = "".join(f", {k}={v}" for k, v in s.options)
    return f"opaque({s.name!r}, [{outputs}], [{inputs}], row={expr_text(s.row)}{options})"


def stmt_lines(s: Stmt, depth: int = 0) -> Iterator[str]:
    """The lines of a statement, indented by `depth` steps of four columns."""
    pad = "    " * depth
    if isinstance(s, Block):
        yield f"{pad}with block():"
        yield from _body_lines(s, depth + 1)
    elif isinstance(s, For):
        yield pad + _for_line(s)
        yield from _body_lines(s.body, depth + 1)
    elif isinstance(s, If):
        yield f"{pad}if {expr_text(s.condition)}:"
        yield from _body_lines(s.body, depth + 1)
    elif isinstance(s, Store):
        yield pad + _store_lines(s)
    elif isinstance(s, Accumulate):
        yield pad + _accumulate_line(s)
    elif isinstance(s, Alloc):
        yield f"{pad}{s.buffer.name}: {buffer_text(s.buffer)}"
    elif isinstance(s, Opaque):
        yield pad + _opaque_line(s)
    else:
        assert isinstance(s, Prefetch)
        yield f"{pad}prefetch({place_text(s.buffer, s.index)})"


def _body_lines(body: Block, depth: int) -> Iterator[str]:
    for s in body.stmts:
        yield from stmt_lines(s, depth)
    if not body.stmts:
        yield "    " * depth + "pass"


def stmt_text(s: Stmt) -> str:
    """A statement as text."""
    return "\n".join(stmt_lines(s))


def kernel_text(kernel: Kernel) -> str:
    """A kernel as Python text: `parse_kernel(kernel_text(k)) is k`."""
    lines = [f"@source({s.file!r}, {s.line}, {s.path!r}, {s.via!r})" for s in kernel.sources]
    if kernel.schedule:
        lines.append("@schedule(")
        lines += [f"    {step!r}," for step in kernel.schedule]
        lines.append(")")
    lines.append("@kernel")
    params = [f"{n.name}: size({n.low}, {n.high})" for n in kernel.sizes]
    params += [f"{b.name}: {buffer_text(b)}" for b in kernel.params]
    head = f"def {kernel.name}({', '.join(params)}):"
    if len(head) > 100:
        head = f"def {kernel.name}(\n" + "".join(f"    {p},\n" for p in params) + "):"
    lines.append(head)
    lines.extend(_body_lines(kernel.body, 1))
    return "\n".join(lines) + "\n"
