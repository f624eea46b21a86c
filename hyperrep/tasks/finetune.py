"""Fine-tuning of many networks at once: sampled, pre-trained and untrained ones, as one matrix.

All networks of all kinds train in one stacked run of the engine. The i-th network of every kind sees the same
images in the same order, so kinds are compared in pairs and not through luck. Validation and test images are
looked at after the epochs that are reported; nothing is chosen on test images.

Source: Schürholt et al., "Hyper-Representations as Generative Models" (2022), section 4.2.2, Tables 1 and 2.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hyperrep.tasks.generate import Anchors
from hyperrep.tasks.split import select_on_validation
from zookeeper.errors import InputError
from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.layout import WeightLayout
from zookeeper.population import Cohort, Population, TrainingData, evaluate
from zookeeper.population.train import CohortTrainer
from zookeeper.store.header import ImageShape
from zookeeper.store.table import DIVERGED, OK
from zookeeper.zoo import Zoo, write_rows

REPORTED: tuple[int, ...] = (0, 1, 5, 25, 50)
SCRATCH, PRETRAINED, SAMPLED = "from scratch", "pre-trained", "sampled"


@dataclass(frozen=True, slots=True)
class FineTuneSettings:
    """How networks are trained on; the same for every kind.

    Parameters
    ----------
    lr, weight_decay, momentum, dropout, optimizer, batch_size, train_fraction
        As in `zookeeper.population.Cohort`.
    epochs
        Epochs after which networks are measured and kept, increasing; 0 is before any training.
    seed
        Decides the order of the images and the initial weights of untrained networks.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    dropout: float = 0.0
    optimizer: str = "adam"
    batch_size: int = 32
    train_fraction: float = 1.0
    epochs: tuple[int, ...] = REPORTED
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.epochs or list(self.epochs) != sorted(set(self.epochs)) or self.epochs[0] < 0:
            raise InputError(f"fine-tuning: epochs must increase from 0 or more, got {list(self.epochs)}.")

    @classmethod
    def of_model(cls, line: Mapping[str, Any] | pd.Series, **changed: Any) -> FineTuneSettings:
        """Train as a model of a zoo was trained: its learning rate, decay, optimiser and batch size."""
        names = ("lr", "weight_decay", "momentum", "dropout", "optimizer", "batch_size")
        given = {name: line[name] for name in names if name in line}
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in given.items()}
        return cls(**{**plain, **changed})

    def network_seed(self, number: int) -> int:
        """Seed of the i-th network of every kind; other than those a zoo was trained with."""
        return int.from_bytes(hashlib.sha256(f"fine-tune:{self.seed}:{number}".encode()).digest()[:4], "little")


@dataclass(frozen=True, slots=True, eq=False)
class FineTuned:
    """Networks while they are trained: one line of ``frame`` and one row ``[N, P]`` per network and epoch."""

    frame: pd.DataFrame
    rows: np.ndarray


def scratch_rows(layout: WeightLayout, inits: Sequence[str], settings: FineTuneSettings) -> np.ndarray:
    """Draw untrained networks, float32 ``[n, P]``, one for each name of an initialisation."""
    seeds = [settings.network_seed(number) for number in range(len(inits))]
    return initialise_rows(layout, list(inits), seeds).astype(np.float32)


