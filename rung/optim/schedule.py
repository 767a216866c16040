"""Learning-rate schedules: functions of the number of finished steps.

    lr = WarmUp(100, Cosine(3e-4, 2000, final=3e-5))
    optimizer = AdamW(model.parameters(), lr=lr)

A schedule takes a number and gives a number, or takes a 0-d tensor and gives one: inside a jitted
step the rate is computed from the step tensor, so nothing is compiled anew and a resumed run needs
the step alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rung.core.errors import RungError
from rung.tensor import elementwise as e
from rung.tensor.state import TensorState
from rung.tensor.tensor import Tensor

Step = Any
"""A number of finished steps, or a 0-d tensor (i64 or f64) of it."""
Rate = Any
"""A number, or a 0-d tensor f64."""


class Schedule:
    """Base of the schedules: `schedule(step)` is the rate for the step after `step` finished
    ones."""

    def __call__(self, step: Step) -> Rate:
        """The rate: f64[] for a tensor, else a float."""
        if isinstance(step, TensorState):
            return self._rate(step.astype("f64"))  # type: ignore[attr-defined]
        return float(self._rate(float(step)))

    def _rate(self, step: Any) -> Any:
        raise NotImplementedError


def _choose(condition: Any, yes: Any, no: Any) -> Any:
    if isinstance(condition, TensorState):
        return e.where(condition, yes, no)
    return yes if condition else no


def _fraction(step: Any, num_steps: int) -> Any:
    """step / num_steps, at most 1."""
    part = step / num_steps
    return e.minimum(part, 1.0) if isinstance(part, Tensor) else min(part, 1.0)


def _positive(name: str, num_steps: int) -> None:
    if num_steps < 1:
        raise RungError(f"{name}: {num_steps} steps", fix="give at least one step")


@dataclass(frozen=True)
class Constant(Schedule):
    """The same rate at every step."""

    rate: float

    def _rate(self, step: Any) -> Any:
        return step * 0.0 + self.rate


@dataclass(frozen=True)
class Linear(Schedule):
    """From `start` to `end` in equal changes over `num_steps` steps, `end` afterwards."""

    start: float
    end: float
    num_steps: int

    def __post_init__(self) -> None:
        _positive("Linear", self.num_steps)

    def _rate(self, step: Any) -> Any:
        return self.start + (self.end - self.start) * _fraction(step, self.num_steps)


@dataclass(frozen=True)
class Cosine(Schedule):
    """From `peak` to `final` along half a cosine over `num_steps` steps, `final` afterwards
    (Loshchilov and Hutter, 2016)."""

    peak: float
    num_steps: int
    final: float = 0.0

    def __post_init__(self) -> None:
        _positive("Cosine", self.num_steps)

    def _rate(self, step: Any) -> Any:
        angle = _fraction(step, self.num_steps) * math.pi
        cosine = e.cos(angle) if isinstance(angle, TensorState) else math.cos(angle)
        return self.final + (self.peak - self.final) * 0.5 * (1.0 + cosine)


@dataclass(frozen=True)
class StepDecay(Schedule):
    """`rate` times `factor` to the power of how often `every` steps are finished."""

    rate: float
    every: int
    factor: float = 0.1

    def __post_init__(self) -> None:
        _positive("StepDecay", self.every)

    def _rate(self, step: Any) -> Any:
        times = step // self.every
        return self.rate * self.factor**times


@dataclass(frozen=True)
class MultiStepDecay(Schedule):
    """`rate` times `factor` for each of the `milestones` (numbers of finished steps) reached."""

    rate: float
    milestones: tuple[int, ...]
    factor: float = 0.1

    def _rate(self, step: Any) -> Any:
        found = step * 0.0 + self.rate
        for milestone in self.milestones:
            found = _choose(step >= milestone, found * self.factor, found)
        return found


@dataclass(frozen=True)
class ExponentialDecay(Schedule):
    """`rate` times `factor` to the power of the number of finished steps."""

    rate: float
    factor: float

    def _rate(self, step: Any) -> Any:
        return self.rate * self.factor**step


@dataclass(frozen=True)
class OneCycle(Schedule):
    """Up from `max_lr` / `div_factor` to `max_lr` in the first `pct_start` of `total_steps` steps,
    then down to the first rate / `final_div_factor` (Smith and Topin, 2017), along half a cosine
    ("cos") or a line ("linear"). `three_phase`: down to the first rate as fast as up, then on.

    Arguments are those of `torch.optim.lr_scheduler.OneCycleLR`; momentum is left alone."""

    max_lr: float
    total_steps: int
    pct_start: float = 0.3
    anneal_strategy: str = "cos"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phase: bool = False

    def __post_init__(self) -> None:
        _positive("OneCycle", self.total_steps)
        if not 0 <= self.pct_start <= 1:
            raise RungError(f"OneCycle: pct_start={self.pct_start}", fix="from 0 to 1")
        if self.anneal_strategy not in ("cos", "linear"):
            raise RungError(
                f"OneCycle: anneal_strategy={self.anneal_strategy!r}", fix='give "cos" or "linear"'
            )

    def _phases(self) -> list[tuple[float, float]]:
        """(step at its end, rate at its end) of each phase."""
        first, last = self.max_lr / self.div_factor, float(self.total_steps - 1)
        rise = self.pct_start * self.total_steps - 1
        down = [(2 * rise, first)] if self.three_phase else []
        return [(rise, self.max_lr), *down, (last, first / self.final_div_factor)]

    def _rate(self, step: Any) -> Any:
        begin, rate = 0.0, self.max_lr / self.div_factor
        found = step * 0.0 + rate
        for end, target in self._phases():
            part = _clipped((step - begin) / (end - begin) if end > begin else step * 0.0 + 1.0)
            found = _choose(step > begin, self._between(rate, target, part), found)
            begin, rate = end, target
        return found

    def _between(self, start: float, end: float, part: Any) -> Any:
        if self.anneal_strategy == "linear":
            return start + (end - start) * part
        angle = part * math.pi
        cosine = e.cos(angle) if isinstance(angle, TensorState) else math.cos(angle)
        return end + (start - end) / 2.0 * (cosine + 1)


def _clipped(part: Any) -> Any:
    return e.clip(part, 0.0, 1.0) if isinstance(part, TensorState) else min(max(part, 0.0), 1.0)


@dataclass(frozen=True)
class WarmUp(Schedule):
    """The first `num_steps` rates rise evenly to that with which `then` begins; then `then`, whose
    steps count from there."""

    num_steps: int
    then: Schedule

    def __post_init__(self) -> None:
        _positive("WarmUp", self.num_steps)

    def _rate(self, step: Any) -> Any:
        rising = self.then(0) * ((step + 1) / self.num_steps)
        after = self.then._rate(_at_least_zero(step - self.num_steps))
        return _choose(step < self.num_steps, rising, after)


def _at_least_zero(step: Any) -> Any:
    return e.maximum(step, 0.0) if isinstance(step, TensorState) else max(step, 0.0)


@dataclass(frozen=True)
class Chain(Schedule):
    """Schedules one after the other: each of `parts` but the last is (number of steps, schedule);
    the steps of each count from its own start."""

    parts: tuple[tuple[int, Schedule], ...]
    last: Schedule

    def _rate(self, step: Any) -> Any:
        start = sum(num_steps for num_steps, _ in self.parts)
        found = self.last._rate(_at_least_zero(step - start))
        for num_steps, schedule in reversed(self.parts):
            start -= num_steps
            here = schedule._rate(_at_least_zero(step - start))
            found = _choose(step < start + num_steps, here, found)
        return found


@dataclass(frozen=True)
class Scaled(Schedule):
    """`factor` times another schedule, or times what a function of the step gives."""

    factor: float
    schedule: Schedule

    def _rate(self, step: Any) -> Any:
        return self.schedule._rate(step) * self.factor


@dataclass(frozen=True)
class FromFunction(Schedule):
    """Any function of the step (a float or an f64 tensor) written in operators that both have."""

    function: Callable[[Any], Any]

    def _rate(self, step: Any) -> Any:
        return self.function(step)
