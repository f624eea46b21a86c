"""Carry out a study of a paper's table or figure: zoos, trainings, tasks, then the tables. What is done is kept.

Everything expensive lies in a cache that studies share, under names made of what it depends on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hyperrep.studies.benches import Bench, assign_zoos, find_spec, open_bench
from hyperrep.studies.catalogue import Found, missing, settings_of
from hyperrep.studies.findings import EMBEDDING, Findings, Scene, Task
from hyperrep.studies.measures import TASKS
from hyperrep.studies.overrides import load_changed_spec
from hyperrep.studies.steps import Step, run_alone
from hyperrep.studies.table_config import Scale
from hyperrep.studies.trainings import Training, carry_out_trainings, plan_trainings
from hyperrep.tasks.features import UNTRAINED
from zookeeper.errors import InputError
from zookeeper.spec.document import Section
from zookeeper.store.files import hash_bytes, write_durable
from zookeeper.store.header import canonical_json

FACT_KEYS = ("task", "zoo", "training", "model", "run_seed")


@dataclass(frozen=True, eq=False)
class Measured:
    """What a study measured, with where it came from.

    ``facts`` and ``items`` hold all tasks in long form; keys are text, absent ones empty.
    """

    facts: pd.DataFrame
    items: pd.DataFrame
    zoos: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Run:
    """A study at a scale, with the places it works in."""

    found: Found
    scale: Scale
    cache: Path
    seeds: int = 1
    zoos: Sequence[str] = ()
    workers: int = 1
    say: Callable[[str], None] = print

    @property
    def epochs(self) -> tuple[int, ...] | None:
        """Checkpoints that trainings and tasks see."""
        return self.found.at(self.scale).epochs or self.found.study.epochs

    def settings(self) -> dict[str, tuple[Task, Section]]:
        """Every task with its settings at this scale.

        Raises
        ------
        SpecError
            If a setting is unknown or out of range.
        """
        return {name: (TASKS[name], settings_of(self.found, self.scale, name)) for name in self.found.study.tasks}


def measure(run: Run) -> Measured:
    """Carry out what is not in the cache yet, and collect everything.

    Raises
    ------
    InputError
        If the study cannot be run yet, or a zoo, a configuration or a setting is wrong.
    BuildError
        If a zoo or a training fails.
    """
    study = run.found.study
    if waits_for := missing(study):
        raise InputError(f"{study.name}: not runnable yet: needs {waits_for}.")
    settings = run.settings()
    trains = any(task.on_training for task, _ in settings.values())
    benches = _open_benches(run) if trains or any(task.on_zoo for task, _ in settings.values()) else {}
    trainings = plan_trainings(run.found, run.scale, benches, run.seeds, run.cache) if trains else []
    trained = carry_out_trainings(trainings, run.workers, run.say)
    untrained = _names_of_untrained(trainings)
    seconds = {"trainings": round(sum(trained), 1), "tasks": 0.0}
    facts, items = [], []
    for keys, step in _task_steps(run, settings, benches, trainings):
        result = run_alone(step, run.cache, run.say)
        seconds["tasks"] = round(seconds["tasks"] + result.seconds, 1)
        found = _read(run.cache, step)
        facts.append(_keyed(found.facts, keys, untrained))
        if len(found.items):
            items.append(_keyed(found.items, keys, untrained))
    return Measured(
        _joined(facts, numbers=("value", "spread", "run_seed")), _joined(items), _describe(benches), seconds
    )


def _open_benches(run: Run) -> dict[str, Bench]:
    study, epochs = run.found.study, run.epochs
    if run.zoos:
        given = assign_zoos(run.zoos, tuple(study.on or study.zoos))
        return {role: Bench(role, path, epochs) for role, path in given.items()}
    sources = run.found.zoos(run.scale)
    if not sources:
        raise InputError(f"{study.name}: has no zoo at scale {run.scale}; expected another --scale, or --zoo PATH.")
    return {
        role: open_bench(role, source, run.found.folder, run.cache, epochs, run.say) for role, source in sources.items()
    }


_Keys = dict[str, Any]
_Chosen = Mapping[str, tuple[Task, Section]]


def _task_steps(
    run: Run, settings: _Chosen, benches: Mapping[str, Bench], trainings: Sequence[Training]
) -> Iterator[tuple[_Keys, Step]]:
    """Every task on every specification, zoo and training it has something to say about."""
    yield from _spec_steps(run, settings)
    for role, bench in benches.items():
        others = {name: other for name, other in benches.items() if name != role}
        scene = Scene(bench, others)
        for name, (task, section) in settings.items():
            if task.on_zoo is not None:
                inputs = {"zoo": bench.identity, "others": _identities(others) if task.others else {}}
                act = partial(task.on_zoo, scene, section)
                yield {"task": name, "zoo": role}, _step(run, name, section, inputs, act)
        for training in trainings:
            if training.bench is bench:
                yield from _training_steps(run, settings, training, others)


def _spec_steps(run: Run, settings: _Chosen) -> Iterator[tuple[_Keys, Step]]:
    """Tasks on the specifications of the paper's own zoos, whatever the scale."""
    study = run.found.study
    for name, (task, section) in settings.items():
        for role in () if task.on_spec is None else study.on or study.zoos:
            source = study.zoos[role]
            spec = load_changed_spec(find_spec(source.spec, run.found.folder), source.change)
            assert task.on_spec is not None
            act = partial(task.on_spec, spec, section)
            yield {"task": name, "zoo": role}, _step(run, name, section, {"spec": spec.digest}, act)


