"""The study of structure and behaviour: does a behavioural loss make decoded networks work?

One zoo, two hyper-representations that differ in the behavioural loss alone; probes, reconstructions and
samples of both; claims checked against what was measured. Source: "Structure and Behavior in Weight Space
Representation Learning", sections 4.2.1 to 4.2.3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyperrep.baselines.weight_statistics import weight_statistics
from hyperrep.report.tables import ReportTable
from hyperrep.sampling import PcaKde
from hyperrep.studies.config import StudyConfig
from hyperrep.studies.parallel import TrainingJob, train_all
from hyperrep.studies.steps import Step, StepResult, run_step
from hyperrep.studies.study import SUBJECTS, UNTRAINED, Study
from hyperrep.studies.writing import write_report
from hyperrep.tasks.generate import examine_samples, sample_rows, summarise_samples
from hyperrep.tasks.probe import probe
from hyperrep.tasks.reconstruct import STAND_IN, compare, compare_stand_in, summarise
from hyperrep.tasks.sampled import store_samples
from hyperrep.tasks.split import Role, ZooSplit, select_on_validation
from hyperrep.training.saved import HyperRepresentation
from zookeeper.build import Workers, build_zoo
from zookeeper.errors import BuildError
from zookeeper.spec.plan import make_plan
from zookeeper.spec.schema import load_spec
from zookeeper.store.files import hash_bytes
from zookeeper.store.header import canonical_json

SAVED_FILES = ("model.safetensors", "config.json", "layout.json", "scaling.json", "log.csv")
_TASK_VERSION = 2  # raise when a task computes something else, so that finished studies are measured anew


def run_study(
    config: StudyConfig, folder: Path, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[ReportTable]]:
    """Carry a study out: zoo, training, tasks, report. What is done and unchanged is skipped.

    Parameters
    ----------
    folder
        Where everything the study makes is written, except the zoo.
    say
        Receives one line per step, for a person to follow.

    Returns
    -------
    The content of ``results.json``, and the tables for a person.
    """
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(config, folder, say)
    built = build_zoo_if_asked(study)
    steps = [*built, *_measure(study)]
    others = [study.again(seed) for seed in range(1, config.seeds)]
    for other in others:
        _measure(other)
    return write_report(study, steps, others)


def build_zoo_if_asked(study: Study) -> list[StepResult]:
    """Build or finish the zoo if the study names its specification; a complete zoo is left as it is."""
    zoo = study.config.zoo
    if zoo.spec is None:
        return []
    study.say(f"zoo: {zoo.path} from {zoo.spec}")
    plan = make_plan(load_spec(Path(zoo.spec)))
    summary = build_zoo(plan, Path(zoo.path), Workers(num_workers=zoo.workers or os.cpu_count() or 1))
    if summary.failures:
        failed = "; ".join(f"{name}: {reason}" for name, reason in summary.failures.items())
        raise BuildError(f"{zoo.path}: some cohorts failed ({failed}). Run the same command again.")
    study.say(f"zoo: {summary.num_models:,} models, {summary.num_checkpoints:,} checkpoints, {summary.seconds:.1f} s")
    return [StepResult("zoo", {}, summary.seconds, skipped=False)]


def train_step(study: Study) -> Step:
    """Train both hyper-representations, in parallel."""
    jobs = [
        TrainingJob(
            study.subject(role).label,
            study.train_config(role),
            study.zoo.path,
            study.folder / study.model_name(role),
        )
        for role in SUBJECTS
    ]
    outputs = tuple(f"{study.model_name(role)}/{name}" for role in SUBJECTS for name in SAVED_FILES)
    return Step("train", study.training_inputs, outputs, lambda: train_all(jobs, study.say))


def task_steps(study: Study, trained: Mapping[str, str]) -> list[Step]:
    """Probe, reconstruct and generate with the trained models, whose files' hashes are given."""
    config = study.config
    base = {"version": _TASK_VERSION, "zoo": study.zoo_identity, "models": dict(trained), "epochs": config.epochs}
    labels = {role: study.subject(role).label for role in SUBJECTS}
    generate = base | {"labels": labels, "generate": config.generate.model_dump(mode="json")}
    return [
        Step(
            "probe",
            base | {"labels": labels, "probe": config.probe.model_dump(mode="json")},
            ("tables/probes.csv",),
            lambda: run_probes(study),
        ),
        Step(
            "reconstruct",
            base | {"labels": labels},
            ("tables/reconstructions.csv", "tables/reconstruction_summary.csv"),
            lambda: run_reconstructions(study),
        ),
        Step(
            "generate",
            generate,
            ("tables/samples.csv", "tables/generation_summary.csv"),
            lambda: run_generation(study),
        ),
    ]


