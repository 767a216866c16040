"""The generators of wrong calls and broken files find what is broken on purpose, and the first
knows the public interface."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung import data, models, nn, optim
from rung.core import arguments
from rung.core.errors import (
    AllocationError,
    ArgumentError,
    AxisError,
    CheckpointError,
    DomainError,
    DTypeError,
    GradientError,
    IndexingError,
    InterchangeError,
    RungError,
    ShapeError,
)
from rung.core.settings import configure, settings
from rung.nn import functional as f
from rung.nn import safetensors
from rung.tensor import random
from tests.fuzz import failures
from tests.generate import api, calls, files

SEEDS = range(150)


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    before = settings()
    configure(interpret=True, cache=False)
    yield
    configure(interpret=before.interpret, cache=before.cache)


def fails(error: BaseException) -> Any:
    def function(*_: Any, **__: Any) -> Any:
        raise error

    return function


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError()])
def test_internal_errors_are_found(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(calls.check(seed) for seed in SEEDS)
    monkeypatch.setattr(arguments, "described", fails(error))
    found = [line for seed in SEEDS for line in calls.check(seed)]
    assert len(found) > 10
    assert all(type(error).__name__ in line for line in found)


def test_a_hang_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(*_: Any) -> None:
        while True:
            pass

    names = api.targets()
    seeds = [names.index("random.uniform") + k * len(names) for k in range(20)]
    monkeypatch.setattr(calls, "SECONDS", 0.2)
    monkeypatch.setattr(random, "check_span", forever)
    assert any("hangs" in line for seed in seeds for line in calls.check(seed))


def test_time_that_is_up_as_a_case_ends_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The bounds of memory and the settings stayed, for all tests that came later."""
    found = lambda: (os.getcwd(), resource.getrlimit(resource.RLIMIT_AS), settings())  # noqa: E731
    before = found()

    def late(kind: int, seconds: float) -> None:
        if not seconds:
            raise calls.Hang

    monkeypatch.setattr(calls.signal, "setitimer", late)
    with pytest.raises(calls.Hang), calls.confined():
        configure(interpret=False)
    assert found() == before


def test_errors_of_readers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not any(files.check(seed) for seed in SEEDS)
    monkeypatch.setattr(safetensors, "_check_ranges", fails(IndexError("x")))
    assert sum(bool(failures(files, seed)) for seed in SEEDS) > 3


def test_the_public_interface_is_covered() -> None:
    print(f"\n{calls.coverage()}")
    with calls.confined(300):
        configure(interpret=True)
        assert [n for n in api.targets() if api.base(n) is None] == []


def test_a_case_depends_on_its_seed_alone() -> None:
    with calls.confined(300):
        configure(interpret=True)
        first = [calls.show(s) for s in range(40)]
        assert [calls.show(s) for s in reversed(range(40))] == first[::-1]


# ---- kinds of wrong calls that were found

X = rung.arange(12).reshape(3, 4)
SCORES = rung.ones((3, 4))
TABLE = rung.ones((5, 2))
IMAGE = rung.ones((1, 2, 8))
TEXT = data.Vocabulary("abc")
Call = Callable[[], Any]


class Examples:
    """A data set of these examples."""

    def __init__(self, *examples: Any) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Any:
        return self.examples[index]


def batches(*examples: Any, **options: Any) -> list[Any]:
    return list(data.DataLoader(Examples(*examples), batch_size=2, **options))


def refused(call: Call, error: type[RungError], words: str) -> None:
    """`call` raises that error, whose message begins with what was called and names the value."""
    with pytest.raises(error) as info:
        call()
    assert type(info.value) is error
    assert words in str(info.value)
    assert "test_wrong_calls.py" in str(info.value)


