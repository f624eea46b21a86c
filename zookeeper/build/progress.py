"""Live progress of a build: models, epochs, ETA, best accuracy so far.

Workers in other processes, or on other hosts, report through small files beside the zoo; a worker in the
same process reports directly.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from zookeeper.build.worker import Beat

FOLDER = "progress"
_SECONDS = 0.5


class BeatWriter:
    """Write a worker's latest beat to its file, at most twice a second."""

    def __init__(self, root: str, cohort: str) -> None:
        folder = Path(root) / FOLDER
        folder.mkdir(exist_ok=True)
        self._path = folder / f"{cohort}.json"
        self._written = 0.0

    def __call__(self, beat: Beat) -> None:
        """Write the beat, or skip it if the last one is fresh."""
        if time.monotonic() - self._written < _SECONDS:
            return
        temporary = self._path.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(beat)))
        temporary.replace(self._path)
        self._written = time.monotonic()


class BuildProgress:
    """Progress bar over model-epochs, on stderr, silent where stderr is not a terminal."""

    def __init__(
        self, root: Path, *, num_models: int, num_epochs: int, done: dict[str, int], show: bool = True
    ) -> None:
        self._folder = root / FOLDER
        self._seen: dict[str, int] = {}
        self._models: dict[str, int] = {}
        self._num_epochs = num_epochs
        self._finished = 0
        self._total_models = num_models
        self.best = float("nan")
        self.num_diverged: dict[str, int] = {}
        shutil.rmtree(self._folder, ignore_errors=True)
        self._bar = tqdm(
            total=num_models * num_epochs,
            initial=sum(done.values()),
            unit="epoch",
            unit_scale=True,
            desc="building",
            disable=None if show else True,
            dynamic_ncols=True,
            mininterval=0.2,
        )

    def __enter__(self) -> BuildProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self, cohort: str, epoch: int, num_models: int) -> None:
        """Note where a cohort starts: the epoch after which it goes on (0 if untrained)."""
        self._seen[cohort] = epoch
        self._models[cohort] = num_models

    def beat(self, beat: Beat) -> None:
        """Show a sign of life."""
        before = self._seen.get(beat.cohort, 0)
        if beat.epoch > before:
            self._bar.update((beat.epoch - before) * beat.num_models)
            self._seen[beat.cohort] = beat.epoch
        if not self.best >= beat.best_test_acc and beat.best_test_acc == beat.best_test_acc:
            self.best = beat.best_test_acc
        self.num_diverged[beat.cohort] = beat.num_diverged
        if beat.epoch == self._num_epochs and before < self._num_epochs:
            self._finished += beat.num_models
        self._describe()

    def poll(self) -> None:
        """Read the files of all workers."""
        if not self._folder.is_dir():
            return
        for path in self._folder.glob("*.json"):
            self.beat(Beat(**json.loads(path.read_text())))

    def finished_before(self, num_models: int) -> None:
        """Count models that were complete before this run."""
        self._finished += num_models
        self._describe()

    def _describe(self) -> None:
        best = "-" if self.best != self.best else f"{self.best:.1%}"
        self._bar.set_postfix_str(f"models {self._finished}/{self._total_models}, best {best}", refresh=False)
