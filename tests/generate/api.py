"""The public functions, methods and classes, each with a call that is right.

Arguments are found by the names of the parameters (`VALUES`): the first of some combinations that
is accepted. `SPECIAL` has the calls that need more.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

import rung
from rung import autodiff, data, linalg, masked, models, nn, optim, random, special, tree, windows
from rung.nn import functional as F
from rung.nn import init
from tests.generate import methods
from tests.generate.given import Make, pair, parameters, several, square, t

NAMESPACES: dict[str, Any] = {
    "rung": rung,
    "F": F,
    "linalg": linalg,
    "special": special,
    "masked": masked,
    "windows": windows,
    "random": random,
    "tree": tree,
    "init": init,
    "data": data,
    "optim": optim,
    "nn": nn,
    "models": models,
    "autodiff": autodiff,
    "Tensor": rung.Tensor,
}
INTERNAL = (
    "rung.ops",
    "rung.ir",
    "rung.core",
    "rung.tensor.state",
    "rung.tensor.operate",
    "rung.tensor.leaf",
)
"""Modules whose names can be seen in a public one without being of its interface."""
LEFT_OUT = {
    "rung.explain": "prints a report of a program: tests/tools/test_explain.py",
    "rung.inspect_residuals": "reads the plan of a compiled program: tests/tools",
    "data.stdlib_text": "reads a thousand files: tests/data",
    "data.load_digits": "takes no arguments",
    "data.ahead": "starts threads: tests/data",
    "models.ResNet": "large, and made of layers that are here",
    "models.resnet18": "large, and made of layers that are here",
    "models.resnet50": "large, and made of layers that are here",
    "models.ConvNet": "made of layers that are here",
    "tree.register": "changes what all later calls do",
    "optim.Group": "made by optimizers",
    "optim.Optimizer": "the base of the others",
    "optim.Schedule": "the base of the others",
    "data.Dataset": "a protocol",
    "data.Loader": "the base of the others",
    "nn.Checkpoint": "what read_checkpoint gives",
    "nn.LoadReport": "what load_state_dict gives",
    "data.Corpus": "what make_corpus gives",
    "data.Digits": "what load_digits gives",
    "random.start": "called once by the package",
    "random.advanced": "for loops of the package",
    "random.offset": "for loops of the package",
    "random.draw_key": "for functions of the package that draw",
    "random.check_span": "for functions of the package that draw",
    "tree.Structure": "what flatten gives",
    "tree.counts_as_node": "for traces of the package",
    "nn.ModuleDict()": "cannot be called",
    "nn.ModuleList()": "cannot be called",
    "nn.ParameterDict()": "cannot be called",
    "nn.ParameterList()": "cannot be called",
}
MOST_TRIES = 600


@dataclass(frozen=True)
class Base:
    """A call that is right: arguments by name, those of `*args` under their own name."""

    name: str
    function: Callable[..., Any]
    given: dict[str, Any]

    @functools.cached_property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        """Those of the function; of a module's call, those of its `forward`."""
        module = isinstance(self.function, nn.Module)
        target = self.function.forward if module else self.function
        return tuple(inspect.signature(target).parameters.values())


WEIGHT = nn.Parameter([1.0])


def stateful_file() -> Any:
    """The path of a checkpoint, in the folder in which the case runs."""
    nn.save_checkpoint("known.safetensors", nn.Linear(3, 2))
    return "known.safetensors"


