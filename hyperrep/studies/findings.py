"""What a task of a study gets and gives: a scene with a zoo and a trained model; facts and single networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from hyperrep.studies.benches import Bench
from hyperrep.tasks.features import UNTRAINED
from hyperrep.training.saved import HyperRepresentation, load
from zookeeper.errors import InputError
from zookeeper.spec.document import Section
from zookeeper.spec.schema import ZooSpec

EMBEDDING = "embedding"


@dataclass(frozen=True, eq=False)
class Findings:
    """What a task measured.

    ``facts`` has one row per number: its keys, ``measure``, ``value``, and ``spread`` (standard deviation over
    networks or seeds) where there is one. ``items`` has one row per network, for figures of distributions.
    """

    facts: pd.DataFrame
    items: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True, eq=False)
class Scene:
    """Where a task is carried out: a zoo, the other zoos of the study, and the folder of a training."""

    bench: Bench
    others: Mapping[str, Bench]
    folder: Path | None = None
    seed: int = 0

    @cached_property
    def hyper(self) -> HyperRepresentation:
        """The trained hyper-representation.

        Raises
        ------
        InputError
            If it was trained on another architecture than the zoo's.
        """
        assert self.folder is not None
        hyper = load(self.folder)
        if hyper.layout.digest != self.bench.zoo.layout.digest:
            raise InputError(
                f"{self.folder}: was trained on another architecture than {self.bench.path}. "
                "Remove the folder and run the study again."
            )
        return hyper

    @cached_property
    def diverged(self) -> str:
        """Why the training ended early; empty if it did not."""
        assert self.folder is not None
        return str(json.loads((self.folder / "result.json").read_text())["diverged"] or "")


OnScene = Callable[[Scene, Any], Findings]
OnSpec = Callable[[ZooSpec, Any], Findings]


@dataclass(frozen=True, slots=True)
class Task:
    """A task by its parts: what is measured once per zoo, per training, or from a zoo's specification alone.

    Parameters
    ----------
    settings
        What a study may say about it.
    on_zoo, on_training, on_spec
        The parts it has.
    others
        Whether a result depends on the other zoos of the study too.
    needs_others
        Whether it cannot be carried out, with settings, on one zoo alone.
    diverged
        Whether it has something to say about a training that diverged.
    version
        Raised when it computes something else, so that finished studies measure anew.
    """

    settings: type[Section]
    on_zoo: OnScene | None = None
    on_training: OnScene | None = None
    on_spec: OnSpec | None = None
    others: bool = False
    needs_others: Callable[[Any], bool] = lambda settings: False
    diverged: bool = False
    version: int = 1


def merged_untrained(names: pd.Series) -> pd.Series:
    """Feature names with the untrained encoders of all seeds under one.

    >>> merged_untrained(pd.Series(["W", "untrained encoder 1"])).tolist()
    ['W', 'untrained encoder']
    """
    return names.where(~names.str.startswith(UNTRAINED), UNTRAINED)


def as_facts(frame: pd.DataFrame, measures: Sequence[str], keys: Sequence[str] = ()) -> pd.DataFrame:
    """One row per number of a wide table; ``NAME_std`` becomes the spread of ``NAME``.

    >>> wide = pd.DataFrame({"models": ["all"], "l2": [2.0], "l2_std": [0.5], "agreement": [0.9]})
    >>> as_facts(wide, ["l2", "agreement"], ["models"]).to_dict("list")
    {'models': ['all', 'all'], 'measure': ['l2', 'agreement'], 'value': [2.0, 0.9], 'spread': [0.5, nan]}
    """
    parts = []
    for name in measures:
        spread = frame[f"{name}_std"] if f"{name}_std" in frame else float("nan")
        part = frame[list(keys)].assign(measure=name, value=frame[name].astype(float), spread=spread)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
