"""A configured study and its folder, as a value that opens what it reads on first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

import zookeeper
from hyperrep.config import TrainConfig
from hyperrep.studies.config import StudyConfig, SubjectSection, load_subject
from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.generate import Anchors
from hyperrep.tasks.opening import build_examiner, read_split
from hyperrep.tasks.split import ROLES, Role, ZooSplit
from hyperrep.training.saved import HyperRepresentation, load
from zookeeper.errors import InputError
from zookeeper.store.files import hash_bytes, write_durable
from zookeeper.store.header import canonical_json
from zookeeper.store.records import read_commits

SUBJECTS = ("baseline", "behaviour")
UNTRAINED = "untrained encoder"


@dataclass(frozen=True, eq=False)
class Study:
    """A configured study and its folder; what it reads is opened on first use.

    ``seed`` is added to the seeds of the hyper-representations: 0 for the study itself.
    """

    config: StudyConfig
    folder: Path
    say: Callable[[str], None]
    seed: int = 0

    def again(self, seed: int) -> Study:
        """Return the same study with other seeds of its hyper-representations, in a folder below this one."""

        def say(line: str) -> None:
            self.say(f"seed {seed}: {line}")

        return replace(self, folder=self.folder / "seeds" / str(seed), say=say, seed=seed)

    @cached_property
    def zoo(self) -> zookeeper.Zoo:
        """The zoo, opened."""
        return zookeeper.open(self.config.zoo.path)

    @cached_property
    def zoo_identity(self) -> dict[str, str]:
        """Hash of everything stored in the zoo."""
        weights = sorted((*record.key, record.weights_xxh3) for record in read_commits(self.zoo.path))
        return {"header": self.zoo.header.digest, "weights": hash_bytes(canonical_json(weights))}

    @cached_property
    def splits(self) -> dict[Role, ZooSplit]:
        """The usable checkpoints of the study's epochs, by side of the zoo's split."""
        return {role: read_split(self.zoo, role, self.config.epochs) for role in ROLES}

    @cached_property
    def examiner(self) -> Examiner:
        """Runs networks on the zoo's images."""
        return build_examiner(self.zoo)

    @cached_property
    def anchors(self) -> Anchors:
        """The best train models at the study's last epoch."""
        return Anchors.select(self.splits["train"], share=self.config.generate.anchor_share)

    def subject(self, role: str) -> SubjectSection:
        """The hyper-representation that plays this part."""
        subject: SubjectSection = getattr(self.config.hyper_representations, role)
        return subject

    def train_config(self, role: str) -> TrainConfig:
        """How the hyper-representation that plays this part is trained."""
        config = load_subject(self.subject(role))
        training = config.training.model_copy(update={"seed": config.training.seed + self.seed})
        return config.model_copy(update={"training": training})

    @cached_property
    def training_inputs(self) -> dict[str, dict[str, Any]]:
        """What each hyper-representation's weights depend on: the zoo's content and its configuration."""
        configs = {role: self.train_config(role) for role in SUBJECTS}
        return {
            role: {"zoo": self.zoo_identity, "config": config.digest, "epochs": config.epochs_of_zoo}
            for role, config in configs.items()
        }

    def model_name(self, role: str) -> str:
        """Folder of a hyper-representation below the study's; other inputs get another folder."""
        return f"models/{role}-{hash_bytes(canonical_json(self.training_inputs[role]))[:8]}"

    def model(self, role: str) -> HyperRepresentation:
        """A trained hyper-representation; refused if it belongs to another architecture than the zoo."""
        folder = self.folder / self.model_name(role)
        hyper = load(folder)
        if hyper.layout.digest != self.zoo.layout.digest:
            raise InputError(
                f"{folder}: was trained on another architecture than {self.zoo.path}. "
                "Remove the folder and run the study again."
            )
        return hyper

    def table(self, name: str) -> pd.DataFrame:
        """A finished table of the study."""
        return pd.read_csv(self.folder / "tables" / f"{name}.csv")

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Store a table, whole or not at all."""
        (self.folder / "tables").mkdir(parents=True, exist_ok=True)
        write_durable(self.folder / "tables" / f"{name}.csv", frame.to_csv(index=False).encode())