NO_ARRAYS: list[tuple[Call, type[RungError], str]] = [
    (lambda: X[[rung.ones(3), "x"]], ShapeError, "nested sequences have different lengths"),
    (lambda: X[[[1], [1, 2]]], ShapeError, "nested sequences have different lengths"),
    (lambda: X[["x"]], DTypeError, "'x' is no number"),
    (lambda: X.clone().__setitem__([[1], [1, 2]], 1), ShapeError, "different lengths"),
    (lambda: X[int], IndexingError, "index <class 'int'>"),
    (lambda: X.clone().__setitem__(0, np.datetime64("2020-01-01")), DTypeError, "is no number"),
    (lambda: data.TensorDataset(([1, 2], [3])), ShapeError, "different lengths"),
    (lambda: data.TensorDataset((rung.ones(2), None)), ShapeError, "different lengths"),
    (lambda: rung.from_numpy([[1], [1, 2]]), ArgumentError, "from_numpy: x is [[1], [1, 2]]"),
    (lambda: data.TensorDataset(None), DTypeError, "None is no number"),
    (lambda: data.TensorDataset(3), ShapeError, "TensorDataset: arrays []"),
    (lambda: batches([[1, [2]]], [[1, [2]]]), ShapeError, "different lengths"),
    (lambda: batches("a", "b"), DTypeError, "'a' is no number"),
    (lambda: batches(np.ones(2), np.ones(3)), ShapeError,
     "the parts of example 1 have the shapes [[3]], those of example 0 [[2]]"),
    (lambda: batches((1, 2), (1,)), ShapeError, "example 1 have the shapes [[]]"),
    (lambda: batches(1, 2, transform=lambda batch, rng: None), ArgumentError,
     "DataLoader: a batch is None"),
    (lambda: batches(1, 2, transform=lambda batch, rng: batch[0]), ArgumentError,
     "DataLoader: a batch is array([1, 2])"),
    (lambda: data.DataLoader(iter([1, 2])), ArgumentError, "DataLoader: dataset is"),
    (lambda: TEXT.encode([[1]]), ArgumentError, "encode: text is [[1]]"),  # type: ignore[arg-type]
    (lambda: TEXT.decode([[1], [1, 2]]), ShapeError, "different lengths"),
    (lambda: TEXT.decode("ab"), DTypeError, "'ab' is no number"),
    (lambda: data.RandomBlocks(np.ones(20), 2, 2), ArgumentError, "numbers are float64[20]"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), NO_ARRAYS)
def test_what_makes_no_array_is_a_typed_error(
    call: Call, error: type[RungError], words: str
) -> None:
    refused(call, error, words)


LARGE = (2**31, 2**40, 2**63, 10**30)
TOO_LARGE: list[Callable[[int], Any]] = [
    lambda n: f.adaptive_max_pool1d(IMAGE, n),
    lambda n: f.adaptive_avg_pool1d(IMAGE, (n,)),
    lambda n: nn.AdaptiveMaxPool1d(n)(IMAGE),
    lambda n: f.interpolate(IMAGE, n),
    lambda n: f.interpolate(IMAGE, n, mode="linear"),
    lambda n: f.pad(IMAGE, (n, n), mode="replicate"),
    lambda n: str(f.local_response_norm(IMAGE, n)),
    lambda n: rung.histogram(SCORES, n),
    lambda n: rung.repeat(X, rung.asarray([n, 1, 1], dtype="u64" if n < 2**64 else "f32"), 0),
    lambda n: rung.tensor_split(X, n),
    lambda n: rung.random.split(rung.random.key(0), n),
    lambda n: data.split_indices(n, (0.5, 0.5), 1),
    lambda n: next(iter(data.RandomBlocks(np.arange(20), 2, n))),
    lambda n: nn.GRU(2, 2, n),
    lambda n: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), n),
    lambda n: models.GPT(models.GPTConfig(8, 9, n, 1, 4)),
    lambda n: rung.special.polygamma(n, SCORES),
]


@pytest.mark.parametrize("call", TOO_LARGE)
@pytest.mark.parametrize("size", LARGE)
def test_sizes_beyond_memory_are_typed_errors(call: Callable[[int], Any], size: int) -> None:
    kinds = (AllocationError, DomainError, DTypeError, ShapeError)
    with calls.confined(), pytest.raises(kinds) as info:
        call(size)
    assert "test_wrong_calls.py" in str(info.value)