POSITIVE = Make(lambda: rung.array(np.eye(3, dtype=np.float32) * 2 + 0.5))
TENSORS = [
    t(3, 4),
    POSITIVE,
    t(2, 4, 6),
    t(1, 4, 4, 4),
    t(3, 4, dtype="i64"),
    t(6),
    t(1, 4, 4, 4, 4),
    t(3, dtype="bool"),
    t(),
    t(2, 3),
    several(t(3, 4), t(3, 4)),
    t(5, dtype="i64"),
    t(3, 4, dtype="bool"),
]
POSITIONS = [
    t(3, dtype="i64"),
    t(3, 4, dtype="i64"),
    1,
    t(2, dtype="i64"),
    several(t(3, dtype="i64")),
]
VALUES: dict[str, list[Any]] = {
    "x": TENSORS,
    "self": TENSORS,
    "x1": TENSORS,
    "x2": TENSORS,
    "y": TENSORS,
    "a": TENSORS,
    "b": TENSORS,
    "z": TENSORS,
    "other": TENSORS,
    "tensor": TENSORS,
    "arrays": [t(3, 4), several(t(3, 4), t(3, 4))],
    "data": [[[1.0, 2.0], [3.0, 4.0]]],
    "weight": [
        t(3, 4),
        t(2, 4, 2),
        t(2, 4, 2, 2),
        t(2, 4, 2, 2, 2),
        t(4, 2, 2),
        t(4, 2, 2, 2),
        t(4, 2, 2, 2, 2),
        t(4),
        t(5, 3),
        t(2, 3, 4),
    ],
    "target": [t(3, 4), t(3, dtype="i64"), t(3, 4, dtype="i64"), t(3)],
    "value": [2.0, t(3, 4), t(3), t(2, 4)],
    "src": [t(3, 4), t(3, 3), t(4), t(3)],
    "source": [t(3, 4), t(3), t(12)],
    "logits": [t(3, 4)],
    "condition": [t(3, 4, dtype="bool")],
    "index": POSITIONS,
    "indices": POSITIONS,
    "values": [t(3), t(3, 4)],
    "boundaries": [t(3)],
    "mask": [t(3, 4, dtype="bool"), t(3, dtype="bool")],
    "function": [square, pair],
    "params": [Make(parameters)],
    "model": [Make(lambda: nn.Linear(3, 2))],
    "dim": [0, 1],
    "axis": [0, 1],
    "axis1": [0],
    "axis2": [1],
    "dim1": [0],
    "dim2": [1],
    "shape": [(3, 4), (2, 3), (12,), 3],
    "kernel_size": [2],
    "padding": [1, (1, 1)],
    "output_size": [2],
    "M": [5],
    "num_features": [4],
    "in_channels": [4],
    "out_channels": [2],
    "input_size": [4],
    "hidden_size": [4],
    "norm_type": [2.0],
    "name": ["w"],
    "seed": [3],
    "q": [0.5],
    "normalized_shape": [4],
    "rate": [0.1],
    "k": [1],
    "num_steps": [5],
    "factor": [0.5],
    "fill_value": [2.0],
    "reduce": ["sum", "prod"],
    "start": [0, t(3, 4)],
    "end": [3, t(3, 4)],
    "stop": [3.0],
    "num": [4],
    "n": [2],
    "p": [2.0],
    "sizes": [(2, 2), (3, 1), (3,), (6,)],
    "row": [3],
    "col": [3],
    "out_features": [2],
    "in_features": [4],
    "groups": [2],
    "step": [1],
    "num_embeddings": [5],
    "embedding_dim": [3],
    "num_groups": [2],
    "num_channels": [4],
    "upscale_factor": [2],
    "downscale_factor": [2],
    "threshold": [0.5],
    "num_layers": [1],
    "d_model": [4],
    "nhead": [2],
    "embed_dim": [4],
    "num_heads": [2],
    "parts": [(0.5, 0.5)],
    "rank": [1],
    "chunks": [2],
    "max": [2.0],
    "min": [0.0],
    "n_rows": [3],
    "lower": [0.0],
    "upper": [1.0],
    "bins": [3],
    "exponent": [2.0, t(3, 4, dtype="i64")],
    "destination": [1],
    "length": [2],
    "widths": [((1, 1), (0, 0))],
    "axes": [1, (1, 0)],
    "low": [0],
    "high": [5],
    "maxnorm": [1.0],
    "repeats": [2],
    "shift": [1],
    "unflattened_size": [(1, 3)],
    "repetitions": [(2, 1)],
    "in1_features": [4],
    "in2_features": [4],
    "pad": [(1, 1)],
    "peak": [0.1],
    "max_lr": [0.1],
    "total_steps": [10],
    "lr": [0.1],
    "every": [2],
    "max_norm": [1.0],
    "max_value": [1.0],
    "block_size": [2],
    "batch_size": [2],
    "characters": ["abc"],
    "text": ["hello world"],
    "count": [10],
    "nonlinearity": ["relu"],
    "device": ["cpu"],
    "dtype": ["f32"],
    "type": ["f32"],
    "to": ["f64"],
    "from_": ["f32"],
    "kind": ["real floating"],
    "milestones": [(2, 4)],
    "indices_or_sections": [2],
    "obj": [[1.0, 2.0]],
    "wanted": [True],
    "message": ["m"],
    "tree": [{"a": 1, "b": [2, 3]}],
    "ord": [2],
    "running_mean": [t(4)],
    "running_var": [t(4)],
    "var": [t(3, 4)],
    "anchor": [t(3, 4)],
    "positive": [t(3, 4)],
    "negative": [t(3, 4)],
    "query": [t(2, 4, 6)],
    "key": [t(2, 4, 6)],
    "v": [t(3)],
    "schedule": [Make(lambda: optim.Constant(0.1))],
    "then": [Make(lambda: optim.Constant(0.1))],
    "last": [Make(lambda: optim.Constant(0.1))],
    "optimizer": [Make(lambda: optim.SGD(parameters(), 0.1))],
    "path": [Make(stateful_file)],
    "parent": [Make(lambda: random.key(1))],
    "primals": [Make(lambda: (rung.ones(3),))],
    "tangents": [Make(lambda: (rung.ones(3),))],
    "row_": [1],
    "nbytes": [64],
    "decoder_layer": [Make(lambda: nn.TransformerDecoderLayer(4, 2, 8))],
    "encoder_layer": [Make(lambda: nn.TransformerEncoderLayer(4, 2, 8))],
    "structure": [Make(lambda: tree.flatten([1, 2])[1])],
    "leaves": [[1, 2]],
    "unitriangular": [False],
    "numbers": [np.arange(20)],
    "batch": [(np.ones((2, 1, 4, 4), np.float32),)],
    "rng": [Make(lambda: np.random.default_rng(0))],
    "dataset": [Make(lambda: data.TensorDataset(np.ones((6, 2))))],
    "config": [Make(lambda: models.GPTConfig(8, 9, 1, 1, 4))],
    "exponent_": [2],
}


