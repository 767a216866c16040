"""What all optimizers share: parameter groups, steps and learning rates that are tensors, state.

Counts of steps (i64) and the learning rate of each group (f64) are 0-d tensors, so a jitted train
step reads them anew and is never compiled again when they change. All updates are written in place:
in a jitted step into the same memory.

Each parameter counts the steps in which it had a gradient (`rung/optim/counts.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np

from rung.core import dtype as dt
from rung.core.arguments import described, read_float
from rung.core.errors import (
    ArgumentError,
    CheckpointError,
    DomainError,
    GradientError,
    RungError,
)
from rung.nn.module import Module
from rung.optim.counts import StepCounts
from rung.optim.schedule import Schedule
from rung.tensor import tree
from rung.tensor.autograd import no_grad
from rung.tensor.creation import array, asarray
from rung.tensor.jit import guard
from rung.tensor.state import TensorState
from rung.tensor.tensor import Tensor

Rate = float | Schedule
Params = Module | Iterable[Any]
"""A module, tensors, (name, tensor) pairs, or groups: dicts with "params" and hyperparameters."""
Pairs = Sequence[tuple[Tensor, Tensor]]
"""(parameter, gradient)."""


class Group(dict[str, Any]):
    """A parameter group: `params` (tensors), `names`, `lr` (f64[]), and hyperparameters.

    Assigning a number to `lr` puts it into the tensor; assigning a Schedule follows that."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "lr" and isinstance(self.get("lr"), TensorState):
            super().__setitem__("schedule", value if isinstance(value, Schedule) else None)
            if not isinstance(value, Schedule):
                self["lr"].assign(value)
            return
        super().__setitem__(name, value)

    @property
    def num_parameters(self) -> int:
        """The number of elements of all parameters."""
        return sum(p.size for p in self["params"])


