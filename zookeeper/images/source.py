"""What a loader is told and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from zookeeper.errors import InputError
from zookeeper.images.transforms import KEEP, Transforms


@dataclass(frozen=True, slots=True)
class Source:
    """Folder with the image files, leave to download into it, and the seed of synthetic images.

    ``path`` is the place below ``root`` of sets that have no place of their own. ``transforms`` are applied to
    what a loader returns; a loader that decodes image files of many sizes applies ``transforms.resize`` itself.
    """

    root: Path
    download: bool
    seed: int
    path: str | None = None
    transforms: Transforms = KEEP

    def inner_path(self, name: str) -> Path:
        """Return ``root / path``.

        Raises
        ------
        InputError
            If there is no path, nothing lies there, or it leads out of the root, by a link for example.
        """
        if self.path is None:
            raise InputError(f"images.path: missing; {name} needs a path below the data root.")
        place = self.root / self.path
        if not place.resolve().is_relative_to(self.root.resolve()):
            raise InputError(
                f"images.path: {place} lies outside the data root {self.root}. "
                "Pass the folder that really holds it with --data-root."
            )
        if not place.exists():
            raise InputError(
                f"image set {name}: nothing found at {place}. "
                "Correct images.path, or pass --data-root with the folder that holds it."
            )
        return place


@dataclass(frozen=True, slots=True, eq=False)
class RawImages:
    """Images ``[n, C, H, W]`` and labels ``[n]``.

    The last ``num_official_test`` are the official test part, the ``num_official_val`` before them the official
    validation part.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    num_classes: int
    num_official_test: int = 0
    num_official_val: int = 0
