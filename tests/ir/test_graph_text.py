"""The text of graphs: what it looks like, and that it reads back to the identical graph."""

from __future__ import annotations

import random
from itertools import islice

import numpy as np
import pytest

from rung.core import dtype as dt
from rung.core.errors import GraphError, ParseError
from rung.core.source import Source
from rung.ir.node import Graph, Value, make_graph, parameter, provenance
from rung.ir.op import NO_ATTRS, Op
from rung.ir.text import graph_text
from rung.ir.types import TensorType, array_type
from rung.ops.broadcast import reduce_sum
from rung.ops.composite import composite
from rung.ops.contraction import matmul
from rung.ops.creation import array, array_constant, array_data, constant, full
from rung.ops.elementwise import maximum, multiply
from rung.ops.families import add
from rung.ops.movement import pad
from rung.ops.parse import parse
from rung.ops.softmax import log_softmax
from rung.ops.sorting import top_k
from rung.ops.table import OPS

F32 = dt.float32
TRAIN = Source("/home/me/train.py", 9, "h.0.mlp")


def param(
    index: int, shape: tuple[int, ...] = (2, 3), name: str = "", dtype: dt.DType = F32
) -> Value:
    return parameter(index, name or f"x{index}", TensorType(dtype, shape))


def reads_back(graph: Graph) -> str:
    text = graph_text(graph)
    assert parse(text) is graph, text
    return text


def mlp() -> Graph:
    x, w = param(0, (4, 8), "x"), param(1, (8, 5), "h.0.w")
    with provenance(TRAIN):
        h = matmul(x, w)
        with provenance(TRAIN.with_via("relu")):
            h = maximum(h, full(h.shape, 0.0, F32))
    with provenance(Source("/home/me/train.py", 10)):
        p = log_softmax(h, dim=1)
        values, indices = top_k.build([p], top_k.attrs(k=2, dim=1))
    return make_graph("mlp", [x, w], [reduce_sum(values, dims=(1,)), indices])


def test_looks_as_in_the_golden_file(golden) -> None:
    with provenance(Source("/elsewhere/train.py", 3)):
        graph = mlp()
    golden("graph_mlp.txt", reads_back(graph))


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_every_op_reads_back(op: Op) -> None:
    samples = () if op.samples is None else op.samples(np.random.default_rng(0))
    seen = set()
    for sample in samples:
        key = (sample.attrs, len(sample.operands))
        if key in seen or len(seen) >= 12:
            continue
        seen.add(key)
        types = [x if isinstance(x, TensorType) else array_type(x) for x in sample.operands]
        params = [parameter(i, "abc"[i % 3] + str(i), t) for i, t in enumerate(types)]
        reads_back(make_graph(op.name, params, op.build(params, sample.attrs)))


NUMBERS = [0.0, -0.0, 1.5, 0.1, 1e-45, 3.4028235e38, float("inf"), float("-inf"), float("nan")]


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("dtype", dt.FLOATS, ids=str)
def test_scalars_are_exact(number: float, dtype: dt.DType) -> None:
    out = constant(value=number, dtype=dtype)
    reads_back(make_graph("f", [], [out]))
    x = param(0, (2,), dtype=dtype)
    reads_back(make_graph("f", [x], [pad(x, low=(1,), high=(0,), value=number)]))


def test_zeros_of_either_sign_are_two_graphs() -> None:
    plus, minus = (constant(value=z, dtype=F32) for z in (0.0, -0.0))
    assert plus is not minus
    assert "-0.0" in reads_back(make_graph("f", [], [minus]))


@pytest.mark.parametrize("size", [0, 1, 5, 16, 17, 300])
@pytest.mark.parametrize("dtype", dt.ALL, ids=str)
def test_arrays_are_exact(size: int, dtype: dt.DType) -> None:
    bits = np.random.default_rng(size).integers(0, 256, size * dtype.itemsize, np.uint8)
    content = (bits % 2).astype(bool) if dtype.is_bool else bits.view(dtype.numpy)
    reads_back(make_graph("f", [], [array_constant(data=array_data(content))]))


def test_small_arrays_are_readable_and_large_ones_can_be_left_out() -> None:
    small = make_graph("f", [], [array(np.array([[1.0, 2.5]], np.float32))])
    assert "array_data(f32[1, 2], (1.0, 2.5))" in reads_back(small)
    large = make_graph("f", [], [array(np.arange(1000.0))])
    short = graph_text(large, data=False)
    assert len(short) < 400
    assert parse(short) is large