class Optimizer:
    """Base of the optimizers. A class gives `slots` (the tensors kept for each parameter), and
    `_update`.

    `step()` reads `p.grad`; `step(grads)` takes gradients in a tree or module of the order of the
    parameters, None for one that has none. `state[p]` has the slots of parameter p;
    `step_count` (i64[]) is the number of calls of `step`, which schedules follow. Copies and
    pickles of a model and its optimizer, made together, go on together."""

    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self, params: Params, lr: Rate, **defaults: Any) -> None:
        self.defaults = {"lr": lr, **defaults}
        self.step_count = array(0, dtype=dt.int64)
        self.param_groups: list[Group] = []
        self.state: dict[Tensor, dict[str, Tensor]] = {}
        self._counts = StepCounts(self.step_count)
        for group in _groups(params):
            self.add_param_group(group)
        if not any(group["params"] for group in self.param_groups):
            raise RungError(f"{type(self).__name__}: no parameters", fix="pass model.parameters()")

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Add parameters with hyperparameters of their own; what is left out is the default."""
        unknown = set(group) - {"params", "names", *self.defaults}
        if unknown:
            raise RungError(
                f"{type(self).__name__}: a group has {', '.join(sorted(unknown))}",
                fix=f"it takes params, {', '.join(self.defaults)}",
            )
        given = {**self.defaults, **group}
        lr = given.pop("lr")
        self._check(given)
        schedule = lr if isinstance(lr, Schedule) else None
        first = schedule(0) if schedule is not None else float(lr)
        if not 0 <= first < math.inf:
            raise DomainError(f"{type(self).__name__}: lr={first}", fix="a rate of at least 0")
        given["params"], given["names"] = self._named(group)
        new = Group(given, lr=array(first, dtype=dt.float64), schedule=schedule)
        self.param_groups.append(new)
        for p in new["params"]:
            self.state[p] = self._new_state(new, p)
        self._counts.add(new["params"])

    def _named(self, group: Mapping[str, Any]) -> tuple[list[Tensor], list[str]]:
        """The parameters of a group and their names: those given, or numbers."""
        if "params" not in group:
            raise RungError(
                f"{type(self).__name__}: a group without parameters: it has {sorted(group)}",
                fix='give {"params": …}',
            )
        known = sum(len(g["params"]) for g in self.param_groups)
        params: list[Tensor] = []
        names: list[str] = []
        for item in _items(group["params"]):
            name, p = item if isinstance(item, tuple) else (str(known + len(params)), item)
            if not isinstance(p, TensorState) or not p.dtype.is_float:
                raise RungError(f"{type(self).__name__}: parameter {name} is no float tensor")
            if p in self.state or any(p is q for q in params):
                raise RungError(f"{type(self).__name__}: parameter {name} is given twice")
            params.append(p)  # type: ignore[arg-type]
            names.append(name)
        return params, names

    def _check(self, hyperparameters: Mapping[str, Any]) -> None:
        """Raise RungError for hyperparameters out of range."""

    def _slots(self, group: Group) -> tuple[str, ...]:
        """The tensors that a parameter of this group needs."""
        return self.slots

    def _new_state(self, group: Group, p: Tensor) -> dict[str, Tensor]:
        """The tensors with which a parameter begins: zeros of its shape under each slot."""
        kind = dt.accumulator(p.dtype)
        return {name: filled(p.shape, kind) for name in self._slots(group)}

    # ---- rates

    @property
    def lr(self) -> Tensor:
        """The learning rate of the first group, f64[]; assign a number or a Schedule for all."""
        return self.param_groups[0]["lr"]  # type: ignore[no-any-return]

    @lr.setter
    def lr(self, rate: Rate) -> None:
        for group in self.param_groups:
            group["lr"] = rate

    def _rate(self, group: Group) -> Tensor:
        """The learning rate of this step; follows the schedule."""
        schedule = group["schedule"]
        guard(lambda: group["schedule"], "the schedule of the optimizer")
        if schedule is not None:
            group["lr"].assign(schedule(self.step_count))
        return group["lr"]  # type: ignore[no-any-return]

    # ---- stepping

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def step(self, grads: Any = None) -> None:
        """Update every parameter by its gradient; one without a gradient stays as it is.

        Raises GradientError when no parameter has one, or `grads` has not one for each."""
        given = self._gradients(grads)
        with no_grad():
            self._counts.divide(given)
            guard(lambda: self._counts.version, "which parameters of the optimizer step together")
            for group in self.param_groups:
                guard(_hyperparameters(group), "the hyperparameters of the optimizer")
                rate = self._rate(group)
                pairs = [(p, given[p]) for p in group["params"] if p in given]
                for count, together in self._counts.grouped(pairs):
                    self._update(group, rate, count, together)
            self._counts.advance(given)

    def _gradients(self, grads: Any) -> dict[Tensor, Tensor]:
        """The gradient of each parameter that has one."""
        params = [p for group in self.param_groups for p in group["params"]]
        found = [p.grad for p in params] if grads is None else tree.leaves(grads, _is_none)
        if len(found) != len(params):
            raise GradientError(
                f"{type(self).__name__}: {len(found)} gradients for {len(params)} parameters"
            )
        if not any(g is not None for g in found):
            raise GradientError(
                f"{type(self).__name__}.step: no parameter has a gradient",
                fix="call loss.backward() first, or pass gradients: step(grads)",
            )
        for g in found:
            if g is not None and not isinstance(g, TensorState):
                raise GradientError(
                    f"{type(self).__name__}.step: a gradient is {described(g)}", fix="give tensors"
                )
        return {p: g for p, g in zip(params, found, strict=True) if g is not None}

    def _update(self, group: Group, lr: Tensor, count: Tensor, pairs: Pairs) -> None:
        """Update parameters by their gradients; `lr` is f64[], `count` (i64[]) the number of steps
        that each of these parameters has made before."""
        raise NotImplementedError

    # ---- state

    def _each(self) -> Iterator[tuple[str, Tensor, dict[str, Tensor]]]:
        for group in self.param_groups:
            for name, p in zip(group["names"], group["params"], strict=True):
                yield name, p, self.state[p]

    def named_state(self) -> dict[str, Tensor]:
        """What must be kept, by name: `step`, `lr.<group>`, `step.<parameter>` and
        `<slot>.<parameter>`; a snapshot."""
        found = {name: place.detach() for name, place in self._places().items()}
        found.update({_step_of(name): self._counts.of(p).detach() for name, p, _ in self._each()})
        return found

    def _places(self) -> dict[str, Tensor]:
        """Tensors of the state by name, without the counts of parameters, which may share one."""
        places = {"step": self.step_count}
        places.update({f"lr.{i}": g["lr"] for i, g in enumerate(self.param_groups)})
        for name, _, state in self._each():
            places.update({f"{slot}.{name}": t for slot, t in state.items()})
        return places

    def check_named_state(self, given: Mapping[str, Any]) -> None:
        """Raise CheckpointError unless `given` has what `named_state` has, in the same shapes.
        Older files lack `step.<parameter>`: all parameters had the count `step`."""
        places = self._places()
        shapes = {n: tuple(t.shape) for n, t in places.items()}
        shapes.update({_step_of(name): () for name, _, _ in self._each()})
        problems = [f"missing: {n}" for n in places if n not in given]
        problems += [f"unexpected: {n}" for n in given if n not in shapes]
        problems += [
            f"shape of {n}: {list(np.shape(x))}, the optimizer has {list(shapes[n])}"
            for n, x in given.items()
            if n in shapes and tuple(np.shape(x)) != shapes[n]
        ]
        problems += [
            f"{n} is {x}, which is no number of steps"
            for n, x in given.items()
            if n.partition(".")[0] == "step"
            and n in shapes
            and np.shape(x) == ()
            and not _is_count(x)
        ]
        problems += [
            f"{n} is {x}, which is no rate"
            for n, x in given.items()
            if n.startswith("lr.") and n in places and np.size(x) == 1 and not _is_rate(x)
        ]
        if problems:
            text = "".join(f"\n    {p}" for p in problems[:20])
            raise CheckpointError(
                f"{type(self).__name__}: the state given is of another optimizer or model:{text}"
            )

    def load_named_state(self, given: Mapping[str, Any]) -> None:
        """Put back what `named_state` gave. Raises CheckpointError before anything is changed."""
        self.check_named_state(given)
        for name, place in self._places().items():
            place.assign(asarray(given[name]))
        self._counts.load(
            {p: int(given.get(_step_of(n), given["step"])) for n, p, _ in self._each()}
        )

    def state_dict(self) -> dict[str, Any]:
        """{"state": {number: {slot: tensor}}, "param_groups": [...], "step": the number of calls of
        `step`}, as in PyTorch, which has no "step" beside the others; a snapshot."""
        numbers = {p: i for i, (_, p, _) in enumerate(self._each())}
        groups = []
        for group in self.param_groups:
            plain = {k: v for k, v in group.items() if k not in ("params", "names", "schedule")}
            plain["lr"] = float(group["lr"])
            groups.append({**plain, "params": [numbers[p] for p in group["params"]]})
        state = {
            numbers[p]: {
                "step": self._counts.of(p).detach(),
                **{n: t.detach() for n, t in own.items()},
            }
            for _, p, own in self._each()
        }
        return {"state": state, "param_groups": groups, "step": self.step_count.detach()}

    def load_state_dict(self, given: Any) -> None:
        """Put back what `state_dict` gave, of this optimizer or of PyTorch's of the same name.

        Raises CheckpointError unless groups and shapes are the same."""
        groups = self._groups_of(given)
        self.load_named_state(self._named_state_of(given))
        for group, saved in zip(self.param_groups, groups, strict=True):
            group.update({k: v for k, v in saved.items() if k in self.defaults and k != "lr"})

    def _groups_of(self, given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        """The saved groups. Raises CheckpointError unless they fit."""
        name = type(self).__name__
        wanted = [len(g["params"]) for g in self.param_groups]
        try:
            groups = list(given["param_groups"])
            sizes = [len(g["params"]) for g in groups]
            rates = [float(g["lr"]) for g in groups]
            known = all(isinstance(s, Mapping) for s in given["state"].values())
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(
                f"{name}: what is given is no state_dict of an optimizer "
                f"({type(error).__name__}: {error})",
                fix="give what state_dict() gave",
            ) from None
        if sizes != wanted:
            raise CheckpointError(
                f"{name}: groups of {sizes} parameters are given, the optimizer has {wanted}"
            )
        if not known or any(math.isnan(rate) for rate in rates):
            raise CheckpointError(f"{name}: the state_dict given has no state or rates")
        for group, saved in zip(self.param_groups, groups, strict=True):
            self._check({**group, **{k: v for k, v in saved.items() if k in self.defaults}})
        return groups

    def _named_state_of(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What `state_dict` gave, in the form of `named_state`."""
        flat: dict[str, Any] = {"step": np.int64(0)}
        for i, group in enumerate(given["param_groups"]):
            flat[f"lr.{i}"] = np.float64(group["lr"])
        for number, (name, p, own) in enumerate(self._each()):
            known = given["state"].get(number, {})
            flat[_step_of(name)] = self._begun(p, known)
            for slot, tensor in own.items():
                value = known.get(slot)
                flat[f"{slot}.{name}"] = np.asarray(tensor) if value is None else _copied(value)
        steps = [flat[_step_of(name)] for name, _, _ in self._each()]
        total = given.get("step")
        flat["step"] = max(steps) if total is None else _copied(total)
        if np.size(flat["step"]) != 1:
            raise CheckpointError(f"a state holds the step {total!r:.40}")
        flat["step"] = np.asarray(flat["step"]).reshape(())
        return flat

    def _begun(self, p: Tensor, known: Mapping[str, Any]) -> Any:
        """How many steps a parameter with this saved state has made: 1, which stands for any
        number, where a state without a count says that there were some."""
        step = known.get("step")
        if step is not None:
            found = _copied(step)
            if found.size != 1 or not _is_count(found.reshape(())):
                raise CheckpointError(f"a state holds the step {step!r:.40}")
            return np.int64(found.reshape(()))
        return np.int64(any(known.get(slot) is not None for slot in self.state[p]))

    def __repr__(self) -> str:
        lines = [type(self).__name__]
        for i, group in enumerate(self.param_groups):
            rest = {k: v for k, v in group.items() if k not in ("params", "names", "lr")}
            text = ", ".join(f"{k}={v}" for k, v in rest.items() if v is not None)
            count = f"{len(group['params'])} tensors, {group.num_parameters} elements"
            lines.append(f"  group {i}: {count}, {text}")
        return "\n".join(lines)