def test_the_users_own_errors_stay_what_they_are() -> None:
    def fails(error: Exception) -> Any:
        raise error

    for error in (MemoryError("mine"), OverflowError("mine"), ValueError("too big")):
        with pytest.raises(type(error)) as info:
            rung.grad(lambda x, error=error: fails(error))(SCORES)
        assert info.value is error


MISFITS: list[tuple[Call, type[RungError], str]] = [
    (lambda: f.nll_loss(SCORES, rung.array([1])), ShapeError, "nll_loss: x f32[3,4] with labels"),
    (lambda: f.nll_loss(rung.ones((2, 4, 5)), rung.ones((2, 1), dtype="i64")), ShapeError,
     "labels have the shape (2, 5)"),
    (lambda: f.nll_loss(rung.array(1.0), rung.array(0)), ShapeError, "nll_loss: x f32[]"),
    (lambda: f.nll_loss(SCORES, rung.array([1, 0, 0]), rung.ones(2)), ShapeError,
     "nll_loss: weight f32[2] for 4 classes"),
    (lambda: f.nll_loss(SCORES, rung.array([1, 0, 0]), rung.ones(5)), ShapeError,
     "nll_loss: weight f32[5] for 4 classes"),
    (lambda: f.multi_margin_loss(SCORES, rung.array([1])), ShapeError, "labels i64[1]"),
    (lambda: f.multi_margin_loss(SCORES, rung.array(1)), ShapeError, "labels i64[]"),
    (lambda: f.multi_margin_loss(SCORES, rung.array([1, 0, 0]), weight=rung.ones(1)), ShapeError,
     "multi_margin_loss: weight f32[1] for 4 classes"),
    (lambda: f.multilabel_margin_loss(SCORES, rung.array([[1, 2, -1, 0]])), ShapeError,
     "labels i64[1,4]"),
    (lambda: f.multilabel_margin_loss(SCORES, rung.zeros((3, 2), dtype="i64")), ShapeError,
     "labels i64[3,2]"),
    (lambda: f.bilinear(1.0, 2.0, rung.ones((2, 1, 1))), ShapeError, "bilinear: x1 f32[]"),
    (lambda: f.embedding(rung.array([0]), TABLE, padding_idx=7), IndexingError,
     "embedding: padding_idx=7 of 5 rows"),
    (lambda: f.embedding_bag(rung.array([[0]]), TABLE, padding_idx=-6), IndexingError,
     "embedding_bag: padding_idx=-6 of 5 rows"),
    (lambda: f.embedding_bag(rung.array([1, 2, 3, 4]), TABLE, rung.array([1, 2])), IndexingError,
     "offsets i64[2] do not rise from 0"),
    (lambda: f.embedding_bag(rung.array([1, 2, 3, 4]), TABLE, rung.array([0, 3, 1])),
     IndexingError, "do not rise from 0"),
    (lambda: f.embedding_bag(rung.array([1, 2, 3, 4]), TABLE, rung.array([0, 9])), IndexingError,
     "embedding_bag: offset 9 is out of range"),
    (lambda: f.embedding_bag(rung.array([[1, 2]]), TABLE, mode="sum",
                             per_sample_weights=rung.ones(2)), ShapeError,
     "per_sample_weights f32[2] for x i64[1,2]"),
    (lambda: rung.unique_consecutive(X, axis=5), AxisError, "axis 5 is out of range"),
    (lambda: rung.unique(X, axis=-(2**31) - 1), AxisError, "is out of range"),
    (lambda: f.max_pool1d(IMAGE, 2, stride=0), ShapeError, "stride=0"),
    (lambda: f.lp_pool1d(IMAGE, 2.0, 2, stride=0), ShapeError, "stride=0"),
    (lambda: f.avg_pool1d(IMAGE, 2, padding=-1), ShapeError, "padding=-1"),
    (lambda: f.max_pool1d(IMAGE, 2, padding=-1), ShapeError, "padding=-1"),
    (lambda: f.max_pool1d(IMAGE, 2, padding=-1, return_indices=True), ShapeError, "padding=-1"),
    (lambda: f.max_unpool1d(IMAGE, rung.zeros((1, 2, 8), dtype="i64"), 2, stride=0), ShapeError,
     "stride=0"),
    (lambda: f.unfold(rung.ones((1, 1, 4, 4)), 2, dilation=0), ShapeError, "dilation=0"),
    (lambda: f.fold(rung.ones((1, 4, 9)), 4, 2, padding=(0, -1)), ShapeError, "padding=(0, -1)"),
    (lambda: f.cross_entropy(SCORES, rung.array([1, 0, 0]), label_smoothing=1.5), DomainError,
     "cross_entropy: label_smoothing=1.5"),
    (lambda: f.mse_loss(rung.ones((3, 1)), rung.ones(3)), ShapeError,
     "mse_loss: x f32[3,1] with target f32[3]"),
    (lambda: f.binary_cross_entropy(rung.ones((3, 1)), rung.ones(3)), ShapeError,
     "binary_cross_entropy: x f32[3,1] with target f32[3]"),
    (lambda: nn.BCEWithLogitsLoss()(rung.ones(3), rung.ones((3, 1))), ShapeError,
     "binary_cross_entropy_with_logits: x f32[3] with target f32[3,1]"),
    (lambda: f.cosine_similarity(SCORES, SCORES, eps=-1), DomainError, "eps=-1"),
    (lambda: f.rrelu(SCORES, 7.0, 0.5), DomainError, "rrelu: lower=7.0, upper=0.5"),
    (lambda: rung.histc(SCORES, min=2, max=1), DomainError, "histc: from 2.0 to 1.0"),
    (lambda: rung.histc(SCORES, min=float("nan")), DomainError, "histc: from nan"),
    (lambda: rung.histogram(SCORES, 3, weight=rung.array(7)), ShapeError, "weight i64[]"),
    (lambda: rung.cov(SCORES, aweights=rung.ones((1, 3, 4))), ShapeError, "cov: weights"),
    (lambda: rung.cov(SCORES, fweights=rung.ones(1)), ShapeError, "for 4 observations"),
    (lambda: rung.bucketize(SCORES, SCORES), ShapeError, "boundaries are f32[3,4]"),
    (lambda: rung.searchsorted(rung.ones(3), rung.ones(2), sorter=rung.array([0])), ShapeError,
     "sorter i64[1] of x1 f32[3]"),
    (lambda: rung.masked_select(X, rung.array([0, 2, 1, 0])), DTypeError, "the mask is i64[4]"),
    (lambda: rung.masked_scatter(X, rung.array(2), X), DTypeError, "the mask is i64[]"),
    (lambda: rung.isclose(SCORES, SCORES, atol=-1.0), DomainError, "isclose: atol=-1.0"),
    (lambda: rung.array(1.0).unfold(0, 2, 1), ShapeError, "unfold: windows of 2 by 1"),
    (lambda: rung.addmv(rung.ones((3, 3)), rung.ones((3, 4)), rung.ones(4)), ShapeError,
     "has not the shape of the product f32[3]"),
    (lambda: rung.random.bits(-100), ShapeError, "negative length"),
    (lambda: TEXT.decode([-1]), IndexingError, "decode: number -1 is out of range"),
    (lambda: TEXT.decode([3]), IndexingError, "decode: number 3 is out of range"),
    (lambda: TEXT.decode([1.7]), DTypeError, "decode: number is f32[1], not an integer"),
    (lambda: data.split_indices(10, (float("nan"), 1.0), 1), DomainError, "parts=(nan, 1.0)"),
    (lambda: data.split_indices(10, (1.5, -0.5), 1), DomainError, "parts=(1.5, -0.5)"),
    (lambda: data.make_corpus("hello", 2.0), DomainError, "make_corpus: val_part=2.0"),
    (lambda: data.make_corpus("hello", np.float32("nan")), DomainError, "val_part=nan"),  # type: ignore[arg-type]
    (lambda: f.cross_entropy(SCORES, rung.array([1, 0, 0]), label_smoothing=np.float32(1.5)),  # type: ignore[arg-type]
     DomainError, "label_smoothing=1.5"),
    (lambda: rung.tree.flatten(calls.ITSELF), ArgumentError, "a tree without end"),
    (lambda: f.interpolate(IMAGE, scale_factor=np.float32("nan")), DomainError, "=nan"),  # type: ignore[arg-type]
    (lambda: data.make_corpus("hello", float("nan")), DomainError, "val_part=nan"),
    (lambda: data.RandomBlocks(np.arange(20), 0, 2), DomainError, "RandomBlocks: block_size=0"),
    (lambda: data.RandomBlocks(np.arange(20), 2, 0), DomainError, "RandomBlocks: batch_size=0"),
    (lambda: data.DataLoader(Examples(1), seed=-1), DomainError, "DataLoader: seed=-1"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), MISFITS)
