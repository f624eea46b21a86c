"""Train a hyper-representation on rows in memory: AdamW, one cycle, checkpoints, resume to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from hyperrep.config import TrainConfig
from hyperrep.training.data import FitData
from hyperrep.training.journal import Journal
from hyperrep.training.ranks import SINGLE, Ranks
from hyperrep.training.saved import HyperRepresentation
from hyperrep.training.trainer import Trainer, TrainingDivergedError

__all__ = ["OnStep", "TrainingDivergedError", "fit"]

OnStep = Callable[[int, Mapping[str, float]], None]


def fit(
    config: TrainConfig,
    data: FitData,
    out: str | Path,
    *,
    resume: bool = True,
    progress: bool = False,
    on_step: OnStep | None = None,
    ranks: Ranks = SINGLE,
) -> HyperRepresentation:
    """Train on rows in memory and save the result in a folder.

    The weights after the last step are a function of configuration and data alone: batches, views and
    queries are drawn from generators keyed by (seed, purpose, step). A run that was killed and started
    again ends with the same bits as one that was not (on the CPU, with the same number of threads and
    processes). With ``training.stopping`` the weights that were best on validation are saved.

    Parameters
    ----------
    config
        What to train. ``training.threads`` is not applied here.
    data
        Rows, and whatever the loss needs beside them.
    out
        Folder for the saved model, ``checkpoint.safetensors``, ``log.csv`` and, if asked for, TensorBoard's events.
    resume
        Continue from the folder's checkpoint; with False it is deleted first.
    progress
        Show a bar with the parts of the loss and the validation values on stderr.
    on_step
        Called after each step with the number of steps done and the logged values.
    ranks
        The processes that share every batch (`hyperrep.training.ranks.joined_ranks`); all call this function with
        the same data.

    Raises
    ------
    InputError
        If the data do not fit the configuration, or the checkpoint belongs to other data.
    TrainingDivergedError
        If a part of the loss or the gradient is not finite; the weights were not changed by that step.
    """
    trainer = Trainer.open(config, data, Path(out), resume=resume, ranks=ranks)
    take_all_steps(trainer, config, progress=progress, on_step=on_step)
    return trainer.finish()


def take_all_steps(trainer: Trainer, config: TrainConfig, *, progress: bool, on_step: OnStep | None) -> None:
    """Take what steps a training has left, with its journal, bar and checkpoints."""
    with Journal(
        trainer.folder,
        config,
        steps_done=trainer.done,
        num_steps=trainer.num_steps,
        progress=progress,
        is_silent=not trainer.objective.ranks.is_first,
    ) as journal:
        while not trainer.is_over:
            values = trainer.advance(journal)
            if on_step is not None:
                on_step(trainer.done, values)
