"""What a worker does with one cohort: go on where the last commit ended, train, evaluate, commit."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from zookeeper.build.job import CohortJob, load_spec_images, population_of
from zookeeper.build.lowerings import settle_lowerings
from zookeeper.build.tiles import with_smaller_tiles
from zookeeper.build.writing import BlockWriter
from zookeeper.errors import BuildError
from zookeeper.images import ImageSet
from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.layout import WeightLayout
from zookeeper.population import Cohort, EpochResult, TrainingData, train_cohort
from zookeeper.population.augment import AugmentSettings
from zookeeper.population.process import prepare_process
from zookeeper.spec.grid import ModelConfig
from zookeeper.store.records import CommitRecord, cohort_commits, unbroken
from zookeeper.store.state import State, StateGone, load_state
from zookeeper.store.table import DIVERGED, OK
from zookeeper.store.writer import AlreadyCommitted, Block, commit_block

COMMIT_BYTES = 32_000_000
COMMIT_SECONDS = 20.0
_DRAWN_BYTES = 32_000_000  # of initial weights in double precision at a time
_ROWS = "rows"


@dataclass(frozen=True)
class Beat:
    """Sign of life of a cohort after an epoch: accuracies in [0, 1], NaN if there are no such images."""

    cohort: str
    num_models: int
    epoch: int
    best_test_acc: float
    num_diverged: int


OnBeat = Callable[[Beat], None]


def build_cohort(job: CohortJob, on_beat: OnBeat | None = None) -> Beat:
    """Train a cohort to its last epoch and commit every checkpoint; safe to repeat at any time.

    Starts after the last committed epoch with the training state stored there, so the rows have the same
    bits as without the interruption. If another writer commits first, goes on after its block. If memory
    runs out, goes on with fewer models in one pass.

    Raises
    ------
    BuildError
        If the images of this worker are not those of the zoo, the device is absent, or memory runs out with
        one model at a time.
    StoreError
        If the zoo is damaged or cannot be written.
    """
    prepare_process(job.num_threads)
    if job.device != "cpu" and not torch.cuda.is_available():
        raise BuildError(f"device {job.device!r}: no GPU is visible to this worker. Build with --device cpu.")
    images = load_spec_images(job.images)
    if images.fingerprint != job.fingerprint:
        raise BuildError(
            f"images {images.name}: expected fingerprint {job.fingerprint}, got {images.fingerprint}. "
            "Every worker must see the same image files."
        )

    def work(tile: int | None) -> Beat:
        while True:
            try:
                beat = _go_on(job, images, tile, on_beat)
            except AlreadyCommitted:
                continue  # a worker of a killed build lived on for a moment: its block stands
            if beat.epoch == job.epochs[-1]:
                return beat
            # a block that was absent is made again: now what comes after those that stand

    return with_smaller_tiles(work, job.tile, len(job.cohort.models), f"cohort {job.cohort.name}")


def _go_on(job: CohortJob, images: ImageSet, tile: int | None, on_beat: OnBeat | None) -> Beat:
    root = Path(job.root)
    point = _resume_point(root, job.cohort.name, job.epochs)
    if not point.wanted:
        return Beat(job.cohort.name, len(job.cohort.models), job.epochs[-1], float("nan"), 0)
    models = job.cohort.models
    population = population_of(models[0], images)
    population = population.lowered(
        settle_lowerings(
            root,
            population,
            wanted=job.lowering,
            num_models=len(models),
            batch_size=models[0].batch_size,
            device=job.device,
        )
    )
    device = torch.device(job.device)
    state = _begin(point, population.layout, models, device)
    results = train_cohort(
        population,
        cohort_factors(job),
        training_data(images, device),
        state.pop(_ROWS),
        tile=tile,
        last_epoch=point.wanted[-1],
        first_epoch=point.first_epoch,
        state=state,
    )
    beat = Beat(job.cohort.name, len(models), 0, float("nan"), 0)
    with BlockWriter() as writer:
        counts = {split: images.count(split) for split in images.indices}
        pending = _Pending(job, root, writer, counts, point.wanted)
        for result in results:
            pending.take(result)
            best = result.evaluations["test"].accuracy.max().item() if "test" in result.evaluations else float("nan")
            beat = Beat(job.cohort.name, len(models), result.epoch, best, int(result.diverged.sum()))
            if on_beat is not None:
                on_beat(beat)
    return beat


def _begin(
    point: _ResumePoint, layout: WeightLayout, models: Sequence[ModelConfig], device: torch.device
) -> dict[str, torch.Tensor]:
    """Weights and optimiser state to start from, on the device; what they were made of may be forgotten."""
    if point.state is not None:
        return {name: torch.from_numpy(np.array(values)).to(device) for name, values in point.state.items()}
    rows = np.empty((len(models), layout.num_weights), dtype=np.float32)
    together = max(1, _DRAWN_BYTES // (8 * layout.num_weights))
    for first in range(0, len(models), together):
        part = slice(first, first + together)
        rows[part] = initial_rows(layout, models[part])
    return {_ROWS: torch.from_numpy(rows).to(device)}


@dataclass(frozen=True, eq=False)
class _ResumePoint:
    """Where a cohort goes on: after the last block before which none is absent.

    ``state`` is None where training begins at the start: before the first block, and where the state is gone
    because the blocks that came after it were lost. ``wanted`` are the checkpoints up to the next block that stands.
    """

    last: CommitRecord | None
    state: State | None
    wanted: tuple[int, ...]

    @property
    def first_epoch(self) -> int:
        """The first epoch to train; 0 is the untrained network."""
        return 0 if self.last is None or self.state is None else self.last.last_epoch + 1


def _resume_point(root: Path, cohort: str, epochs: tuple[int, ...]) -> _ResumePoint:
    while True:
        commits = cohort_commits(root, cohort)
        whole = unbroken(commits, epochs)
        last = whole[-1] if whole else None
        done = -1 if last is None else last.last_epoch
        until = min((record.first_epoch for record in commits if record.first_epoch > done), default=epochs[-1] + 1)
        wanted = tuple(epoch for epoch in epochs if done < epoch < until)
        if last is None or last.final:
            return _ResumePoint(last, None, wanted)
        try:
            return _ResumePoint(last, load_state(root, last), wanted)
        except StateGone:
            if cohort_commits(root, cohort) == commits:
                return _ResumePoint(last, None, wanted)
            # another writer committed between the two looks, which retires the older state


def training_data(images: ImageSet, device: torch.device) -> TrainingData:
    """Put an image set on a device, as uint8; splits without images are left out.

    On the CPU the pixels are the set's own read-only memory, which workers of one machine may share.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        pixels = torch.from_numpy(images.images).to(device)
    return TrainingData(
        images=pixels,
        labels=torch.tensor(images.labels, device=device),
        indices={
            split: torch.tensor(index, device=device) for split, index in images.indices.items() if len(index) > 0
        },
        mean=torch.tensor(images.mean, dtype=torch.float64, device=device),
        std=torch.tensor(images.std, dtype=torch.float64, device=device),
        augment=AugmentSettings(**images.augment),
    )