NAMES = ["x", "v0", "if", "h.0.w", "two words", "add", "f32", "nan", "ü", "", "x y\n", '"', "graph"]


@pytest.mark.parametrize("name", NAMES)
def test_any_names(name: str) -> None:
    a, b = param(0, (), name), param(1, (), name)
    out = add(a, b)
    reads_back(make_graph(name, [a, b], [out]))
    reads_back(make_graph("add", [a, b], [out, out, a]))


SOURCES = [
    Source(), Source(via="x"), Source(path="h.0"), Source("/a/b.py", 3), Source("/a/b.py", 0, "p"),
    Source("<stdin>", 1), Source("/a b/c d.py", 7, "x]y", "two words"), Source("/z/b.py", 3),
    Source('/q"\\\n/ü.py', 12345, 'a "b" [c]', '"'), Source("nowhere", 5), Source("/x/nowhere", 5),
    Source("/a/b.py", 3, "", "jvp/transpose"), Source("/a/b.py", 3, "é", "é"),
]  # fmt: skip


def test_any_sources() -> None:
    out = param(0)
    for source in [*SOURCES, *reversed(SOURCES)]:
        with provenance(source):
            out = add(out, out)
    graph = make_graph("f", [param(0)], [out])
    back = parse(graph_text(graph))
    assert [n.source for n in back.nodes] == [n.source for n in graph.nodes]
    assert back is graph


def test_graphs_in_graphs() -> None:
    @composite
    def scaled(x: Value, *, factor: float = 2.0) -> Value:
        return multiply(log_softmax(x), full(x.shape, factor, x.dtype))

    x = param(0)
    a, b = scaled(x), scaled(log_softmax(x), factor=-0.5)
    text = reads_back(make_graph("f", [x], [add(a, b)]))
    assert text.count("@graph") == 4
    assert 'name="scaled"' in text


def test_no_outputs_and_unused_parameters() -> None:
    reads_back(make_graph("f", [param(0), param(1, ())], []))
    many = [param(k, name=f"a_long_name_{k}") for k in range(9)]
    assert "\n    a_long_name_8: f32[2, 3],\n):\n" in reads_back(make_graph("f", many, many[3:4]))


def test_a_note_and_other_comments_are_skipped() -> None:
    graph = mlp()
    text = graph_text(graph, note="after simplify (12 nodes)\nsecond: line")
    assert text.startswith("# after simplify (12 nodes)\n# second: line\n# source")
    assert parse(text.replace("    return", "    # just a remark\n    return")) is graph


def test_values_without_text_form() -> None:
    from dataclasses import dataclass, replace

    from rung.ir.op import Attrs

    @dataclass(frozen=True)
    class Odd(Attrs):
        what: object

    odd = replace(add, attrs=Odd, name="odd")
    out = odd(param(0), param(0), attrs=Odd(frozenset()))
    with pytest.raises(GraphError, match="an attribute of type frozenset has no text form"):
        graph_text(make_graph("f", [param(0)], [out]))


# ---- what does not parse


