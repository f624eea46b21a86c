"""Trainings of a study in a cache that all studies share: done once, in processes, continued where they stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperrep.config import TrainConfig, packaged_config
from hyperrep.studies.benches import Bench
from hyperrep.studies.catalogue import Found
from hyperrep.studies.overrides import load_changed_config
from hyperrep.studies.parallel import TrainingJob, train_all
from hyperrep.studies.steps import Step, is_done, run_alone
from hyperrep.studies.table_config import Scale, TrainingSource
from zookeeper.errors import InputError
from zookeeper.store.files import hash_bytes
from zookeeper.store.header import canonical_json

RESULT = "result.json"


@dataclass(frozen=True, eq=False)
class Training:
    """One hyper-representation of a study: where it plays, how it is called, with which seed, and where it lies."""

    bench: Bench
    label: str
    seed: int
    config: TrainConfig
    may_diverge: bool
    cache: Path

    @property
    def inputs(self) -> dict[str, Any]:
        """What its weights depend on: the zoo's content and its configuration."""
        return {"zoo": self.bench.identity, "config": self.config.digest, "epochs": self.config.epochs_of_zoo}

    @property
    def name(self) -> str:
        """Folder below the cache; other inputs get another one."""
        return f"trainings/{hash_bytes(canonical_json(self.inputs))[:16]}"

    @property
    def folder(self) -> Path:
        """Where it is saved."""
        return self.cache / self.name

    @property
    def step(self) -> Step:
        """The step that leaves `RESULT`, which holds the hashes of the saved files or why it diverged."""
        return Step(self.name.replace("/", "-"), self.inputs, (f"{self.name}/{RESULT}",), lambda: None)

    @property
    def job(self) -> TrainingJob:
        """What a process is told."""
        label = f"{self.label} on {self.bench.role}" + (f", seed {self.seed}" if self.seed else "")
        return TrainingJob(
            label, self.config, self.bench.path, self.folder, result=RESULT, may_diverge=self.may_diverge,
            split=self.bench.split,
        )  # fmt: skip

    @property
    def seconds(self) -> float:
        """How long it trained; counted from its last start if it was interrupted."""
        return float(json.loads((self.folder / RESULT).read_text())["seconds"])


def plan_trainings(found: Found, scale: Scale, benches: Mapping[str, Bench], seeds: int, cache: Path) -> list[Training]:
    """Every training of a study: zoos by trainings by seeds.

    Raises
    ------
    SpecError
        If a configuration with its changes is not valid.
    InputError
        If a configuration is missing.
    """
    study, section = found.study, found.at(scale)
    chosen = {label: study.trainings[label] for label in (study.trainings if study.use is None else study.use)}
    planned = []
    for role, bench in benches.items():
        for label, source in chosen.items():
            if source.zoos is not None and role not in source.zoos:
                continue
            changes = {**source.change, **section.change, **section.trainings.get(label, {})}
            config = load_changed_config(_find_config(source, found.folder), changes)
            epochs = bench.epochs if bench.epochs is not None else config.epochs_of_zoo
            for seed in range(seeds):
                training = config.training.model_copy(update={"seed": config.training.seed + seed})
                again = config.model_copy(update={"training": training, "epochs_of_zoo": epochs})
                planned.append(Training(bench, label, seed, again, source.may_diverge, cache))
    return planned


def _find_config(source: TrainingSource, folder: Path) -> Path:
    for path in (folder / source.config, packaged_config(source.config)):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in packaged_config("000").parent.glob("*.yaml")))
    raise InputError(f"{source.config}: no such training configuration; expected a path or one of {known}.")


def carry_out_trainings(trainings: Sequence[Training], workers: int, say: Callable[[str], None]) -> list[float]:
    """Train what is not in the cache yet, ``workers`` at a time, and return the seconds each took.

    Equal trainings are done once. Each is recorded as soon as it ends, so a kill costs at most what the
    checkpoints of those in flight had not saved.
    """
    distinct = {training.name: training for training in trainings}
    waiting = [training for training in distinct.values() if not is_done(training.step, training.cache)]
    if waiting:
        say(f"training: {len(waiting)} of {len(distinct)}, {min(workers, len(waiting))} at a time")
    train_all([training.job for training in waiting], say, workers=workers)
    for training in distinct.values():
        run_alone(training.step, training.cache, say)
    return [training.seconds for training in trainings]