_NOT_HYPER: Final = ("params", "names", "lr", "schedule")


def _hyperparameters(group: Group) -> Callable[[], Any]:
    """What a traced step holds for: numbers of a group that are no tensors."""
    return lambda: tuple((k, v) for k, v in group.items() if k not in _NOT_HYPER)


def _items(params: Any) -> Iterable[Any]:
    if isinstance(params, Module):
        return params.named_parameters()
    if isinstance(params, TensorState):
        return [params]
    return params  # type: ignore[no-any-return]


def _groups(params: Params) -> list[Mapping[str, Any]]:
    if isinstance(params, Module):
        return [{"params": params}]
    given = list(_items(params))
    if given and isinstance(given[0], dict):
        return given
    return [{"params": given}]


def _is_none(x: Any) -> bool:
    return x is None


def _step_of(parameter: str) -> str:
    return f"step.{parameter}"


def _is_count(value: Any) -> bool:
    number = np.asarray(value)
    return number.dtype.kind in "iuf" and 0 <= number.item() < 1 << 62 and number.item() % 1 == 0


def _is_rate(value: Any) -> bool:
    number = np.asarray(value)
    return number.dtype.kind in "iuf" and bool(number >= 0) and bool(np.isfinite(number))


def _copied(value: Any) -> np.ndarray[Any, Any]:
    """An array of its own: torch goes on writing into the memory that it shows."""
    try:
        found = np.asarray(value).copy()
    except Exception as error:  # of torch's, of lists of lists, of anything
        raise CheckpointError(f"a state holds {type(value).__name__}: {error}") from None
    if found.dtype.kind not in "biufV":
        raise CheckpointError(f"a state holds {type(value).__name__}, not numbers")
    return found


