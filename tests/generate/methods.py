"""Methods of the public classes, each on an object that the constructor of its class gives.

A method counts once, with the class that defines it; a call of an object (`NAME()`) and a property
that can be set (`NAME=`) count as methods.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

import rung
from rung import data, models, nn, optim
from tests.generate.given import Make, parameters, square, t

OPERATORS = (
    "__contains__",
    "__delitem__",
    "__eq__",
    "__getitem__",
    "__iter__",
    "__len__",
    "__setitem__",
    "()",
)
NO_METHODS = {
    "function": "a function that is public itself",
    "forward": "what a call of the module tries",
}


def layers() -> nn.Sequential:
    """A module with parameters, buffers and modules within modules."""
    return nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()))


def gpt() -> models.GPT:
    """Small; all its parts are there."""
    return models.GPT(models.GPTConfig(4, 5, 1, 1, 4))


def sgd() -> optim.SGD:
    """With momentum, so that it has a state."""
    return optim.SGD(parameters(), 0.1, momentum=0.5)


def loader() -> data.DataLoader:
    """Without a thread."""
    examples = data.TensorDataset(np.ones((6, 2), np.float32), np.arange(6))
    return data.DataLoader(examples, 4, shuffle=True, prefetch=0)


def with_rules() -> tuple[Any, Any]:
    """Functions with derivatives of their own."""
    forward, backward = rung.custom_jvp(square), rung.custom_vjp(square)
    forward.defjvp(lambda x, dx: (square(x[0]), square(dx[0])))
    backward.defvjp(lambda x: (square(x), None), lambda kept, g: (g,))
    return forward, backward


def closure() -> Any:
    """A loss, for optimizers that ask for it."""
    return rung.array(1.0)


FIRST: dict[str, list[Any]] = {
    "nn.Sequential": [Make(layers), Make(nn.Sequential)],
    "nn.ModuleList": [Make(lambda: nn.ModuleList([nn.ReLU(), layers()])), Make(nn.ModuleList)],
    "nn.ModuleDict": [Make(lambda: nn.ModuleDict({"a": layers()})), Make(nn.ModuleDict)],
    "nn.ParameterList": [Make(lambda: nn.ParameterList(parameters())), Make(nn.ParameterList)],
    "nn.ParameterDict": [
        Make(lambda: nn.ParameterDict({"a": nn.Parameter([1.0])})),
        Make(nn.ParameterDict),
    ],
    "optim.SGD": [Make(sgd)],
    "optim.LBFGS": [Make(lambda: optim.LBFGS(parameters()))],
    "data.DataLoader": [Make(loader)],
    "rung.custom_jvp": [Make(lambda: with_rules()[0])],
    "rung.custom_vjp": [Make(lambda: with_rules()[1])],
    "data.TensorDataset": [
        Make(lambda: data.TensorDataset(np.ones((6, 2)), np.arange(6))),
        Make(lambda: data.TensorDataset(np.ones((0, 2)))),
    ],
    "models.GPT": [Make(gpt)],
}
"""Objects whose methods come first, so that what they inherit is tried on them; the further ones
are for cases alone."""
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "rung.jit": lambda x: rung.jit(square)(x),
    "rung.grad": lambda x: rung.grad(square)(x),
    "rung.value_and_grad": lambda x: rung.value_and_grad(square)(x),
    "rung.vmap": lambda x: rung.vmap(square)(x),
    "rung.jacfwd": lambda x: rung.jacfwd(square)(x),
    "rung.jacrev": lambda x: rung.jacrev(square)(x),
    "rung.hessian": lambda x: rung.hessian(square)(x),
    "rung.checkpoint": lambda x: rung.checkpoint(square)(x),
    "rung.no_grad": lambda x: rung.no_grad()(square)(x),
}
"""Calls of what transformations give: `NAME()`."""
GIVEN: dict[str, dict[str, Any]] = {
    "nn.Sequential.append": {"module": Make(nn.ReLU)},
    "nn.Sequential.extend": {"modules": Make(lambda: [nn.ReLU()])},
    "nn.Sequential.__setitem__": {"index": 1, "module": Make(nn.ReLU)},
    "nn.Sequential.__getitem__": {"index": 1},
    "nn.Sequential.__delitem__": {"index": 1},
    "nn.Sequential.register_buffer": {"name": "w", "tensor": t(3)},
    "nn.Sequential.register_parameter": {
        "name": "w",
        "parameter": Make(lambda: nn.Parameter([1.0])),
    },
    "nn.Sequential.add_module": {"name": "w", "module": Make(nn.ReLU)},
    "nn.Sequential.get_submodule": {"path": "1.0"},
    "nn.Sequential.load_state_dict": {"given": Make(lambda: layers().state_dict())},
    "nn.Sequential.apply": {"function": id},
    "nn.Sequential.to": {"dtype": "f64"},
    "nn.ModuleDict.__getitem__": {"name": "a"},
    "nn.ModuleDict.__setitem__": {"name": "b", "module": Make(nn.ReLU)},
    "nn.ModuleDict.__contains__": {"name": "a"},
    "nn.ModuleDict.__delitem__": {"name": "a"},
    "nn.ParameterDict.__getitem__": {"name": "a"},
    "nn.ParameterDict.__setitem__": {"name": "b", "value": [1.0]},
    "nn.ParameterDict.__contains__": {"name": "a"},
    "nn.ParameterDict.__delitem__": {"name": "a"},
    "nn.ParameterList.__getitem__": {"index": 0},
    "nn.ParameterList.__setitem__": {"index": 0, "value": [1.0]},
    "nn.ParameterList.__contains__": {"value": Make(lambda: nn.Parameter([1.0]))},
    "nn.ParameterList.append": {"value": [1.0]},
    "optim.SGD.add_param_group": {"group": Make(lambda: {"params": parameters(), "lr": 0.2})},
    "optim.SGD.load_state_dict": {"given": Make(lambda: sgd().state_dict())},
    "optim.SGD.load_named_state": {"given": Make(lambda: sgd().named_state())},
    "optim.SGD.check_named_state": {"given": Make(lambda: sgd().named_state())},
    "optim.SGD.lr=": {"rate": 0.2},
    "optim.LBFGS.step": {"closure": closure},
    "optim.LBFGS.load_named_state": {
        "given": Make(lambda: optim.LBFGS(parameters()).named_state()),
    },
    "optim.LBFGS.check_named_state": {
        "given": Make(lambda: optim.LBFGS(parameters()).named_state()),
    },
    "optim.ReduceLROnPlateau.step": {"metric": 1.0},
    "optim.ReduceLROnPlateau.load_state_dict": {
        "state": Make(lambda: optim.ReduceLROnPlateau(sgd()).state_dict()),
    },
    "optim.ExponentialMovingAverage.update_parameters": {
        "model": Make(lambda: nn.Linear(3, 2)),
    },
    "data.DataLoader.order": {"epoch": 0},
    "data.DataLoader.make": {"epoch": 0, "position": 0},
    "data.DataLoader.generator": {"epoch": 0},
    "data.DataLoader.load_state_dict": {"state": Make(lambda: loader().state_dict())},
    "data.RandomBlocks.make": {"epoch": 0, "position": 0},
    "data.TensorDataset.__getitem__": {"index": 0},
    "data.TensorDataset.batch": {"numbers": np.arange(3)},
    "data.Vocabulary.encode": {"text": "abc"},
    "data.Vocabulary.decode": {"numbers": [0, 1]},
    "rung.Tensor.grad=": {"grad": t(2, 2)},
    "rung.custom_jvp()": {"args": [t(3)]},
    "rung.custom_vjp()": {"args": [t(3)]},
    "rung.Generator.set_state": {"saved": Make(lambda: rung.Generator(1).state)},
    "rung.Generator.manual_seed": {"seed": 3},
    "models.GPT.loss": {
        "tokens": Make(lambda: rung.array([[0, 1]])),
        "targets": Make(lambda: rung.array([[1, 2]])),
    },
    "models.GPT.generate": {"tokens": [0, 1], "num_tokens": 1},
    "models.GPT.stream": {"tokens": [0, 1], "num_tokens": 1},
    "models.GPT.parameter_groups": {"weight_decay": 0.1},
    "models.GPT.from_gpt2": {
        "path": Make(lambda: _published()),
        "config": Make(lambda: models.GPTConfig(4, 5, 1, 1, 4)),
    },
    "nn.Transformer.generate_square_subsequent_mask": {"sz": 3},
    "rung.custom_jvp.defjvp": {"rule": square},
    "rung.custom_vjp.defvjp": {"forward": square, "backward": square},
}
"""Arguments of methods that are right, beside `self`."""


def _published() -> str:
    nn.save_checkpoint("gpt.safetensors", gpt())
    return "gpt.safetensors"


def methods(classes: dict[str, type]) -> dict[str, tuple[str, Callable[..., Any], bool]]:
    """By name: the class as `classes` names it, the function, and whether it takes an object."""
    found: dict[str, tuple[str, Callable[..., Any], bool]] = {}
    seen: set[Any] = set()
    for name in [*(n for n in FIRST if n in classes), *(n for n in classes if n not in FIRST)]:
        for kind in classes[name].__mro__:
            if kind.__module__.startswith("rung."):
                _add(name, classes[name], kind, found, seen)
    return found


def _add(name: str, of: type, kind: type, found: dict[str, Any], seen: set[Any]) -> None:
    for key, x in vars(kind).items():
        if inspect.getattr_static(of, key) is not x:
            continue  # the class has its own
        function, own = x, True
        if isinstance(x, property):
            key, function = f"{key}=", x.fset
        elif isinstance(x, staticmethod | classmethod):
            function, own = getattr(of, key), False
        elif key == "__call__" and not issubclass(of, nn.Module):
            key = "()"
        inner = inspect.unwrap(function) if callable(function) else None
        counted = inner if key != "()" else (of, "()")
        if not inspect.isfunction(inner) or counted in seen or not _is_public(key, own):
            continue
        if inner.__code__.co_filename == "<string>":  # of a dataclass
            continue
        if issubclass(of, rung.Tensor) and not key.endswith("="):
            continue  # a namespace of its own
        seen.add(counted)
        found[f"{name}()" if key == "()" else f"{name}.{key}"] = (name, function, own)


def _is_public(key: str, own: bool) -> bool:
    of_loops = key == "step" and not own  # one step of recurrent layers
    return key in OPERATORS or not (key.startswith("_") or key in NO_METHODS or of_loops)
