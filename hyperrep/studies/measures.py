"""Tasks that studies name in YAML, with typed settings: probes, reconstruction, generation, curves, counts.

Each is a thin layer over `hyperrep.tasks` and `hyperrep.analysis` that puts the result into one long form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from hyperrep.analysis.reconstruction import weights_r2
from hyperrep.baselines.projections import ProjectionName
from hyperrep.studies.analysis_measures import ANALYSIS_TASKS
from hyperrep.studies.findings import EMBEDDING, Findings, Scene, Task, as_facts, merged_untrained
from hyperrep.studies.front_measures import FRONT_TASKS
from hyperrep.studies.generative_measures import GENERATIVE_TASKS
from hyperrep.studies.spec_measures import SPEC_TASKS
from hyperrep.tasks.class_scores import add_class_f1
from hyperrep.tasks.features import FeatureSets, feature_sets
from hyperrep.tasks.probe_splits import probe_on_splits, summarise_probes
from hyperrep.tasks.reconstruct import STAND_IN, compare, compare_stand_in, summarise
from hyperrep.tasks.regroup import SplitScheme
from hyperrep.tasks.split import ROLES, Role
from zookeeper.spec.document import Section

PositiveInt = Annotated[int, Field(ge=1)]


class ProbeSettings(Section):
    """Which splits are probed, which projections and how many untrained encoders stand beside; F1 of classes."""

    splits: Annotated[tuple[str, ...], Field(min_length=1)] = ("stored",)
    untrained: PositiveInt = 3
    projections: tuple[ProjectionName, ...] = ()
    num_components: PositiveInt = 64
    class_f1: bool = False


def probe_baselines(scene: Scene, settings: ProbeSettings) -> Findings:
    """W, s(W) and projections of W."""
    sets = feature_sets(
        scene.bench.zoo.layout, None, projections=settings.projections, num_components=settings.num_components
    )
    return _probe(scene, settings, sets)


def probe_embedding(scene: Scene, settings: ProbeSettings) -> Findings:
    """The embedding, and untrained encoders of its architecture."""
    seeds = range(settings.untrained)
    sets = feature_sets(
        scene.bench.zoo.layout, scene.hyper, name=EMBEDDING, untrained_seeds=tuple(seeds), projections=()
    )
    fixed = {name: apply for name, apply in sets.fixed.items() if name not in ("W", "s(W)")}
    return _probe(scene, settings, replace(sets, fixed=fixed))


def _probe(scene: Scene, settings: ProbeSettings, sets: FeatureSets) -> Findings:
    splits = scene.bench.splits
    if settings.class_f1:
        splits = {role: add_class_f1(splits[role], scene.bench.examiner) for role in ROLES}
    scores = probe_on_splits(splits, sets, [SplitScheme(by) for by in settings.splits])
    # Spread of one value is what the bootstrap over test models says; of several, that of the seeds.
    table = summarise_probes(scores)
    on_validation = scores.assign(features=merged_untrained(scores["features"])).groupby(
        ["split", "features", "property"]
    )
    keys = ["split", "features", "property"]
    facts = as_facts(table.rename(columns={"value": "score", "score": "kind", "spread": "score_std"}), ["score"], keys)
    chosen = on_validation["val_value"].agg(val_value="mean", val_value_std="std").reset_index()
    return Findings(pd.concat([facts, as_facts(chosen, ["val_value"], keys)], ignore_index=True))


class ReconstructSettings(Section):
    """Whose models are reconstructed, on that side's images."""

    split: Role = "test"


def reconstruct(scene: Scene, settings: ReconstructSettings) -> Findings:
    """Distance, agreement and accuracy of reconstructions."""
    originals = scene.bench.splits[settings.split]
    decoded = np.asarray(scene.hyper.reconstruct(originals.rows))
    comparison = compare(originals, decoded, scene.bench.examiner, images=settings.split)
    return Findings(_reconstruction_facts(comparison), comparison.drop(columns=["split"]))


def reconstruct_baseline(scene: Scene, settings: ReconstructSettings) -> Findings:
    """What one good network in the place of every reconstruction would reach."""
    splits, examiner = scene.bench.splits, scene.bench.examiner
    stand_in = compare_stand_in(splits["train"], splits[settings.split], examiner)
    return Findings(_reconstruction_facts(stand_in).assign(features=STAND_IN))


def _reconstruction_facts(comparison: pd.DataFrame) -> pd.DataFrame:
    measures = ("l2", "agreement", "acc", "acc_reconstructed", "best_acc", "best_acc_reconstructed")
    return as_facts(summarise(comparison), measures, ["models"])


def reconstruct_weights(scene: Scene, settings: NoSettings) -> Findings:
    """R2 of reconstructed weights of train and test models; nothing if contrast alone was trained, without decoder."""
    loss = scene.hyper.config.loss
    if loss.gamma == 1 and loss.cycle == 0:
        return Findings(pd.DataFrame(columns=["property", "measure", "value"]))
    records = []
    roles: dict[Role, str] = {"test": "reconstruction", "train": "reconstruction of train models"}
    for role, name in roles.items():
        rows = scene.bench.splits[role].rows
        r2 = weights_r2(rows, np.asarray(scene.hyper.reconstruct(rows)))
        records.append({"property": name, "measure": "score", "value": r2})
    return Findings(pd.DataFrame.from_records(records))


class NoSettings(Section):
    """Nothing to set."""


def zoo_curve(scene: Scene, settings: NoSettings) -> Findings:
    """Distribution of test accuracy at every stored epoch."""
    frame = scene.bench.zoo.frame
    usable = frame[frame["status"] == "ok"] if "status" in frame else frame
    by_epoch = usable.groupby("epoch")["test_acc"]
    table = by_epoch.agg(
        lowest="min", median="median", best="max",
        lower=lambda values: values.quantile(0.25), upper=lambda values: values.quantile(0.75), mean="mean",
    ).reset_index()  # fmt: skip
    measures = ("lowest", "lower", "median", "mean", "upper", "best")
    best = pd.DataFrame({"measure": ["best_of_all"], "value": [table["best"].max()]})
    return Findings(pd.concat([as_facts(table, measures, ["epoch"]), best], ignore_index=True))


def training_curve(scene: Scene, settings: NoSettings) -> Findings:
    """The loss over the training, its last value, and whether the training diverged."""
    assert scene.folder is not None
    path = scene.folder / "log.csv"
    log = pd.read_csv(path) if path.is_file() else pd.DataFrame({"step": [0], "total": [float("nan")]})
    last = log.iloc[-1]
    facts = pd.DataFrame(
        {
            "measure": ["last_loss", "diverged", "steps"],
            "value": [float("nan") if scene.diverged else last["total"], float(bool(scene.diverged)), last["step"]],
        }
    )
    columns = [name for name in ("step", "total", "contrast", "structure", "behaviour", "val_agreement") if name in log]
    return Findings(facts, log[columns])


TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "probe": Task(ProbeSettings, on_zoo=probe_baselines, on_training=probe_embedding),
        "reconstruct": Task(ReconstructSettings, on_zoo=reconstruct_baseline, on_training=reconstruct),
        "reconstruct_weights": Task(NoSettings, on_training=reconstruct_weights, version=2),
        "zoo_curve": Task(NoSettings, on_zoo=zoo_curve),
        "training_curve": Task(NoSettings, on_training=training_curve, diverged=True),
        **GENERATIVE_TASKS,
        **FRONT_TASKS,
        **ANALYSIS_TASKS,
        **SPEC_TASKS,
    }
)