def _training_steps(
    run: Run, settings: _Chosen, training: Training, others: Mapping[str, Bench]
) -> Iterator[tuple[_Keys, Step]]:
    scene = Scene(training.bench, others, training.folder, training.seed)
    keys = {"zoo": training.bench.role, "training": training.label, "run_seed": training.seed}
    for name, (task, section) in settings.items():
        if task.on_training is None or (scene.diverged and not task.diverged):
            continue
        inputs = {"training": training.inputs, "others": _identities(others) if task.others else {}}
        act = partial(task.on_training, scene, section)
        yield {"task": name, **keys}, _step(run, name, section, inputs, act)


def _step(run: Run, name: str, section: Section, inputs: Mapping[str, Any], act: Callable[[], Findings]) -> Step:
    content = {
        "task": name, "version": TASKS[name].version, "settings": section.model_dump(mode="json"),
        "epochs": run.epochs, **inputs,
    }  # fmt: skip
    folder = f"tasks/{name}-{hash_bytes(canonical_json(content))[:16]}"

    def carry_out() -> None:
        run.say(f"{name} ...")
        found = act()
        (run.cache / folder).mkdir(parents=True, exist_ok=True)
        for kind, frame in (("facts", found.facts), ("items", found.items)):
            write_durable(run.cache / folder / f"{kind}.csv", frame.to_csv(index=False).encode())

    outputs = (f"{folder}/facts.csv", f"{folder}/items.csv")
    return Step(folder.replace("/", "-"), content, outputs, carry_out)


def _read(cache: Path, step: Step) -> Findings:
    facts, items = (cache / name for name in step.outputs)
    empty = items.stat().st_size <= 1
    return Findings(pd.read_csv(facts, dtype=_TEXT), pd.DataFrame() if empty else pd.read_csv(items, dtype=_TEXT))


_TEXT = dict.fromkeys(("model_id", "features", "property", "models", "split", "layer", "axis"), str)


def _keyed(frame: pd.DataFrame, keys: Mapping[str, Any], untrained: Mapping[str, str]) -> pd.DataFrame:
    """Add where it was measured; ``model`` is what stands in a row of a table: features, or the training."""
    label = str(keys.get("training", ""))
    known = frame["features"] if "features" in frame else pd.Series(label, index=frame.index)
    model = known.fillna(label).replace({EMBEDDING: label, UNTRAINED: untrained.get(label, UNTRAINED)})
    given = {"task": keys["task"], "zoo": keys["zoo"], "training": label, "run_seed": keys.get("run_seed", 0)}
    return frame.assign(**given, model=model)


def _joined(frames: Sequence[pd.DataFrame], *, numbers: Sequence[str] | None = None) -> pd.DataFrame:
    """Put frames below each other; every column becomes text but ``numbers`` (by default those that are numeric)."""
    if not frames:
        return pd.DataFrame(columns=[*FACT_KEYS, "measure", "value", "spread"])
    frame = pd.concat(frames, ignore_index=True)
    for name in frame.columns:
        stays = pd.api.types.is_numeric_dtype(frame[name]) if numbers is None else name in numbers
        if not stays:
            frame[name] = [_as_text(value) for value in frame[name]]
    return frame if "spread" in frame else frame.assign(spread=float("nan"))


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if pd.isna(value) else f"{value:g}"


def _names_of_untrained(trainings: Sequence[Training]) -> dict[str, str]:
    """One name if all encoders have one architecture, else one for each training."""
    shapes = {canonical_json(t.config.model_dump(mode="json", include={"tokens", "model"})) for t in trainings}
    if len(shapes) <= 1:
        return {training.label: UNTRAINED for training in trainings}
    return {training.label: f"untrained {training.label}" for training in trainings}


def _identities(benches: Mapping[str, Bench]) -> dict[str, Any]:
    return {role: bench.identity for role, bench in benches.items()}


def _describe(benches: Mapping[str, Bench]) -> dict[str, dict[str, Any]]:
    return {
        role: {
            "name": bench.zoo.header.name,
            "path": str(bench.path),
            "models": int(bench.zoo.frame["model_id"].nunique()),
            "checkpoints": len(bench.zoo.frame),
            "num_weights": bench.zoo.layout.num_weights,
            "trained": _trained(bench),
            **bench.identity,
        }
        for role, bench in benches.items()
    }


def _trained(bench: Bench) -> str:
    """How long its networks were trained, and on how many of the images if not on all; empty for foreign zoos."""
    spec = bench.zoo.header.spec
    if spec is None:
        return ""
    images, epochs = spec["images"], int(bench.zoo.frame["epoch"].max())
    share = float(images.get("share", 1))
    of_images = images["name"] if share == 1 else f"{share:.0%} of {images['name']}"
    return f", {epochs} epochs on {of_images}"