def _m(**given: Any) -> dict[str, Any]:
    return given


def _carry(c: Any, x: Any) -> Any:
    return c + x, c


SPECIAL: dict[str, dict[str, Any]] = {
    "rung.scan": _m(function=_carry, init=0.0, xs=t(3)),
    "rung.cond": _m(condition=t(dtype="bool"), true=square, false=square, operands=[t(3)]),
    "rung.switch": _m(index=1, branches=[square, square], operands=[t(3)]),
    "rung.while_loop": _m(condition=lambda x: abs(x) < 3, function=lambda x: x + 1, init=0.0),
    "rung.fori_loop": _m(lower=0, upper=3, function=lambda i, x: x + 1.0, init=0.0),
    "rung.associative_scan": _m(function=rung.add, xs=t(4)),
    "rung.einsum": _m(subscripts="ij,jk->ik", operands=[t(2, 3), t(3, 2)]),
    "rung.grad": _m(function=square),
    "rung.vmap": _m(function=square),
    "rung.hvp": _m(
        function=square,
        primals=Make(lambda: (rung.ones(3),)),
        tangents=Make(lambda: (rung.ones(3),)),
    ),
    "rung.jvp": _m(
        function=square,
        primals=Make(lambda: (rung.ones(3),)),
        tangents=Make(lambda: (rung.ones(3),)),
    ),
    "rung.vjp": _m(function=square, primals=[t(3)]),
    "rung.linearize": _m(function=square, primals=[t(3)]),
    "rung.where": _m(condition=t(3, 4, dtype="bool"), x1=t(3, 4), x2=t(3, 4)),
    "rung.tensordot": _m(x1=t(3, 4), x2=t(4, 3), axes=1),
    "rung.matmul": _m(x1=t(3, 4), x2=t(4, 3)),
    "rung.searchsorted": _m(x1=t(4), x2=t(3)),
    "rung.take_along_axis": _m(x=t(3, 4), indices=t(3, 4, dtype="i64")),
    "rung.gradient": _m(x=t(5)),
    "rung.unravel_index": _m(indices=t(3, dtype="i64"), shape=(3, 4)),
    "rung.dsplit": _m(x=t(2, 2, 4), indices_or_sections=2),
    "rung.vsplit": _m(x=t(4, 2), indices_or_sections=2),
    "rung.permute_dims": _m(x=t(3, 4), axes=(1, 0)),
    "rung.unstack": _m(x=t(3, 4)),
    "rung.index_put": _m(x=t(4), indices=several(t(2, dtype="i64")), values=t(2)),
    "rung.index_copy": _m(x=t(3, 4), dim=0, index=t(1, dtype="i64"), source=t(1, 4)),
    "rung.index_add": _m(x=t(3, 4), dim=0, index=t(2, dtype="i64"), source=t(2, 4)),
    "rung.index_reduce": _m(
        x=t(3, 4), dim=0, index=t(2, dtype="i64"), source=t(2, 4), reduce="prod"
    ),
    "rung.addmm": _m(x=t(3, 3), a=t(3, 4), b=t(4, 3)),
    "rung.baddbmm": _m(x=t(2, 3, 3), a=t(2, 3, 4), b=t(2, 4, 3)),
    "rung.addbmm": _m(x=t(3, 3), a=t(2, 3, 4), b=t(2, 4, 3)),
    "rung.addmv": _m(x=t(3), a=t(3, 4), b=t(4)),
    "rung.addr": _m(x=t(3, 4), a=t(3), b=t(4)),
    "rung.as_strided": _m(x=t(12), size=(2, 3), stride=(3, 1)),
    "rung.histogram": _m(x=t(6), bins=3),
    "rung.meshgrid": _m(arrays=[t(3), t(4)]),
    "rung.cartesian_prod": _m(arrays=[t(3), t(4)]),
    "rung.broadcast_shapes": _m(shapes=[(3, 1), (1, 4)]),
    "rung.result_type": _m(arrays_and_dtypes=[t(3), t(3)]),
    "rung.checkpoint": _m(function=square),
    "rung.configure": _m(threads=1),
    "rung.slice_scatter": _m(x=t(3, 4), src=t(1, 4), start=0, end=1),
    "rung.select_scatter": _m(x=t(3, 4), src=t(4), dim=0, index=1),
    "rung.diagonal_scatter": _m(x=t(3, 4), src=t(3)),
    "rung.from_dlpack": _m(x=Make(lambda: np.ones(3, np.float32))),
    "rung.from_numpy": _m(x=Make(lambda: np.ones(3, np.float32))),
    "rung.save_names": _m(names=["a"]),
    "rung.tril_indices": _m(row=3, col=3),
    "rung.renorm": _m(x=t(3, 4), p=2.0, dim=0, maxnorm=1.0),
    "rung.pad": _m(x=t(3, 4), widths=((1, 1), (0, 0))),
    "F.conv1d": _m(x=t(1, 4, 6), weight=t(2, 4, 2)),
    "F.conv_transpose1d": _m(x=t(1, 4, 6), weight=t(4, 2, 2)),
    "F.conv_transpose2d": _m(x=t(1, 4, 4, 4), weight=t(4, 2, 2, 2)),
    "F.conv_transpose3d": _m(x=t(1, 4, 4, 4, 4), weight=t(4, 2, 2, 2, 2)),
    "F.bilinear": _m(x1=t(3, 4), x2=t(3, 4), weight=t(2, 4, 4)),
    "F.linear": _m(x=t(3, 4), weight=t(2, 4)),
    "F.embedding": _m(x=t(3, dtype="i64"), weight=t(5, 3)),
    "F.embedding_bag": _m(x=t(2, 3, dtype="i64"), weight=t(5, 3)),
    "F.scaled_dot_product_attention": _m(query=t(2, 4, 6), key=t(2, 4, 6), value=t(2, 4, 6)),
    "F.ctc_loss": _m(
        log_probs=t(6, 1, 4), targets=t(1, 2, dtype="i64"), input_lengths=[6], target_lengths=[2]
    ),
    "F.grid_sample": _m(x=t(1, 4, 4, 4), grid=t(1, 2, 2, 2)),
    "F.interpolate": _m(x=t(1, 4, 4, 4), scale_factor=2),
    "F.upsample": _m(x=t(1, 4, 4, 4), scale_factor=2),
    "F.pad": _m(x=t(3, 4), pad=(1, 1)),
    "F.gaussian_nll_loss": _m(x=t(3, 4), target=t(3, 4), var=t(3, 4)),
    "F.cosine_embedding_loss": _m(x1=t(3, 4), x2=t(3, 4), target=t(3)),
    "F.margin_ranking_loss": _m(x1=t(3), x2=t(3), target=t(3)),
    "F.pixel_shuffle": _m(x=t(1, 4, 4, 4), upscale_factor=2),
    "F.one_hot": _m(x=t(3, dtype="i64")),
    "F.local_response_norm": _m(x=t(1, 4, 4), size=2),
    "F.unfold": _m(x=t(1, 4, 4, 4), kernel_size=2),
    "F.fold": _m(x=t(1, 4, 9), output_size=(4, 4), kernel_size=2),
    "F.max_unpool1d": _m(
        x=t(1, 4, 2),
        indices=Make(lambda: rung.arange(8).reshape(1, 4, 2) % 2 + rung.array([0, 2])),
        kernel_size=2,
    ),
    "F.prelu": _m(x=t(3, 4), weight=t(1)),
    "linalg.multi_dot": _m(arrays=several(t(2, 3), t(3, 2))),
    "linalg.cross": _m(x1=t(3), x2=t(3)),
    "data.make_corpus": _m(text="hello world"),
    "data.RandomBlocks": _m(numbers=np.arange(20), block_size=4, batch_size=2),
    "data.DataLoader": _m(dataset=Make(lambda: data.TensorDataset(np.ones((6, 2)))), batch_size=2),
    "data.gather": _m(
        dataset=Make(lambda: data.TensorDataset(np.ones((6, 2)))), numbers=np.arange(3)
    ),
    "data.moved": _m(
        images=np.ones((2, 1, 4, 4)), angle=np.zeros(2), zoom=np.ones(2), shift=np.zeros((2, 2))
    ),
    "data.split_indices": _m(count=10, parts=(0.5, 0.5), seed=1),
    "data.read_text": _m(path=Make(lambda: _text_file())),
    "nn.write_safetensors": _m(path="new.safetensors", arrays={"a": np.ones(3)}),
    "nn.save_checkpoint": _m(path="new.safetensors", model=Make(lambda: nn.Linear(3, 2))),
    "nn.load_checkpoint": _m(path=Make(stateful_file), model=Make(lambda: nn.Linear(3, 2))),
    "nn.Parameter": _m(data=[1.0, 2.0]),
    "nn.Sequential": _m(modules=[Make(lambda: nn.Linear(3, 2))]),
    "nn.Fold": _m(output_size=(4, 4), kernel_size=2),
    "nn.Upsample": _m(scale_factor=2),
    "nn.Unflatten": _m(dim=1, unflattened_size=(2, 2)),
    "nn.AdaptiveLogSoftmaxWithLoss": _m(in_features=4, n_classes=6, cutoffs=[3]),
    "nn.Threshold": _m(threshold=0.1, value=2.0),
    "nn.LocalResponseNorm": _m(size=2),
    "nn.PixelUnshuffle": _m(downscale_factor=2),
    "optim.Chain": _m(
        parts=Make(lambda: ((2, optim.Constant(0.1)),)), last=Make(lambda: optim.Constant(0.1))
    ),
    "optim.FromFunction": _m(function=lambda step: step * 0.1),
    "optim.Linear": _m(start=0.1, end=0.0, num_steps=5),
    "optim.LBFGS": _m(params=Make(parameters)),
    "optim.Muon": _m(params=Make(parameters)),
    "tree.map": _m(function=square, tree=[t(3), t(3)]),
    "tree.paths": _m(structure=Make(lambda: tree.flatten([1, 2])[1])),
    "random.fold_in": _m(parent=Make(lambda: random.key(1)), data=3),
    "random.choice": _m(x=5, shape=(2,)),
    "random.randint": _m(low=0, high=5, shape=(3,)),
    "rung.randint": _m(low=0, high=5, shape=(3,)),
    "rung.rand": _m(shape=[3]),
    "rung.randn": _m(shape=[3]),
    "rung.randperm": _m(x=5),
    "F.attention": _m(q=t(2, 4, 6), k=t(2, 4, 6), v=t(2, 4, 6)),
    "Tensor.__index__": _m(self=t(dtype="i64")),
    "Tensor.__format__": _m(self=t(), spec=".2f"),
    "Tensor.backward": _m(self=Make(lambda: (WEIGHT**2).sum())),
    "F.max_unpool2d": _m(
        x=t(1, 1, 1, 2), indices=Make(lambda: rung.array([[[[0, 2]]]])), kernel_size=2
    ),
    "F.max_unpool3d": _m(
        x=t(1, 1, 1, 1, 2), indices=Make(lambda: rung.array([[[[[0, 2]]]]])), kernel_size=2
    ),
    "nn.MaxUnpool1d()": _m(x=t(1, 1, 2), indices=Make(lambda: rung.array([[[0, 2]]]))),
    "nn.MaxUnpool2d()": _m(x=t(1, 1, 1, 2), indices=Make(lambda: rung.array([[[[0, 2]]]]))),
    "nn.MaxUnpool3d()": _m(x=t(1, 1, 1, 1, 2), indices=Make(lambda: rung.array([[[[[0, 2]]]]]))),
    "nn.CTCLoss()": _m(
        log_probs=t(6, 1, 4),
        targets=Make(lambda: rung.array([[1, 2]])),
        input_lengths=[6],
        target_lengths=[2],
    ),
    "nn.Fold()": _m(x=t(1, 4, 9)),
    "nn.MultiheadAttention()": _m(query=t(2, 3, 4), key=t(2, 3, 4), value=t(2, 3, 4)),
    "nn.Transformer": _m(
        d_model=4, nhead=2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=4
    ),
    "nn.Transformer()": _m(src=t(2, 3, 4), tgt=t(2, 3, 4)),
    "nn.UpsamplingBilinear2d": _m(scale_factor=2),
    "nn.UpsamplingNearest2d": _m(scale_factor=2),
    "optim.ExponentialMovingAverage()": _m(args=[t(2, 3)]),
    "Tensor.sum_to_size": _m(x=t(3, 4), size=[1, 4]),
    "Tensor.unflatten": _m(x=t(3, 4), axis=1, shape=(2, 2)),
    "Tensor.__getitem__": _m(x=t(3, 4), index=1),
    "Tensor.__setitem__": _m(x=t(3, 4), index=1, y=2.0),
    "Tensor.unfold": _m(x=t(6), dim=0, size=2, step=1),
    "Tensor.transpose": _m(self=t(3, 4), axes=[0, 1]),
    "rung.bmm": _m(x=t(2, 3, 4), y=t(2, 4, 3)),
    "rung.mm": _m(x=t(3, 4), y=t(4, 3)),
    "rung.mv": _m(x=t(3, 4), y=t(4)),
    "rung.map": _m(function=square, xs=[t(3, 2)]),
    "linalg.solve_triangular": _m(a=POSITIVE, b=t(3, 2)),
    "linalg.lstsq": _m(a=t(3, 2), b=t(3, 1)),
    "linalg.cholesky_solve": _m(b=t(3, 1), factor=POSITIVE),
    "nn.ParameterList": _m(values=Make(parameters)),
    "rung.iinfo": _m(type="i32"),
    "rung.moveaxis": _m(x=t(3, 4), source=0, destination=1),
    "special.multigammaln": _m(x=Make(lambda: rung.array([3.0, 4.0])), p=2),
    "models.GPT": _m(config=Make(lambda: models.GPTConfig(8, 9, 1, 1, 4))),
    "models.GPTConfig": _m(block_size=8, vocab_size=9, n_layer=1, n_head=1, n_embd=4),
    "models.MLP": _m(sizes=[3, 2]),
    "Tensor.reshape": _m(self=t(3, 4), shape=[4, 3]),
    "Tensor.view": _m(self=t(3, 4), shape=[4, 3]),
    "Tensor.permute": _m(self=t(3, 4), axes=[1, 0]),
    "Tensor.expand": _m(self=t(3, 1), shape=[3, 4]),
    "Tensor.repeat": _m(self=t(3, 4), repetitions=[2, 1]),
    "Tensor.tile": _m(self=t(3, 4), repetitions=[2, 1]),
    "Tensor.to": _m(self=t(3), target="f64"),
    "Tensor.where": _m(self=t(3, 4), condition=t(3, 4, dtype="bool"), other=t(3, 4)),
    "Tensor.matmul": _m(self=t(3, 4), other=t(4, 3)),
    "Tensor.item": _m(self=t()),
    "Tensor.expand_as": _m(self=t(3, 1), other=t(3, 4)),
    "Tensor.fill_": _m(self=t(3), value=2.0),
}
DUNDER = [
    name
    for name in dir(rung.Tensor)
    if name.startswith("__")
    and inspect.isfunction(inspect.getattr_static(rung.Tensor, name))
    and name not in ("__init__", "__repr__", "__reduce__", "__deepcopy__")
]


