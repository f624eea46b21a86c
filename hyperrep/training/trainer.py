"""One training between two steps: what is trained, where it stands, and what happens in a step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import xxhash

from hyperrep.config import ScaleSection, TrainConfig, TrainingSection
from hyperrep.training.batches import Batches
from hyperrep.training.checkpoint import CHECKPOINT_NAME, load_checkpoint, save_checkpoint
from hyperrep.training.data import FitData
from hyperrep.training.dropout import dropping
from hyperrep.training.journal import Journal
from hyperrep.training.ranks import Ranks
from hyperrep.training.ridge import best_r2
from hyperrep.training.saved import HyperRepresentation
from hyperrep.training.step import Objective
from hyperrep.training.stopping import Stopping, check_watched
from hyperrep.weights.scaling import Scaling
from zookeeper.errors import InputError, ZooError

PROBED_ROWS = 1024  # of the train rows, evenly spread: the probe of validation costs as much as one or two steps


class TrainingDivergedError(ZooError):
    """A loss part or the gradient is not finite; names step, part, rows and the last good checkpoint."""


@dataclass(eq=False)
class Trainer:
    """A training that can take its next step, look at itself, and write itself down.

    Parameters
    ----------
    objective
        The loss, with the autoencoder, the data and the processes that share every batch.
    optimizer
        AdamW over the autoencoder's weights.
    folder, identity
        Where the checkpoint lies and what it belongs to.
    num_steps, done
        Steps in all, and steps taken.
    stopping
        The best so far; None without early stopping.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    folder: Path
    identity: str
    num_steps: int
    done: int
    stopping: Stopping | None

    @classmethod
    def open(cls, config: TrainConfig, data: FitData, folder: Path, *, resume: bool, ranks: Ranks) -> Trainer:
        """Begin a training, or take up that of the folder's checkpoint.

        Raises
        ------
        InputError
            If the data do not fit the configuration, or the checkpoint belongs to other data.
        """
        data.check(config)
        settings = config.training
        if settings.stopping is not None:
            check_watched(config, data, settings.stopping.value, "fit: training.stopping.value")
        data = data.to(settings.device)
        folder.mkdir(parents=True, exist_ok=True)
        if settings.num_rows_of_batch(len(data.rows)) < ranks.size:
            raise InputError(
                f"fit: {ranks.size} processes share batches of {settings.num_rows_of_batch(len(data.rows))} rows; "
                "expected a row for each. Start fewer processes or raise training.batch_size."
            )
        if not resume and ranks.is_first:
            (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
        ranks.wait()
        scaling = Scaling.fit(data.rows, data.layout, by="block" if config.standardise == "block" else "layer")
        hyper = HyperRepresentation.initialise(
            config, data.layout, scaling, seed=settings.seed, provenance=data.provenance
        )
        model = hyper.model.to(settings.device)
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
        )
        identity = run_identity(config, data)
        stopping = None if settings.stopping is None else Stopping(settings.stopping)
        done, scales = load_checkpoint(folder, model, optimizer, identity=identity, stopping=stopping)
        scales = scales or initial_scales(Objective(config, hyper, data, ranks=ranks))
        objective = Objective(config, replace(hyper, loss_scales=scales), data, scales, ranks)
        return cls(objective, optimizer, folder, identity, settings.num_steps(len(data.rows)), done, stopping)

    @property
    def settings(self) -> TrainingSection:
        """The training section of the configuration."""
        return self.objective.config.training

    @property
    def is_over(self) -> bool:
        """Whether there is no further step: all are done, or early stopping has waited long enough."""
        return self.done >= self.num_steps or (self.stopping is not None and self.stopping.is_over)

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return learning_rate(self.done - 1, self.num_steps, self.settings)

    def is_due(self, every: int) -> bool:
        """Whether something that happens every so many steps happens now; always after the last step."""
        return self.is_over or self.done % every == 0

    def advance(self, journal: Journal) -> dict[str, float]:
        """Take one step and do what is due after it: validate, log, write the checkpoint; return what was measured."""
        values = self.step()
        shown = self.is_due(self.settings.log_every)
        if self.is_due(self.settings.evaluate_every):
            values |= self.validate()
            shown = True
        if shown or self.is_over:
            journal.show(self.done, values, lr=self.lr)
        journal.tick()
        if self.is_due(self.settings.checkpoint_every):
            journal.flush()
            self.save()
        return values

    def step(self) -> dict[str, float]:
        """Take one step and return the parts of the loss and the norm of the gradient.

        Raises
        ------
        TrainingDivergedError
            If one of them is not finite; then nothing was changed.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.done, self.num_steps, self.settings)
        with self._dropping():
            total, values, rows = self._loss()
            values["grad_norm"] = self._backward(total)
        self._check_finite(values, rows)
        self.optimizer.step()
        self.done += 1
        return values

    def _loss(self) -> tuple[torch.Tensor, dict[str, float], str]:
        """The loss of this step's batch, its parts as plain numbers, and a word on its rows."""
        return self._loss_of(self.objective, self.settings.batch_size)

    def _loss_of(self, objective: Objective, batch_size: int) -> tuple[torch.Tensor, dict[str, float], str]:
        numbers = _batches(objective, batch_size).of_step(self.done, seed=self.settings.seed)
        rows = objective.data.rows
        parts = objective.train_loss(rows[numbers.to(rows.device)], self.done)
        first = ", ".join(map(str, numbers[:4].tolist()))
        return parts.total, objective.values_of(parts), f"{first}{', ...' if len(numbers) > 4 else ''}"

    def validate(self) -> dict[str, float]:
        """Values on validation models with names ``val_...``; they decide about early stopping."""
        values = self.objective.ranks.agree(self._measure)
        if self.stopping is not None:
            self.stopping.update(values, self.done, self.objective.hyper.model)
        return values

    def save(self) -> None:
        """Replace the checkpoint."""
        if self.objective.ranks.is_first:
            save_checkpoint(
                self.folder,
                self.objective.hyper.model,
                self.optimizer,
                step=self.done,
                identity=self.identity,
                scales=self.objective.scales,
                stopping=self.stopping,
            )

    def finish(self) -> HyperRepresentation:
        """Save the last weights, or with early stopping the best ones, as a hyper-representation."""
        hyper = replace(self.objective.hyper, aligner=self.objective.data.aligner)
        if self.stopping is not None and self.stopping.weights:
            hyper.model.load_state_dict(self.stopping.weights)
        hyper.model.eval()
        if self.objective.ranks.is_first:
            hyper.save(self.folder)
        return hyper

    def _measure(self) -> dict[str, float]:
        values = self.objective.validate()
        score = probe_r2(self.objective.hyper, self.objective.data)
        if score is not None:
            values["probe_r2"] = score
        return {f"val_{name}": value for name, value in values.items()}

    def _dropping(self) -> AbstractContextManager[None]:
        objective, seed = self.objective, self.settings.seed
        rate = objective.config.model.dropout
        return dropping(objective.hyper.model, rate, seed=seed, step=self.done, rank=objective.ranks.rank)

    def _backward(self, total: torch.Tensor) -> float:
        """Write the gradient of the whole batch, clipped to a norm (0: not at all); return its norm before that."""
        weights = list(self.objective.hyper.model.parameters())
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.objective.ranks.sum_gradients(weights)
        limit = self.settings.clip if self.settings.clip > 0 else math.inf
        return float(torch.nn.utils.clip_grad_norm_(weights, limit))

    def _check_finite(self, values: Mapping[str, float], rows: str) -> None:
        bad = [name for name, value in values.items() if not math.isfinite(value)]
        if not bad:
            return
        parts = [name for name in bad if name not in ("total", "grad_norm")] or bad[:1]
        shown = ", ".join(f"{name} {value:.3g}" for name, value in values.items())
        checkpoint = self.folder / CHECKPOINT_NAME
        good = f"last good checkpoint: {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet"
        raise TrainingDivergedError(
            f"{self.folder}: step {self.done + 1}: {' and '.join(parts)} not finite ({shown}) on the batch of train "
            f"rows {rows}; {good}. "
            "Lower training.lr or training.clip, or raise loss.beta."
        )


