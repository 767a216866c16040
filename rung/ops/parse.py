"""Reading the text of graphs with every op known."""

from __future__ import annotations

from rung.ir.node import Graph
from rung.ir.parse import parse_graph
from rung.ops.table import OPS


def parse(text: str) -> Graph:
    """The last graph of `text`, as printed by `rung.ir.text.graph_text`. Raises ParseError."""
    return parse_graph(text, OPS)
