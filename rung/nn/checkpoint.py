"""Checkpoints: everything that a training run needs to go on bit for bit, in one safetensors file.

    model.<name>                 parameters and buffers
    optimizer.<slot>.<name>      what the optimizer keeps for a parameter, learning rates, its step
    random.<name>                the state of the random generator

The step, the state of the data loader, the hyperparameters of the optimizer and a configuration
are JSON in the metadata. The file is written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from rung.core.errors import CheckpointError
from rung.nn.module import Module
from rung.nn.safetensors import Array, read_safetensors, write_safetensors
from rung.tensor.random import Generator, default_generator

FORMAT: Final = "rung checkpoint 1"


class Stateful(Protocol):
    """A data loader: its place in the data, as JSON values."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class OptimizerState(Protocol):
    """An optimizer: tensors by name, and its hyperparameters as JSON values."""

    def named_state(self) -> dict[str, Any]: ...
    def load_named_state(self, given: Mapping[str, Any]) -> None: ...
    def check_named_state(self, given: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was read: arrays by full name, the `step`, the `config` (JSON values) with which the
    model was made, and the state of the data loader, if it was saved."""

    path: Path
    arrays: Mapping[str, Array]
    step: int
    config: Mapping[str, Any]
    loader: Mapping[str, Any] | None

    def part(self, prefix: str) -> dict[str, Array]:
        """The arrays whose names begin with `prefix.`, without it."""
        start = prefix + "."
        return {n[len(start) :]: a for n, a in self.arrays.items() if n.startswith(start)}


def save_checkpoint(
    path: str | Path,
    model: Module,
    optimizer: OptimizerState | None = None,
    *,
    loader: Stateful | None = None,
    generator: Generator | None = None,
    step: int = 0,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write the state of all these to `path` (parent directories are made).

    `generator` is the global one unless given. Raises CheckpointError when the disk is full or the
    place cannot be written; an older file at `path` is then as it was."""
    path = Path(path)
    arrays: dict[str, Array] = {}
    state = {n: np.asarray(t) for n, t in _unshared(model)}
    arrays.update({f"model.{name}": array for name, array in state.items()})
    if optimizer is not None:
        found = optimizer.named_state()
        arrays.update({f"optimizer.{name}": np.asarray(t) for name, t in found.items()})
    source = (generator or default_generator()).state
    arrays.update({f"random.{name}": np.asarray(t) for name, t in source.items()})
    metadata = {"format": FORMAT, "step": str(step), "config": json.dumps(dict(config or {}))}
    if loader is not None:
        metadata["loader"] = json.dumps(loader.state_dict())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(
            f"{path.parent} cannot be made: {error.strerror or error}", fix="choose another place"
        ) from None
    write_safetensors(path, arrays, metadata)


def _unshared(model: Module) -> list[tuple[str, Any]]:
    """Parameters and buffers, a shared one under its first name only."""
    persistent = model.state_dict()
    both = dict(model.named_parameters()) | dict(model.named_buffers())
    return [(name, tensor) for name, tensor in both.items() if name in persistent]


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint without loading it into anything.

    Raises CheckpointError for a file that is missing, corrupt, cut off or of another program."""
    path = Path(path)
    arrays, metadata = read_safetensors(path)
    if metadata.get("format") != FORMAT:
        kind = metadata.get("format", "a file of weights alone")
        raise CheckpointError(
            f"{path} is no {FORMAT}, but {kind!r}",
            fix="load weights with model.load_state_dict(read_safetensors(path)[0])",
        )
    try:
        step = int(metadata["step"])
        config = json.loads(metadata["config"])
        loader = json.loads(metadata["loader"]) if "loader" in metadata else None
        if step < 0 or not isinstance(config, dict) or not isinstance(loader, dict | None):
            raise ValueError(f"step {step}, config {type(config).__name__}")
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: its metadata do not parse: {error}") from None
    return Checkpoint(path, arrays, step, config, loader)


def load_checkpoint(
    path: str | Path | Checkpoint,
    model: Module,
    optimizer: OptimizerState | None = None,
    *,
    loader: Stateful | None = None,
    generator: Generator | None = None,
) -> Checkpoint:
    """Put the state at `path` into all that is given; returns what was read, with the step.

    `generator` is the global one unless given. Nothing is changed unless everything fits. Raises
    CheckpointError that says what does not."""
    saved = path if isinstance(path, Checkpoint) else read_checkpoint(path)
    optimizer_state = saved.part("optimizer")
    source = saved.part("random")
    if optimizer is not None:
        if not optimizer_state:
            raise CheckpointError(f"{saved.path} holds no optimizer", fix="load the model alone")
        optimizer.check_named_state(optimizer_state)
    known = default_generator().state
    if set(source) != set(known) or any(
        source[n].shape != t.shape or source[n].dtype.kind not in "iu" for n, t in known.items()
    ):
        raise CheckpointError(f"{saved.path} holds no random state that is known")
    before = None if loader is None else loader.state_dict()
    if loader is not None:
        if saved.loader is None:
            raise CheckpointError(f"{saved.path} holds no place in the data")
        loader.load_state_dict(saved.loader)
    try:
        model.load_state_dict(saved.part("model"))
    except BaseException:
        if loader is not None and before is not None:
            loader.load_state_dict(before)
        raise
    if optimizer is not None:
        optimizer.load_named_state(optimizer_state)
    (generator or default_generator()).set_state(source)
    return saved
