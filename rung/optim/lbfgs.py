"""L-BFGS: a quasi-Newton method for full batches, driven from Python.

Vectors of all parameters, one after the other, lie on the host as NumPy arrays: a step looks at
the loss many times, so that there is nothing to trace. Decisions, their tolerances and the names in
the state are those of `torch.optim.LBFGS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from rung.core import dtype as dt
from rung.core.errors import CheckpointError, RungError
from rung.optim.optimizer import Optimizer, Params, Rate, one_number
from rung.tensor.autograd import enable_grad, no_grad
from rung.tensor.creation import asarray
from rung.tensor.tensor import Tensor

Vector = np.ndarray[Any, Any]
Closure = Callable[[], Any]
_ARMIJO: Final = 1e-4
_CURVATURE: Final = 0.9
_MIN_CURVATURE: Final = 1e-10
_FIELDS: Final = (
    "func_evals", "n_iter", "d", "t", "old_dirs", "old_stps", "ro", "H_diag", "prev_flat_grad",
    "prev_loss",
)  # fmt: skip
_LISTS: Final = ("old_dirs", "old_stps", "ro")


@dataclass(frozen=True)
class _Point:
    """A point x + t d of a line: the loss, its gradient, and the slope along d."""

    t: float
    loss: float
    gradient: Vector
    slope: float


@dataclass
class _Memory:
    """What is known of the curvature: pairs of changes of the gradient and of the parameters."""

    d: Vector
    prev_flat_grad: Vector
    func_evals: int = 0
    n_iter: int = 0
    t: float = 0.0
    H_diag: float = 1.0
    prev_loss: float = math.inf
    old_dirs: list[Vector] = field(default_factory=list)
    old_stps: list[Vector] = field(default_factory=list)
    ro: list[float] = field(default_factory=list)

    def learn(self, gradient: Vector, history_size: int) -> None:
        """Take in the last step, if the curvature along it is positive."""
        change, step = gradient - self.prev_flat_grad, self.d * self.t
        curvature = float(change @ step)
        if curvature <= _MIN_CURVATURE:
            return
        self.old_dirs.append(change)
        self.old_stps.append(step)
        self.ro.append(1.0 / curvature)
        for known in (self.old_dirs, self.old_stps, self.ro):
            del known[: max(len(known) - history_size, 0)]  # type: ignore[attr-defined]
        self.H_diag = curvature / float(change @ change)

    def direction(self, gradient: Vector) -> Vector:
        """Minus the gradient times the inverse Hessian as it is known (the two loops of Nocedal,
        1980)."""
        q = -gradient
        known = list(zip(self.old_dirs, self.old_stps, self.ro, strict=True))
        weights = []
        for change, step, ro in reversed(known):
            weights.append(float(step @ q) * ro)
            q = q - weights[-1] * change
        found: Vector = q * self.H_diag
        for (change, step, ro), weight in zip(known, reversed(weights), strict=True):
            found = found + step * (weight - float(change @ found) * ro)
        return found


class LBFGS(Optimizer):
    """Steps along minus the gradient times an estimate of the inverse Hessian, from the last
    `history_size` changes (Liu and Nocedal, 1989); `step(closure)` makes up to `max_iter` of them.

    `closure()` clears the gradients, computes the loss, calls `backward()` and returns the loss.
    `line_search_fn`: "strong_wolfe", or None for steps of `lr`. One group of parameters."""

    def __init__(
        self,
        params: Params,
        lr: Rate = 1.0,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
    ) -> None:
        super().__init__(
            params,
            lr,
            max_iter=max_iter,
            max_eval=max_iter * 5 // 4 if max_eval is None else max_eval,
            tolerance_grad=tolerance_grad,
            tolerance_change=tolerance_change,
            history_size=history_size,
            line_search_fn=line_search_fn,
        )
        if len(self.param_groups) != 1:
            raise RungError("LBFGS: takes one group of parameters", fix="pass model.parameters()")
        kinds = [dt.accumulator(p.dtype).numpy for p in self._params]
        size = sum(p.size for p in self._params)
        zeros = np.zeros(size, np.result_type(*kinds))
        self.memory = _Memory(zeros, zeros)

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        search = hyperparameters["line_search_fn"]
        if search not in (None, "strong_wolfe"):
            raise RungError(f"LBFGS: line_search_fn={search!r}", fix='give "strong_wolfe" or None')

    @property
    def _params(self) -> list[Tensor]:
        return self.param_groups[0]["params"]  # type: ignore[no-any-return]

    # ---- vectors of all parameters

    def _gathered(self, tensors: list[Tensor | None]) -> Vector:
        kind = self.memory.d.dtype
        parts = [
            np.zeros(p.size, kind) if t is None else np.asarray(t).reshape(-1).astype(kind)
            for p, t in zip(self._params, tensors, strict=True)
        ]
        return np.concatenate(parts)

    def _put(self, vector: Vector) -> None:
        at = 0
        with no_grad():
            for p in self._params:
                p.assign(asarray(vector[at : at + p.size].reshape(p.shape), dtype=p.dtype))
                at += p.size

    def _evaluate(self, closure: Closure) -> tuple[Any, Vector]:
        """The loss and the gradient where the parameters are."""
        with enable_grad():
            loss = closure()
        return loss, self._gathered([p.grad for p in self._params])

    # ---- stepping

    def step(self, closure: Closure) -> Any:  # type: ignore[override]
        """Make up to `max_iter` steps; returns the loss from before, as the closure gave it."""
        group, memory = self.param_groups[0], self.memory
        rate = float(self._rate(group))
        first, gradient = self._evaluate(closure)
        memory.func_evals += 1
        loss, num_evaluations = one_number("LBFGS.step: the loss", first), 1
        self.step_count.assign(self.step_count + 1)
        if _largest(gradient) <= group["tolerance_grad"]:
            return first
        for number in range(1, group["max_iter"] + 1):
            slope = self._turn(gradient, loss, rate)
            if slope > -group["tolerance_change"]:
                break
            last = number == group["max_iter"]
            start = _Point(0.0, loss, gradient, slope)
            point, count = self._move(closure, start, last, group["max_eval"] - num_evaluations)
            loss, gradient = point.loss, point.gradient
            num_evaluations += count
            memory.func_evals += count
            if last or num_evaluations >= group["max_eval"] or self._is_done(point):
                break
        return first

    def _turn(self, gradient: Vector, loss: float, rate: float) -> float:
        """Choose the next direction and the first length to try; returns the slope there."""
        memory = self.memory
        memory.n_iter += 1
        if memory.n_iter == 1:
            memory.d = -gradient
            memory.t = min(1.0, 1.0 / float(np.abs(gradient).sum())) * rate
        else:
            memory.learn(gradient, self.param_groups[0]["history_size"])
            memory.d = memory.direction(gradient)
            memory.t = rate
        memory.prev_flat_grad, memory.prev_loss = gradient, loss
        return float(gradient @ memory.d)

    def _move(
        self, closure: Closure, start: _Point, last: bool, evaluations: int
    ) -> tuple[_Point, int]:
        """Go along the direction; where that ends, and how often the closure was called."""
        memory, group = self.memory, self.param_groups[0]
        begin, d = self._gathered(list(self._params)), memory.d

        def at(t: float) -> _Point:
            self._put(begin + t * d)
            loss, gradient = self._evaluate(closure)
            value = one_number("LBFGS.step: the loss", loss)
            return _Point(t, value, gradient, float(gradient @ d))

        if group["line_search_fn"] is None:
            if not last:
                return at(memory.t), 1
            self._put(begin + memory.t * d)
            return start, 0
        tolerance = group["tolerance_change"] / max(_largest(d), 1e-300)
        point, count = _strong_wolfe(at, start, memory.t, tolerance, evaluations)
        memory.t = point.t
        self._put(begin + point.t * d)
        return point, count

    def _is_done(self, point: _Point) -> bool:
        group, memory = self.param_groups[0], self.memory
        return (
            _largest(point.gradient) <= group["tolerance_grad"]
            or _largest(memory.d * memory.t) <= group["tolerance_change"]
            or abs(point.loss - memory.prev_loss) < group["tolerance_change"]
        )

    # ---- state

    def named_state(self) -> dict[str, Tensor]:
        """What must be kept, by name: `step`, `lr.0`, and the memory, whose length grows."""
        found = super().named_state()
        found.update({name: asarray(np.asarray(x)) for name, x in self._memory_arrays().items()})
        return found

    def _memory_arrays(self) -> dict[str, Any]:
        kind, size = self.memory.d.dtype, self.memory.d.size
        found = {name: np.asarray(getattr(self.memory, name)) for name in _FIELDS}
        for name in ("old_dirs", "old_stps"):
            found[name] = found[name].astype(kind).reshape(-1, size)
        found["ro"] = found["ro"].astype(np.float64)
        return found

    def check_named_state(self, given: Mapping[str, Any]) -> None:
        """Raise CheckpointError unless `given` has what `named_state` has, for as many elements."""
        super().check_named_state({n: x for n, x in given.items() if n not in _FIELDS})
        problems = [f"missing: {name}" for name in _FIELDS if name not in given]
        size = self.memory.d.size
        problems += [
            f"shape of {name}: {list(np.shape(given[name]))} for {size}"
            for name in ("d", "prev_flat_grad", "old_dirs", "old_stps")
            if name in given and np.shape(given[name])[-1:] != (size,)
        ]
        if problems:
            text = "".join(f"\n    {p}" for p in problems)
            raise CheckpointError(f"LBFGS: the state given is of another optimizer:{text}")

    def load_named_state(self, given: Mapping[str, Any]) -> None:
        """Put back what `named_state` gave. Raises CheckpointError before anything is changed."""
        self.check_named_state(given)
        try:
            memory = _remembered(given, self.memory.d.dtype)
        except (TypeError, ValueError, OverflowError) as error:
            raise CheckpointError(f"LBFGS: the memory given does not fit: {error}") from None
        super().load_named_state(given)
        self.memory = memory

    def state_dict(self) -> dict[str, Any]:
        """{"state": {0: the memory}, "param_groups": [...]}, as in PyTorch; a snapshot."""
        found = super().state_dict()
        memory = {n: x if n in _LISTS else x[()] for n, x in self._memory_arrays().items()}
        found["state"] = {0: {"step": self.step_count.detach(), **memory}}
        return found

    def _named_state_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        known, size = given["state"].get(0, {}), self.memory.d.size
        steps = super()._named_state_of({**given, "state": {0: known}})
        found = {"step": steps["step"], "lr.0": steps["lr.0"], **self._memory_arrays()}
        if "d" not in known:
            return found
        try:
            found.update({n: np.array([np.asarray(x) for x in known[n]]) for n in _LISTS})
            found.update({n: np.asarray(known[n]) for n in _FIELDS if n not in _LISTS})
            for name in ("old_dirs", "old_stps"):
                found[name] = found[name].reshape(-1, size)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"LBFGS: the memory given does not fit ({type(error).__name__}: {error})"
            ) from None
        return found

    def _places(self) -> dict[str, Tensor]:
        return {"step": self.step_count, "lr.0": self.param_groups[0]["lr"]}


def _remembered(given: Mapping[str, Any], kind: np.dtype[Any]) -> _Memory:
    def vector(x: Any) -> Vector:
        return np.array(np.asarray(x), kind)

    return _Memory(
        d=vector(given["d"]),
        prev_flat_grad=vector(given["prev_flat_grad"]),
        func_evals=int(given["func_evals"]),
        n_iter=int(given["n_iter"]),
        t=float(given["t"]),
        H_diag=float(given["H_diag"]),
        prev_loss=float(given["prev_loss"]),
        old_dirs=[vector(x) for x in given["old_dirs"]],
        old_stps=[vector(x) for x in given["old_stps"]],
        ro=[float(x) for x in given["ro"]],
    )


def _largest(vector: Vector) -> float:
    return float(np.abs(vector).max(initial=0.0))


# ---- the line search (Nocedal and Wright, Numerical Optimization, algorithms 3.5 and 3.6)


def _strong_wolfe(
    at: Callable[[float], _Point], start: _Point, t: float, tolerance: float, max_tries: int
) -> tuple[_Point, int]:
    """A point that satisfies the strong Wolfe conditions, or the best found; and the number of
    points looked at. `tolerance`: a bracket as short is not divided."""
    previous, point = start, at(t)
    tries = 0
    bracket = [start, point]
    while tries < max_tries:
        bracket = [previous, point]
        if not _falls_enough(start, point) or (tries > 1 and point.loss >= previous.loss):
            break
        if _is_flat(start, point):
            return point, tries + 1
        if point.slope >= 0:
            break
        bounds = (point.t + 0.01 * (point.t - previous.t), point.t * 10)
        previous, point = point, at(_cubic_minimum(previous, point, bounds))
        tries += 1
    else:
        bracket = [start, point]
    return _zoomed(at, start, bracket, tolerance, tries, max_tries)


def _falls_enough(start: _Point, point: _Point) -> bool:
    return point.loss <= start.loss + _ARMIJO * point.t * start.slope


def _is_flat(start: _Point, point: _Point) -> bool:
    return abs(point.slope) <= -_CURVATURE * start.slope


def _zoomed(
    at: Callable[[float], _Point],
    start: _Point,
    bracket: list[_Point],
    tolerance: float,
    tries: int,
    max_tries: int,
) -> tuple[_Point, int]:
    """The bracket made shorter until its lower end satisfies the conditions."""
    stuck = False
    low, high = _by_loss(*bracket)
    while tries < max_tries and abs(high.t - low.t) >= tolerance:
        t, stuck = _away_from_ends(_cubic_minimum(low, high), sorted((low.t, high.t)), stuck)
        point = at(t)
        tries += 1
        if not _falls_enough(start, point) or point.loss >= low.loss:
            low, high = _by_loss(low, point)
            continue
        if _is_flat(start, point):
            return point, tries + 1
        if point.slope * (high.t - low.t) >= 0:
            high = low
        low = point
    return low, tries + 1


def _by_loss(first: _Point, second: _Point) -> tuple[_Point, _Point]:
    return (first, second) if first.loss <= second.loss else (second, first)


def _away_from_ends(t: float, ends: list[float], stuck: bool) -> tuple[float, bool]:
    """t, kept a tenth of the bracket away from its ends where it comes so near a second time."""
    left, right = ends
    gap = 0.1 * (right - left)
    if min(right - t, t - left) >= gap:
        return t, False
    if stuck or t >= right or t <= left:
        return (right - gap if abs(t - right) < abs(t - left) else left + gap), False
    return t, True


def _cubic_minimum(a: _Point, b: _Point, bounds: tuple[float, float] | None = None) -> float:
    """Where the cubic through two points with their slopes is least, within the bounds."""
    low, high = bounds or (min(a.t, b.t), max(a.t, b.t))
    d1 = a.slope + b.slope - 3 * (a.loss - b.loss) / (a.t - b.t)
    square = d1 * d1 - a.slope * b.slope
    if square < 0:
        return (low + high) / 2
    first, second = (a, b) if a.t <= b.t else (b, a)
    d2 = math.sqrt(square)
    part = (second.slope + d2 - d1) / (second.slope - first.slope + 2 * d2)
    return min(max(second.t - (second.t - first.t) * part, low), high)
