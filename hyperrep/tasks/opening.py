"""From a stored zoo to the values that tasks work on: its splits in memory and the images it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hyperrep.tasks.behaviour import Examiner, LabelledImages
from hyperrep.tasks.split import ROLES, Role, ZooSplit
from hyperrep.training.zoo import load_zoo_images
from zookeeper.build.job import load_population
from zookeeper.errors import InputError
from zookeeper.zoo import Zoo


def read_split(zoo: Zoo, role: Role, epochs: Sequence[int] | None = None) -> ZooSplit:
    """Read the usable checkpoints of one side of the zoo's split; diverged ones are left out.

    Parameters
    ----------
    epochs
        Keep these epochs; all by default.

    Raises
    ------
    InputError
        If the zoo has no such split, lacks one of the epochs, or nothing is left.
    """
    part = zoo.split(role)
    if epochs is not None:
        missing = sorted(set(epochs) - set(part.epochs))
        if missing:
            raise InputError(
                f"{zoo.path}: the {role} split has no checkpoints of epoch {', '.join(map(str, missing))}; "
                f"stored are {_brief(part.epochs)}."
            )
        part = part.query("epoch in @epochs", epochs=list(epochs))
    split = ZooSplit(role, part.frame, part.weights()).finite()
    if len(split) == 0:
        raise InputError(f"{zoo.path}: the {role} split holds no usable checkpoint. Build the zoo to its end.")
    return split


def build_examiner(zoo: Zoo) -> Examiner:
    """Load the zoo's image set and stack its architecture, ready to run rows on train, val or test images.

    Raises
    ------
    InputError
        If the zoo mixes architectures, has no specification, or its images differ from those it was built on.
    """
    images = load_zoo_images(zoo)
    factors = zoo.frame[["architecture", "activation"]].drop_duplicates()
    if len(factors) != 1:
        raise InputError(
            f"{zoo.path}: mixes {len(factors)} architectures or activations; expected one. Query one of them first."
        )
    architecture, activation = (str(value) for value in factors.iloc[0])
    population = load_population(architecture, activation, images.image_shape, images.num_classes)
    parts = {
        role: LabelledImages(torch.from_numpy(images.normalised(role)), torch.from_numpy(images.labels_of(role)))
        for role in ROLES
    }
    return Examiner(population, parts)


def _brief(epochs: Sequence[int]) -> str:
    shown = ", ".join(map(str, epochs[:8]))
    return shown if len(epochs) <= 8 else f"{shown}, ... {epochs[-1]}"
