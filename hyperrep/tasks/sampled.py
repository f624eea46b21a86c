"""Sampled networks as a zoo of their own, with where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyperrep.tasks.generate import Anchors
from zookeeper.zoo import Zoo, write_rows


def store_samples(
    target: Path,
    rows: np.ndarray,
    samples: pd.DataFrame,
    zoo: Zoo,
    anchors: Anchors,
    *,
    sampler: Mapping[str, Any],
    model: Path,
) -> Zoo:
    """Store sampled networks as a zoo of kind "sampled".

    Its provenance names the zoo, the anchors, the sampler's settings and the hyper-representation; its
    frame holds what `hyperrep.tasks.generate.examine_samples` measured.

    Raises
    ------
    InputError
        If ``target`` is taken.
    """
    factors = zoo.frame.iloc[0]
    frame = samples.drop(columns="sample").assign(
        architecture=str(factors["architecture"]), activation=str(factors["activation"]), epoch=0
    )
    provenance = {
        "zoo": {"path": str(zoo.path), "digest": zoo.header.digest},
        "hyper_representation": str(model),
        "sampler": dict(sampler),
        "anchors": {"threshold": anchors.threshold, "model_ids": anchors.checkpoints.frame["model_id"].tolist()},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_rows(target, rows, frame, zoo.layout, kind="sampled", image=zoo.image, provenance=provenance)