def _text_file() -> str:
    with open("known.txt", "w") as file:
        file.write("some text")
    return "known.txt"


def _is_public(space: str, name: str, x: Any) -> bool:
    if not callable(x) or isinstance(x, types.ModuleType):
        return False
    if name.startswith("_"):
        return space == "Tensor" and name in DUNDER
    if space == "Tensor":
        return True
    owner = getattr(x, "__module__", "") or ""
    return owner.startswith("rung") and not owner.startswith(INTERNAL)


@cache
def surface() -> dict[str, Any]:
    """Every public callable by its first name."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for space, owner in NAMESPACES.items():
        for name in sorted(dir(owner)):
            x = getattr(owner, name)
            full = f"{space}.{name}"
            if not _is_public(space, name, x) or id(x) in seen:
                continue
            if full in LEFT_OUT:
                seen.add(id(x))
                continue
            if isinstance(x, type) and issubclass(x, Exception | tuple):
                continue
            seen.add(id(x))
            found[full] = x
    return found


@cache
def targets() -> list[str]:
    """What can be called: functions, constructors, `NAME()`, a call of what NAME makes, and methods
    of objects that it makes; `NAME.PROPERTY=` sets one."""
    modules = [f"{n}()" for n, x in surface().items() if isinstance(x, type) and _is_module(x)]
    made = [f"{name}()" for name in methods.FUNCTIONS]
    return sorted({*surface(), *modules, *made, *of_classes()} - set(LEFT_OUT))


@cache
def of_classes() -> dict[str, tuple[str, Callable[..., Any], bool]]:
    """The methods of the public classes but `Tensor`, whose methods are a namespace."""
    return methods.methods({n: x for n, x in surface().items() if isinstance(x, type)})


def _is_module(x: type) -> bool:
    return issubclass(x, nn.Module) and x is not nn.Module and not x.__name__.startswith("_")


@cache
def base(name: str) -> Base | None:
    """A call that is right, or None where none is found."""
    if name in of_classes():
        return _method(name)
    if name.endswith("()") and name[:-2] in methods.FUNCTIONS:
        return found_base(name, methods.FUNCTIONS[name[:-2]], inspect.signature(square), None)
    if name.endswith("()"):
        made = base(name[:-2])
        if made is None:
            return None
        module = call(made, dict(made.given)).eval()
        return found_base(name, module, inspect.signature(module.forward), SPECIAL.get(name))
    function = surface()[name]
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):
        return None
    return found_base(name, function, signature, SPECIAL.get(name))


def _method(name: str) -> Base | None:
    """A method on an object of its class: `self` is one more argument, made anew by each call."""
    owner, function, own = of_classes()[name]
    signature, right = inspect.signature(function), dict(methods.GIVEN.get(name, {}))
    if own:
        known = methods.FIRST.get(owner)
        constructor = None if known else base(owner)
        if constructor is not None:
            known = [Make(lambda: call(constructor, dict(constructor.given)))]
        if not known:
            return None
        right[next(iter(signature.parameters))] = known[0]
    if name in methods.GIVEN or len(signature.parameters) == len(right):
        return found_base(name, function, signature, right)
    rest = signature.replace(parameters=list(signature.parameters.values())[len(right) :])
    later = found_base(name, functools.partial(_with, function, right), rest, None)
    return None if later is None else Base(name, function, {**right, **later.given})


def _with(function: Callable[..., Any], right: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
    return function(*map(made, right.values()), *args, **kwargs)


def found_base(
    name: str, function: Any, signature: inspect.Signature, special: dict[str, Any] | None
) -> Base | None:
    """The first of the combinations of arguments that is accepted."""
    if special is not None:
        choices = [special]
        return next((b for b in _accepted(name, function, choices)), None)
    wanted = [
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    starred = [p.name for p in signature.parameters.values() if p.kind is p.VAR_POSITIONAL]
    options = [VALUES.get(n, TENSORS) for n in wanted]
    rest: list[list[Any]] = [[]]
    if starred:
        rest = [[], [t(3, 4)], [t(3, 4), t(3, 4)], [2, 3], [0]]
    combinations = (
        dict(zip(wanted, values, strict=True)) | ({starred[0]: more} if starred else {})
        for total in [itertools.product(*options)]
        for values in itertools.islice(_alike_first(options, total), MOST_TRIES)
        for more in rest
    )
    return next(_accepted(name, function, combinations), None)


def _alike_first(options: list[list[Any]], all_of_them: Iterator[Any]) -> Iterator[Any]:
    """Combinations with the same choice for all parameters first."""
    longest = max(map(len, options), default=1)
    yield from (tuple(o[min(i, len(o) - 1)] for o in options) for i in range(longest))
    yield from all_of_them


def _accepted(name: str, function: Any, combinations: Any) -> Iterator[Base]:
    for given in combinations:
        found = Base(name, function, given)
        try:
            settled(call(found, dict(given)))
        except Exception:
            continue
        yield found


def call(of: Base, given: dict[str, Any]) -> Any:
    """Call it with arguments by name; those that can only be positional are."""
    args, kwargs = arguments(of, given)
    return of.function(*args, **kwargs)


def arguments(of: Base, given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments, made."""
    args: list[Any] = []
    rest = dict(given)
    starred = False
    for p in of.parameters:
        if p.name not in rest and p.kind is not p.VAR_POSITIONAL:
            if p.kind is p.POSITIONAL_ONLY:
                break
            starred = True
            continue
        if p.kind is p.VAR_POSITIONAL:
            args += rest.pop(p.name, [])
            starred = True
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and not starred:
            args.append(rest.pop(p.name))
    return [made(x) for x in args], {k: made(x) for k, x in rest.items()}


def made(x: Any) -> Any:
    """The argument itself, where it is to be made."""
    if isinstance(x, Make):
        return x.make()
    if isinstance(x, list) and any(isinstance(v, Make) for v in x):
        return [made(v) for v in x]
    return x


def settled(result: Any, depth: int = 0) -> Any:
    """All tensors in a result, computed."""
    if isinstance(result, rung.Tensor):
        np.asarray(result)
    elif isinstance(result, list | tuple) and depth < 4:
        for x in result:
            settled(x, depth + 1)
    elif isinstance(result, Iterator) and depth < 4:
        settled(list(itertools.islice(result, 3)), depth + 1)
    elif isinstance(result, dict) and depth < 4:
        settled(list(result.values()), depth + 1)
    return result
