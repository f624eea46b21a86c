"""What a loader is told and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Source:
    """Folder with the image files, leave to download into it, and the seed of synthetic images."""

    root: Path
    download: bool
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class RawImages:
    """Images ``[n, C, H, W]`` and labels ``[n]``; the last ``num_official_test`` are the official test part."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    num_classes: int
    num_official_test: int = 0
