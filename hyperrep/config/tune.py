"""What to tune: a training, the keys that vary, how they are searched, and the validation value that decides."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from hyperrep.config.document import TrainConfig, packaged_config
from hyperrep.config.numbers import NonNegative, NonNegativeInt, PositiveInt
from hyperrep.config.training import Watched
from zookeeper.errors import InputError
from zookeeper.spec.document import Document, Section, load_document, validate_document
from zookeeper.spec.problems import Problem, raise_problems

Text = Annotated[str, Field(min_length=1)]
RISING = ("agreement", "probe_r2")  # more is better; of the parts of the loss less is


class AxisSection(Section):
    """The values of one key: ``choices``, or for a random search a range from ``low`` to ``high``.

    ``scale`` says whether numbers are drawn evenly, evenly in their logarithm, or as whole numbers (both ends
    included).
    """

    choices: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    low: float | None = None
    high: float | None = None
    scale: Literal["linear", "log", "integer"] = "linear"

    @model_validator(mode="after")
    def _check(self) -> AxisSection:
        ranged = self.low is not None and self.high is not None and self.low < self.high
        if (self.choices is None) != ranged or (self.choices is not None and (self.low, self.high) != (None, None)):
            raise_problems([Problem((), "the values of a key are unclear", "choices, or low below high")])
        if self.scale == "log" and (self.low or 0) <= 0:
            raise_problems([Problem(("low",), "a logarithm needs positive numbers", "more than 0", str(self.low))])
        return self

    def draw(self, generator: random.Random) -> Any:
        """Draw one value."""
        if self.choices is not None:
            return generator.choice(self.choices)
        assert self.low is not None
        assert self.high is not None
        if self.scale == "integer":
            return generator.randint(math.ceil(self.low), math.floor(self.high))
        if self.scale == "log":
            return math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        return generator.uniform(self.low, self.high)


class AshaSection(Section):
    """Stop trials that fall behind (asynchronous successive halving).

    Of the trials that reach 1, ``reduction``, ``reduction`` ^ 2, ... times ``grace`` evaluations, only the best of
    ``reduction`` go on.

    Source: Li et al., "A System for Massively Parallel Hyperparameter Tuning" (2020).
    """

    grace: PositiveInt = 1
    reduction: Annotated[int, Field(ge=2)] = 3


class TuneConfig(Section):
    """A search over trainings.

    ``config`` is the training that is changed: a YAML file, looked for beside this one and then in the working
    directory, or the name of a packaged one. ``space`` maps its keys, written with dots, to values. A ``grid`` tries
    all combinations, ``random`` draws ``samples`` of them, each from its own key. The trial with the best ``metric``
    on the validation models wins; test models are never looked at. ``workers`` trials run at a time, each on ``cpus``
    and ``gpus``.
    """

    name: Text
    config: Text
    zoo: str | None = None
    search: Literal["grid", "random"] = "grid"
    samples: PositiveInt | None = None
    seed: NonNegativeInt = 0
    space: Annotated[dict[Text, AxisSection], Field(min_length=1)]
    metric: Watched = "total"
    asha: AshaSection | None = None
    workers: PositiveInt = 1
    cpus: PositiveInt = 1
    gpus: NonNegative = 0.0

    @model_validator(mode="after")
    def _check(self) -> TuneConfig:
        problems = []
        if (self.samples is None) != (self.search == "grid"):
            expected = "no samples with a grid" if self.search == "grid" else "how many to draw"
            problems.append(Problem(("samples",), "the number of trials is unclear", expected, str(self.samples)))
        for key, axis in self.space.items():
            if self.search == "grid" and axis.choices is None:
                problems.append(Problem(("space", key), "a grid needs a list", "choices", "a range"))
        varied = [key for key in self.space if key.startswith("loss.")]
        if self.metric == "total" and varied:
            what = f"totals of trials that differ in {', '.join(varied)} cannot be compared"
            problems.append(Problem(("metric",), what, "a part of the loss, agreement or probe_r2", "total"))
        raise_problems(problems)
        return self

    @property
    def mode(self) -> Literal["min", "max"]:
        """Which values of the metric are better."""
        return "max" if self.metric in RISING else "min"

    @property
    def trials(self) -> tuple[Mapping[str, Any], ...]:
        """What every trial changes, by dotted key. A random trial's draw depends on the seed and its number alone.

        >>> axes = {"loss.beta": AxisSection(choices=(0.1, 0.2)), "training.lr": AxisSection(choices=(1e-3,))}
        >>> [dict(trial) for trial in TuneConfig(name="a", config="000", space=axes, metric="agreement").trials]
        [{'loss.beta': 0.1, 'training.lr': 0.001}, {'loss.beta': 0.2, 'training.lr': 0.001}]
        """
        if self.search == "grid":
            values = [axis.choices or () for axis in self.space.values()]
            return tuple(dict(zip(self.space, combination, strict=True)) for combination in itertools.product(*values))
        assert self.samples is not None
        drawn = []
        for number in range(self.samples):
            generator = random.Random(f"{self.seed}:{number}")
            drawn.append({key: axis.draw(generator) for key, axis in self.space.items()})
        return tuple(drawn)


def load_tune(path: str | Path) -> tuple[TuneConfig, tuple[TrainConfig, ...]]:
    """Read a search and the training of every trial; ``path`` is a YAML file or the name of a packaged one.

    Raises
    ------
    SpecError
        If the file, the training it changes, or a trial is not valid; names file and key.
    InputError
        If a file is missing.
    """
    source = Path(path)
    packaged = Path(__file__).parents[1] / "tunings" / f"{path}.yaml"
    if not source.is_file() and len(source.parts) == 1 and packaged.is_file():
        source = packaged
    settings = validate_document(load_document(source), TuneConfig)
    base = load_document(_find_config(settings.config, source))
    return settings, tuple(_changed(base, settings, number, source) for number in range(len(settings.trials)))


def _find_config(name: str, source: Path) -> Path:
    places = (source.resolve().parent / name, Path(name), packaged_config(name))
    for place in places:
        if place.is_file():
            return place
    raise InputError(f"{source} config: no file {name!r} beside it or in the working directory, nor a packaged name.")


def _changed(base: Document, settings: TuneConfig, number: int, source: Path) -> TrainConfig:
    """The training of a trial, checked as if it had been written down."""
    value = json.loads(json.dumps(base.value))
    for key, change in settings.trials[number].items():
        *sections, last = key.split(".")
        part = value
        for section in sections:
            part = part.setdefault(section, {})
            if not isinstance(part, dict):
                raise InputError(f"{source} space.{key}: {section} is not a section of {base.where}.")
        part[last] = change
    value["name"] = f"{settings.name}_{number:03d}"
    return validate_document(Document(value, f"{source}, trial {number}: {base.where}"), TrainConfig)


def tune_digest(settings: TuneConfig, trials: tuple[TrainConfig, ...]) -> str:
    """16 hex digits over everything that may change the results."""
    kept = settings.model_dump(mode="json", exclude={"name", "zoo", "config", "workers", "cpus", "gpus"})
    parts = [kept, [(trial.digest, trial.epochs_of_zoo, trial.training.evaluate_every) for trial in trials]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