def test_what_does_not_fit_gives_no_silent_number(
    call: Call, error: type[RungError], words: str
) -> None:
    refused(call, error, words)


GROUP = [nn.Parameter([1.0])]
METHODS: list[tuple[Call, type[RungError], str]] = [
    (lambda: nn.Linear(3, 2).load_state_dict(["weight"]), ArgumentError, "load_state_dict: "),  # type: ignore[arg-type]
    (lambda: nn.Linear(3, 2).apply(3), ArgumentError, "apply: function is 3"),  # type: ignore[arg-type]
    (lambda: nn.Sequential(nn.ReLU())["x"], ArgumentError, "__getitem__: index is 'x'"),  # type: ignore[call-overload]
    (lambda: nn.ModuleDict({})[[1]], ArgumentError, "__getitem__: name is [1]"),  # type: ignore[index]
    (lambda: optim.Cosine(0.1, 10)("now"), ArgumentError, "Cosine: step is 'now'"),  # type: ignore[arg-type]
    (lambda: optim.SGD(GROUP, 0.1).add_param_group(3), ArgumentError, "add_param_group: "),  # type: ignore[arg-type]
    (lambda: optim.SGD([{"lr": 1.0}], 0.1), RungError, "SGD: a group without parameters"),
    (lambda: optim.SGD(GROUP, 0.1).step([1.5]), GradientError, "SGD.step: a gradient is 1.5"),
    (lambda: optim.LBFGS(GROUP).step(3), ArgumentError, "step: closure is 3"),  # type: ignore[arg-type]
    (lambda: rung.Generator(1).set_state({}), CheckpointError, "set_state: saved has []"),
    (lambda: rung.Generator(1).set_state(3), ArgumentError, "set_state: saved is 3"),  # type: ignore[arg-type]
    (lambda: f.bilinear(SCORES, None, rung.ones((2, 4, 4))), ArgumentError, "bilinear: x2"),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), METHODS)
