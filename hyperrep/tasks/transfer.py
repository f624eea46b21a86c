"""Another image set in the shape that the networks of a zoo take, with its own labels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from zookeeper.errors import InputError
from zookeeper.images import ImageSet, Transforms, load_images


def load_target_images(name: str, like: ImageSet, *, root: Path | None = None, path: str | None = None) -> ImageSet:
    """Load an image set for networks that were trained on another one.

    Images are resized (bilinear) to the zoo's and turned grey or repeated to its channels. They are normalised as
    the zoo's were if that is the same for every set, else by the statistics of their own train part.

    Parameters
    ----------
    name, root, path
        As in `zookeeper.images.load_images`.
    like
        Images of the zoo.

    Raises
    ------
    InputError
        If files are missing, the zoo's images are not square, or the classes differ in number.
    """
    channels, height, width = like.image_shape
    if height != width:
        raise InputError(f"images {name}: can only be resized to squares; the zoo's are {height} x {width}.")
    loaded = load_images(
        name,
        split=None,
        seed=0,
        normalise="none" if set(like.mean) == {0.0} and set(like.std) == {1.0} else "auto",
        root=root,
        path=path,
        transforms=Transforms(resize=height, greyscale=channels == 1),
    )
    if loaded.num_classes != like.num_classes:
        raise InputError(
            f"images {name}: have {loaded.num_classes} classes; expected {like.num_classes} as the networks have. "
            "Choose another image set."
        )
    own = loaded.image_shape[0]
    if own == 1 < channels:
        pixels = np.repeat(loaded.images, channels, axis=1)
        return replace(loaded, images=pixels, mean=loaded.mean * channels, std=loaded.std * channels)
    if own != channels:
        raise InputError(f"images {name}: have {own} channels; expected 1 or {channels}.")
    return loaded
