"""Random crops, mirror images and rotations of training images, drawn for every model and step on its own.

The draws of a model are a function of its key, the step and the number of the image in the batch. Like dropout masks
they depend neither on the models beside it nor on how many there are, and a resumed run needs no state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from zookeeper.errors import InputError
from zookeeper.population.randomness import hash_counters

PURPOSE = "augment"
_DRAWS = 4  # per image: row and column of the crop, mirror, angle
_BITS = 24


@dataclass(frozen=True)
class AugmentSettings:
    """What may happen to an image: rotation first, then the padded crop, then the mirror.

    Parameters
    ----------
    crop_padding
        Black pixels added on each side before a crop of the old size at a uniform place.
    flip
        Mirror left and right with probability 1/2.
    rotation
        Largest angle in degrees; uniform between minus and plus it, about the centre, to the nearest pixel.
    """

    crop_padding: int = 0
    flip: bool = False
    rotation: float = 0.0

    def __post_init__(self) -> None:
        if self.crop_padding < 0 or not 0 <= self.rotation <= 180:
            raise InputError(
                "augment: out of range; expected crop_padding >= 0 and rotation from 0 to 180, "
                f"got {self.crop_padding} and {self.rotation}."
            )

    @property
    def changes_images(self) -> bool:
        """Whether anything happens at all."""
        return self != AugmentSettings()


NO_AUGMENTATION = AugmentSettings()


@dataclass(frozen=True)
class Draws:
    """What happens to each image of each model, ``[M, B]``.

    ``top`` and ``left`` are the place of the crop in the padded image, 0 to twice the padding; ``flipped`` says which
    images are mirrored, ``angle`` turns them counter-clockwise, in radians.
    """

    top: torch.Tensor
    left: torch.Tensor
    flipped: torch.Tensor
    angle: torch.Tensor


def draw(keys: torch.Tensor, step: int | torch.Tensor, num_images: int, settings: AugmentSettings) -> Draws:
    """Draw for ``num_images`` images of each model; the draws of an image do not depend on their number."""
    bits = hash_counters(keys, step, _DRAWS * num_images).view(len(keys), num_images, _DRAWS)
    uniform = (bits >> (64 - _BITS)) & ((1 << _BITS) - 1)
    top, left, mirror, turn = uniform.unbind(-1)
    places = 2 * settings.crop_padding + 1
    share = turn.to(torch.float64) * (2.0 ** (1 - _BITS)) - 1.0
    return Draws(
        top=(top * places) >> _BITS,
        left=(left * places) >> _BITS,
        flipped=(mirror >> (_BITS - 1)).bool() & settings.flip,
        angle=share * math.radians(settings.rotation),
    )


def augment(
    images: torch.Tensor, keys: torch.Tensor, step: int | torch.Tensor, settings: AugmentSettings
) -> torch.Tensor:
    """Change the images of one batch for every model; one gather for all of them.

    Guaranteed: a model gets the same bits alone, in any cohort and in any tile of it. With ``rotation`` above 0 the
    bits may differ between kinds of devices, in pixels that lie half-way between two others.

    Parameters
    ----------
    images
        uint8 ``[M, B, C, H, W]``, or ``[B, C, H, W]`` if all models see the same images.
    keys
        One stream key per model, ``[M]``: `stream_keys` of the seeds for the purpose `PURPOSE`.
    step
        Number of the optimiser step.
    settings
        What may happen.

    Returns
    -------
    Tensor
        uint8 ``[M, B, C, H, W]``; what comes from outside an image is 0.

    Examples
    --------
    >>> from zookeeper.population.randomness import stream_keys
    >>> images = torch.arange(6, dtype=torch.uint8).view(2, 1, 1, 3)
    >>> keys = stream_keys([1, 2], PURPOSE)
    >>> augment(images, keys, 1, AugmentSettings(flip=True)).flatten(1).tolist()
    [[2, 1, 0, 5, 4, 3], [0, 1, 2, 3, 4, 5]]
    """
    num_models, (num_images, channels, height, width) = len(keys), images.shape[-4:]
    images = images.expand(num_models, num_images, channels, height, width)
    source, inside = _source_pixels(draw(keys, step, num_images, settings), height, width, settings)
    shape = (num_models, num_images, channels, height * width)
    gathered = images.reshape(shape).gather(3, source[:, :, None].expand(shape))
    return gathered.masked_fill_(~inside[:, :, None], 0).view(num_models, num_images, channels, height, width)


def _source_pixels(
    draws: Draws, height: int, width: int, settings: AugmentSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """For every pixel of the result: the pixel it comes from, and whether that lies in the image, ``[M, B, H * W]``."""
    device = draws.top.device
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    # from the result back to the source: undo the mirror, then the crop, then the rotation
    columns = torch.where(draws.flipped[..., None], width - 1 - columns, columns)  # [M, B, W]
    y = (rows + (draws.top - settings.crop_padding)[..., None])[..., :, None]  # [M, B, H, 1]
    x = (columns + (draws.left - settings.crop_padding)[..., None])[..., None, :]  # [M, B, 1, W]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    if settings.rotation > 0:
        y, x = _turn(y, x, draws.angle[..., None, None], height, width)
        inside = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    source = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    return source.flatten(2), inside.flatten(2)


def _turn(
    y: torch.Tensor, x: torch.Tensor, angle: torch.Tensor, height: int, width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest pixels that a rotation about the centre brings to rows ``y`` and columns ``x``."""
    cos, sin = angle.cos().float(), angle.sin().float()
    down, right = y - (height - 1) / 2, x - (width - 1) / 2
    row = right * sin + down * cos + (height - 1) / 2
    column = right * cos - down * sin + (width - 1) / 2
    return row.round().long(), column.round().long()
