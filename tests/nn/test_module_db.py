"""The samples by which torch tests its modules, on ours: the same constructor arguments and
parameters must give the same results and gradients, in f32."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn
from rung.core.settings import configure
from tests.torch_tables import module_infos

torch = pytest.importorskip("torch")
MAX_SAMPLES = 3
"""For each module and mode, taken evenly from all samples."""
LAZY = "modules that find their sizes at the first call do not exist here"
UNMAPPED = {
    "FractionalMaxPool2d": "windows drawn at random do not exist here",
    "FractionalMaxPool3d": "windows drawn at random do not exist here",
    "LazyConv1d": LAZY,
    "LazyConv2d": LAZY,
    "LazyConv3d": LAZY,
    "LazyConvTranspose1d": LAZY,
    "LazyConvTranspose2d": LAZY,
    "LazyConvTranspose3d": LAZY,
    "LinearCrossEntropyLoss": "Linear and CrossEntropyLoss say the same",
}
INFOS = {info.module_cls.__name__: info for info in module_infos()}
MAPPED = {name: getattr(nn, name) for name in INFOS if name not in UNMAPPED}
ADDED = ("device", "dtype", "size_average", "reduce", "self", "enable_nested_tensor", "mask_check")
"""Arguments of torch without a meaning here: places, old spellings, hints."""


FIRST = {"CTCLoss": "log_softmax"}
"""What is applied to the first input: torch's gradient of CTCLoss takes for granted that
log_softmax made it, and is that of nothing else."""


class NotComparable(Exception):
    """A sample that asks for something which is not there; the text says what."""


def converted(value: Any) -> Any:
    """What torch is given, as ours."""
    if isinstance(value, torch.Tensor):
        found = rung.array(value.detach().numpy().copy())
        found.requires_grad = value.requires_grad
        return found
    if isinstance(value, torch.nn.TransformerEncoderLayer):
        return nn.TransformerEncoderLayer(
            value.self_attn.embed_dim,
            value.self_attn.num_heads,
            value.linear1.out_features,
            value.dropout.p,
            converted(value.activation),
            batch_first=value.self_attn.batch_first,
            norm_first=value.norm_first,
            bias=value.linear1.bias is not None,
        )
    if isinstance(value, tuple):
        return tuple(map(converted, value))
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        raise NotComparable("packed sequences")
    if callable(value):
        return getattr(nn.functional, value.__name__)
    return value


def arguments(function: Any, given: Any) -> dict[str, Any]:
    """All arguments of a call by name, defaults among them."""
    signature = inspect.signature(function)
    bound = signature.bind(None, *given.args, **given.kwargs)
    bound.apply_defaults()
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    kinds = {key: p.kind for key, p in signature.parameters.items()}
    return {key: x for key, x in bound.arguments.items() if kinds[key] not in variable}


def made(name: str, given: Any) -> nn.Module:
    """Our module for the arguments of the constructor of torch's."""
    ours, theirs = MAPPED[name], INFOS[name].module_cls
    known = inspect.signature(ours.__init__).parameters
    defaults = inspect.signature(theirs.__init__).parameters
    if inspect.Parameter.VAR_POSITIONAL in {p.kind for p in defaults.values()}:
        named = {k: converted(v) for k, v in given.kwargs.items() if k not in ADDED}
        return ours(*map(converted, given.args), **named)
    options = {}
    for key, value in arguments(theirs.__init__, given).items():
        if key in ADDED:
            continue
        if key == "dim" and value is None:
            raise NotComparable(f"{name} without dim, which torch warns about")
        if key in known:
            options[key] = converted(value)
        elif value is not defaults[key].default:
            raise NotComparable(f"{name} has no argument {key}")
    return ours(**options)