def filled(shape: tuple[int, ...], dtype: dt.DType, value: float = 0.0) -> Tensor:
    """`value` everywhere, in memory of its own: lazy constants of one shape would share it, and
    shared memory cannot be updated in place."""
    with np.errstate(over="ignore"):
        return array(np.full(shape, value, dtype.numpy))


def in_accumulator(
    group: Group, p: Tensor, grad: Tensor, decay: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Parameter and gradient in the dtype of the update, the gradient negated by `maximize`.

    `weight_decay * p` is added to the gradient; where `decay` (f64[], lr * weight_decay) is given,
    the parameter is multiplied by 1 - decay instead."""
    maximize, weight_decay = group.get("maximize", False), group.get("weight_decay", 0)
    return accumulated(p.detach(), grad, decay, maximize=maximize, weight_decay=weight_decay)


def accumulated(
    p: Tensor, grad: Tensor, decay: Tensor | None, *, maximize: bool, weight_decay: float
) -> tuple[Tensor, Tensor]:
    """As `in_accumulator`, of a parameter that no derivative follows."""
    kind = dt.accumulator(p.dtype)
    g = -grad.astype(kind) if maximize else grad.astype(kind)
    old = p.astype(kind)
    if weight_decay == 0:
        return old, g
    if decay is not None:
        return old * (1 - decay).astype(kind), g
    return old, g + weight_decay * old


def assign_all(p: Tensor, new: Tensor, slots: Iterable[Tensor], kept: Iterable[Tensor]) -> None:
    """Give a parameter and its slots their new values; the slots first, so that kernels that read
    the parameter come before the one that overwrites it."""
    for slot, value in zip(slots, kept, strict=True):
        slot.assign(value)
    p.assign(new)


def lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """start + weight (end - start), from the nearer end: exact for weights of 0 and 1."""
    if weight < 0.5:
        return start + weight * (end - start)
    return end - (end - start) * (1 - weight)


def require_range(name: str, low: float = 0.0, high: float = math.inf, **given: float) -> None:
    """Raise RungError for a hyperparameter that is not in [low, high)."""
    for key, value in given.items():
        if not low <= value < high:
            bound = "" if high == math.inf else f" and below {high}"
            raise RungError(f"{name}: {key}={value}", fix=f"give a number of at least {low}{bound}")


def one_number(what: str, x: Any) -> float:
    """A loss or a metric as a number; an array or a tensor of one element counts as that. Raises
    ArgumentError."""
    found = read_float(x.reshape(()) if getattr(x, "size", None) == 1 else x)
    if not isinstance(found, float | int | np.number | TensorState):
        raise ArgumentError(f"{what} is {described(x)}", fix="give one number")
    return float(found)
