"""Where a training says how it goes: a CSV file, a bar on a terminal, TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hyperrep.config import TrainConfig
from hyperrep.training.log import TrainingLog
from zookeeper.errors import InputError


class Journal:
    """Take the values of every shown step to all places at once.

    ``log.csv`` is always written; a bar is shown if ``progress``, events go to the folder ``tensorboard`` if the
    configuration says so. With ``is_silent`` (all but the first of several processes) nothing is done at all.

    Raises
    ------
    InputError
        If TensorBoard is asked for and not installed.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        *,
        steps_done: int,
        num_steps: int,
        progress: bool = False,
        is_silent: bool = False,
    ) -> None:
        self._csv = None if is_silent else TrainingLog(folder / "log.csv", steps_done=steps_done)
        wanted = config.training.tensorboard and not is_silent
        self._board = open_board(folder / "tensorboard", steps_done) if wanted else None
        self._bar = tqdm(
            total=num_steps, initial=steps_done, desc=config.name, unit="step", disable=is_silent or not progress
        )
        self._latest: dict[str, str] = {}
        self._started = time.monotonic()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is left and end."""
        self.flush()
        self._bar.close()
        if self._board is not None:
            self._board.close()

    def show(self, step: int, values: Mapping[str, float], *, lr: float) -> None:
        """Write one row; the bar keeps the validation values until there are new ones."""
        if self._csv is not None:
            self._csv.add(step, values, lr=lr, seconds=time.monotonic() - self._started)
        self._latest |= {name: f"{value:.3g}" for name, value in values.items()}
        self._bar.set_postfix(self._latest, refresh=False)
        if self._board is not None:
            for name, value in values.items():
                side, _, part = name.rpartition("val_")
                self._board.add_scalar(f"{'validation' if part != name else 'train'}/{part or side}", value, step)
            self._board.add_scalar("train/lr", lr, step)

    def tick(self) -> None:
        """Move the bar by one step."""
        self._bar.update()

    def flush(self) -> None:
        """Bring everything to the disk."""
        if self._csv is not None:
            self._csv.flush()
        if self._board is not None:
            self._board.flush()


def open_board(folder: Path, steps_done: int) -> Any:
    """Open a TensorBoard writer that drops what an interrupted run had written after ``steps_done``.

    Raises
    ------
    InputError
        If the package is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            f"training.tensorboard: needs the package tensorboard ({error}). "
            "Install it with pip install 'weight-zookeeper[tensorboard]', or leave the key out; "
            "log.csv is written anyway."
        ) from error
    return SummaryWriter(str(folder), purge_step=steps_done + 1)