def initial_rows(layout: WeightLayout, models: Sequence[ModelConfig]) -> npt.NDArray[np.float64]:
    """Draw the initial weights of models, [M, P]."""
    return initialise_rows(
        layout,
        [model.init for model in models],
        [model.seed for model in models],
        stds=[model.init_std for model in models],
        bias_inits=[model.bias_init for model in models],
    )


def cohort_factors(job: CohortJob) -> Cohort:
    """Collect the generating factors of a cohort as vectors."""
    models = job.cohort.models
    return Cohort(
        seeds=tuple(model.seed for model in models),
        lr=tuple(model.lr for model in models),
        weight_decay=tuple(model.weight_decay for model in models),
        momentum=tuple(model.momentum for model in models),
        dropout=tuple(model.dropout for model in models),
        optimizer=models[0].optimizer,
        batch_size=models[0].batch_size,
        nesterov=models[0].nesterov,
        train_fraction=models[0].train_fraction,
        schedules=tuple(model.schedule for model in models),
        num_epochs=models[0].epochs,
        precision=models[0].precision,
    )


@dataclass
class _Pending:
    """Checkpoints since the last commit, and when to commit them, beside the training that goes on."""

    job: CohortJob
    root: Path
    writer: BlockWriter
    num_images: dict[str, int]
    wanted: tuple[int, ...]
    epochs: list[int] = field(default_factory=list)
    rows: list[npt.NDArray[np.float32]] = field(default_factory=list)
    columns: dict[str, list[npt.NDArray[np.generic]]] = field(default_factory=dict)
    since_commit: float = field(default_factory=time.monotonic)
    since_epoch: float = field(default_factory=time.monotonic)

    def take(self, result: EpochResult) -> None:
        """Keep an epoch if it is a checkpoint; commit when enough has come together."""
        seconds = time.monotonic() - self.since_epoch
        self.since_epoch = time.monotonic()
        if result.epoch not in self.wanted:
            return
        self.epochs.append(result.epoch)
        self.rows.append(result.rows.to("cpu", torch.float32, copy=True).numpy())
        for name, values in epoch_properties(result, self.num_images, seconds / len(result.rows)).items():
            self.columns.setdefault(name, []).append(values)
        is_last = result.epoch == self.wanted[-1]
        num_bytes = len(self.rows) * self.rows[0].nbytes
        if is_last or num_bytes >= COMMIT_BYTES or time.monotonic() - self.since_commit >= COMMIT_SECONDS:
            self._commit(result)

    def _commit(self, result: EpochResult) -> None:
        self.writer.finish()  # before memory is taken for another block
        num_epochs = len(self.epochs)
        table: dict[str, npt.NDArray[np.generic]] = {
            name: np.stack(values, axis=1).reshape(-1) for name, values in self.columns.items()
        }
        models = self.job.cohort.models
        for name in models[0].factors():
            table[name] = np.repeat(np.array([getattr(model, name) for model in models]), num_epochs)
        table["split"] = np.repeat(np.array([model.split for model in models], dtype=object), num_epochs)
        live = result.state | {_ROWS: result.rows}  # training goes on in it: the block has its own copy
        is_final = self.epochs[-1] == self.job.epochs[-1]
        state = None if is_final else {name: values.to("cpu", copy=True).numpy() for name, values in live.items()}
        block = Block(
            cohort=self.job.cohort.name,
            epochs=tuple(self.epochs),
            rows=np.stack(self.rows, axis=1),
            table=table,
            layout=self.job.layout,
            state=state,
        )
        self.writer.put(partial(commit_block, self.root, block))
        self.epochs, self.rows, self.columns = [], [], {}
        self.since_commit = time.monotonic()


def epoch_properties(
    result: EpochResult, num_images: Mapping[str, int], seconds: float = float("nan")
) -> dict[str, npt.NDArray[np.generic]]:
    """Return the columns stored beside the weights of an epoch, ``[M]`` each.

    ``num_images`` counts the images of each split, ``seconds`` is the time of the epoch per model.
    """
    columns: dict[str, npt.NDArray[np.generic]] = {}
    for split, evaluation in result.evaluations.items():
        columns[f"{split}_loss"] = evaluation.loss.cpu().numpy()
        # the share in double precision, so that 23 of 25 is .92 and not .9200000167
        correct = np.rint(evaluation.accuracy.cpu().numpy().astype(np.float64) * num_images[split])
        columns[f"{split}_acc"] = correct / num_images[split]
    if "train_acc" in columns and "test_acc" in columns:
        columns["generalization_gap"] = np.subtract(columns["train_acc"], columns["test_acc"])
    columns["batch_loss"] = result.batch_loss.to("cpu", torch.float32).numpy()
    columns["status"] = np.where(result.diverged.cpu().numpy(), DIVERGED, OK).astype(object)
    columns["wall_time"] = np.full(len(result.rows), seconds)
    return columns