def samples(name: str, training: bool) -> Iterator[Any]:
    info = INFOS[name]
    torch.manual_seed(0)
    found = info.module_inputs_func(
        info, device="cpu", dtype=torch.float32, requires_grad=True, training=training
    )
    step = max(len(found) // MAX_SAMPLES, 1)
    return iter(found[::step][:MAX_SAMPLES])


def leaves(result: Any) -> list[Any]:
    if isinstance(result, tuple):
        return [x for part in result for x in leaves(part)]
    return [] if result is None else [result]


def called(model: Any, inputs: list[Any]) -> list[Any]:
    """What the module gives."""
    first, *rest = inputs
    name = FIRST.get(type(model).__name__)
    library = torch if isinstance(model, torch.nn.Module) else rung
    return leaves(model(first if name is None else getattr(library, name)(first, -1), *rest))


def results(model: Any, inputs: list[Any], weights: list[Any]) -> list[Any]:
    """What the module gives, and the gradients of inputs and parameters of a weighted sum of it."""
    outputs = called(model, inputs)
    sum((y * w).sum() for y, w in zip(outputs, weights, strict=True)).backward()
    gradients = [x.grad for x in leaves(tuple(inputs)) if getattr(x, "requires_grad", False)]
    gradients += [p.grad for p in model.parameters()]
    return [*(y.detach() for y in outputs), *(g for g in gradients if g is not None)]


def compare(name: str, sample: Any, training: bool) -> None:
    given = sample.constructor_input
    theirs = INFOS[name].module_cls(*given.args, **given.kwargs).train(training)
    ours = made(name, given).train(training)
    ours.load_state_dict({n: t.numpy().copy() for n, t in theirs.state_dict().items()})
    inputs = list(arguments(type(theirs).forward, sample.forward_input).values())[1:]
    inputs = [_leaf(x) for x in inputs]
    mine = [converted(x) for x in inputs]
    with torch.no_grad():
        shapes = [tuple(y.shape) for y in called(copy.deepcopy(theirs), inputs)]
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    wanted = results(theirs, inputs, [torch.tensor(w) for w in weights])
    found = results(ours, mine, [rung.asarray(w) for w in weights])
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(np.asarray(a), b.numpy(), rtol=1e-4, atol=2e-5)
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(
            np.asarray(ours.state_dict()[key]), value.numpy(), rtol=1e-4, atol=1e-5, err_msg=key
        )


def _leaf(x: Any) -> Any:
    """A tensor that was not computed from another, and so keeps its gradient."""
    if isinstance(x, tuple) and not isinstance(x, torch.nn.utils.rnn.PackedSequence):
        return tuple(map(_leaf, x))
    if not isinstance(x, torch.Tensor):
        return x
    return x.detach().clone().requires_grad_(x.requires_grad)


@cache
def outcome(name: str) -> tuple[int, tuple[str, ...]]:
    """How many samples agree, and why others were left out. Raises what a comparison raises. The
    first sample in training is compiled, the others run by the references of the ops."""
    modes = (True, False) if INFOS[name].train_and_eval_differ else (True,)
    count, left_out = 0, []
    for training in modes:
        for number, sample in enumerate(samples(name, training)):
            configure(interpret=number > 0 or not training)
            try:
                compare(name, sample, training)
            except NotComparable as reason:
                left_out.append(str(reason))
            else:
                count += 1
            finally:
                configure(interpret=False)
    return count, tuple(left_out)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MAPPED)
def test_module(name: str) -> None:
    count, left_out = outcome(name)
    assert count, left_out


@pytest.mark.filterwarnings("ignore")
def test_how_many_modules_agree() -> None:
    passed, samples_left_out = [], []
    for name in MAPPED:
        try:
            count, left_out = outcome(name)
        except Exception:
            continue
        samples_left_out += left_out
        if count:
            passed.append(name)
    print(f"\n{len(passed)} of {len(INFOS)} modules of torch agree; without a counterpart:")
    for name, reason in UNMAPPED.items():
        print(f"    {name}: {reason}")
    for reason in sorted(set(samples_left_out)):
        print(f"    samples left out: {reason}")
    assert len(passed) >= 100
