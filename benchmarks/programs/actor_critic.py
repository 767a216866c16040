"""An actor and a critic with one trunk: episodes of any length, losses made push by push."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benchmarks.programs.cart_pole import CartPole, returns_of
from benchmarks.programs.common import chosen, initial_weights, no_jit, torch_weights


@dataclass(frozen=True)
class Size:
    """Features of the trunk, most pushes of an episode."""

    width: int = 128
    longest: int = 200


FULL = Size()
TINY = Size(width=8, longest=10)


def steps(n: int, *, system: str, jit: bool = False, size: Size = FULL) -> Iterator[float]:
    """The loss of each of `n` episodes."""
    no_jit("actor_critic", jit)
    return chosen(system, rung_steps, torch_steps)(n, size)


def rung_steps(n: int, size: Size) -> Iterator[float]:
    """In rung."""
    import rung
    from rung import nn, optim
    from rung.nn import functional as f

    class ActorCritic(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.trunk = nn.Linear(4, width)
            self.actor = nn.Linear(width, 2)
            self.critic = nn.Linear(width, 1)

        def forward(self, state):
            h = f.relu(self.trunk(state))
            return f.softmax(self.actor(h), dim=-1), self.critic(h)

    model = ActorCritic(size.width)
    model.load_state_dict(initial_weights(model))
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    world, rng = CartPole(size.longest), np.random.default_rng(1)

    def episode():
        saved, rewards = [], []
        state, ended = world.reset(), False
        while not ended:
            probs, value = model(rung.asarray(state))
            action = int(rng.random() < probs[1].item())
            saved.append((rung.log(probs[action]), value))
            state, reward, ended = world.step(action)
            rewards.append(reward)

        policy_losses, value_losses = [], []
        for (log_prob, value), found in zip(saved, returns_of(rewards), strict=True):
            advantage = found - value.item()
            policy_losses.append(-log_prob * advantage)
            value_losses.append(f.smooth_l1_loss(value, rung.tensor([found])))
        loss = rung.stack(policy_losses).sum() + rung.stack(value_losses).sum()
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

    class ActorCritic(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.trunk = nn.Linear(4, width)
            self.actor = nn.Linear(width, 2)
            self.critic = nn.Linear(width, 1)

        def forward(self, state):
            h = f.relu(self.trunk(state))
            return f.softmax(self.actor(h), dim=-1), self.critic(h)

    model = ActorCritic(size.width)
    model.load_state_dict(torch_weights(model))
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    world, rng = CartPole(size.longest), np.random.default_rng(1)

    def episode():
        saved, rewards = [], []
        state, ended = world.reset(), False
        while not ended:
            probs, value = model(torch.from_numpy(state))
            action = int(rng.random() < probs[1].item())
            saved.append((torch.log(probs[action]), value))
            state, reward, ended = world.step(action)
            rewards.append(reward)

        policy_losses, value_losses = [], []
        for (log_prob, value), found in zip(saved, returns_of(rewards), strict=True):
            advantage = found - value.item()
            policy_losses.append(-log_prob * advantage)
            value_losses.append(f.smooth_l1_loss(value, torch.tensor([found])))
        loss = torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss

    return (episode().item() for _ in range(n))
