"""Train one stored model again, alone, from nothing but its id's factors, and compare it with what is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from zookeeper.build import worker
from zookeeper.build.job import CohortJob, check_images, image_json, load_spec_images, population_of
from zookeeper.build.lowerings import pinned_lowerings
from zookeeper.errors import InputError
from zookeeper.images import ImageSet
from zookeeper.population import EpochResult, Population, train_cohort
from zookeeper.population.process import prepare_process
from zookeeper.query import suggest
from zookeeper.spec import ZooSpec
from zookeeper.spec.grid import ModelConfig, expand
from zookeeper.spec.plan import Cohort
from zookeeper.store.header import HEADER
from zookeeper.store.table import PROPERTIES
from zookeeper.zoo import Zoo
from zookeeper.zoo import open as open_zoo

_METRICS = tuple(name for name in PROPERTIES if name.endswith(("_loss", "_acc", "_gap")))


@dataclass(frozen=True)
class Comparison:
    """A stored checkpoint beside the same epoch of the model trained again.

    ``weights`` is the largest absolute difference of a weight, NaN if only one of the two diverged;
    ``metrics`` are absolute differences of the stored properties, losses in nats, accuracies in [0, 1].
    """

    epoch: int
    equal: bool
    weights: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Retraining:
    """All stored checkpoints of a model, up to an epoch, against the model trained again."""

    model_id: str
    factors: dict[str, object]
    epochs: tuple[Comparison, ...]

    @property
    def same_start(self) -> bool:
        """Whether the untrained weights are equal to the bit, which holds on any machine and device."""
        return all(one.equal for one in self.epochs if one.epoch == 0)

    @property
    def equal(self) -> bool:
        """Whether all weights are equal to the bit."""
        return all(one.equal for one in self.epochs)


def retrain_model(
    root: Path,
    model_id: str,
    *,
    last_epoch: int | None = None,
    data_root: Path | None = None,
    device: str = "cpu",
    num_threads: int = 1,
) -> Retraining:
    """Train a stored model again alone, up to an epoch, and compare every checkpoint that is stored.

    Convolutions are carried out as the zoo has pinned. Weights that were trained in a cohort may differ by
    rounding, which training amplifies; the untrained ones do not. Nothing is written.

    Parameters
    ----------
    last_epoch
        Where to stop; by default the model's last stored epoch.
    data_root
        Folder of the image files, instead of the one of the build.

    Raises
    ------
    InputError
        If the zoo does not know the model (the nearest ids are named), was not made from a spec, holds no
        checkpoint of it up to that epoch, or the images are absent or others.
    """
    zoo = open_zoo(root)
    spec = _spec_of(zoo, data_root)
    model = _find(zoo, spec, model_id)
    stored = zoo.query("model_id == @wanted", wanted=model_id)
    if last_epoch is not None:
        if not 0 <= last_epoch <= model.epochs:
            raise InputError(f"--epoch: out of range; expected 0 to {model.epochs}, got {last_epoch}.")
        stored = stored.query("epoch <= @last", last=last_epoch)
    if len(stored) == 0:
        raise InputError(f"{root}: holds no checkpoint of model {model_id} yet. Finish the build first.")
    images = load_spec_images(image_json(spec))
    check_images(zoo.header, images, root)
    prepare_process(num_threads)
    rows = dict(zip(stored.frame["epoch"].tolist(), stored.weights(), strict=True))
    lines = {int(line["epoch"]): line for line in stored.frame.to_dict("records")}
    compared = []
    population = population_of(model, images)
    population = population.lowered(pinned_lowerings(root, population, model.batch_size) or {})
    for result in _train(population, model, images, stored.epochs[-1], device):
        if result.epoch in rows:
            again = result.rows[0].to("cpu", torch.float32).numpy()
            properties = worker.epoch_properties(result, {split: images.count(split) for split in images.indices})
            measured = {name: float(values[0]) for name, values in properties.items() if name in _METRICS}
            compared.append(compare(result.epoch, again, rows[result.epoch], measured, lines[result.epoch]))
    return Retraining(model_id, dict(model.factors()), tuple(compared))


def compare(
    epoch: int,
    again: npt.NDArray[np.float32],
    stored: npt.NDArray[np.float32],
    measured: Mapping[str, float],
    line: Mapping[Any, Any],
) -> Comparison:
    """Compare rows ``[P]`` and properties of one epoch; NaN in the same places of both is no difference.

    >>> compare(1, np.float32([1.0, np.nan]), np.float32([1.5, np.nan]), {"train_loss": 0.5}, {"train_loss": 0.25})
    Comparison(epoch=1, equal=False, weights=0.5, metrics={'train_loss': 0.25})
    """
    metrics = {name: difference(value, float(line[name])) for name, value in measured.items() if name in line}
    return Comparison(epoch, again.tobytes() == stored.tobytes(), difference(again, stored), metrics)


def difference(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Largest absolute difference of two arrays in double precision; equal entries (NaN too) differ by 0.

    >>> difference([1.0, np.nan, np.inf], [3.0, np.nan, np.inf]), difference(np.nan, 1.0)
    (2.0, nan)
    """
    one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(one - other))
    return float(gap.max())


def _train(
    population: Population, model: ModelConfig, images: ImageSet, last_epoch: int, device: str
) -> Iterator[EpochResult]:
    job = CohortJob("", Cohort("alone", (model,)), (0, model.epochs), "", "", "", device)
    rows = torch.from_numpy(worker.initial_rows(population.layout, [model]).astype(np.float32)).to(device)
    data = worker.training_data(images, torch.device(device))
    return train_cohort(population, worker.cohort_factors(job), data, rows, last_epoch=last_epoch)


def _spec_of(zoo: Zoo, data_root: Path | None) -> ZooSpec:
    if zoo.header.spec is None:
        raise InputError(
            f"{zoo.path}: a zoo of kind {zoo.header.kind!r} was not made from a spec; expected a trained zoo. "
            "Its models cannot be trained again."
        )
    spec = ZooSpec.from_json(json.dumps(zoo.header.spec), where=str(zoo.path / HEADER))
    if data_root is None:
        return spec
    return spec.model_copy(update={"images": spec.images.model_copy(update={"root": str(data_root.resolve())})})


def _find(zoo: Zoo, spec: ZooSpec, model_id: str) -> ModelConfig:
    models = {model.model_id: model for model in expand(spec)}
    if model_id not in models or model_id not in zoo.header.models:
        raise InputError(f"{zoo.path}: unknown model {model_id!r}. {suggest(model_id, zoo.header.models)}")
    return models[model_id]