def learning_rate(step: int, num_steps: int, settings: TrainingSection) -> float:
    """Learning rate of a step (counted from 0): linear warm-up, then half a cosine down to 0.

    >>> settings = TrainingSection(steps=100, lr=1.0, warmup=0.1)
    >>> [round(learning_rate(step, 100, settings), 3) for step in (0, 9, 54, 99)]
    [0.1, 1.0, 0.517, 0.0]
    """
    num_warm = round(settings.warmup * num_steps)
    if step < num_warm:
        return settings.lr * (step + 1) / num_warm
    share = (step - num_warm) / max(1, num_steps - num_warm)
    return settings.lr * 0.5 * (1 + math.cos(math.pi * share))


def run_identity(config: TrainConfig, data: FitData) -> str:
    """16 hex digits over configuration, layout, train rows and queries: what a checkpoint belongs to."""
    state = xxhash.xxh3_64(f"{config.digest}:{data.layout.digest}".encode())
    for tensor in (data.rows, data.queries, data.groups, *data.query_images.values()):
        if tensor is not None:
            state.update(tensor.detach().cpu().contiguous().numpy().data)
    return str(state.hexdigest())


def probe_r2(hyper: HyperRepresentation, data: FitData) -> float | None:
    """R2 of a ridge probe of test accuracy: fitted on train models, scored on validation models; None without targets.

    Test models and test images have no part in it.
    """
    if data.targets is None or data.val_targets is None or data.val_rows is None:
        return None
    chosen = np.unique(np.linspace(0, len(data.rows) - 1, min(PROBED_ROWS, len(data.rows))).round().astype(np.int64))
    features = np.asarray(hyper.embed(data.rows[torch.from_numpy(chosen).to(data.rows.device)]))
    val_features = np.asarray(hyper.embed(data.val_rows))
    return best_r2(features, data.targets.numpy()[chosen], val_features, data.val_targets.numpy())


def _batches(objective: Objective, batch_size: int) -> Batches:
    related, data = objective.config.training.batches, objective.data
    if related is None:
        return Batches(len(data.rows), batch_size)
    return Batches(len(data.rows), batch_size, data.groups, related.groups)


def initial_scales(objective: Objective) -> dict[str, float]:
    """What the parts of the loss are divided by: given, or measured on the first batch; empty for nothing."""
    scales, settings = objective.config.loss.scales, objective.config.training
    if isinstance(scales, ScaleSection):
        return scales.model_dump()
    if scales == "none":
        return {}
    rows = objective.data.rows
    first = _batches(objective, settings.batch_size).of_step(0, seed=settings.seed)
    return objective.measure_scales(rows[first.to(rows.device)])
