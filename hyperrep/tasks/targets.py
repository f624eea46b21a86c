"""Where networks are fine-tuned: the zoo's own images and architecture, or others of the same shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hyperrep.tasks.finetune import SCRATCH, FineTuneSettings, scratch_rows
from hyperrep.tasks.transfer import load_target_images
from hyperrep.tasks.transplant import Transplant
from hyperrep.training.zoo import load_zoo_images
from zookeeper.build.job import load_population
from zookeeper.build.worker import training_data
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population, TrainingData
from zookeeper.store.header import ImageShape
from zookeeper.zoo import Zoo


@dataclass(frozen=True, slots=True, eq=False)
class Target:
    """Stacked architecture and images on which networks are trained on."""

    architecture: str
    population: Population
    data: TrainingData
    image: ImageShape


def choose_target(
    zoo: Zoo, *, images: str | None = None, architecture: str | None = None, root: Path | None = None
) -> Target:
    """Take the zoo's images and architecture, or others by name.

    Raises
    ------
    InputError
        If images are missing or have other classes, the architecture is unknown, or the zoo mixes architectures.
    """
    own, activation = _network_of(zoo)
    pictures = load_zoo_images(zoo)
    image = zoo.image
    if images is not None:
        pictures = load_target_images(images, pictures, root=root)
        details = {"fingerprint": pictures.fingerprint, "mean": list(pictures.mean), "std": list(pictures.std)}
        image = ImageShape(pictures.name, *pictures.image_shape, pictures.num_classes, details)
    name = architecture or own
    population = load_population(name, activation, pictures.image_shape, pictures.num_classes)
    return Target(name, population, training_data(pictures, torch.device("cpu")), image)


def move_starts(
    starts: Mapping[str, np.ndarray], layout: WeightLayout, target: Target, init: str, settings: FineTuneSettings
) -> dict[str, np.ndarray]:
    """Move rows ``[n, P]`` into the target's architecture if it is another; what does not fit is drawn as ``init``.

    Untrained networks become untrained networks of the target, so all kinds share what is drawn.
    """
    new = target.population.layout
    if new.digest == layout.digest:
        return dict(starts)
    transplant = Transplant.between(layout, new)
    drawn = {kind: scratch_rows(new, [init] * len(rows), settings) for kind, rows in starts.items()}
    return {
        kind: drawn[kind] if kind == SCRATCH else transplant.apply(rows, drawn[kind]) for kind, rows in starts.items()
    }


def symmetry_of(zoo: Zoo) -> Symmetry:
    """Permutations of hidden units that keep the function of the zoo's networks."""
    architecture, activation = _network_of(zoo)
    image = zoo.image
    network = build_network(
        architecture,
        in_channels=image.channels,
        image_size=(image.height, image.width),
        num_classes=image.num_classes,
        activation=activation,
    )
    return Symmetry.of(network, image.shape)


def _network_of(zoo: Zoo) -> tuple[str, str]:
    kinds = zoo.frame[["architecture", "activation"]].drop_duplicates()
    if len(kinds) != 1:
        raise InputError(f"{zoo.path}: mixes {len(kinds)} architectures or activations; expected one. Query one first.")
    architecture, activation = (str(value) for value in kinds.iloc[0])
    if ":" in architecture:
        raise InputError(f"{zoo.path}: architecture {architecture!r} would import code; expected a registered one.")
    return architecture, activation
