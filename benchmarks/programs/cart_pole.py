"""A pole on a cart that is pushed to the left or right (Barto, Sutton and Anderson, 1983)."""

from __future__ import annotations

import math

import numpy as np

from benchmarks.programs.common import Array

GRAVITY, PUSH, SECONDS = 9.8, 10.0, 0.02
CART, POLE, HALF_LENGTH = 1.0, 0.1, 0.5
FAR, TILTED = 2.4, 12 * math.pi / 180


class CartPole:
    """An episode ends when the cart is too far from the middle, when the pole is tilted by more
    than 12°, or after `longest` pushes. A state is f32[4]: place, speed, angle, its speed."""

    def __init__(self, longest: int, seed: int = 0) -> None:
        self.longest = longest
        self.rng = np.random.default_rng(seed)

    def reset(self) -> Array:
        """The first state of a new episode."""
        self.state = self.rng.uniform(-0.05, 0.05, 4)
        self.pushes = 0
        return self.state.astype(np.float32)

    def step(self, action: int) -> tuple[Array, float, bool]:
        """Push to the left (0) or right (1): the next state, the reward, whether it is the end."""
        _, speed, angle, turn = self.state
        sine, cosine, mass = math.sin(angle), math.cos(angle), CART + POLE
        force = PUSH if action else -PUSH
        drive = (force + POLE * HALF_LENGTH * turn**2 * sine) / mass
        resist = HALF_LENGTH * (4 / 3 - POLE * cosine**2 / mass)
        turning = (GRAVITY * sine - cosine * drive) / resist
        moving = drive - POLE * HALF_LENGTH * turning * cosine / mass
        self.state = self.state + SECONDS * np.array([speed, moving, turn, turning])
        self.pushes += 1
        fallen = abs(self.state[0]) > FAR or abs(self.state[2]) > TILTED
        return self.state.astype(np.float32), 1.0, fallen or self.pushes == self.longest


def returns_of(rewards: list[float], discount: float = 0.99) -> Array:
    """The discounted sum of the rewards from each step on, with mean 0 and deviation 1, f32[T]."""
    found, total = [], 0.0
    for reward in reversed(rewards):
        total = reward + discount * total
        found.append(total)
    returns = np.array(found[::-1], np.float32)
    return (returns - returns.mean()) / (returns.std() + 1e-6)
