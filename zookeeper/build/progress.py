"""Live progress of a build: models, epochs, ETA, best accuracy so far.

Workers in other processes, or on other hosts, report through small files beside the zoo; a worker in the
same process reports directly. Progress is for people: what goes wrong with it never stops a build.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from zookeeper.build.worker import Beat

FOLDER = "progress"
_SECONDS = 0.5
_LINE_SECONDS = 60.0
_BAR = "{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} model-epochs, {elapsed}, ETA {remaining}{postfix}"


class BeatWriter:
    """Write a worker's latest beat to its file, at most twice a second."""

    def __init__(self, root: str, cohort: str) -> None:
        self._folder = Path(root) / FOLDER
        self._path = self._folder / f"{cohort}.json"
        self._written = float("-inf")

    def __call__(self, beat: Beat) -> None:
        """Write the beat, or skip it if the last one is fresh or the disk does not take it."""
        if time.monotonic() - self._written < _SECONDS:
            return
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        with suppress(OSError):
            self._folder.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(asdict(beat)))
            temporary.replace(self._path)
        self._written = time.monotonic()


class BuildProgress:
    """Progress over the model-epochs of a zoo, on stderr: a bar on a terminal, else a line a minute.

    Parameters
    ----------
    root
        The zoo directory.
    cohorts
        Number of models by cohort, all of the zoo.
    done
        Last committed epoch by cohort; a cohort that is missing has not begun.
    num_epochs
        Epochs of training of each model.
    best
        Best test accuracy among what is committed, NaN if there is none.
    show
        Whether to show anything.
    """

    def __init__(
        self,
        root: Path,
        cohorts: dict[str, int],
        done: dict[str, int],
        *,
        num_epochs: int,
        best: float = float("nan"),
        show: bool = True,
    ) -> None:
        self._folder = root / FOLDER
        self._num_epochs = num_epochs
        self._cohorts = dict(cohorts)
        self._seen = {name: done.get(name, 0) for name in cohorts}
        self._show = show
        self.best = best
        self._remove_folder()
        self._bar = tqdm(
            total=sum(cohorts.values()) * num_epochs,
            initial=self.num_model_epochs,
            unit_scale=True,
            desc="building ",
            disable=None if show else True,
            bar_format=_BAR,
            dynamic_ncols=True,
            mininterval=0.2,
        )
        self._lines = show and self._bar.disable
        self._started = self._last_line = time.monotonic()
        self._initial = self.num_model_epochs
        self._bar.set_postfix_str(self._text, refresh=False)

    @property
    def num_finished(self) -> int:
        """Models whose last epoch is done, those of earlier runs included."""
        return sum(self._cohorts[name] for name, epoch in self._seen.items() if epoch >= self._num_epochs)

    @property
    def num_model_epochs(self) -> int:
        """Epochs done, summed over the models."""
        return sum(self._cohorts[name] * epoch for name, epoch in self._seen.items())

    def __enter__(self) -> BuildProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._remove_folder()

    def say(self, line: str) -> None:
        """Show a line on stderr, above the bar."""
        if self._show:
            tqdm.write(line, file=sys.stderr)

    def beat(self, beat: Beat) -> None:
        """Show a sign of life; one that is older than what was seen changes nothing."""
        news = max(0, beat.epoch - self._seen[beat.cohort])
        self._seen[beat.cohort] += news
        if beat.best_test_acc == beat.best_test_acc and not self.best >= beat.best_test_acc:
            self.best = beat.best_test_acc
        self._describe()
        self._bar.update(news * beat.num_models)

    def poll(self) -> None:
        """Read the files of all workers; one that cannot be read now is read next time."""
        for path in self._folder.glob("*.json"):
            with suppress(OSError, ValueError, TypeError, KeyError):
                self.beat(Beat(**json.loads(path.read_text())))

    @property
    def _text(self) -> str:
        best = "-" if self.best != self.best else f"{self.best:.1%}"
        return f"models {self.num_finished:,}/{sum(self._cohorts.values()):,}, best {best}"

    def _describe(self) -> None:
        if self._lines and time.monotonic() - self._last_line >= _LINE_SECONDS:
            self._last_line = time.monotonic()
            done, total = self.num_model_epochs, sum(self._cohorts.values()) * self._num_epochs
            rate = (done - self._initial) / (self._last_line - self._started)
            left = "?" if rate == 0 else tqdm.format_interval((total - done) / rate)
            self.say(f"{done:,}/{total:,} model-epochs, ETA {left}, {self._text}")
        elif not self._lines:
            self._bar.set_postfix_str(self._text, refresh=False)

    def _remove_folder(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
