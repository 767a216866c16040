"""Modules and functions that torch's own table of modules leaves out, beside torch: values and
gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import rung
from rung import nn
from rung.core.errors import IndexingError, RungError, ShapeError
from rung.core.settings import configure

torch = pytest.importorskip("torch")
f, tf = nn.functional, torch.nn.functional
Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def interpreted() -> Iterator[None]:
    configure(interpret=True)
    yield
    configure(interpret=False)


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def compare(ours: Callable[..., Any], theirs: Callable[..., Any], *given: Array) -> None:
    """Value and gradients in f64; integers are no places of derivatives."""
    mine = [rung.tensor(x, requires_grad=x.dtype.kind == "f") for x in given]
    other = [torch.tensor(x, requires_grad=x.dtype.kind == "f") for x in given]
    found, wanted = ours(*mine), theirs(*other)
    np.testing.assert_allclose(np.asarray(found.detach()), wanted.detach().numpy(), 1e-6, 1e-7)
    weight = draw(*wanted.shape, seed=9)
    (found * rung.asarray(weight, dtype=found.dtype)).sum().backward()
    (wanted * torch.tensor(weight, dtype=wanted.dtype)).sum().backward()
    for a, b in zip(mine, other, strict=True):
        if b.grad is not None:
            np.testing.assert_allclose(np.asarray(a.grad), b.grad.numpy(), 1e-6, 1e-7)


def same(name: str, *args: Any, **options: Any) -> Callable[..., None]:
    """Compare `functional.name(*given, *args, **options)` of both."""

    def check(*given: Array) -> None:
        compare(
            lambda *x: getattr(f, name)(*x, *args, **options),
            lambda *x: getattr(tf, name)(*x, *args, **options),
            *given,
        )

    return check


# ---- resizing

IMAGE = draw(2, 3, 5, 4)
SIZES: list[dict[str, Any]] = [
    {"size": (7, 9)},
    {"size": (3, 2)},
    {"size": (5, 8)},
    {"size": (1, 1)},
    {"scale_factor": 2.0},
    {"scale_factor": (1.7, 0.6)},
    {"scale_factor": 1.7, "recompute_scale_factor": True},
]
MODES: list[dict[str, Any]] = [
    {"mode": "nearest"},
    {"mode": "nearest-exact"},
    {"mode": "area"},
    {"mode": "bilinear", "align_corners": False},
    {"mode": "bilinear", "align_corners": True},
    {"mode": "bicubic", "align_corners": False},
    {"mode": "bicubic", "align_corners": True},
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_interpolate(size: dict[str, Any], mode: dict[str, Any]) -> None:
    same("interpolate", **size, **mode)(IMAGE)


@pytest.mark.parametrize("size", [{"size": 7}, {"scale_factor": 2.5}], ids=str)
def test_interpolate_of_other_ranks(size: dict[str, Any]) -> None:
    for mode in ("nearest", "linear"):
        same("interpolate", mode=mode, **size)(draw(2, 3, 5))
    for mode in ("nearest", "trilinear"):
        same("interpolate", mode=mode, **size)(draw(1, 2, 3, 4, 5))


def test_upsample_modules() -> None:
    for name, options in (
        ("Upsample", {"scale_factor": 2, "mode": "bicubic"}),
        ("UpsamplingNearest2d", {"scale_factor": 3}),
        ("UpsamplingBilinear2d", {"size": (7, 8)}),
    ):
        ours, theirs = getattr(nn, name)(**options), getattr(torch.nn, name)(**options)
        compare(ours, theirs, IMAGE)
    assert "scale_factor=2" in repr(nn.Upsample(scale_factor=2))


def test_interpolate_inside_jit_is_compiled() -> None:
    configure(interpret=False)
    x = IMAGE.astype(np.float32)
    resize = rung.jit(lambda x: f.interpolate(x, (7, 9), mode="bilinear"))
    wanted = tf.interpolate(torch.tensor(x), (7, 9), mode="bilinear")
    np.testing.assert_allclose(np.asarray(resize(rung.asarray(x))), wanted.numpy(), 1e-5, 1e-6)


# ---- moving pixels


def test_shuffles() -> None:
    same("pixel_shuffle", 2)(draw(2, 8, 3, 2))
    same("pixel_shuffle", 3)(draw(9, 3, 2))
    same("pixel_unshuffle", 2)(draw(2, 3, 4, 6))
    compare(nn.ChannelShuffle(2), torch.nn.ChannelShuffle(2), draw(2, 6, 3))
    compare(nn.PixelShuffle(2), torch.nn.PixelShuffle(2), draw(1, 4, 2, 2))
    compare(nn.PixelUnshuffle(2), torch.nn.PixelUnshuffle(2), draw(1, 4, 2, 2))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 2},
        {"kernel_size": (3, 2), "padding": (1, 0), "stride": (2, 1)},
        {"kernel_size": 2, "dilation": (2, 1), "padding": 1, "stride": 2},
    ],
    ids=str,
)
def test_unfold_and_fold(options: dict[str, Any]) -> None:
    x = draw(2, 3, 6, 7)
    compare(nn.Unfold(**options), torch.nn.Unfold(**options), x)
    compare(nn.Unfold(**options), torch.nn.Unfold(**options), x[0])
    columns = tf.unfold(torch.tensor(x), **options).numpy()
    compare(nn.Fold((6, 7), **options), torch.nn.Fold((6, 7), **options), columns)
    compare(nn.Fold((6, 7), **options), torch.nn.Fold((6, 7), **options), columns[0])


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_pad(mode: str) -> None:
    same("pad", (1, 2), mode=mode)(draw(2, 3, 4))
    same("pad", (2, 0, 1, 3), mode=mode)(draw(2, 3, 4, 5))
    same("pad", (1, -1, 2, 0), mode="constant", value=3.0)(draw(3, 4))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_convolutions_that_pad_otherwise(mode: str) -> None:
    for options in ({"padding": (1, 2)}, {"padding": "same", "dilation": 2}):
        theirs = torch.nn.Conv2d(3, 4, (3, 2), padding_mode=mode, dtype=torch.float64, **options)
        ours = nn.Conv2d(3, 4, (3, 2), padding_mode=mode, dtype="f64", **options)
        ours.load_state_dict({n: t.numpy().copy() for n, t in theirs.state_dict().items()})
        compare(ours, theirs, IMAGE)


def test_transposed_convolutions_to_a_size() -> None:
    theirs = torch.nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, dtype=torch.float64)
    ours = nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, dtype="f64")
    ours.load_state_dict({n: t.numpy().copy() for n, t in theirs.state_dict().items()})
    for size in ((9, 7), (10, 8), (10, 7)):
        compare(lambda x, s=size: ours(x, s), lambda x, s=size: theirs(x, s), IMAGE)
    with pytest.raises(ShapeError, match=r"output_size=\(12, 7\)"):
        ours(rung.asarray(IMAGE), (12, 7))


# ---- pooling


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        {"kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
        {
            "kernel_size": (3, 2),
            "stride": 3,
            "padding": 1,
            "ceil_mode": True,
            "count_include_pad": False,
        },
        {"kernel_size": 2, "divisor_override": 3},
        {"kernel_size": 2, "stride": 3, "ceil_mode": True},
    ],
    ids=str,
)
def test_avg_pool(options: dict[str, Any]) -> None:
    same("avg_pool2d", **options)(draw(2, 3, 7, 6))
    same("avg_pool2d", **options)(draw(3, 8, 8))


def test_adaptive_pools() -> None:
    for size in (1, 3, (2, 7), (5, None), (9, 4)):
        same("adaptive_avg_pool2d", size)(draw(2, 3, 7, 6))
        same("adaptive_max_pool2d", size)(draw(2, 3, 7, 6))


def test_lp_pool() -> None:
    same("lp_pool2d", 2, 3, stride=2)(np.abs(draw(2, 3, 7, 6)))
    same("lp_pool1d", 1.5, 2, ceil_mode=True)(np.abs(draw(2, 3, 7)))


def test_places_of_maxima() -> None:
    x = draw(2, 3, 7, 6)
    options: dict[str, Any] = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    for batch in (x, x[0]):
        found = f.max_pool2d(rung.asarray(batch), **options, return_indices=True)
        wanted = tf.max_pool2d(torch.tensor(batch), **options, return_indices=True)
        for a, b in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(a, b.numpy())


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_unpool(rank: int) -> None:
    ours, theirs = getattr(nn, f"MaxUnpool{rank}d")(2), getattr(torch.nn, f"MaxUnpool{rank}d")(2)
    pool = getattr(tf, f"max_pool{rank}d")
    for lengths in ((6, 4, 8)[:rank], (7, 5, 9)[:rank]):
        x = torch.tensor(draw(2, 3, *lengths))
        top, places = (t.numpy() for t in pool(x, 2, return_indices=True))
        compare(
            lambda t, i, n=lengths: ours(t[0], i[0], output_size=n),
            lambda t, i, n=lengths: theirs(t[0], i[0], output_size=n),
            top,
            places,
        )
        if lengths[0] == 6:
            compare(ours, theirs, top, places)
    with pytest.raises(ShapeError, match=f"max_unpool{rank}d"):
        ours(rung.asarray(top), rung.asarray(places[:1]))


# ---- activations


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("celu", (1.5,)),
        ("selu", ()),
        ("relu6", ()),
        ("hardtanh", (-0.5, 0.7)),
        ("threshold", (0.2, -3.0)),
        ("hardshrink", (0.3,)),
        ("softshrink", (0.3,)),
        ("tanhshrink", ()),
        ("softsign", ()),
        ("softmin", (0,)),
        ("rrelu", (0.1, 0.5)),
        ("softplus", (2.0, 1.0)),
    ],
)
def test_activations(name: str, args: tuple[float, ...]) -> None:
    same(name, *args)(4 * draw(3, 7))


def test_prelu() -> None:
    same("prelu")(draw(2, 3, 4), np.array([0.1, 0.2, -0.3]))
    same("prelu")(draw(5), np.array([0.1]))
    with pytest.raises(ShapeError, match="prelu: weight"):
        f.prelu(rung.ones((2, 3)), rung.ones(2))


def test_rrelu_draws_slopes_in_training() -> None:
    module = nn.RReLU(0.2, 0.4)
    slopes = np.asarray(module(-rung.ones(1000)))
    assert -0.4 <= slopes.min() < -0.38 and -0.22 < slopes.max() <= -0.2
    np.testing.assert_allclose(np.asarray(module.eval()(-rung.ones(3))), -0.3, rtol=1e-6)


@pytest.mark.parametrize("name", ["Dropout1d", "Dropout2d", "Dropout3d"])
def test_dropout_of_channels(name: str) -> None:
    rank = int(name[-2])
    module = getattr(nn, name)(0.25)
    x = np.asarray(module(rung.ones((40, 50, *(2,) * rank))))
    flat = x.reshape(40, 50, -1)
    assert (flat == flat[..., :1]).all()
    assert set(np.unique(flat)) <= {0.0, np.float32(1 / 0.75)}
    assert abs(flat.mean() - 1) < 0.1
    assert module.eval()(x) is x
    assert module.train()(rung.ones((3, *(2,) * rank))).shape == (3, *(2,) * rank)


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
def test_alpha_dropout_keeps_mean_and_variance(name: str) -> None:
    module = getattr(nn, name)(0.2)
    y = np.asarray(module(rung.asarray(draw(400, 300, 2))))
    assert abs(y.mean()) < 0.02
    assert abs(y.var() - 1) < 0.05
    assert module.eval()(y) is y


# ---- losses

PAIR = (draw(4, 5), draw(4, 5, seed=1))


def test_distances() -> None:
    for p in (1.0, 2.0, 3.0, float("inf")):
        same("pairwise_distance", p=p, keepdim=True)(*PAIR)
    same("cosine_similarity", dim=0)(*PAIR)
    compare(nn.CosineSimilarity(), torch.nn.CosineSimilarity(), *PAIR)
    compare(nn.PairwiseDistance(1.0), torch.nn.PairwiseDistance(1.0), *PAIR)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("swap", [False, True])
def test_triplets(reduction: str, swap: bool) -> None:
    third = draw(4, 5, seed=2)
    options: dict[str, Any] = {"swap": swap, "reduction": reduction}
    compare(
        nn.TripletMarginLoss(2.0, 1.0, **options),
        torch.nn.TripletMarginLoss(2.0, 1.0, **options),
        *PAIR,
        third,
    )
    compare(
        nn.TripletMarginWithDistanceLoss(distance_function=nn.CosineSimilarity(), **options),
        torch.nn.TripletMarginWithDistanceLoss(
            distance_function=torch.nn.CosineSimilarity(), **options
        ),
        *PAIR,
        third,
    )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_more_of_cross_entropy(reduction: str) -> None:
    logits, weight = draw(4, 5, 3), torch.tensor([1.0, 2.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    chances = np.abs(draw(4, 5, 3, seed=3))
    labels = np.array([[0, 1, 4], [2, -7, 3], [-7, 4, 4], [1, 1, 0]])
    ours = nn.CrossEntropyLoss(weight.numpy(), reduction=reduction, label_smoothing=0.1)
    theirs = torch.nn.CrossEntropyLoss(weight, reduction=reduction, label_smoothing=0.1)
    compare(ours, theirs, logits, chances)
    compare(
        nn.NLLLoss(weight.numpy(), -7, reduction),
        torch.nn.NLLLoss(weight, ignore_index=-7, reduction=reduction),
        logits,
        labels,
    )
    target = (chances > 0.5).astype(np.float64)
    compare(
        nn.BCEWithLogitsLoss(chances, reduction, chances + 1),
        torch.nn.BCEWithLogitsLoss(
            torch.tensor(chances), reduction=reduction, pos_weight=torch.tensor(chances + 1)
        ),
        logits,
        target,
    )


# ---- tables


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
@pytest.mark.parametrize("padding_idx", [None, 2])
def test_embedding_bags(mode: str, padding_idx: int | None) -> None:
    theirs = torch.nn.EmbeddingBag(6, 3, mode=mode, padding_idx=padding_idx, dtype=torch.float64)
    ours = nn.EmbeddingBag(6, 3, mode, padding_idx=padding_idx, dtype="f64")
    ours.load_state_dict({"weight": theirs.weight.detach().numpy().copy()})
    bags = np.array([[0, 2, 5], [2, 2, 2], [1, 1, 4]])
    flat, offsets = np.array([5, 1, 2, 0, 0, 3, 2]), np.array([0, 3, 3, 4])
    for given in ((bags,), (flat, offsets)):
        for model in (ours, theirs):
            model.zero_grad()
        found = ours(*[rung.asarray(x) for x in given])
        wanted = theirs(*[torch.tensor(x) for x in given])
        np.testing.assert_allclose(np.asarray(found.detach()), wanted.detach().numpy(), 1e-12)
        (found * found).sum().backward()
        (wanted * wanted).sum().backward()
        np.testing.assert_allclose(
            np.asarray(ours.weight.grad), theirs.weight.grad.numpy(), 1e-12, 1e-12
        )


def test_embedding_bags_with_weights_and_ends() -> None:
    table, flat, ends = draw(6, 3), np.array([5, 1, 2, 0, 0]), np.array([0, 3, 5])
    factors = draw(5, seed=4)
    options: dict[str, Any] = {"mode": "sum", "include_last_offset": True}
    compare(
        lambda t, w: f.embedding_bag(flat, t, ends, per_sample_weights=w, **options),
        lambda t, w: tf.embedding_bag(
            torch.tensor(flat), t, torch.tensor(ends), per_sample_weights=w, **options
        ),
        table,
        factors,
    )
    with pytest.raises(RungError, match="per_sample_weights with mean"):
        f.embedding_bag(flat, table, ends, per_sample_weights=factors)
    with pytest.raises(ShapeError, match="without offsets"):
        f.embedding_bag(flat, table)


def test_an_embedding_whose_padding_does_not_learn() -> None:
    table = nn.Embedding(4, 3, padding_idx=-1)
    assert not np.asarray(table.weight)[3].any()
    table(rung.array([3, 1, 3])).sum().backward()
    np.testing.assert_array_equal(np.asarray(table.weight.grad).sum(1), [0, 3, 0, 0])
    with pytest.raises(IndexingError, match="padding_idx=4"):
        nn.Embedding(4, 3, padding_idx=4)


# ---- norms, attention


def test_instance_norm_follows_statistics() -> None:
    theirs = torch.nn.InstanceNorm2d(3, affine=True, track_running_stats=True, dtype=torch.float64)
    ours = nn.InstanceNorm2d(3, affine=True, track_running_stats=True, dtype="f64")
    for i in range(3):
        compare(ours, theirs, draw(2, 3, 5, 4, seed=i))
    ours.eval()
    theirs.eval()
    compare(ours, theirs, IMAGE)
    compare(ours, theirs, IMAGE[0])


@pytest.mark.parametrize("average", [False, True])
def test_attention_to_other_features(average: bool) -> None:
    options: dict[str, Any] = {"kdim": 5, "vdim": 7, "add_bias_kv": True, "batch_first": True}
    theirs = torch.nn.MultiheadAttention(6, 2, dtype=torch.float64, **options)
    ours = nn.MultiheadAttention(6, 2, dtype="f64", **options)
    ours.load_state_dict({n: t.detach().numpy().copy() for n, t in theirs.state_dict().items()})
    given = draw(2, 3, 6), draw(2, 4, 5), draw(2, 4, 7)
    for i in (0, 1):
        compare(
            lambda *x, i=i: ours(*x, need_weights=True, average_attn_weights=average)[i],
            lambda *x, i=i: theirs(*x, average_attn_weights=average)[i],
            *given,
        )


def test_a_transformer_with_causal_masks() -> None:
    options: dict[str, Any] = {"dropout": 0.0, "batch_first": True, "activation": "gelu"}
    theirs = torch.nn.Transformer(8, 2, 2, 2, 16, dtype=torch.float64, **options)
    ours = nn.Transformer(8, 2, 2, 2, 16, dtype="f64", **options)
    ours.load_state_dict({n: t.detach().numpy().copy() for n, t in theirs.state_dict().items()})
    mask = ours.generate_square_subsequent_mask(4)
    same_mask = theirs.generate_square_subsequent_mask(4)
    np.testing.assert_array_equal(mask, same_mask.numpy())
    source, target = draw(2, 5, 8), draw(2, 4, 8)
    compare(
        lambda s, t: ours(s, t, tgt_mask=mask),
        lambda s, t: theirs(s, t, tgt_mask=same_mask.double()),
        source,
        target,
    )
    compare(
        lambda s, t: ours(s, t, tgt_is_causal=True),
        lambda s, t: theirs(s, t, tgt_mask=same_mask.double()),
        source,
        target,
    )
    with pytest.raises(RungError, match="activation='swish'"):
        nn.TransformerEncoderLayer(4, 2, activation="swish")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: f.interpolate(rung.ones((1, 1, 2)), 3, mode="bilinear"), "bilinear of f32"),
        (lambda: f.interpolate(rung.ones((1, 1, 2)), 3, mode="cubic"), "mode='cubic'"),
        (lambda: f.interpolate(rung.ones((1, 1, 2))), "size and scale_factor"),
        (lambda: f.interpolate(rung.ones((1, 1, 2)), 3, align_corners=True), "align_corners"),
        (lambda: f.pixel_shuffle(rung.ones((3, 2, 2)), 2), "pixel_shuffle"),
        (lambda: f.fold(rung.ones((1, 4, 3)), 3, 2), "fold: x is"),
        (lambda: f.unfold(rung.ones((1, 1, 2, 2)), 3), "does not fit"),
        (lambda: f.pad(rung.ones((2, 3)), (3, 0), "reflect"), "around dim 1"),
        (lambda: f.pad(rung.ones((2, 3)), (1, 1), "mirror"), "mode='mirror'"),
        (lambda: f.avg_pool2d(rung.ones((1, 1, 4, 4)), 2, padding=2), "padding"),
        (lambda: f.celu(rung.ones(2), 0.0), "alpha=0"),
        (lambda: f.multi_margin_loss(rung.ones((1, 2)), rung.array([0]), 3), "p=3"),
        (lambda: f.smooth_l1_loss(1.0, 2.0, beta=-1.0), "beta=-1"),
        (lambda: nn.KLDivLoss("average"), "batchmean"),
        (lambda: nn.Conv2d(1, 1, 1, padding_mode="mirror"), "padding_mode='mirror'"),
        (lambda: nn.ConvTranspose2d(1, 1, 1, padding_mode="reflect"), "padding_mode='reflect'"),
        (lambda: nn.ZeroPad2d((1, 2)), "give 4 numbers"),
        (lambda: nn.RReLU(0.5, 0.1), "lower=0.5"),
        (lambda: nn.Dropout2d(0.5)(rung.ones(3)), "dropout2d: x is"),
    ],
)
def test_mistakes(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(RungError, match=message):
        make()
