"""Evaluate stored networks again on the images, and compare with what their rows claim."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from zookeeper.build import worker
from zookeeper.build.job import check_images, image_json, load_spec_images, population_of
from zookeeper.errors import InputError
from zookeeper.images import ImageSet
from zookeeper.population.evaluate import evaluate
from zookeeper.population.process import prepare_process
from zookeeper.population.train import StoredPart
from zookeeper.spec import ZooSpec
from zookeeper.spec.grid import ModelConfig, expand
from zookeeper.store.findings import AGAIN, Finding, Lost
from zookeeper.store.header import HEADER
from zookeeper.store.table import DIVERGED
from zookeeper.zoo import Zoo
from zookeeper.zoo import open as open_zoo

_REMEDY = f"Weights and metrics do not belong together. Move the records of this cohort out of commits/. {AGAIN}"


@dataclass(frozen=True)
class Reevaluation:
    """Findings of a sample of ``num_rows`` checkpoints; ``largest`` is the largest difference of a loss or accuracy."""

    findings: tuple[Finding, ...]
    num_rows: int
    largest: float


def reevaluate_zoo(
    root: Path, *, sample: int = 256, seed: int = 0, data_root: Path | None = None, num_threads: int = 1
) -> Reevaluation:
    """Evaluate a random sample of checkpoints, at least one of each cohort, on every split of the images.

    Losses may differ by rounding (1e-3 relative, or 10 % where weights are stored in 16 bits), accuracies by
    one image in 200 plus two (5 points with 16 bits). Diverged checkpoints are left out.

    Raises
    ------
    InputError
        If the zoo was not made from a spec, or its images are absent or others.
    StoreError
        If a shard is damaged.
    """
    zoo = open_zoo(root)
    if zoo.header.spec is None:
        raise InputError(
            f"{root}: a zoo of kind {zoo.header.kind!r} was not made from a spec, so its metrics cannot be measured "
            "again. Pass --sample 0."
        )
    spec = ZooSpec.from_json(json.dumps(zoo.header.spec), where=str(root / HEADER))
    if data_root is not None:
        spec = spec.model_copy(update={"images": spec.images.model_copy(update={"root": str(data_root.resolve())})})
    images = load_spec_images(image_json(spec))
    check_images(zoo.header, images, root)
    prepare_process(num_threads)
    models = {model.model_id: model for model in expand(spec)}
    chosen = zoo.take(_sample(zoo, sample, seed))
    narrow = zoo.header.store.itemsize == 2 or any(
        step.get("lossy") for step in zoo.header.provenance.get("converted", ())
    )
    compared = [
        one
        for part in _by_network(chosen, models)
        for one in _compare(part, models[str(part.frame["model_id"].iloc[0])], images, narrow=narrow)
    ]
    wrong = tuple(one.finding() for one in compared if not one.difference <= one.allowed)
    return Reevaluation(wrong, len(chosen), max((one.difference for one in compared), default=0.0))


@dataclass(frozen=True)
class _Compared:
    """A metric of a checkpoint as it is stored and as it was measured again."""

    model_id: str
    epoch: int
    cohort: str
    name: str
    stored: float
    measured: float
    allowed: float

    @property
    def difference(self) -> float:
        return abs(self.stored - self.measured)

    def finding(self) -> Finding:
        what = (
            f"model {self.model_id} epoch {self.epoch}: stored {self.name} {self.stored:.6g}, "
            f"measured {self.measured:.6g}"
        )
        return Finding("metrics", self.cohort, what, _REMEDY, lost=Lost((self.model_id,), (self.epoch,)))


def _sample(zoo: Zoo, size: int, seed: int) -> np.ndarray:
    frame = zoo.frame.query(f"status != {DIVERGED!r}") if "status" in zoo.frame else zoo.frame
    draw = np.random.default_rng(seed)
    shuffled = draw.permutation(frame.index.to_numpy())
    first_of_cohorts = pd.Series(shuffled).groupby(frame["cohort"].loc[shuffled].to_numpy()).first().to_numpy()
    others = shuffled[~np.isin(shuffled, first_of_cohorts)]
    return np.sort(np.concatenate([first_of_cohorts, others])[: max(size, len(first_of_cohorts))])


def _by_network(zoo: Zoo, models: dict[str, ModelConfig]) -> Iterator[Zoo]:
    """Views of checkpoints that go through one stacked network together."""
    configs = [models[model_id] for model_id in zoo.frame["model_id"]]
    kinds = pd.Series([f"{config.architecture} {config.activation}" for config in configs])
    for _, positions in kinds.groupby(kinds).indices.items():
        yield zoo.take(np.asarray(positions, np.int64))


def _compare(part: Zoo, model: ModelConfig, images: ImageSet, *, narrow: bool) -> Iterator[_Compared]:
    """Measure checkpoints of one network on every split, and put each metric beside its stored value."""
    data = worker.training_data(images, torch.device("cpu"))
    population, rows = population_of(model, images), torch.from_numpy(part.weights())
    identity = [part.frame[name].tolist() for name in ("model_id", "epoch", "cohort")]
    for split, index in data.indices.items():
        measured = evaluate(population, rows, StoredPart(data, index, torch.float32), data.labels[index])
        for name, values in ((f"{split}_loss", measured.loss), (f"{split}_acc", measured.accuracy)):
            if name not in part.frame:
                continue
            stored = part.column(name)
            if name.endswith("_acc"):
                allowed = np.full(len(stored), (0.05 if narrow else 0.005) + 2 / len(index))
            else:
                allowed = (0.1 if narrow else 1e-3) * np.maximum(1.0, np.abs(stored))
            numbers = (stored.tolist(), values.tolist(), allowed.tolist())
            for model_id, epoch, cohort, *three in zip(*identity, *numbers, strict=True):
                yield _Compared(str(model_id), int(epoch), str(cohort), name, *three)
