"""Back from a zoo of samples to what they came from: their rows, and the anchors of the zoo they were drawn from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from hyperrep.tasks.generate import Anchors
from hyperrep.tasks.opening import read_split
from zookeeper.errors import InputError
from zookeeper.zoo import Zoo


def read_samples(samples: Zoo, zoo: Zoo, num: int | None = None) -> np.ndarray:
    """Read the first ``num`` finite networks of a zoo of samples, float32 ``[n, P]``.

    Raises
    ------
    InputError
        If the samples are of another architecture than the zoo, or none is finite.
    """
    if samples.layout.digest != zoo.layout.digest:
        raise InputError(
            f"{samples.path}: its networks have {samples.layout.num_weights:,} weights of another architecture than "
            f"{zoo.path} ({zoo.layout.num_weights:,} weights). Choose the zoo that they were sampled from."
        )
    rows = samples.weights()
    rows = rows[np.isfinite(rows).all(axis=1)][:num]
    if len(rows) == 0:
        raise InputError(f"{samples.path}: holds no finite network. Sample again.")
    return rows


def find_anchors(samples: Zoo, zoo: Zoo) -> Anchors:
    """Read the anchors that samples were drawn from, as their provenance names them.

    Raises
    ------
    InputError
        If the samples say nothing of anchors, come from another zoo, or the anchors are not train models of it.
    """
    provenance = samples.header.provenance
    known = provenance.get("anchors", {}).get("model_ids")
    if not known:
        raise InputError(
            f"{samples.path}: does not say which anchors it was sampled from; expected what `hyperrep sample` wrote."
        )
    digest = provenance.get("zoo", {}).get("digest")
    if digest != zoo.header.digest:
        raise InputError(
            f"{samples.path}: was sampled from another zoo than {zoo.path}: {provenance.get('zoo', {}).get('path')}."
        )
    epochs = provenance["anchors"].get("epochs", [zoo.split("train").epochs[-1]] * len(known))
    train = read_split(zoo, "train", sorted(set(epochs)))
    wanted = set(zip(known, epochs, strict=True))
    pairs = zip(train.frame["model_id"], train.frame["epoch"], strict=True)
    anchors = train.where(np.array([pair in wanted for pair in pairs]))
    return Anchors(anchors, float(provenance["anchors"].get("threshold", 0.0)))


def known_epochs(samples: Zoo, zoo: Zoo) -> list[int]:
    """Epochs of the train models that the hyper-representation behind the samples has seen; the last if unknown."""
    folder = samples.header.provenance.get("hyper_representation")
    try:
        header = json.loads((Path(str(folder)) / "config.json").read_bytes())
        epochs = header["train"].get("epochs_of_zoo")
    except (OSError, ValueError, KeyError):
        return [zoo.split("train").epochs[-1]]
    return list(zoo.split("train").epochs) if epochs is None else [int(epoch) for epoch in epochs]
