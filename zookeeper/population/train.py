"""Train a cohort: many models at once, each as if it were alone.

Every model has its own learning rate, weight decay, momentum, dropout, initial weights, data order and
dropout stream. Models are processed in tiles small enough for the cache; inside a tile one backward
pass and one optimiser step serve all. Nothing a member computes enters another member's numbers, so a
diverged member stays NaN and harms nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from zookeeper.errors import InputError
from zookeeper.population.augment import NO_AUGMENTATION, PURPOSE, AugmentSettings, augment
from zookeeper.population.convolution import interleave
from zookeeper.population.evaluate import Evaluation, Images, evaluate
from zookeeper.population.loss import loss_and_gradient
from zookeeper.population.lower import Population
from zookeeper.population.optimise import Hyperparameters, Optimizer, StepFactors
from zookeeper.population.precision import FLOAT32, check_precision, training_precision
from zookeeper.population.randomness import (
    DropoutStream,
    epoch_orders,
    num_train_images,
    stream_keys,
    train_subsets,
)
from zookeeper.population.schedule import NO_SCHEDULE, Schedule
from zookeeper.population.stepping import TileSteps
from zookeeper.population.tiles import cut, tile_slices

_INPUT_BYTES = 200_000_000


@dataclass(frozen=True)
class TrainingData:
    """Images of one set on one device: uint8 ``[n, C, H, W]``, labels int64 ``[n]``, the three parts.

    ``mean`` and ``std`` are per channel on the 0..1 scale. ``augment`` changes training batches, never evaluations.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: dict[str, torch.Tensor]
    mean: torch.Tensor
    std: torch.Tensor
    augment: AugmentSettings = NO_AUGMENTATION

    def normalise(self, images: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Turn uint8 images into network inputs: (value / 255 - mean) / std per channel."""
        mean, std = (v.to(dtype).view(-1, 1, 1) for v in (self.mean, self.std))
        return images.to(dtype, copy=True).div_(255.0).sub_(mean).div_(std)  # in place: sets may be large

    def part(self, split: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images and labels of one split."""
        index = self.indices[split]
        return self.normalise(self.images[index], dtype), self.labels[index]

    def is_small(self, dtype: torch.dtype) -> bool:
        """Whether all images are kept as network inputs; larger sets stay bytes, normalised batch by batch."""
        return self.images.numel() * dtype.itemsize <= _INPUT_BYTES


@dataclass(frozen=True)
class StoredPart:
    """One split as stored bytes; a slice of it is normalised when it is asked for."""

    data: TrainingData
    index: torch.Tensor
    dtype: torch.dtype

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, part: slice) -> torch.Tensor:
        return self.data.normalise(self.data.images[self.index[part]], self.dtype)


@dataclass(frozen=True)
class Cohort:
    """Generating factors of M models that train together, one entry per model.

    What they share is shared because it changes shapes or steps: optimiser, batch size, architecture,
    ``train_fraction`` (the share of the training images that each model sees, its own subset by its seed).
    ``schedules`` is one name per model, or empty for none; with schedules, ``num_epochs`` says how long
    they last, whatever part of the training one call runs. ``precision`` is that of products in training
    (`zookeeper.population.precision`); evaluation is in the dtype of the weights.
    """

    seeds: tuple[int, ...]
    lr: tuple[float, ...]
    weight_decay: tuple[float, ...]
    momentum: tuple[float, ...]
    dropout: tuple[float, ...]
    optimizer: str
    batch_size: int
    nesterov: bool = False
    train_fraction: float = 1.0
    schedules: tuple[str, ...] = ()
    num_epochs: int = 0
    precision: str = FLOAT32

    def __post_init__(self) -> None:
        if not 0 < self.train_fraction <= 1:
            raise InputError(f"cohort: train_fraction {self.train_fraction}; expected a number in (0, 1].")
        schedules = self.schedules or (NO_SCHEDULE,) * len(self.seeds)
        lengths = {len(v) for v in (self.seeds, self.lr, self.weight_decay, self.momentum, self.dropout, schedules)}
        if lengths != {len(self.seeds)} or not self.seeds:
            raise InputError(f"cohort: factors of {sorted(lengths)} models; expected one value per model.")

    @property
    def num_models(self) -> int:
        """M."""
        return len(self.seeds)


