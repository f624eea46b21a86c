"""Train on a stored zoo: its train rows, its symmetries, its images as queries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from hyperrep.config import TrainConfig
from hyperrep.config.align import AlignSection
from hyperrep.config.loss import NOISE, ZOO
from hyperrep.objectives.composite import part_weights
from hyperrep.training.batches import group_rows
from hyperrep.training.data import FitData
from hyperrep.training.disk import rows_on_disk
from hyperrep.training.fit import OnStep, fit
from hyperrep.training.queries import load_query_images
from hyperrep.training.saved import HyperRepresentation
from hyperrep.weights.alignment import Aligner
from zookeeper.build.job import image_json, load_population, load_spec_images
from zookeeper.errors import InputError
from zookeeper.images import ImageSet
from zookeeper.nets.registry import build_network
from zookeeper.nets.symmetry import Symmetry
from zookeeper.spec.schema import ZooSpec
from zookeeper.zoo import Zoo


def fit_zoo(
    config: TrainConfig,
    zoo: Zoo,
    out: str | Path,
    *,
    resume: bool = True,
    progress: bool = False,
    on_step: OnStep | None = None,
    allow_import: bool = False,
) -> HyperRepresentation:
    """Train on the train split of a zoo, validate on its val split, and save the result in a folder.

    ``config.zoo`` is not read: the zoo given here counts. ``allow_import`` permits an architecture given
    as ``python.path:factory``, which runs code that the zoo names. The other parameters are those of
    `hyperrep.training.fit.fit`.

    Raises
    ------
    InputError
        If the zoo lacks a split or an epoch, mixes architectures, or its images differ from those it
        was built on.
    TrainingDivergedError
        If a part of the loss or the gradient is not finite.
    """
    data = read_fit_data(config, zoo, allow_import=allow_import)
    return fit(config, data, out, resume=resume, progress=progress, on_step=on_step)


def read_fit_data(config: TrainConfig, zoo: Zoo, *, allow_import: bool = False) -> FitData:
    """Read from a zoo what a training needs; diverged checkpoints are left out and counted in the provenance.

    Test rows and test images are not read. Without a val split there is no validation; without a
    specification of the images, or with networks of several activations, it measures no behaviour.
    """
    needs_images = part_weights(config.loss.gamma, config.loss.beta)["behaviour"] > 0
    architecture, activation = _architecture_of(zoo, allow_import=allow_import, one_activation=needs_images)
    image = zoo.image
    population = load_population(architecture, activation, image.shape, image.num_classes)
    if population.layout.digest != zoo.layout.digest:
        raise InputError(
            f"{zoo.path}: its rows are not those of {architecture} as it is now; expected layout "
            f"{population.layout.digest}, got {zoo.layout.digest}. The architecture changed; build the zoo again."
        )
    train = _read_rows(config, zoo, "train")
    has_val = "split" in zoo.frame and bool((zoo.frame["split"] == "val").any())
    val = _read_rows(config, zoo, "val") if has_val else None
    can_run = zoo.header.spec is not None and zoo.frame["activation"].nunique() == 1
    images = load_zoo_images(zoo) if needs_images or can_run else None
    provenance: dict[str, Any] = {
        "name": zoo.header.name,
        "header_digest": zoo.header.digest,
        "layout_digest": zoo.layout.digest,
        "images": image.to_json(),
        "spec": None if zoo.header.spec is None else dict(zoo.header.spec),
        "train_rows": len(train.rows),
        "train_rows_left_out": train.num_left_out,
    }
    symmetry = read_symmetry(zoo, allow_import=allow_import)
    settings = config.training
    data = FitData(
        rows=train.rows,
        layout=zoo.layout,
        population=population,
        permutations=symmetry,
        queries=None if images is None else torch.from_numpy(images.normalised("train")),
        val_rows=None if val is None else val.rows,
        val_queries=None if images is None or images.count("val") == 0 else torch.from_numpy(images.normalised("val")),
        provenance=provenance,
        query_images={} if images is None or not needs_images else _load_other_queries(config, images),
        targets=train.targets,
        val_targets=None if val is None else val.targets,
        groups=None
        if settings.batches is None
        else group_rows(train.frame, settings.batches, settings.batch_size, where=str(zoo.path)),
    )
    if config.align is None:
        return data
    return data.aligned(Aligner(symmetry, _reference(config.align, zoo, train), config.align.seed))


def read_parts(config: TrainConfig, zoo: Zoo, *, allow_import: bool = False) -> list[FitData]:
    """Read from a zoo what a training needs, apart for each activation if networks must be run and differ in it.

    `hyperrep.training.mixed_fit.fit_mixed` trains one autoencoder on the parts: one view and one scaling, and each
    network runs with the activation that it has. Of a zoo of one activation, or without behaviour, this is one part.

    Raises
    ------
    InputError
        As `read_fit_data`; also if the networks of one activation lack a side of the split.
    """
    activations = sorted(zoo.frame["activation"].unique())
    if part_weights(config.loss.gamma, config.loss.beta)["behaviour"] == 0 or len(activations) == 1:
        return [read_fit_data(config, zoo, allow_import=allow_import)]
    parts = []
    for name in activations:
        part = read_fit_data(config, zoo.query("activation == @name", name=name), allow_import=allow_import)
        parts.append(replace(part, provenance={**part.provenance, "activation": name}))
    return parts


def _reference(settings: AlignSection, zoo: Zoo, train: _Rows) -> torch.Tensor:
    """The train row that all others are aligned to."""
    if settings.reference == "first":
        return train.rows[0]
    if "val_acc" not in train.frame or train.frame["val_acc"].isna().all():
        raise InputError(f"{zoo.path}: align.reference: no validation accuracy to find the best by; expected `first`.")
    return train.rows[int(np.nanargmax(train.frame["val_acc"].to_numpy(dtype=np.float64)))]


def read_symmetry(zoo: Zoo, *, allow_import: bool = False) -> Symmetry:
    """Derive the permutations that keep the function of a zoo's networks, all of one architecture.

    Raises
    ------
    InputError
        If the zoo mixes architectures, or names one as ``python.path:factory`` without ``allow_import``.
    """
    architecture, activation = _architecture_of(zoo, allow_import=allow_import, one_activation=False)
    image = zoo.image
    network = build_network(
        architecture,
        in_channels=image.channels,
        image_size=(image.height, image.width),
        num_classes=image.num_classes,
        activation=activation,
    )
    return Symmetry.of(network, image.shape)


def _architecture_of(zoo: Zoo, *, allow_import: bool, one_activation: bool) -> tuple[str, str]:
    """Architecture and activation of all networks of a zoo; one that would import code needs permission.

    Where networks are not run they may differ in activation; the first one is returned.
    """
    factors = zoo.frame[["architecture", "activation"]].drop_duplicates()
    if not one_activation:
        factors = factors.drop_duplicates("architecture")
    if len(factors) != 1:
        several = ", or train on all activations with hyperrep train or fit_zoos"
        raise InputError(
            f"{zoo.path}: mixes {len(factors)} architectures or activations; expected one. Query one of them first"
            f"{several if factors['architecture'].nunique() == 1 else ''}."
        )
    architecture, activation = (str(value) for value in factors.iloc[0])
    if ":" in architecture and not allow_import:
        raise InputError(
            f"{zoo.path}: architecture {architecture!r} would import code. If you trust it, pass allow_import=True."
        )
    return architecture, activation


def _load_other_queries(config: TrainConfig, images: ImageSet) -> dict[str, torch.Tensor]:
    others = [source for source in config.loss.query_set if source.source not in (ZOO, NOISE)]
    return {source.key: load_query_images(source, images) for source in others}


def load_zoo_images(zoo: Zoo) -> ImageSet:
    """Load the images a zoo was trained on, split and normalised as in its specification.

    Raises
    ------
    InputError
        If the zoo has no specification, files are missing, or the images differ from the zoo's own.
    """
    if zoo.header.spec is None:
        raise InputError(f"{zoo.path}: the zoo has no specification, so its images are unknown. Set loss.beta to 1.")
    spec = ZooSpec.from_json(json.dumps(zoo.header.spec), f"{zoo.path}/zoo.json spec")
    images = load_spec_images(image_json(spec))
    built_on = zoo.image.details.get("fingerprint")
    if built_on is not None and built_on != images.fingerprint:
        raise InputError(
            f"{zoo.path}: the images here differ from those the zoo was built on; expected fingerprint {built_on}, "
            f"got {images.fingerprint}. Check images.root and the image files."
        )
    return images


class _Rows(NamedTuple):
    """Usable rows of one side of the split with their frame, and how many were left out."""

    rows: torch.Tensor
    frame: pd.DataFrame
    num_left_out: int

    @property
    def targets(self) -> torch.Tensor | None:
        """Test accuracy float64 ``[N]``; None unless that of every row is known."""
        if "test_acc" not in self.frame:
            return None
        targets = torch.from_numpy(self.frame["test_acc"].to_numpy(dtype=np.float64, copy=True))
        return targets if bool(targets.isfinite().all()) else None  # some zoos know it of some models alone


def _read_rows(config: TrainConfig, zoo: Zoo, split: str) -> _Rows:
    """Finite rows of one side of the split at the configured epochs."""
    part = zoo.split(split)
    epochs = config.epochs_of_zoo
    if epochs is not None:
        missing = sorted(set(epochs) - set(part.epochs))
        if missing:
            raise InputError(
                f"{zoo.path}: epochs_of_zoo: the {split} split has no checkpoints of epoch "
                f"{', '.join(map(str, missing))}; stored are {part.epochs[0]} to {part.epochs[-1]}."
            )
        part = part.query("epoch in @epochs", epochs=list(epochs))
    good = np.ones(len(part), dtype=bool)
    if "status" in part.frame:
        good = (part.frame["status"] == "ok").to_numpy()
    rows, usable = _finite_rows(part[np.flatnonzero(good)], on_disk=config.training.rows == "streamed")
    if not usable.any():
        raise InputError(f"{zoo.path}: the {split} split holds no usable checkpoint. Build the zoo to its end.")
    kept = np.flatnonzero(good)[usable]
    return _Rows(torch.from_numpy(rows), part.frame.iloc[kept].reset_index(drop=True), len(part) - len(kept))


def _finite_rows(part: Zoo, *, on_disk: bool) -> tuple[np.ndarray, np.ndarray]:
    if on_disk:
        return rows_on_disk(part)
    rows = part.weights()
    usable = np.asarray(np.isfinite(rows).all(axis=1))
    return rows if usable.all() else rows[usable], usable
