"""One trial of a search: a training that goes from one evaluation to the next, and can be left and taken up."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zookeeper
from hyperrep.config.tune import load_tune
from hyperrep.training.fit import TrainingDivergedError
from hyperrep.training.journal import Journal
from hyperrep.training.ranks import SINGLE
from hyperrep.training.stopping import check_watched
from hyperrep.training.trainer import Trainer
from hyperrep.training.zoo import read_fit_data
from zookeeper.errors import InputError
from zookeeper.population.process import prepare_process
from zookeeper.store.files import write_durable

SAVED_STEP = "saved_step"  # file that says at which step the saved weights were
WORST = 1e30  # what a search is told of a training that diverged: finite, for schedulers compute with it


class Trial:
    """The training of one trial in its own folder.

    Parameters
    ----------
    source
        The search, as `hyperrep.config.tune.load_tune` reads it.
    number
        Which of its trials.
    zoo
        Folder of the zoo.
    out
        Folder of the search; the trial's own is ``trials/NNN`` in it.
    """

    def __init__(self, source: str, number: int, zoo: str, out: str) -> None:
        self.settings, trials = load_tune(source)
        config = trials[number]
        prepare_process(config.training.threads)
        data = read_fit_data(config, zookeeper.open(zoo))
        check_watched(config, data, self.settings.metric, f"{source} metric")
        self.folder = trial_folder(Path(out), number)
        self.trainer = Trainer.open(config, data, self.folder, resume=True, ranks=SINGLE)
        done, total = self.trainer.done, self.trainer.num_steps
        self.journal = Journal(self.folder, config, steps_done=done, num_steps=total)

    def advance(self) -> dict[str, Any]:
        """Train until the next evaluation and return its values; ``done`` says whether the training is over."""
        values: dict[str, float] = {}
        try:
            while not self.trainer.is_over and not _has_validation(values):
                values = self.trainer.advance(self.journal)
        except TrainingDivergedError as error:
            worst = WORST if self.settings.mode == "min" else -WORST
            return {"value": worst, "steps": self.trainer.done, "status": f"diverged: {error}", "done": True}
        if not values:  # it was over when it was taken up
            values = evaluations(self.folder)[-1]
        over = self.trainer.is_over
        if over:
            self._finish()
        return {
            "value": values[f"val_{self.settings.metric}"],
            "steps": self.trainer.done,
            "status": "done" if over else "running",
            "done": over,
        }

    def _finish(self) -> None:
        stopping = self.trainer.stopping
        self.trainer.finish()
        self.journal.flush()
        step = self.trainer.done if stopping is None else stopping.best_step
        write_durable(self.folder / SAVED_STEP, f"{step}\n".encode())

    def close(self) -> None:
        """Leave the training as it stands: a later trial of this number takes it up here."""
        self.journal.close()
        if not self.trainer.is_over:
            self.trainer.save()


def trial_folder(out: Path, number: int) -> Path:
    """Folder of a trial."""
    return out / "trials" / f"{number:03d}"


def saved_row(folder: Path) -> dict[str, float]:
    """What was measured of the weights that are saved: the best with early stopping, else the last."""
    rows, note = evaluations(folder), folder / SAVED_STEP
    step = float(note.read_text()) if note.exists() else rows[-1]["step"]
    return next(row for row in rows if row["step"] == step)


def evaluations(folder: Path) -> list[dict[str, float]]:
    """Rows of a trial's log that hold validation values, as numbers.

    Raises
    ------
    InputError
        If the log holds none.
    """
    with (folder / "log.csv").open(newline="") as file:
        rows = [{name: float(text) for name, text in row.items() if text} for row in csv.DictReader(file)]
    measured = [row for row in rows if _has_validation(row)]
    if not measured:
        raise InputError(f"{folder / 'log.csv'}: holds no validation values. Delete the folder; the trial runs again.")
    return measured


def _has_validation(values: Mapping[str, float]) -> bool:
    return any(name.startswith("val_") for name in values)
