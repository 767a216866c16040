"""The public interface, whose calls check their arguments (`rung/core/arguments.py`).

Within the package most calls go to the functions themselves; only what users reach by a public name
is checked.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from rung import autodiff, data, models, nn, optim
from rung.core.arguments import NO, Aliases, Reads, check_methods, check_namespace, those
from rung.nn import functional, init
from rung.nn.module import Module
from rung.optim.optimizer import Optimizer
from rung.optim.schedule import Schedule
from rung.tensor import functional as activations
from rung.tensor import linalg, masked, random, special, tree, windows
from rung.tensor.in_place import InPlace
from rung.tensor.methods import Methods
from rung.tensor.operate import as_tensor
from rung.tensor.random import Generator
from rung.tensor.state import TensorState

NAMES: Final[Aliases] = {
    "Activation": "str | Callable",
    "Array": np.ndarray,
    "Axis": "int | Sequence[int] | None",
    "Batch": "Sequence[Array]",
    "Betas": "tuple[float, float]",
    "Function": "Callable",
    "GPTConfig": models.GPTConfig,
    "Closure": "Callable",
    "Generator": Generator,
    "IsLeaf": "Callable",
    "Module": Module,
    "Optimizer": Optimizer,
    "OptimizerState": Reads(those(lambda x: hasattr(x, "named_state"))),
    "Params": "Module | Tensor | Iterable[Any]",
    "Rate": "float | Schedule",
    "Schedule": Schedule,
    "Shape": "Sequence[int]",
    "Size": "int | Sequence[int]",
    "Source": "Generator | Tensor | None",
    "Step": "float | Tensor",
    "Stateful": Reads(those(lambda x: hasattr(x, "state_dict"))),
    "Structure": tree.Structure,
    "Target": "int | None | Sequence[int | None]",
    "Tensor": TensorState,
    "TensorState": TensorState,
    "TensorDataset": data.TensorDataset,
    "Transform": "Callable",
    "Vocabulary": data.Vocabulary,
    "np.ndarray": np.ndarray,
    "np.random.Generator": np.random.Generator,
}
"""What annotations of public functions say, beside the types of Python."""


def _tensor(x: Any) -> Any:
    """A tensor, or an array as one."""
    if isinstance(x, TensorState):
        return x
    return as_tensor(x) if isinstance(x, np.ndarray) else NO


CALLED: Final[Aliases] = {**NAMES, "Tensor": Reads(_tensor)}
"""The same for calls of modules, which take arrays too."""
SPACES: Final = (
    linalg, masked, random, special, tree, windows, activations, functional, init, nn, optim, data,
    models, autodiff,
)  # fmt: skip


def check_calls(main: dict[str, Any], tensor: type) -> None:
    """Check the arguments of all public functions, methods and constructors: those in `main`, the
    names of the package, in the other namespaces, and of the class of tensors."""
    check_methods(Methods, NAMES)
    check_methods(InPlace, NAMES)
    check_methods(tensor, NAMES)
    for space in SPACES:
        check_namespace(vars(space), NAMES, CALLED)
    check_namespace(main, NAMES, CALLED)