def starting_rows(
    samples: np.ndarray, anchors: Anchors, layout: WeightLayout, settings: FineTuneSettings
) -> dict[str, np.ndarray]:
    """Put samples beside as many pre-trained and untrained networks, as the paper does.

    Pre-trained networks are anchors: good train models, drawn without replacement as long as there are enough.
    Untrained ones are initialised as those anchors were.

    Returns
    -------
    ``sampled``, ``pre-trained`` and ``from scratch``: rows float32 ``[n, P]`` each.
    """
    generator = np.random.default_rng([settings.seed, 0xF17E])
    rounds = -(-len(samples) // len(anchors))
    drawn = np.concatenate([generator.permutation(len(anchors)) for _ in range(rounds)])[: len(samples)]
    frame = anchors.checkpoints.frame
    inits = frame["init"].astype(str).to_numpy()[drawn] if "init" in frame else ["kaiming_uniform"] * len(samples)
    return {
        SAMPLED: np.asarray(samples, dtype=np.float32),
        PRETRAINED: anchors.checkpoints.rows[drawn],
        SCRATCH: scratch_rows(layout, list(inits), settings),
    }


def fine_tune(
    population: Population, data: TrainingData, starts: Mapping[str, np.ndarray], settings: FineTuneSettings
) -> FineTuned:
    """Train all networks of all kinds in one stacked run, and keep them at the reported epochs.

    A network's result depends on its own weights, its number within its kind and the settings, not on the
    others. A network that diverges stays in the table as ``diverged``.

    Parameters
    ----------
    population
        Stacked architecture of the rows.
    data
        Images with train, val and test parts; the target set when networks are transferred. Training runs on the
        device they are on.
    starts
        Kind -> rows ``[n, P]``, finite.

    Returns
    -------
    Frame in the order kind, network, epoch: ``start`` (the kind), ``network``, ``epoch``, ``val_acc``,
    ``val_loss``, ``test_acc``, ``test_loss``, ``batch_loss`` (mean over the epoch, NaN before), ``status``;
    and the rows beside it.

    Raises
    ------
    InputError
        If a kind has no rows, rows do not fit the architecture or are not finite, or a part of the images is absent.
    """
    rows = _joined(starts, population.layout.num_weights)
    missing = [part for part in ("train", "val", "test") if part not in data.indices]
    if missing:
        raise InputError(f"fine-tuning: the images have no {', '.join(missing)} part. Choose another split of them.")
    kinds = np.concatenate([np.full(len(part), kind, dtype=object) for kind, part in starts.items()])
    numbers = np.concatenate([np.arange(len(part)) for part in starts.values()])
    trainer = CohortTrainer(population, _cohort(settings, numbers), data, torch.from_numpy(rows).to(data.images.device))
    parts = {part: (data.part(part, torch.float32)) for part in ("val", "test")}
    kept, tables = [], []
    batch_loss = torch.full((len(rows),), float("nan"))
    for epoch in range(settings.epochs[-1] + 1):
        if epoch > 0:
            batch_loss = trainer.train_epoch(epoch)
        if epoch in settings.epochs:
            columns = _measured(trainer, parts)
            table = pd.DataFrame({"start": kinds, "network": numbers, "epoch": epoch, **columns})
            tables.append(table.assign(batch_loss=_on_host(batch_loss)))
            kept.append(_on_host(trainer.rows))
    frame = pd.concat(tables, ignore_index=True)
    order = np.arange(len(frame)).reshape(len(tables), len(rows)).T.reshape(-1)
    return FineTuned(frame.iloc[order].reset_index(drop=True), np.concatenate(kept)[order])


def _joined(starts: Mapping[str, np.ndarray], num_weights: int) -> np.ndarray:
    for kind, rows in starts.items():
        if rows.ndim != 2 or len(rows) == 0 or rows.shape[1] != num_weights:
            raise InputError(f"fine-tuning, {kind}: expected rows [n >= 1, {num_weights}], got {rows.shape}.")
        if not np.isfinite(rows).all():
            raise InputError(f"fine-tuning, {kind}: some rows hold NaN or infinity. Leave diverged networks out.")
    if not starts:
        raise InputError("fine-tuning: there are no networks; expected at least one kind with rows.")
    return np.concatenate([np.asarray(rows, dtype=np.float32) for rows in starts.values()])


def _cohort(settings: FineTuneSettings, numbers: np.ndarray) -> Cohort:
    num = len(numbers)
    return Cohort(
        seeds=tuple(settings.network_seed(int(number)) for number in numbers),
        lr=(settings.lr,) * num,
        weight_decay=(settings.weight_decay,) * num,
        momentum=(settings.momentum,) * num,
        dropout=(settings.dropout,) * num,
        optimizer=settings.optimizer,
        batch_size=settings.batch_size,
        train_fraction=settings.train_fraction,
    )


def _measured(trainer: CohortTrainer, parts: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> dict[str, np.ndarray]:
    columns: dict[str, np.ndarray] = {}
    finite = torch.isfinite(trainer.rows).all(1)
    for part, (images, labels) in parts.items():
        result = evaluate(trainer.population, trainer.rows, images, labels)
        columns[f"{part}_acc"], columns[f"{part}_loss"] = _on_host(result.accuracy), _on_host(result.loss)
        finite &= torch.isfinite(result.loss)
    columns["status"] = np.where(_on_host(finite), OK, DIVERGED).astype(object)
    return columns


def _on_host(values: torch.Tensor) -> np.ndarray:
    """A copy in memory that later epochs leave alone, whatever the device."""
    copy: np.ndarray = values.detach().cpu().numpy().copy()
    return copy


def summarise_fine_tuning(frame: pd.DataFrame) -> pd.DataFrame:
    """Average each kind at each reported epoch.

    Returns
    -------
    One row per ``start`` and ``epoch``: ``num`` networks, ``num_diverged``, mean and standard deviation of the
    test accuracy (``test_acc``, ``test_acc_std``; a diverged network counts as it classifies), the test accuracy
    of the network chosen on validation images at that epoch (``selected_test_acc``), and ``val_acc`` (mean).
    """
    records = []
    for (start, epoch), part in frame.groupby(["start", "epoch"], sort=False):
        records.append(
            {
                "start": start,
                "epoch": epoch,
                "num": len(part),
                "num_diverged": int((part["status"] == DIVERGED).sum()),
                "test_acc": part["test_acc"].mean(),
                "test_acc_std": part["test_acc"].std(ddof=0),
                "selected_test_acc": part["test_acc"].iloc[select_on_validation(part)],
                "val_acc": part["val_acc"].mean(),
            }
        )
    return pd.DataFrame.from_records(records)


def store_fine_tuned(
    target: Path,
    tuned: FineTuned,
    zoo: Zoo,
    settings: FineTuneSettings,
    *,
    image: ImageShape,
    layout: WeightLayout,
    samples: str,
    architecture: str | None = None,
) -> Zoo:
    """Store the networks as a zoo of kind "finetuned": their trajectories with what they started from.

    Parameters
    ----------
    zoo
        The zoo that samples and pre-trained networks come from; for provenance and the activation.
    image, layout
        Of the fine-tuned networks: the target set and, if it differs, the target architecture.
    samples
        Where the samples come from; a path, for provenance.

    Raises
    ------
    InputError
        If ``target`` is taken.
    """
    line = zoo.frame.iloc[0]
    names = tuned.frame["start"].astype(str) + ":" + tuned.frame["network"].astype(str)
    ids = names.map(lambda name: hashlib.sha256(f"{settings.seed}:{name}".encode()).hexdigest()[:16])
    factors = {name: value for name, value in asdict(settings).items() if name not in ("epochs", "seed")}
    seeds = [settings.network_seed(int(number)) for number in tuned.frame["network"]]
    frame = tuned.frame.assign(
        model_id=ids, architecture=architecture or str(line["architecture"]), activation=str(line["activation"]),
        seed=seeds, **factors,
    )  # fmt: skip
    provenance = {
        "zoo": {"path": str(zoo.path), "digest": zoo.header.digest},
        "samples": samples,
        "settings": {**asdict(settings), "epochs": list(settings.epochs)},
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_rows(target, tuned.rows, frame, layout, kind="finetuned", image=image, provenance=provenance)
