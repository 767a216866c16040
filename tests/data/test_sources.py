"""The digits and texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rung import data
from rung.core.errors import IndexingError, RungError
from rung.data.digits import moved


def test_digits_are_split_once_for_all() -> None:
    digits = data.load_digits()
    assert (len(digits.train), len(digits.test)) == (1438, 359)
    images, labels = digits.train.arrays
    assert images.shape == (1438, 1, 8, 8)
    assert (images.min(), images.max()) == (0, 1)
    assert images.dtype == np.float32
    assert set(labels) == set(range(10))
    again = data.load_digits()
    np.testing.assert_array_equal(again.test.arrays[1], digits.test.arrays[1])
    seen = {x.tobytes() for x in images}
    assert not any(x.tobytes() in seen for x in digits.test.arrays[0])


def test_moved() -> None:
    images = data.load_digits().train.arrays[0][:4]
    none, one = np.zeros(4), np.ones(4)
    np.testing.assert_allclose(moved(images, none, one, np.zeros((2, 4))), images, atol=1e-6)
    down = moved(images, none, one, np.array([[1.0] * 4, [0.0] * 4]))
    np.testing.assert_allclose(down[:, :, :-1], images[:, :, 1:], atol=1e-6)
    np.testing.assert_allclose(down[:, :, -1], 0, atol=1e-6)
    half = moved(images, none, one, np.array([[0.0] * 4, [0.5] * 4]))
    between = (images[..., :-1] + images[..., 1:]) / 2
    np.testing.assert_allclose(half[..., :-1], between, atol=1e-6)
    quarter = moved(images, np.full(4, np.pi / 2), one, np.zeros((2, 4)))
    assert any(np.allclose(quarter, np.rot90(images, k, (2, 3)), atol=1e-5) for k in (1, 3))


def test_jitter_keeps_labels_and_shape() -> None:
    images, labels = data.load_digits().test.arrays
    found, same = data.jitter((images, labels), np.random.default_rng(0))
    assert same is labels
    assert found.shape == images.shape
    assert found.dtype == np.float32
    assert 0 < np.abs(found - images).mean() < 0.2


def test_vocabulary() -> None:
    v = data.Vocabulary("hello")
    assert v.characters == "ehlo"
    assert v.encode("hole").tolist() == [1, 3, 2, 0]
    assert v.decode(v.encode("hello")) == "hello"
    assert v == data.Vocabulary("ohelh")
    with pytest.raises(IndexingError, match="'x' is not in the vocabulary"):
        v.encode("hex")


def test_corpus() -> None:
    corpus = data.make_corpus("abcdefghij" * 10)
    assert (len(corpus.train), len(corpus.val)) == (90, 10)
    assert corpus.train.dtype == np.uint8
    assert corpus.vocabulary.decode(corpus.val) == "abcdefghij"
    with pytest.raises(RungError, match="empty"):
        data.make_corpus("")


def test_the_standard_library_is_the_same_each_time() -> None:
    text = data.stdlib_text(("json", "html"), limit=20000)
    assert len(text) == 20000
    assert text == data.stdlib_text(("html", "json"), limit=20000)
    assert text != data.stdlib_text(("json", "html"), limit=20000, seed=1)
    assert text.startswith("# ")
    assert "def " in text
    assert text.isascii()
    assert "\t" not in text
    with pytest.raises(RungError, match="no Python source"):
        data.stdlib_text(("no_such_package",))


def test_read_text(tmp_path: Path) -> None:
    (tmp_path / "b.py").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "c.bin").write_bytes(b"\xff")
    assert data.read_text(tmp_path) == "first\nsecond"
    assert data.read_text(tmp_path / "a.txt") == "first"
    for path, message in (("c.bin", "cannot be read as text"), ("none", "cannot be read")):
        with pytest.raises(RungError, match=message):
            data.read_text(tmp_path / path)
    (tmp_path / "d.txt").write_text("")
    with pytest.raises(RungError, match="holds no text"):
        data.read_text(tmp_path / "d.txt")


def test_random_blocks() -> None:
    numbers = np.arange(100, dtype=np.uint8)
    blocks = data.RandomBlocks(numbers, 8, 4, seed=3)
    assert len(blocks) == 3
    source = blocks.forever()
    x, y = next(source)
    assert (x.shape, x.dtype.name) == ((4, 8), "i64")
    np.testing.assert_array_equal(np.asarray(x) + 1, y)
    np.testing.assert_array_equal(np.asarray(x)[:, 1:], np.asarray(y)[:, :-1])
    place = blocks.state_dict()
    wanted = [np.asarray(next(source)[0]) for _ in range(5)]
    source.close()
    again = data.RandomBlocks(numbers, 8, 4)
    again.load_state_dict(place)
    rest = again.forever()
    for block in wanted:
        np.testing.assert_array_equal(next(rest)[0], block)
    rest.close()
    with pytest.raises(RungError, match="8 characters, blocks of 8"):
        data.RandomBlocks(numbers[:8], 8, 1)
