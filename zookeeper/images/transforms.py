"""Fixed changes of all images of a set: resize, crop, greyscale. Random ones belong to training.

The order is fixed: resize, then crop, then greyscale. Resizing comes first because the crop is then counted in
pixels of the result (the customary resize-then-centre-crop), and images of different sizes become equal before
anything else is asked of them. Greyscale comes last, as in most published pipelines; it works on single pixels, so
it commutes with the crop and differs from an earlier place only by the rounding of the resize.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from zookeeper.errors import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

_CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Transforms:
    """What is done once to every image when a set is loaded, in the order of the fields.

    Parameters
    ----------
    resize
        Side of the square, in pixels, to which images are resized (bilinear with antialiasing, as Pillow and
        torchvision do it; the aspect ratio is not kept). None leaves the size.
    crop
        Side of the centre square, in pixels, that is kept. None keeps all.
    greyscale
        Turn three channels into one: luma of ITU-R BT.601, rounded as in Pillow's mode "L".
    """

    resize: int | None = None
    crop: int | None = None
    greyscale: bool = False

    def apply(self, images: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Return changed images ``[n, C, H, W]``, deterministic to the bit; the same array if nothing changes.

        Raises
        ------
        InputError
            If images are smaller than the crop, or have neither 1 nor 3 channels and greyscale is wanted.

        Examples
        --------
        >>> red = np.zeros((1, 3, 4, 4), dtype=np.uint8)
        >>> red[:, 0] = 255
        >>> grey = Transforms(crop=2, greyscale=True).apply(red, "toy")
        >>> grey.shape, int(grey[0, 0, 0, 0])
        ((1, 1, 2, 2), 76)
        """
        if self.resize is not None and images.shape[2:] != (self.resize, self.resize):
            images = _resize(images, self.resize)
        if self.crop is not None:
            images = _centre_crop(images, self.crop, name)
        if self.greyscale and images.shape[1] != 1:
            images = _greyscale(images, name)
        return images


KEEP = Transforms()


def resize_picture(picture: Image, side: int) -> Image:
    """Resize one Pillow image to a square; every image of every set goes through this function."""
    from PIL.Image import Resampling

    return picture if picture.size == (side, side) else picture.resize((side, side), Resampling.BILINEAR)


def _resize(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    from PIL import Image

    num, channels = images.shape[:2]
    result = np.empty((num, channels, side, side), dtype=np.uint8)
    for number, image in enumerate(images):
        if channels == 3:
            picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
            result[number] = np.asarray(resize_picture(picture, side)).transpose(2, 0, 1)
        else:
            for channel in range(channels):
                picture = Image.fromarray(np.ascontiguousarray(image[channel]))
                result[number, channel] = np.asarray(resize_picture(picture, side))
    return result


def _centre_crop(images: NDArray[np.uint8], side: int, name: str) -> NDArray[np.uint8]:
    height, width = images.shape[2:]
    if min(height, width) < side:
        raise InputError(
            f"images.crop: {side} is larger than the images of {name}; expected at most {min(height, width)} "
            f"for {height} x {width}. Choose a smaller crop, or resize."
        )
    top, left = round((height - side) / 2), round((width - side) / 2)  # halves to even, as torchvision does
    return np.ascontiguousarray(images[:, :, top : top + side, left : left + side])


def _greyscale(images: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    if images.shape[1] != 3:
        raise InputError(
            f"images.greyscale: images of {name} have {images.shape[1]} channels; expected 3 (red, green, blue) or 1."
        )
    result = np.empty((len(images), 1, *images.shape[2:]), dtype=np.uint8)
    for start in range(0, len(images), _CHUNK):
        red, green, blue = images[start : start + _CHUNK].astype(np.uint32).swapaxes(0, 1)
        # 0.299, 0.587 and 0.114 in 16 binary places, rounded half up
        result[start : start + _CHUNK, 0] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return result
