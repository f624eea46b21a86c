"""Train one autoencoder on several zoos: each batch of one of them or of all, always with a zoo's own queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import xxhash

from hyperrep.config import TrainConfig, TrainingSection
from hyperrep.config.numbers import apportion
from hyperrep.training.checkpoint import CHECKPOINT_NAME, load_checkpoint
from hyperrep.training.data import FitData
from hyperrep.training.fit import OnStep, fit, take_all_steps
from hyperrep.training.mixed import MixedRepresentation, Part
from hyperrep.training.ranks import SINGLE, Ranks
from hyperrep.training.saved import HyperRepresentation
from hyperrep.training.step import Objective
from hyperrep.training.stopping import Stopping, check_watched
from hyperrep.training.streams import keyed_generator
from hyperrep.training.trainer import Trainer, initial_scales, run_identity
from hyperrep.training.zoo import read_parts
from hyperrep.weights.scaling import Granularity, Scaling
from zookeeper.errors import InputError
from zookeeper.zoo import Zoo

ALL = "all"


def fit_zoos(
    config: TrainConfig,
    zoos: Sequence[Zoo],
    out: str | Path,
    *,
    resume: bool = True,
    progress: bool = False,
    allow_import: bool = False,
) -> HyperRepresentation | MixedRepresentation:
    """Train on the train splits of several zoos; of one alone this is `hyperrep.training.zoo.fit_zoo`.

    A zoo whose networks differ in activation counts as one zoo for each, if they must be run.
    """
    parts = [part for zoo in zoos for part in read_parts(config, zoo, allow_import=allow_import)]
    return fit_mixed(config, parts, out, resume=resume, progress=progress)


def fit_mixed(
    config: TrainConfig,
    parts: Sequence[FitData],
    out: str | Path,
    *,
    resume: bool = True,
    progress: bool = False,
    on_step: OnStep | None = None,
    ranks: Ranks = SINGLE,
) -> HyperRepresentation | MixedRepresentation:
    """Train one autoencoder on several data, and save it in a folder; `hyperrep.training.mixed.load_mixed` opens it.

    Each step belongs to one of the data, drawn by the number of their rows from (seed, step); or, with
    ``training.zoos_in_batch: all``, to all of them: rows of each by their numbers, the loss the mean over the rows of
    the batch, the contrastive part among the networks of one zoo. Data of the same layout, such as one architecture on
    two image sets, share a view and its scaling. Validation values are means over all validation rows. All else is as
    `hyperrep.training.fit.fit` says, and with a single part it is that.

    Raises
    ------
    InputError
        If data do not fit the configuration or each other, or the checkpoint belongs to other data.
    TrainingDivergedError
        If a part of the loss or the gradient is not finite; the weights were not changed by that step.
    """
    if len(parts) == 1:
        return fit(config, parts[0], out, resume=resume, progress=progress, on_step=on_step, ranks=ranks)
    trainer = open_mixed(config, parts, Path(out), resume=resume, ranks=ranks)
    take_all_steps(trainer, config, progress=progress, on_step=on_step)
    return trainer.finish_mixed()


def open_mixed(
    config: TrainConfig, parts: Sequence[FitData], folder: Path, *, resume: bool, ranks: Ranks = SINGLE
) -> MixedTrainer:
    """Begin a training on several data, or take up that of the folder's checkpoint."""
    settings = config.training
    check_parts(config, parts, settings, ranks)
    parts = [part.to(settings.device) for part in parts]
    folder.mkdir(parents=True, exist_ok=True)
    if not resume and ranks.is_first:
        (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
    ranks.wait()
    mixed = MixedRepresentation.initialise(config, _layouts(config, parts), seed=settings.seed)
    mixed.shared.to(settings.device)
    objectives = []
    for part in parts:
        view = mixed.for_layout(part.layout)
        view.model.to(settings.device)
        # rows of the training are aligned already
        objectives.append(Objective(config, replace(view, aligner=None), part, ranks=ranks))
    optimizer = torch.optim.AdamW(
        mixed.shared.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True
    )
    identity = xxhash.xxh3_64_hexdigest(" ".join(run_identity(config, part) for part in parts).encode())
    stopping = None if settings.stopping is None else Stopping(settings.stopping)
    model = objectives[0].hyper.model
    done, scales = load_checkpoint(folder, model, optimizer, identity=identity, stopping=stopping)
    scales = scales or initial_scales(objectives[part_of_step(0, parts, settings.seed)])
    objectives = [replace(one, scales=scales) for one in objectives]
    sizes = [len(part.rows) for part in parts]
    together = settings.zoos_in_batch == ALL
    num_steps = settings.num_steps(sum(sizes)) if together else sum(map(settings.num_steps, sizes))
    num_steps = num_steps if settings.steps is None else settings.steps
    mixed = replace(mixed, provenance=tuple(part.provenance for part in parts), loss_scales=scales)
    return MixedTrainer(
        objectives[0], optimizer, folder, identity, num_steps, done, stopping, mixed=mixed, objectives=tuple(objectives)
    )


@dataclass(eq=False)
class MixedTrainer(Trainer):
    """A training on several data, in turns or in every step; ``objective`` stands for what all of them share.

    The checkpoint is that of one training: weights, optimiser and step, for whose turn it is follows from the step.
    """

    mixed: MixedRepresentation = field(kw_only=True)
    objectives: tuple[Objective, ...] = field(kw_only=True)

    def _loss(self) -> tuple[torch.Tensor, dict[str, float], str]:
        """That of the data whose turn it is, or the mean over all rows of a batch of all data."""
        data = [one.data for one in self.objectives]
        sizes = {part_of_step(self.done, data, self.settings.seed): self.settings.batch_size}
        if self.settings.zoos_in_batch == ALL:
            sizes = dict(enumerate(rows_in_batch(self.settings.batch_size, data)))
        totals, values, places = [], dict[str, float](), []
        for number, size in sizes.items():
            total, parts, rows = self._loss_of(self.objectives[number], size)
            share = size / self.settings.batch_size
            totals.append(total * share if share < 1 else total)
            for name, value in parts.items():
                values[name] = values.get(name, 0.0) + share * value
            places.append(f"{rows} of zoo {number + 1}")
        return torch.stack(totals).sum(), values, " and ".join(places)

    def finish_mixed(self) -> MixedRepresentation:
        """Save the last weights, or with early stopping the best ones."""
        if self.stopping is not None and self.stopping.weights:
            self.objective.hyper.model.load_state_dict(self.stopping.weights)
        mixed = replace(self.mixed, views=tuple(replace(one, loss_scales=self.mixed.loss_scales) for one in self.views))
        mixed.shared.eval()
        if self.objective.ranks.is_first:
            mixed.save(self.folder)
        return mixed

    @property
    def views(self) -> tuple[HyperRepresentation, ...]:
        """The views of all architectures."""
        return self.mixed.views

    def _measure(self) -> dict[str, float]:
        sums: dict[str, tuple[float, int]] = {}
        current = self.objective
        for one in self.objectives:
            self.objective, rows = one, one.data.val_rows
            for name, value in super()._measure().items():
                total, num = sums.get(name, (0.0, 0))
                count = 0 if rows is None else len(rows)
                sums[name] = total + value * count, num + count
        self.objective = current
        return {name: total / num for name, (total, num) in sums.items()}


def part_of_step(step: int, parts: Sequence[FitData], seed: int) -> int:
    """Which of the data a step is trained on, drawn by their numbers of rows.

    >>> from zookeeper.nets.layout import WeightLayout
    >>> layout = WeightLayout.from_shapes({"a.weight": ((1, 1), "weight")})
    >>> parts = [FitData(torch.zeros(num, 1), layout) for num in (30, 10)]
    >>> sum(part_of_step(step, parts, seed=0) for step in range(400))
    96
    """
    shares = torch.tensor([float(len(part.rows)) for part in parts])
    return int(torch.multinomial(shares, 1, generator=keyed_generator(seed, "zoo", step)))


def rows_in_batch(batch_size: int, parts: Sequence[FitData]) -> tuple[int, ...]:
    """How many rows of each of the data a batch of all of them holds, by their numbers of rows.

    >>> from zookeeper.nets.layout import WeightLayout
    >>> layout = WeightLayout.from_shapes({"a.weight": ((1, 1), "weight")})
    >>> rows_in_batch(8, [FitData(torch.zeros(num, 1), layout) for num in (30, 10)])
    (6, 2)
    """
    return apportion(batch_size, [len(part.rows) for part in parts])


def check_parts(config: TrainConfig, parts: Sequence[FitData], settings: TrainingSection, ranks: Ranks) -> None:
    """Raise an InputError if data do not fit the configuration or each other."""
    if len(parts) < 1:
        raise InputError("fit_mixed: there are no data; expected one part or more.")
    if config.model.kind != "sane" or config.tokens.encoding == "neuron":
        raise InputError(
            f"fit_mixed: model.kind {config.model.kind} with tokens.encoding {config.tokens.encoding} belongs to one "
            "architecture; expected kind sane with encoding fixed or weight."
        )
    for number, part in enumerate(parts):
        part.check(config)
        if settings.stopping is not None:
            check_watched(config, part, settings.stopping.value, f"fit_mixed: part {number}: training.stopping.value")
        if settings.num_rows_of_batch(len(part.rows)) < ranks.size:
            raise InputError(f"fit_mixed: part {number} has too few rows for {ranks.size} processes. Start fewer.")
    if settings.zoos_in_batch == ALL:
        _check_batch_of_all(config, parts, ranks)
    aligned = [part.layout.digest for part in parts if part.aligner is not None]
    if len(set(aligned)) < len(aligned):
        raise InputError(
            "fit_mixed: two parts of one architecture are aligned to different references. Leave align out, or give "
            "one zoo per architecture."
        )


def _check_batch_of_all(config: TrainConfig, parts: Sequence[FitData], ranks: Ranks) -> None:
    settings, fewest = config.training, max(ranks.size, 2 if config.loss.gamma > 0 else 1)
    for number, size in enumerate(rows_in_batch(settings.batch_size, parts)):
        if not fewest <= size <= len(parts[number].rows):
            raise InputError(
                f"fit_mixed: training.zoos_in_batch: all takes {size} rows of a batch of {settings.batch_size} from "
                f"part {number}, which has {len(parts[number].rows)}; expected {fewest} or more, and no more than "
                "there are. Choose another training.batch_size."
            )


def _layouts(config: TrainConfig, parts: Sequence[FitData]) -> list[Part]:
    """Layout, scaling and alignment of every architecture, each once."""
    groups: dict[str, list[FitData]] = {}
    for part in parts:
        groups.setdefault(part.layout.digest, []).append(part)
    by: Granularity = "block" if config.standardise == "block" else "layer"
    return [
        (group[0].layout, Scaling.fit(torch.cat([one.rows for one in group]), group[0].layout, by), group[0].aligner)
        for group in groups.values()
    ]
