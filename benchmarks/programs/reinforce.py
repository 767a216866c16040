"""The policy gradient REINFORCE (Williams, 1992): episodes of any length, a step for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.programs.cart_pole import CartPole, returns_of
from benchmarks.programs.common import chosen, initial_weights, no_jit, torch_weights


@dataclass(frozen=True)
class Size:
    """Features of the hidden layer, most pushes of an episode."""

    width: int = 128
    longest: int = 200


FULL = Size()
TINY = Size(width=8, longest=10)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The loss of each of `n` episodes."""
    no_jit("reinforce", jit)
    return chosen(system, rung_steps, torch_steps)(n, size)


def rung_steps(n: int, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import nn, optim
    from rung.nn import functional as f

    policy = nn.Sequential(nn.Linear(4, size.width), nn.ReLU(), nn.Linear(size.width, 2))
    policy.load_state_dict(initial_weights(policy))
    optimizer = optim.Adam(policy.parameters(), lr=1e-2)
    world, rng = CartPole(size.longest), np.random.default_rng(1)

    def episode():
        log_probs, rewards = [], []
        state, ended = world.reset(), False
        while not ended:
            log_prob = f.log_softmax(policy(rung.asarray(state)), dim=-1)
            action = int(rng.random() < log_prob[1].exp().item())
            log_probs.append(log_prob[action])
            state, reward, ended = world.step(action)
            rewards.append(reward)
        loss = -(rung.stack(log_probs) * rung.asarray(returns_of(rewards))).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return (episode().item() for _ in range(n))


def torch_steps(n: int, size: Size) -> Iterator[float]:
    """In PyTorch."""
    import torch
    import torch.nn.functional as f
    from torch import nn, optim

    policy = nn.Sequential(nn.Linear(4, size.width), nn.ReLU(), nn.Linear(size.width, 2))
    policy.load_state_dict(torch_weights(policy))
    optimizer = optim.Adam(policy.parameters(), lr=1e-2)
    world, rng = CartPole(size.longest), np.random.default_rng(1)

    def episode():
        log_probs, rewards = [], []
        state, ended = world.reset(), False
        while not ended:
            log_prob = f.log_softmax(policy(torch.from_numpy(state)), dim=-1)
            action = int(rng.random() < log_prob[1].exp().item())
            log_probs.append(log_prob[action])
            state, reward, ended = world.step(action)
            rewards.append(reward)
        loss = -(torch.stack(log_probs) * torch.from_numpy(returns_of(rewards))).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return (episode().item() for _ in range(n))
