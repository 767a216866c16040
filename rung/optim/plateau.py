"""A learning rate that falls when a metric stops getting better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from rung.core.errors import CheckpointError, RungError
from rung.optim.optimizer import Optimizer, one_number

_STATE: Final = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


class ReduceLROnPlateau:
    """After more than `patience` calls of `step(metric)` without a better metric, the rates of all
    groups are multiplied by `factor`.

    Better is less ("min") or more ("max") than the best so far, by `threshold` of it ("rel") or
    outright ("abs"). After a change `cooldown` calls do not count. A rate stays at least `min_lr`,
    and is left alone where it would change by no more than `eps`. Rules and names are those of
    `torch.optim.lr_scheduler.ReduceLROnPlateau`."""

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "rel",
        cooldown: int = 0,
        min_lr: float = 0.0,
        eps: float = 1e-8,
    ) -> None:
        if mode not in ("min", "max") or threshold_mode not in ("rel", "abs"):
            raise RungError(
                f"ReduceLROnPlateau: mode={mode!r}, threshold_mode={threshold_mode!r}",
                fix='mode is "min" or "max", threshold_mode "rel" or "abs"',
            )
        if factor >= 1:
            raise RungError(f"ReduceLROnPlateau: factor={factor}", fix="give a factor below 1")
        if any(group["schedule"] is not None for group in optimizer.param_groups):
            raise RungError(
                "ReduceLROnPlateau: the optimizer follows a schedule", fix="give it a number as lr"
            )
        self.optimizer = optimizer
        self.mode = mode
        self.factor = factor
        self.patience = patience
        self.threshold = threshold
        self.threshold_mode = threshold_mode
        self.cooldown = cooldown
        self.min_lr = min_lr
        self.eps = eps
        self.best = math.inf if mode == "min" else -math.inf
        self.num_bad_epochs = 0
        self.cooldown_counter = 0
        self.last_epoch = 0

    def step(self, metric: Any) -> None:
        """Look at the metric of one more epoch (a number or a 0-d tensor)."""
        value = one_number("ReduceLROnPlateau.step: metric", metric)
        self.last_epoch += 1
        if self._is_better(value):
            self.best, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        if self.cooldown_counter > 0:
            self.cooldown_counter -= 1
            self.num_bad_epochs = 0
        if self.num_bad_epochs > self.patience:
            self._reduce()
            self.cooldown_counter, self.num_bad_epochs = self.cooldown, 0

    def _is_better(self, value: float) -> bool:
        sign = 1 if self.mode == "max" else -1
        if self.threshold_mode == "abs":
            bound = self.best + sign * self.threshold
        else:
            bound = self.best * (1 + sign * self.threshold)
        return sign * value > sign * bound

    def _reduce(self) -> None:
        for group in self.optimizer.param_groups:
            old = float(group["lr"])
            new = max(old * self.factor, self.min_lr)
            if old - new > self.eps:
                group["lr"] = new

    def state_dict(self) -> dict[str, Any]:
        """What has been seen, as JSON values."""
        return {name: getattr(self, name) for name in _STATE}

    def load_state_dict(self, state: Any) -> None:
        """Put back what `state_dict` gave. Raises CheckpointError for anything else."""
        if not isinstance(state, Mapping) or set(state) != set(_STATE):
            raise CheckpointError(f"{type(self).__name__}: {state!r:.80} is no state")
        for name in _STATE:
            setattr(self, name, state[name])