@dataclass(frozen=True)
class EpochResult:
    """A population after one epoch.

    ``rows`` is the live matrix ``[M, P]``: copy it to keep it. ``batch_loss`` is the mean loss of the
    mini-batches as they were trained on, ``[M]``, NaN before the first epoch. ``evaluations`` has one
    `Evaluation` per split. ``state`` holds what a resumed run needs.
    """

    epoch: int
    rows: torch.Tensor
    batch_loss: torch.Tensor
    evaluations: dict[str, Evaluation]
    diverged: torch.Tensor
    state: dict[str, torch.Tensor]


def _stored_inputs(data: TrainingData, dtype: torch.dtype) -> torch.Tensor:
    """Images normalised once if that takes little memory, else uint8 to normalise per batch.

    ``[n, C, H, W]`` on a CPU, where whole images are gathered as rows and brought into the stack's form as one
    transposition; elsewhere ``[n, H, W, C]``.
    """
    pixels = data.normalise(data.images, dtype) if data.is_small(dtype) else data.images
    return pixels.contiguous() if pixels.device.type == "cpu" else pixels.movedim(1, -1).contiguous()


class CohortTrainer:
    """Training state of one cohort; `train_cohort` drives it.

    Parameters
    ----------
    population
        Stacked architecture.
    cohort
        Factors of the M models.
    data
        Images.
    rows
        ``[M, P]`` weights to start from; owned and changed in place.
    state
        Optimiser slots of an earlier run, for resuming; empty to start.
    tile
        Most models in one pass of training or of evaluation; None leaves the choice to the engine. It changes
        what runs at once and how much memory that takes, not which models come out.
    """

    def __init__(
        self,
        population: Population,
        cohort: Cohort,
        data: TrainingData,
        rows: torch.Tensor,
        state: dict[str, torch.Tensor] | None = None,
        *,
        tile: int | None = None,
    ) -> None:
        if rows.shape != (cohort.num_models, population.layout.num_weights):
            raise InputError(
                f"train: rows have shape {tuple(rows.shape)}; "
                f"expected ({cohort.num_models}, {population.layout.num_weights})."
            )
        check_precision(cohort.precision, rows.device.type)
        self.population, self.cohort, self.data, self.rows = population, cohort, data, rows
        device, dtype = rows.device, rows.dtype
        self.steps_on_device = device.type == "cuda"
        self._device_steps: dict[int, TileSteps] = {}
        self.trainable = slice(0, population.layout.num_trainable)

        def vector(values: tuple[float, ...]) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=device)[:, None]

        factors = Hyperparameters(vector(cohort.lr), vector(cohort.weight_decay), vector(cohort.momentum))
        if state:
            self.optimizer = Optimizer(cohort.optimizer, factors, state, nesterov=cohort.nesterov)
        else:
            start = rows[:, self.trainable]
            self.optimizer = Optimizer.fresh(cohort.optimizer, factors, start, nesterov=cohort.nesterov)
        self.order_keys = stream_keys(cohort.seeds, "order", device)
        self.dropout_keys = stream_keys(cohort.seeds, "dropout", device)
        self.augment_keys = stream_keys(cohort.seeds, PURPOSE, device)
        self.dropout_p = torch.tensor(cohort.dropout, dtype=torch.float32, device=device)
        self.has_dropout = any(p > 0 for p in cohort.dropout)
        self.tiles = tile_slices(population, cohort.num_models, cohort.batch_size, device)
        self._evaluated_together = [slice(0, cohort.num_models)]
        if tile is not None:
            self.tiles = self._evaluated_together = [part for whole in self.tiles for part in cut(whole, tile)]
        self.train_index = data.indices["train"]
        self.num_images = num_train_images(len(self.train_index), cohort.train_fraction)
        self.subset_keys = stream_keys(cohort.seeds, "subset", device)
        self.steps_per_epoch = -(-self.num_images // cohort.batch_size)
        self.schedule: Schedule | None = None
        if set(cohort.schedules) - {NO_SCHEDULE}:
            num_steps = cohort.num_epochs * self.steps_per_epoch
            self.schedule = Schedule(cohort.schedules, num_steps, device=device, dtype=dtype)
        self._inputs = _stored_inputs(data, dtype)
        self._parts = {split: self._evaluated(split) for split in data.indices}

    def train_epoch(self, epoch: int) -> torch.Tensor:
        """Run epoch ``epoch`` (1 is the first) for all models; return the mean batch loss ``[M]``."""
        losses = torch.empty(self.cohort.num_models, dtype=self.rows.dtype, device=self.rows.device)
        with training_precision(self.cohort.precision, self.rows.device):
            for tile in self.tiles:
                losses[tile] = self._steps(tile).run(epoch) if self.steps_on_device else self._train_tile(tile, epoch)
        return losses

    def _steps(self, tile: slice) -> TileSteps:
        """Return the steps of a tile with every number that changes kept on the device."""
        if tile.start not in self._device_steps:
            self._device_steps[tile.start] = TileSteps(self, tile)
        return self._device_steps[tile.start]

    def epoch_images(self, tile: slice, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the images of an epoch in order, ``[U, n]`` for the seeds of a tile, and which seed a member has."""
        unique, member_of = torch.unique(self.order_keys[tile], return_inverse=True)
        orders = epoch_orders(unique, epoch, self.num_images)  # [U, n]
        if self.num_images < len(self.train_index):
            firsts = torch.zeros_like(unique).scatter_(0, member_of, self.subset_keys[tile])
            orders = train_subsets(firsts, len(self.train_index), self.cohort.train_fraction).gather(1, orders)
        return self.train_index[orders], member_of

    def _train_tile(self, tile: slice, epoch: int) -> torch.Tensor:
        rows = self.rows[tile]
        optimizer = self.optimizer.narrow(tile)
        num_models, size = rows.shape[0], self.cohort.batch_size
        orders, member_of = self.epoch_images(tile, epoch)
        total = torch.zeros(num_models, dtype=rows.dtype, device=rows.device)
        for number in range(self.steps_per_epoch):
            index = orders[:, number * size : (number + 1) * size]  # [U, B]
            index = index[0] if len(orders) == 1 else index[member_of]  # [B] or [M, B]
            step = (epoch - 1) * self.steps_per_epoch + number + 1
            setting = None if self.schedule is None else self.schedule.at(step).narrow(tile)
            loss = self.learn(rows, optimizer, tile, index, step, optimizer.factors(step, setting))
            total += loss * index.shape[-1]
        return total / self.num_images

    def _batch(self, index: torch.Tensor, tile: slice, step: int | torch.Tensor) -> torch.Tensor:
        """Gather network inputs of image numbers ``[B]`` (all of one seed) or ``[M, B]``."""
        if self.data.augment.changes_images:
            keys = self.augment_keys[tile][: 1 if index.ndim == 1 else None]
            pixels = augment(self.data.images[index], keys, step, self.data.augment)
            pixels = pixels[0] if index.ndim == 1 else pixels
            if pixels.ndim == 5 and self.population.stacks_images:
                pixels = interleave(pixels)
        else:
            pixels = self._gather(index)
        if pixels.dtype == self.rows.dtype:
            return pixels
        return self.data.normalise(pixels, self.rows.dtype)

    def _gather(self, index: torch.Tensor) -> torch.Tensor:
        """Take stored inputs by number: ``[B, C, H, W]`` or ``[M, B, C, H, W]``, ready for the first operation."""
        stacks = index.ndim == 2 and self.population.stacks_images
        if self._inputs.device.type != "cpu":
            pixels = self._inputs[index].movedim(-1, -3)
            return interleave(pixels) if stacks else pixels
        rows = self._inputs.flatten(1)
        shape = self._inputs.shape[1:]
        if not stacks:
            return rows.index_select(0, index.reshape(-1)).view(*index.shape, *shape)
        images = rows.index_select(0, index.t().reshape(-1)).view(index.shape[1], -1, *shape[1:])  # [B, M*C, H, W]
        images = images.contiguous(memory_format=torch.channels_last)
        return torch.unflatten(images, 1, (-1, shape[0])).transpose(0, 1)

    def learn(
        self,
        rows: torch.Tensor,
        optimizer: Optimizer,
        tile: slice,
        index: torch.Tensor,
        step: int | torch.Tensor,
        factors: StepFactors,
    ) -> torch.Tensor:
        """Take one optimizer step with the weights of a tile, in place; return the loss before it, ``[M]``.

        Nothing in it depends on values on the host: with ``step`` as a tensor it can be captured as a CUDA graph.
        """
        num_models = rows.shape[0]
        images = self._batch(index, tile, step)
        labels = self.data.labels[index].expand(num_models, index.shape[-1])
        dropout = None
        if self.has_dropout:
            dropout = DropoutStream(self.dropout_keys[tile], step, self.dropout_p[tile])
        leaf = rows.detach().requires_grad_()
        logits, statistics = self.population.forward_training(leaf, images, dropout)
        logits = logits.to(rows.dtype)
        loss, gradient = loss_and_gradient(logits, labels)
        (grads,) = torch.autograd.grad(logits, leaf, gradient)
        optimizer.update(rows[:, self.trainable], grads[:, self.trainable], factors)
        for name, values in statistics.items():
            rows[:, self.population.layout.block(name).columns] = values
        return loss

    def _evaluated(self, split: str) -> tuple[Images, torch.Tensor]:
        """Images and labels of a split as evaluation reads them."""
        if self.data.is_small(self.rows.dtype):
            return self.data.part(split, self.rows.dtype)
        index = self.data.indices[split]
        return StoredPart(self.data, index, self.rows.dtype), self.data.labels[index]

    def evaluate(self) -> dict[str, Evaluation]:
        """Loss and accuracy on every split."""
        found: dict[str, Evaluation] = {}
        for split, (images, labels) in self._parts.items():
            parts = [
                evaluate(self.population, self.rows[members], images, labels) for members in self._evaluated_together
            ]
            found[split] = Evaluation(
                torch.cat([part.loss for part in parts]), torch.cat([part.accuracy for part in parts])
            )
        return found

    def result(self, epoch: int, batch_loss: torch.Tensor) -> EpochResult:
        """Evaluate and pack the state after an epoch."""
        evaluations = self.evaluate()
        finite = torch.isfinite(self.rows).all(1)
        for evaluation in evaluations.values():
            finite &= torch.isfinite(evaluation.loss)
        return EpochResult(epoch, self.rows, batch_loss, evaluations, ~finite, self.optimizer.state)


def train_cohort(
    population: Population,
    cohort: Cohort,
    data: TrainingData,
    rows: torch.Tensor,
    *,
    last_epoch: int,
    first_epoch: int = 0,
    state: dict[str, torch.Tensor] | None = None,
    tile: int | None = None,
) -> Iterator[EpochResult]:
    """Train and evaluate epoch by epoch, with at most ``tile`` models in one pass (None: the engine's choice).

    Yields the untrained population as epoch 0 (only when ``first_epoch`` is 0), then every epoch up to
    ``last_epoch``. To resume after epoch e, pass the rows and the optimiser state of epoch e and
    ``first_epoch=e + 1``: the results have the same bits as without the interruption.
    """
    trainer = CohortTrainer(population, cohort, data, rows, state, tile=tile)
    if first_epoch == 0:
        yield trainer.result(0, torch.full((cohort.num_models,), np.nan, dtype=rows.dtype, device=rows.device))
    for epoch in range(max(1, first_epoch), last_epoch + 1):
        yield trainer.result(epoch, trainer.train_epoch(epoch))