ERRORS = {
    "": "line 1, column 1: there is no graph in the text",
    "x = 1": "line 1, column 1: only functions with @graph may stand here",
    "def f():\n  return ()": "line 1, column 1: f is not marked with @graph",
    "@graph\ndef f(:": "line 2, column 7: not Python: invalid syntax",
    "@graph\ndef f(x):\n  return x": "line 2, column 7: parameter x has no type",
    "@graph\ndef f(x: g32[2]):\n  return x": "line 2, column 10: unknown dtype 'g32'",
    "@graph\ndef f(x: f32[-2]):\n  return x": "line 2, column 14: a dim is a number that is not",
    "@graph\ndef f(x: f32[2]):\n  pass": "line 3, column 3: expected `name = op(...)` or return",
    "@graph\ndef f(x: f32[2]):\n  y = x": "line 3, column 7: expected a call of an op",
    "@graph\ndef f(x: f32):\n  y = addd(x, x)\n  return y": "line 3, column 7: unknown op 'addd'",
    "@graph\ndef f(x: f32):\n  y = add(x, z)\n  return y": "line 3, column 14: unknown value 'z'",
    "@graph\ndef f(x: f32):\n  y = add(x, 1)\n  return y": "line 3, column 14: an operand is",
    "@graph\ndef f(x: f32):\n  y = add(x)\n  return y": "line 3, column 7: add: takes 2 operands",
    "@graph\ndef f(x: f32):\n  x = add(x, x)\n  return x": "line 3, column 3: x is assigned twice",
    "@graph\ndef f(x: f32):\n  y = add(x, x)": "line 2, column 1: f has no return",
    "@graph\ndef f(x: f32):\n  y = add(x, x)  # f32[2]\n  return y":
        "line 3, column 3: the comment says f32[2], but this is f32[]",
    "@graph\ndef f(x: f32[2], y: f32[3]):\n  z = add(x, y)\n  return z":
        "line 3, column 7: add: shapes differ: x f32[2] and y f32[3]",
    "@graph\ndef f(x: f32[2]):\n  y = reshape(x, size=(2,))\n  return y":
        "line 3, column 18: ShapeAttrs has no attribute 'size'",
    "@graph\ndef f(x: f32[2]):\n  y = reshape(x, shape=2.0)\n  return y":
        "line 3, column 24: attribute 'shape' cannot be 2.0",
    "@graph\ndef f(x: f32[2]):\n  y = reshape(x)\n  return y":
        "line 3, column 7: attribute 'shape' of ShapeAttrs is missing",
    "@graph\ndef f():\n  y = constant(value=__import__('os'), dtype=f32)\n  return y":
        "line 3, column 22: unknown record '__import__'",
    "@graph\ndef f():\n  y = constant(value=300, dtype=i8)\n  return y":
        "line 3, column 7: constant: 300 does not fit i8",
    "@graph\ndef f():\n  y = array_constant(data=array_data(f32[2], (1.0,)))\n  return y":
        "line 3, column 27: array_data: cannot reshape array of size 1 into shape (2,)",
    '@graph\ndef f():\n  y = array_constant(data=array_data("feed"))\n  return y':
        "line 3, column 27: array_data: no array with digest 'feed'",
    '@graph\ndef f(x: f32):\n  # a.py:3 ["b]\n  y = add(x, x)\n  return y':
        "line 3, column 13: this is not a string in double quotes",
    "(" * 500: "line 1, column ",
}  # fmt: skip


@pytest.mark.parametrize("text", ERRORS, ids=range(len(ERRORS)))
def test_errors_say_where_and_what(text: str) -> None:
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert str(caught.value).startswith(ERRORS[text])
    assert caught.value.lineno and caught.value.offset


def test_errors_say_the_fix() -> None:
    with pytest.raises(ParseError) as caught:
        parse("@graph\ndef f(x: f32):\n  y = addd(x, x)\n  return y")
    assert str(caught.value) == "line 3, column 7: unknown op 'addd'\n  fix: expected add"


@pytest.mark.parametrize("seed", range(8))
def test_broken_texts_raise_nothing_but_parse_errors(seed: int) -> None:
    rng = random.Random(seed)
    samples = [op.samples(np.random.default_rng(seed)) for op in OPS.values() if op.samples]
    texts = [graph_text(mlp())]
    for op in rng.sample([op for op in OPS.values() if op.samples], 12):
        for sample in islice(op.samples(np.random.default_rng(seed)), 3):
            types = [x if isinstance(x, TensorType) else array_type(x) for x in sample.operands]
            params = [parameter(i, f"x{i}", t) for i, t in enumerate(types)]
            attrs = sample.attrs if sample.attrs is not None else NO_ATTRS
            texts.append(graph_text(make_graph("f", params, op.build(params, attrs))))
    assert samples
    pieces = [t for text in texts for t in text.replace("(", " ( ").split(" ")] + [
        "nan", "-1", "()", "None", "True", '""', "f32[1]", "=", ",", "\x00", "#", "'", "9" * 30,
        "lambda", "*", "**x", "v0", "1e999", "\ud800", "é", "\n    ", "\t", "f64", "-inf",
    ]  # fmt: skip
    parsed = 0
    for _ in range(250):
        text = _mutated(rng.choice(texts), pieces, rng)
        try:
            graph = parse(text)
            assert parse(graph_text(graph)) is graph
            parsed += 1
        except ParseError as e:
            assert e.lineno and e.lineno >= 1, text
    assert parsed < 250


def _mutated(text: str, pieces: list[str], rng: random.Random) -> str:
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(text) + 1)
        to = min(len(text), at + rng.choice([0, 0, 1, 1, 3, 12]))
        kind = rng.random()
        if kind < 0.6:
            text = text[:at] + rng.choice(pieces) + text[to:]
        elif kind < 0.8:
            text = text[:at] + text[to:]
        else:
            words = text.split(" ")
            i, j = rng.randrange(len(words)), rng.randrange(len(words))
            words[i], words[j] = words[j], words[i]
            text = " ".join(words)
    return text
