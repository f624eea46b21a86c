"""Image sets that need no files: scikit-learn's handwritten digits and synthetic Tetris shapes."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zookeeper.errors import InputError
from zookeeper.images.source import RawImages, Source
from zookeeper.images.streams import draw_bits

# Bar, square, T and S on the 4 x 4 grid, one string per row.
_SHAPES: tuple[tuple[str, str, str, str], ...] = (
    (".#..", ".#..", ".#..", ".#.."),
    ("....", ".##.", ".##.", "...."),
    ("....", "###.", ".#..", "...."),
    ("....", ".##.", "##..", "...."),
)
_PER_SHAPE = 250
_BACKGROUND, _FOREGROUND, _NOISE = 64, 192, 48


def load_digits(source: Source) -> RawImages:
    """Load 1,797 real handwritten digits, 8 x 8 grey, grey levels 0..16 stretched to 0..255.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository (test part), as
    bundled with scikit-learn. ``source`` is not read. The file is found without importing scikit-learn, which takes
    longer than all else that a worker does before its first step, torch excepted.

    Raises
    ------
    InputError
        If scikit-learn, or this file of it, is not installed.
    """
    table = np.loadtxt(_digits_file(), delimiter=",")  # 64 grey levels and a label
    pixels = np.round(table[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).astype(np.uint8)
    return RawImages(pixels, table[:, -1].astype(np.int64), num_classes=10)


def _digits_file() -> Path:
    package = importlib.util.find_spec("sklearn")
    for folder in () if package is None else package.submodule_search_locations or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    raise InputError("images digits: they come with scikit-learn, which is not here. Install scikit-learn >= 1.5.")


def load_tetris(source: Source) -> RawImages:
    """Draw 1,000 noisy 4 x 4 grey images, 250 of each of four Tetris shapes: bar, square, T, S.

    Every shape has one place. Its four cells have grey level 192, the others 64, with noise of standard deviation 48
    on every pixel, cut at 0 and 255. The noise is a sum of eight random bytes, so it is nearly Gaussian and the same
    on every machine; ``source.seed`` keys it.

    Source: the toy set of Schürholt et al., "Self-Supervised Representation Learning on Neural Network Weights for
    Model Characteristic Prediction", NeurIPS 2021, Section 4. The paper gives the image size and the number of
    shapes; which shapes, where, how many images and which noise are choices made here. The noise keeps a good
    network of 100 weights below perfect accuracy.
    """
    labels = np.tile(np.arange(len(_SHAPES), dtype=np.int64), _PER_SHAPE)
    masks = np.array([[[cell == "#" for cell in row] for row in shape] for shape in _SHAPES], dtype=np.int64)[labels]
    pixels = _BACKGROUND + (_FOREGROUND - _BACKGROUND) * masks + _noise(source.seed, masks.shape)
    return RawImages(pixels.clip(0, 255).astype(np.uint8)[:, None], labels, num_classes=len(_SHAPES))


def _noise(seed: int, shape: tuple[int, ...]) -> NDArray[np.int64]:
    bits = draw_bits(seed, "tetris-noise", int(np.prod(shape)))
    sums = bits.astype("<u8").view(np.uint8).reshape(-1, 8).sum(axis=1, dtype=np.int64)
    centred = sums - 8 * 255 // 2  # standard deviation sqrt(8 * (256**2 - 1) / 12) = 209.02
    noise: NDArray[np.int64] = (centred * _NOISE // 209).reshape(shape)
    return noise
