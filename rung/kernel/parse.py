"""Reads the printed form of kernels back. Safe on any text: it is only parsed, never executed."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import inf, nan
from typing import NoReturn

from rung.core import dtype as dt
from rung.core.dtype import DType
from rung.core.errors import ParseError
from rung.core.source import NOWHERE, Source
from rung.ir.expr import (
    Const,
    Expr,
    Size,
    Var,
    const,
    iadd,
    ifloordiv,
    imod,
    imul,
    is_sized,
    isub,
    raw_call,
    read,
    size,
    var,
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
    is_name,
)  # fmt: skip
from rung.kernel.text import (
    AUGMENTED,
    COMPARISONS,
    FLOWS,
    INFIX,
    default_dtype,
)  # fmt: skip

DTYPES = {d.name: d for d in dt.ALL}
PARAM_ROLES = ("input", "output", "inout", "temp")
LOCAL_ROLES = ("scratch", "register")
KINDS = {word: kind for kind, word in FLOWS.items()}
COMBINES = {sign.rstrip("="): name for name, sign in AUGMENTED.items()}
SIGNS: dict[type[ast.AST], str] = {
    ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%",
    ast.BitAnd: "&", ast.BitOr: "|",
    ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!=",
}  # fmt: skip
OPS_BY_SIGN = {sign: op for op, (sign, _) in INFIX.items()}
OPS_BY_SIGN |= {sign: op for op, sign in COMPARISONS.items()}
LARGEST = 2**63 - 1
MAX_DEPTH = 400


def fail(node: ast.AST, message: str) -> NoReturn:
    """Raise the ParseError of a place in the text."""
    line = getattr(node, "lineno", 0)
    raise ParseError(f"line {line}: {message}" if line else message, source=NOWHERE)


def parse_module(text: str) -> ast.Module:
    """The syntax tree of a text. Raises ParseError where it is not Python."""
    if "\0" in text:  # versions of Python raise different errors
        raise ParseError("not a program: it holds a null byte", source=NOWHERE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(text)
    except SyntaxError as e:
        raise ParseError(f"line {e.lineno or 0}: {e.msg}", source=NOWHERE) from None
    except (ValueError, RecursionError, MemoryError) as e:
        raise ParseError(f"not a program: {e or type(e).__name__}", source=NOWHERE) from None


def parse_kernel(text: str) -> Kernel:
    """The kernel that `kernel_text` printed: the identical object. Raises ParseError."""
    module = parse_module(text)
    if len(module.body) != 1 or not isinstance(module.body[0], ast.FunctionDef):
        raise ParseError("expected one `@kernel def`", source=NOWHERE)
    try:
        return _kernel(module.body[0])
    except RecursionError:
        raise ParseError("nested too deeply", source=NOWHERE) from None


@dataclass
class Scope:
    """Names that can be seen: buffers, loop variables and sizes."""

    buffers: dict[str, Buffer] = field(default_factory=dict)
    axes: dict[str, Var | Size] = field(default_factory=dict)

    def inner(self) -> Scope:
        return Scope(dict(self.buffers), dict(self.axes))

    def buffer(self, node: ast.expr) -> Buffer:
        found = self.buffers.get(node.id) if isinstance(node, ast.Name) else None
        return found if found is not None else fail(node, f"unknown buffer {ast.unparse(node)}")


# ---- literals


def _integer(node: ast.expr, low: int = 0) -> int:
    negative = isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    inner = node.operand if isinstance(node, ast.UnaryOp) and negative else node
    value = inner.value if isinstance(inner, ast.Constant) else None
    if type(value) is not int or value > LARGEST + negative:
        fail(node, f"expected an integer, not {ast.unparse(node)}")
    value = -value if negative else value
    return value if value >= low else fail(node, f"{value} is less than {low}")


def _string(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    return fail(node, f"expected a string, not {ast.unparse(node)}")


def _called(node: ast.expr) -> tuple[str, list[ast.expr], dict[str, ast.expr]]:
    """Function name, operands and keywords of a call."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        fail(node, f"expected a call, not {ast.unparse(node)}")
    if any(k.arg is None for k in node.keywords):
        fail(node, "** is not allowed")
    return node.func.id, node.args, {k.arg: k.value for k in node.keywords if k.arg is not None}


