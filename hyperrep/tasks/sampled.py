"""Sampled networks as a zoo of their own, with where they come from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyperrep.tasks.generate import Anchors
from zookeeper.errors import InputError
from zookeeper.store.files import hash_file
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

    Its provenance names the zoo (path, digest), the hyper-representation (path, hash of its weights), the sampler's
    settings and every anchor by model id and epoch; its frame holds what
    `hyperrep.tasks.generate.examine_samples` measured. `zookeeper.zoo.Zoo.network` builds a sample again.

    Raises
    ------
    InputError
        If ``target`` is taken, the hyper-representation is not there, or the rows are not of the zoo's architecture.
    """
    weights = model / "model.safetensors"
    if not weights.is_file():
        raise InputError(f"{model}: cannot be named as origin; expected the folder of a saved hyper-representation.")
    if rows.ndim != 2 or rows.shape[1] != zoo.layout.num_weights:
        raise InputError(
            f"{target}: samples have shape {rows.shape}; expected [n, {zoo.layout.num_weights}], "
            f"networks of the architecture of {zoo.path}."
        )
    factors = zoo.frame.iloc[0]
    frame = samples.drop(columns="sample").assign(
        architecture=str(factors["architecture"]), activation=str(factors["activation"]), epoch=0
    )
    chosen = anchors.checkpoints.frame
    epochs = chosen["epoch"].tolist()
    provenance = {
        "zoo": {"path": str(zoo.path), "digest": zoo.header.digest},
        "hyper_representation": str(model),
        "hyper_representation_hash": hash_file(weights),
        "sampler": dict(sampler),
        "anchors": {
            "split": anchors.checkpoints.role,
            "threshold": anchors.threshold,
            "model_ids": chosen["model_id"].tolist(),
            "epochs": epochs,
            **({"epoch": epochs[0]} if len(set(epochs)) == 1 else {}),
        },
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_rows(target, rows, frame, zoo.layout, kind="sampled", image=zoo.image, provenance=provenance)