def test_methods_of_all_classes_read_their_arguments(
    call: Call, error: type[RungError], words: str
) -> None:
    refused(call, error, words)


MODEL = models.GPT(models.GPTConfig(4, 5, 1, 1, 4))
EXAMPLES = data.TensorDataset(np.ones((3, 2)))
NAN, TINY = float("nan"), nn.Parameter([1.0])
NUMBERS: list[tuple[Call, type[RungError], str]] = [
    (lambda: f.softplus(SCORES, beta=0), DomainError, "softplus: beta=0"),
    (lambda: nn.Softplus(0.0)(SCORES), DomainError, "softplus: beta=0.0"),
    (lambda: f.interpolate(IMAGE, scale_factor=rung.array(NAN)), DomainError, "scale_factor=nan"),  # type: ignore[arg-type]
    (lambda: f.interpolate(IMAGE, scale_factor=np.float16("inf")), DomainError, "=inf"),  # type: ignore[arg-type]
    (lambda: nn.init.normal_(TINY, 1e300), DomainError, "normal_: from 1e+300"),
    (lambda: nn.init.xavier_normal_(nn.Parameter(SCORES), 1e300), DomainError, "normal_: from"),
    (lambda: nn.init.trunc_normal_(TINY, high=1e300), DomainError, "trunc_normal_: from"),
    (lambda: nn.init.trunc_normal_(TINY, std=np.False_), DomainError, "std=False"),  # type: ignore[arg-type]
    (lambda: format(rung.array(1.5), "x"), DomainError, "format: 'x' of a float from f32[]"),
    (lambda: f"{SCORES:.2f}", ArgumentError, "format: '.2f' of a tensor f32[3,4]"),
    (lambda: MODEL.generate([0], 10**30), AllocationError, "generate: num_tokens="),
    (lambda: MODEL.generate([0], -1), DomainError, "generate: num_tokens=-1"),
    (lambda: MODEL.generate([9], 1), IndexingError, "generate: token 9"),
    (lambda: MODEL.generate([1j], 1), DTypeError, ""),
    (lambda: MODEL.generate([0], 1, top_k=0), DomainError, "generate: top_k=0"),
    (lambda: MODEL.generate([0], 1, temperature=NAN), DomainError, "temperature=nan"),
    (lambda: EXAMPLES[3], IndexingError, "index 3 (int) of 3 examples"),
    (lambda: EXAMPLES["a"], IndexingError, "index 'a' (str) of 3 examples"),
    (lambda: EXAMPLES.batch(np.array([5])), IndexingError, "of 3 examples"),
    (lambda: data.DataLoader(EXAMPLES, shuffle=True).order(-1), DomainError, "epoch=-1"),
    (lambda: nn.Sequential(nn.ReLU())[10**6], IndexingError, "module 1000000 of 1"),
    (lambda: nn.ModuleList()[0], IndexingError, "module 0 of 0"),
    (lambda: nn.ParameterList()[0], IndexingError, "parameter 0 of 0"),
    (lambda: setattr(TINY, "requires_grad", [1]), ArgumentError, "requires_grad: wanted is [1]"),
    (lambda: setattr(TINY, "grad", 3), ArgumentError, "grad is 3 (int)"),
    (lambda: optim.ReduceLROnPlateau(optim.SGD(GROUP, 0.1)).step((1,)), ArgumentError,
     "ReduceLROnPlateau.step: metric is (1,)"),
    (lambda: optim.SGD(GROUP, 0.1).load_state_dict(np.uint64(3)), CheckpointError, "no state_dict"),
    (lambda: optim.LBFGS(GROUP).step(lambda: "x"), ArgumentError, "LBFGS.step: the loss is 'x'"),
    (lambda: nn.write_safetensors("unmade", {"a": 1}), CheckpointError, "a: 1 (int) is no array"),
    (lambda: SCORES.__array__(frozenset()), DTypeError, "is no dtype of NumPy"),
    (lambda: SCORES.__dlpack__(dl_device=[[1]]), InterchangeError, "not on device"),  # type: ignore[arg-type]
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), NUMBERS)
def test_divisors_sizes_positions_and_formats_that_do_not_fit(
    call: Call, error: type[RungError], words: str
) -> None:
    refused(call, error, words)