def run_probes(study: Study) -> None:
    """Probe both embeddings, the weights, their statistics and untrained encoders."""
    splits, layout = study.splits, study.zoo.layout
    features: dict[str, dict[Role, np.ndarray]] = {
        "W": {role: split.rows for role, split in splits.items()},
        "s(W)": {role: weight_statistics(split.rows, layout) for role, split in splits.items()},
    }
    behaviour = study.model("behaviour")
    for seed in study.config.probe.untrained_seeds:
        features[f"{UNTRAINED} {seed}"] = _embed(behaviour.untrained(seed), splits)
    for role in SUBJECTS:
        features[study.subject(role).label] = _embed(study.model(role), splits)
    frames: dict[Role, pd.DataFrame] = {role: split.frame for role, split in splits.items()}
    settings = study.config.probe
    study.write_table("probes", probe(features, frames, numeric=settings.numeric, categorical=settings.categorical))


def run_reconstructions(study: Study) -> None:
    """Reconstruct the test-split models with both hyper-representations and compare on test images.

    Beside them stands what an autoencoder reaches that decodes everything to one good network.
    """
    test = study.splits["test"]
    comparisons, summaries = [], []
    for role in SUBJECTS:
        label = study.subject(role).label
        comparison = compare(test, np.asarray(study.model(role).reconstruct(test.rows)), study.examiner)
        comparisons.append(comparison.assign(losses=label))
        summaries.append(summarise(comparison).assign(losses=label))
    stand_in = compare_stand_in(study.splits["train"], test, study.examiner)
    summaries.append(summarise(stand_in).assign(losses=STAND_IN))
    study.write_table("reconstructions", pd.concat(comparisons))
    study.write_table("reconstruction_summary", pd.concat(summaries))


def run_generation(study: Study) -> None:
    """Sample networks with both hyper-representations, measure them, and store them as zoos."""
    settings = study.config.generate
    sampler = PcaKde(settings.components, settings.bandwidth)
    tables, summaries = [], []
    for role in SUBJECTS:
        label = study.subject(role).label
        generator = np.random.default_rng(settings.seed)
        rows = sample_rows(study.model(role), study.anchors, sampler, settings.samples, generator)
        samples = examine_samples(rows, study.anchors, study.examiner)
        summary = summarise_samples(samples, rows, study.anchors, study.zoo.frame, study.examiner)
        chosen = np.arange(len(samples)) == select_on_validation(samples)
        tables.append(samples.assign(losses=label, selected=chosen))
        summaries.append(summary.assign(losses=label))
        _store_samples(study, role, rows, samples)
    study.write_table("samples", pd.concat(tables))
    study.write_table("generation_summary", pd.concat(summaries))


def _store_samples(study: Study, role: str, rows: np.ndarray, samples: pd.DataFrame) -> None:
    """Write the samples as a zoo of kind "sampled", under a name made of their content."""
    settings = study.config.generate.model_dump(mode="json")
    target = (
        study.folder / "samples" / f"{role}-{hash_bytes(canonical_json([settings, hash_bytes(rows.tobytes())]))[:12]}"
    )
    if not target.exists():
        sampler = {"name": "pca-kde", **settings}
        store_samples(
            target,
            rows,
            samples,
            study.zoo,
            study.anchors,
            sampler=sampler,
            model=study.folder / study.model_name(role),
        )


def _embed(hyper: HyperRepresentation, splits: dict[Role, ZooSplit]) -> dict[Role, np.ndarray]:
    return {role: np.asarray(hyper.embed(split.rows)) for role, split in splits.items()}


def _measure(study: Study) -> list[StepResult]:
    """Train both hyper-representations and carry out every task."""
    trained = _carry_out(study, train_step(study))
    return [trained, *(_carry_out(study, step) for step in task_steps(study, trained.files))]


def _carry_out(study: Study, step: Step) -> StepResult:
    study.say(f"{step.name} ...")
    result = run_step(step, study.folder)
    study.say(f"{step.name}: {'unchanged, kept' if result.skipped else f'{result.seconds:.1f} s'}")
    return result