def _items(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def _buffer(
    name: str, node: ast.expr | None, roles: tuple[str, ...], at: ast.AST, scope: Scope
) -> Buffer:
    if node is None:
        fail(at, f"{name} has no buffer type")
    role, args, options = _called(node)
    if role not in roles or len(args) != 1 or options.keys() - {"strides", "elements"}:
        fail(node, f"expected {' or '.join(roles)}(dtype[shape]), not {ast.unparse(node)}")
    kind, shape = args[0], tuple[int, ...]()
    if isinstance(kind, ast.Subscript):
        shape = tuple(_integer(n) for n in _items(kind.slice))
        kind = kind.value
    dtype = _dtype(kind)
    given = "strides" in options
    strides = tuple(_integer(n, -LARGEST) for n in _items(options["strides"])) if given else ()
    if given and len(strides) != len(shape):
        fail(node, f"{len(strides)} strides for {len(shape)} dims")
    elements = _expr(options["elements"], scope) if "elements" in options else None
    if elements is not None and not is_sized(elements):
        fail(node, "the number of elements is not made of sizes")
    return Buffer(name, dtype, shape, role, strides, elements)


def _dtype(node: ast.expr) -> DType:
    found = DTYPES.get(node.id) if isinstance(node, ast.Name) else None
    return found if found is not None else fail(node, f"unknown dtype {ast.unparse(node)}")


# ---- expressions


def _expr(node: ast.expr, scope: Scope) -> Expr:
    handler = EXPRESSIONS.get(type(node))
    if handler is None:
        fail(node, f"{ast.unparse(node)} is not an expression of a kernel")
    return handler(node, scope)


def _constant(node: ast.Constant, scope: Scope) -> Expr:
    value = node.value
    if type(value) is bool:
        return const(value, dt.bool_)
    if type(value) is int:
        return const(_integer(node))
    if type(value) is float:
        return const(value, dt.float32)
    return fail(node, f"{value!r} is not a number")


def _name(node: ast.Name, scope: Scope) -> Expr:
    if node.id in scope.axes:
        return scope.axes[node.id]
    if node.id in ("inf", "nan"):
        return const(inf if node.id == "inf" else nan, dt.float32)
    return fail(node, f"unknown axis {node.id}")


def _unary(node: ast.UnaryOp, scope: Scope) -> Expr:
    if isinstance(node.op, ast.USub) and _is_integer(node.operand):
        return const(_integer(node, -LARGEST - 1))
    operand = _expr(node.operand, scope)
    if isinstance(node.op, ast.Not):
        return raw_call("logical_not", (operand,), dt.bool_)
    if isinstance(node.op, ast.USub):
        if isinstance(operand, Const) and not operand.dtype.is_bool:
            return const(-operand.value, operand.dtype)
        if operand.dtype is dt.int64:
            return imul(operand, -1)
    return fail(node, f"{ast.unparse(node)} is not an expression of a kernel")


def _binary(node: ast.BinOp, scope: Scope) -> Expr:
    op = OPS_BY_SIGN.get(SIGNS.get(type(node.op), ""))
    if op is None:
        fail(node, f"{ast.unparse(node)} is not an expression of a kernel")
    left, right = _expr(node.left, scope), _expr(node.right, scope)
    if left.dtype is not right.dtype:
        fail(node, f"{ast.unparse(node)}: operands are {left.dtype} and {right.dtype}")
    if left.dtype is dt.int64:
        return _index_arithmetic(op, left, right)
    return raw_call(op, (left, right), left.dtype)


def _index_arithmetic(op: str, left: Expr, right: Expr) -> Expr:
    if op == "add":
        return iadd(left, right)
    if op == "subtract":
        return isub(left, right)
    if op == "multiply":
        if isinstance(left, Const):
            return imul(right, int(left.value))
        if isinstance(right, Const):
            return imul(left, int(right.value))
        if is_sized(right):
            return imul(left, right)
    if isinstance(right, Const) and right.value > 0 and op in ("floor_divide", "remainder"):
        return (ifloordiv if op == "floor_divide" else imod)(left, int(right.value))
    return raw_call(op, (left, right), dt.int64)


def _logic(node: ast.BoolOp, scope: Scope) -> Expr:
    op = "logical_and" if isinstance(node.op, ast.And) else "logical_or"
    total, *rest = (_expr(v, scope) for v in node.values)
    for value in rest:
        total = raw_call(op, (total, value), dt.bool_)
    return total


def _compare(node: ast.Compare, scope: Scope) -> Expr:
    op = OPS_BY_SIGN.get(SIGNS.get(type(node.ops[0]), ""))
    if op is None or len(node.ops) != 1:
        fail(node, f"{ast.unparse(node)} is not a comparison of two")
    left, right = _expr(node.left, scope), _expr(node.comparators[0], scope)
    return raw_call(op, (left, right), dt.bool_)


def _place(node: ast.expr, scope: Scope) -> tuple[Buffer, tuple[Expr, ...]]:
    if not isinstance(node, ast.Subscript):
        fail(node, f"expected buffer[index], not {ast.unparse(node)}")
    buffer = scope.buffer(node.value)
    index = tuple(_expr(i, scope) for i in _items(node.slice))
    if len(index) != len(buffer.shape):
        fail(node, f"{buffer.name} has {len(buffer.shape)} dims, the index {len(index)}")
    for part, text in zip(index, _items(node.slice), strict=True):
        if not part.dtype.is_integer:
            fail(node, f"index {ast.unparse(text)} is {part.dtype}, not an integer")
    return buffer, index


def _subscript(node: ast.Subscript, scope: Scope) -> Expr:
    buffer, index = _place(node, scope)
    return read(buffer, index)


def _call(node: ast.Call, scope: Scope) -> Expr:
    dtype: DType | None = None
    if isinstance(node.func, ast.Subscript) and isinstance(node.func.value, ast.Name):
        dtype, name, keywords = _dtype(node.func.slice), node.func.value.id, bool(node.keywords)
        operands = node.args
    else:
        name, operands, options = _called(node)
        if name == "load":
            if len(operands) != 1 or options.keys() != {"guard"}:
                fail(node, "expected load(buffer[index], guard=condition)")
            buffer, index = _place(operands[0], scope)
            return read(buffer, index, guard=_condition(options["guard"], scope))
        keywords = bool(options)
    if keywords:
        fail(node, f"{name} takes no keywords")
    if name in DTYPES and dtype is None:
        return _typed_constant(node, DTYPES[name], operands, scope)
    args = tuple(_expr(a, scope) for a in operands)
    return raw_call(name, args, dtype or default_dtype(name, args))


def _is_integer(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def _typed_constant(
    node: ast.Call, dtype: DType, operands: list[ast.expr], scope: Scope
) -> Expr:
    value: bool | int | float | None = None
    if len(operands) == 1:
        only = operands[0]
        if isinstance(only, ast.Constant) and type(only.value) is int:
            value = only.value  # u64 goes beyond what a bare number may be
        elif isinstance(inner := _expr(only, scope), Const):
            value = inner.value
    if value is None or (dtype.is_float != isinstance(value, float)):
        fail(node, f"{ast.unparse(node)} is not a constant of {dtype}")
    if not dtype.is_float and not dtype.is_bool and not dt.fits(int(value), dtype):
        fail(node, f"{value} does not fit {dtype}")
    return const(value, dtype)


def _condition(node: ast.expr, scope: Scope) -> Expr:
    found = _expr(node, scope)
    if not found.dtype.is_bool:
        fail(node, f"condition {ast.unparse(node)} is {found.dtype}, not bool")
    return found


EXPRESSIONS: dict[type[ast.expr], Callable[..., Expr]] = {
    ast.Constant: _constant, ast.Name: _name, ast.UnaryOp: _unary, ast.BinOp: _binary,
    ast.BoolOp: _logic, ast.Compare: _compare, ast.Subscript: _subscript, ast.Call: _call,
}  # fmt: skip


# ---- statements


def _block(nodes: list[ast.stmt], scope: Scope, depth: int) -> Block:
    if depth > MAX_DEPTH:
        fail(nodes[0], "nested too deeply")
    if len(nodes) == 1 and isinstance(nodes[0], ast.Pass):
        return Block(())
    scope = scope.inner()
    return Block(tuple(_stmt(n, scope, depth) for n in nodes))


def _stmt(node: ast.stmt, scope: Scope, depth: int) -> Stmt:
    if isinstance(node, ast.For):
        return _for(node, scope, depth)
    if isinstance(node, ast.If):
        if node.orelse:
            fail(node.orelse[0], "else is not part of kernels")
        return If(_condition(node.test, scope), _block(node.body, scope, depth + 1))
    if isinstance(node, ast.With):
        if [ast.unparse(i) for i in node.items] != ["block()"]:
            fail(node, "expected `with block():`")
        return _block(node.body, scope, depth + 1)
    if isinstance(node, ast.AnnAssign):
        return _alloc(node, scope)
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        buffer, index = _place(node.targets[0], scope)
        return Store(buffer, index, _value(node.value, buffer, scope))
    if isinstance(node, ast.AugAssign):
        return _augmented(node, scope)
    if isinstance(node, ast.Expr):
        return _statement_call(node.value, scope)
    return fail(node, f"{type(node).__name__} is not part of kernels")


def _value(node: ast.expr, buffer: Buffer, scope: Scope) -> Expr:
    value = _expr(node, scope)
    if value.dtype is not buffer.dtype:
        fail(node, f"{ast.unparse(node)} is {value.dtype}, {buffer.name} holds {buffer.dtype}")
    return value


def _for(node: ast.For, scope: Scope, depth: int) -> Stmt:
    word, args, options = _called(node.iter)
    if not isinstance(node.target, ast.Name) or node.orelse or word not in KINDS:
        fail(node, f"expected `for axis in {' | '.join(KINDS)}(extent)`")
    if len(args) != 1 or options.keys() - {"lanes", "at_most"}:
        fail(node, f"{word} takes an extent, at_most and lanes")
    extent = _expr(args[0], scope)
    if extent.dtype is not dt.int64:
        fail(node, f"extent {ast.unparse(args[0])} is {extent.dtype}, not i64")
    if "at_most" in options:
        most = _integer(options["at_most"])
    elif isinstance(extent, Const) and extent.value >= 0:
        most = int(extent.value)
    else:
        fail(node, "an extent that is not a constant needs at_most")
    lanes = _integer(options["lanes"]) if "lanes" in options else 0
    inner = scope.inner()
    axis = var(node.target.id, most)
    inner.axes[node.target.id] = axis
    return For(axis, extent, _block(node.body, inner, depth + 1), KINDS[word], lanes)


def _alloc(node: ast.AnnAssign, scope: Scope) -> Stmt:
    if not isinstance(node.target, ast.Name) or node.value is not None:
        fail(node, "expected `name: role(dtype[shape])`")
    buffer = _buffer(node.target.id, node.annotation, LOCAL_ROLES, node, scope)
    scope.buffers[buffer.name] = buffer
    return Alloc(buffer)


def _augmented(node: ast.AugAssign, scope: Scope) -> Stmt:
    buffer, index = _place(node.target, scope)
    if isinstance(node.op, ast.MatMult):
        combine, args, options = _called(node.value)
        if len(args) != 1 or options:
            fail(node, f"expected `place @= {combine}(value)`")
        return Accumulate(buffer, index, combine, _value(args[0], buffer, scope))
    found = COMBINES.get(SIGNS.get(type(node.op), ""))
    if found is None:
        fail(node, f"{ast.unparse(node)} is not a way to combine")
    return Accumulate(buffer, index, found, _value(node.value, buffer, scope))


def _statement_call(node: ast.expr, scope: Scope) -> Stmt:
    name, args, options = _called(node)
    if name == "prefetch" and len(args) == 1 and not options:
        return Prefetch(*_place(args[0], scope))
    if name == "store" and len(args) == 2 and options.keys() == {"guard"}:
        buffer, index = _place(args[0], scope)
        guard = _condition(options["guard"], scope)
        return Store(buffer, index, _value(args[1], buffer, scope), guard)
    if name == "accumulate" and len(args) == 3 and options.keys() == {"guard"}:
        buffer, index = _place(args[0], scope)
        value, guard = _value(args[2], buffer, scope), _condition(options["guard"], scope)
        return Accumulate(buffer, index, _string(args[1]), value, guard)
    if name == "opaque" and len(args) == 3 and "row" in options:
        row = _expr(options.pop("row"), scope)
        numbers = tuple((k, _integer(v, -LARGEST)) for k, v in options.items())
        return Opaque(
            _string(args[0]), _buffers(args[1], scope), _buffers(args[2], scope), row, numbers
        )
    return fail(node, f"{ast.unparse(node)} is not a statement of a kernel")


def _buffers(node: ast.expr, scope: Scope) -> tuple[Buffer, ...]:
    if not isinstance(node, ast.List):
        fail(node, f"expected a list of buffers, not {ast.unparse(node)}")
    return tuple(scope.buffer(n) for n in node.elts)


# ---- the kernel


def _kernel(node: ast.FunctionDef) -> Kernel:
    sources: list[Source] = []
    steps: tuple[str, ...] = ()
    for mark in node.decorator_list[:-1]:
        name, args, options = _called(mark)
        if name == "source" and len(args) == 4 and not options:
            file, line, path, via = args
            sources.append(Source(_string(file), _integer(line), _string(path), _string(via)))
        elif name == "schedule" and not options:
            steps = tuple(_string(a) for a in args)
        else:
            fail(mark, f"unknown mark @{name}")
    if not node.decorator_list or ast.unparse(node.decorator_list[-1]) != "kernel":
        fail(node, "expected `@kernel` before def")
    extra = (*node.args.posonlyargs, *node.args.kwonlyargs, *node.args.defaults)
    if extra or node.args.vararg or node.args.kwarg:
        fail(node, "parameters are name: role(dtype[shape])")
    sizes = tuple(found for a in node.args.args if (found := _size(a)) is not None)
    scope = Scope(axes={n.name: n for n in sizes})
    params = tuple(
        _buffer(a.arg, a.annotation, PARAM_ROLES, a, scope) for a in node.args.args[len(sizes) :]
    )
    scope.buffers.update({b.name: b for b in params})
    if not is_name(node.name):
        fail(node, f"{node.name!r} cannot name a kernel")
    return Kernel(node.name, params, _block(node.body, scope, 0), tuple(sources), steps, sizes)


def _size(a: ast.arg) -> Size | None:
    """The size that a parameter is, or None."""
    made = a.annotation
    if not (isinstance(made, ast.Call) and isinstance(made.func, ast.Name)):
        return None
    if made.func.id != "size":
        return None
    if len(made.args) != 2 or made.keywords or not is_name(a.arg):
        fail(a, "expected name: size(low, high)")
    low, high = map(_integer, made.args)
    return size(a.arg, low, high)


def parse_stmt(
    text: str, buffers: dict[str, Buffer], axes: Mapping[str, Var | Size] | None = None
) -> Stmt:
    """One statement (or a block of several) over the given buffers and axes. Raises ParseError."""
    module = parse_module(text)
    scope = Scope(dict(buffers), dict(axes or {}))
    try:
        block = _block(module.body, scope, 0)
    except RecursionError:
        raise ParseError("nested too deeply", source=NOWHERE) from None
    return block.stmts[0] if len(block.stmts) == 1 else block