def test_a_division_by_a_users_number_is_a_typed_error_wherever_it_is() -> None:
    def part(of: int, count: int) -> float:
        return of / count

    part.__code__ = part.__code__.replace(co_filename=arguments.__file__)  # as if it were ours
    for call in (lambda: 1 // 0, lambda: int(NAN), lambda: int(float("inf"))):
        call.__code__ = call.__code__.replace(co_filename=arguments.__file__)
        with pytest.raises((ArithmeticError, ValueError)) as info:
            call()
        assert isinstance(arguments.of_numbers("f", info.value), DomainError)
    with pytest.raises(DomainError, match="part: division by zero"):
        arguments.checked(part, {})(1, 0)


def test_layers_without_features_are_made() -> None:
    """As in PyTorch: uniform over all constructors that draw initial values."""
    assert nn.Linear(0, 2)(rung.ones((3, 0))).shape == (3, 2)
    assert nn.Bilinear(0, 2, 4)(rung.ones((3, 0)), rung.ones((3, 2))).shape == (3, 4)
    empty = nn.MultiheadAttention(0, 2)
    assert all(np.isfinite(np.asarray(p)).all() for p in empty.parameters())
    assert nn.init.xavier_normal_(nn.Parameter(rung.ones((0, 0)))).shape == (0, 0)
    nn.TransformerEncoderLayer(0, 2, 3)
    models.GPT(models.GPTConfig(4, 5, 0, 1, 4))
    with pytest.raises(DomainError, match="GPTConfig: n_head=0"):
        models.GPTConfig(n_head=0)


@pytest.mark.parametrize("number", [True, np.True_])
def test_bools_count_where_a_number_is_meant(number: Any) -> None:
    assert rung.combinations(rung.arange(3), True).tolist() == [[0], [1], [2]]
    assert f.group_norm(rung.ones((2, 4)), True).shape == (2, 4)
    assert f.softshrink(SCORES, number).shape == (3, 4)
    assert f.huber_loss(SCORES, SCORES, delta=number).item() == 0
    assert f.smooth_l1_loss(SCORES, SCORES, beta=number).item() == 0


def test_containers_are_asked_for_anything() -> None:
    modules, parameters = nn.ModuleDict({"a": nn.ReLU()}), nn.ParameterDict({"a": TINY})
    for x in ([1], 1, None, SCORES, np.zeros(2, [("a", "f4")])):
        assert x not in modules and x not in parameters
        assert x not in nn.ParameterList([TINY])
    assert "a" in modules and "a" in parameters and TINY in nn.ParameterList([TINY])
    for container in (modules, parameters):
        with pytest.raises(KeyError, match=r"has no .* 'b'"):
            container["b"]
    assert len(list(EXAMPLES)) == 3  # by __getitem__, until IndexError


@pytest.mark.parametrize(
    ("method", "owner", "name"),
    [
        ("data.TensorDataset.__getitem__", data.loader, "_at"),
        ("nn.ParameterDict.__contains__", nn.ParameterDict, "__contains__"),
        ("optim.ReduceLROnPlateau.step", optim.plateau, "one_number"),
    ],
)
def test_faults_of_methods_are_found(
    method: str, owner: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = api.targets()
    seeds = [names.index(method) + k * len(names) for k in range(20)]
    assert not any(calls.check(seed) for seed in seeds)
    monkeypatch.setattr(owner, name, fails(KeyError("x")))
    with monkeypatch.context() as patched:
        if isinstance(owner, type):
            known = api.base(method)
            assert known is not None
            broken = api.Base(method, fails(KeyError("x")), known.given)
            broken.__dict__["parameters"] = known.parameters
            patched.setattr(api, "base", lambda _: broken)
        assert any("KeyError" in line for seed in seeds for line in calls.check(seed))


def test_a_vocabulary_of_more_than_two_bytes() -> None:
    text = "".join(map(chr, [*range(0x4E00, 0x9E00), *range(0x20000, 0x2B010)]))
    corpus = data.make_corpus(text, 0.0)
    assert len(corpus.vocabulary) > 1 << 16
    assert corpus.vocabulary.decode(corpus.train) == text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: f.linear(SCORES, None), "weight is None"),
        (lambda: f.bilinear(SCORES, None, SCORES), "x2 is None"),
        (lambda: f.conv2d(SCORES, None), "weight is None"),
        (lambda: f.conv_transpose2d(SCORES, None), "weight is None"),
        (lambda: EXAMPLES[(2**63,)], "TensorDataset: "),
        (lambda: SCORES.__array_namespace__(api_version=np.zeros((2, 0))), "is not known"),
        (
            lambda: rung.histogram(X, 3, range=np.zeros(2, [("a", "f4")])),  # type: ignore[arg-type]
            "histogram",
        ),
    ],
)
def test_none_for_a_tensor_and_what_cannot_be_compared(
    call: Callable[[], Any], message: str
) -> None:
    with pytest.raises(RungError, match=message):
        call()
