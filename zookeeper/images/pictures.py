"""Decode picture files into one array of bytes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zookeeper.errors import InputError
from zookeeper.images.transforms import resize_picture

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
_GREY = ("1", "L", "LA")
_COLOUR = ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")


def decode_pictures(
    paths: Sequence[Path], name: str, *, side: int | None = None, channels: int | None = None
) -> NDArray[np.uint8]:
    """Decode files into ``[n, C, H, W]``; headers of all are read first, so that nothing is decoded in vain.

    Parameters
    ----------
    paths
        Files, in the order of the result; at least one.
    name
        Image set, for errors.
    side
        Resize each image to a square of this side; None: all must have one size.
    channels
        1 or 3; None: 1 if all files are grey, else 3. Transparency is dropped, a stored orientation not looked at.

    Raises
    ------
    InputError
        If a file cannot be decoded, has more than 8 bits per channel, or sizes differ and ``side`` is None.
    """
    all_grey, first = True, None
    for path in paths:
        with _opened(path) as picture:
            all_grey &= picture.mode in _GREY
            if picture.mode not in _GREY and picture.mode not in _COLOUR:
                raise InputError(
                    f"{path}: pixels of mode {picture.mode}; expected 8 bits per channel, grey or colour. "
                    "Convert the file."
                )
            if first is None:
                first = (path, picture.size)
            elif side is None and picture.size != first[1]:
                raise InputError(
                    f"image set {name}: images of different sizes: {first[0]} has {first[1][0]} x {first[1][1]}, "
                    f"{path} has {picture.size[0]} x {picture.size[1]} (width x height). "
                    "Set images.resize to give all one size."
                )
    if first is None:
        raise InputError(f"image set {name}: no pictures; expected at least one.")
    width, height = (side, side) if side is not None else first[1]
    if channels is None:
        channels = 1 if all_grey else 3
    result = np.empty((len(paths), channels, height, width), dtype=np.uint8)
    for number, path in enumerate(paths):
        with _opened(path) as picture:
            pixels = np.asarray(_resized(picture.convert("L" if channels == 1 else "RGB"), side))
        result[number] = pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)
    return result


def _resized(picture: Image, side: int | None) -> Image:
    return picture if side is None else resize_picture(picture, side)


@contextmanager
def _opened(path: Path) -> Iterator[Image]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata harms nobody; what is far too large is an error below
            with Image.open(path) as picture:
                yield picture
    except InputError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise InputError(f"{path}: not a readable picture ({reason}). Remove or replace the file.") from error
