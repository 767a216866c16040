"""A graph network: messages along edges, summed at the nodes; graphs of another size each step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.programs.common import Array, chosen, initial_weights, no_jit, torch_weights

FEATURES = 8


@dataclass(frozen=True)
class Size:
    """Features of a node, rounds of messages, graphs of a step, most nodes of a graph."""

    width: int = 64
    rounds: int = 3
    graphs: int = 16
    nodes: int = 60


FULL = Size()
TINY = Size(width=8, rounds=1, graphs=2, nodes=6)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The loss of each of `n` steps."""
    no_jit("graph_network", jit)
    return chosen(system, rung_steps, torch_steps)(n, size)


def batches_of_graphs(n: int, size: Size) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Features f32[N, 8] of the nodes of all graphs, edges i64[2, E] (source, target), the number
    i64[N] of the graph of each node, and a value f32[graphs] to predict: the mean over the edges
    of a graph of the product of the first features at the two ends."""
    rng = np.random.default_rng(1)
    for _ in range(n):
        counts = rng.integers(3, size.nodes + 1, size.graphs)
        graph = np.repeat(np.arange(size.graphs), counts)
        starts = np.cumsum(counts) - counts
        ends = [rng.integers(0, c, (2, 3 * c)) + s for c, s in zip(counts, starts, strict=True)]
        edges = np.concatenate(ends, axis=1)
        x = rng.standard_normal((len(graph), FEATURES)).astype(np.float32)
        product = x[edges[0], 0] * x[edges[1], 0]
        value = np.bincount(graph[edges[0]], product) / (3 * counts)
        yield x, edges, graph, value.astype(np.float32)


def rung_steps(n: int, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import nn, optim
    from rung.nn import functional as f

    def mlp(inputs, width, outputs):
        return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))

    class Round(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.message = mlp(2 * width, width, width)
            self.update = mlp(2 * width, width, width)

        def forward(self, h, source, target):
            messages = self.message(rung.cat([h[source], h[target]], dim=-1))
            total = rung.zeros_like(h).index_add(0, target, messages)
            return h + self.update(rung.cat([h, total], dim=-1))

    class GraphNetwork(nn.Module):
        def __init__(self, width, rounds):
            super().__init__()
            self.first = nn.Linear(FEATURES, width)
            self.rounds = nn.ModuleList([Round(width) for _ in range(rounds)])
            self.last = mlp(width, width, 1)

        def forward(self, x, edges, graph, num_graphs):
            h = self.first(x)
            for message_round in self.rounds:
                h = message_round(h, edges[0], edges[1])
            total = rung.zeros(num_graphs, h.shape[1])
            total = total.scatter_add(0, graph[:, None].expand(h.shape), h)
            count = rung.zeros(num_graphs).scatter_add(0, graph, rung.ones(len(graph)))
            return self.last(total / count[:, None])[:, 0]

    model = GraphNetwork(size.width, size.rounds)
    model.load_state_dict(initial_weights(model))
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    def step(x, edges, graph, value):
        optimizer.zero_grad()
        loss = f.mse_loss(model(x, edges, graph, len(value)), value)
        loss.backward()
        optimizer.step()
        return loss

    return (step(*map(rung.asarray, batch)).item() for batch in batches_of_graphs(n, size))


def torch_steps(n: int, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f
    from torch import nn, optim

    def mlp(inputs, width, outputs):
        return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, outputs))

    class Round(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.message = mlp(2 * width, width, width)
            self.update = mlp(2 * width, width, width)

        def forward(self, h, source, target):
            messages = self.message(torch.cat([h[source], h[target]], dim=-1))
            total = torch.zeros_like(h).index_add(0, target, messages)
            return h + self.update(torch.cat([h, total], dim=-1))

    class GraphNetwork(nn.Module):
        def __init__(self, width, rounds):
            super().__init__()
            self.first = nn.Linear(FEATURES, width)
            self.rounds = nn.ModuleList([Round(width) for _ in range(rounds)])
            self.last = mlp(width, width, 1)

        def forward(self, x, edges, graph, num_graphs):
            h = self.first(x)
            for message_round in self.rounds:
                h = message_round(h, edges[0], edges[1])
            total = torch.zeros(num_graphs, h.shape[1])
            total = total.scatter_add(0, graph[:, None].expand(h.shape), h)
            count = torch.zeros(num_graphs).scatter_add(0, graph, torch.ones(len(graph)))
            return self.last(total / count[:, None])[:, 0]

    model = GraphNetwork(size.width, size.rounds)
    model.load_state_dict(torch_weights(model))
    optimizer = optim.Adam(model.parameters(), lr=1e-3)

    def step(x, edges, graph, value):
        optimizer.zero_grad()
        loss = f.mse_loss(model(x, edges, graph, len(value)), value)
        loss.backward()
        optimizer.step()
        return loss

    return (step(*map(torch.from_numpy, batch)).item() for batch in batches_of_graphs(n, size))
