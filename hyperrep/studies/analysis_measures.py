"""Analyses that studies name in YAML: spectrum, variance, map, robustness, interpolation, out-of-zoo ranks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from hyperrep.analysis.diversity import map_networks, weight_variance
from hyperrep.analysis.smoothness import LEVELS, interpolate, probe_robustness
from hyperrep.analysis.spectrum import SHARES, Accuracy, explore_spectrum
from hyperrep.baselines.projections import ProjectionName
from hyperrep.studies.benches import Bench
from hyperrep.studies.findings import EMBEDDING, Findings, Scene, Task, as_facts, merged_untrained
from hyperrep.tasks.features import feature_sets
from hyperrep.tasks.ranking import probe_out_of_zoo
from hyperrep.tasks.split import ZooSplit
from zookeeper.errors import InputError
from zookeeper.spec.document import Section

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


def _accuracy(bench: Bench) -> Accuracy:
    return lambda rows: bench.examiner.scores(np.ascontiguousarray(rows, dtype=np.float32), "test")[0]


def _last(split: ZooSplit) -> ZooSplit:
    return split.where((split.frame["epoch"] == split.frame["epoch"].max()).to_numpy())


def _some(rows: np.ndarray, most: int) -> np.ndarray:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


class SpectrumSettings(Section):
    """Shares of the variance that are kept, and how many networks are projected."""

    shares: tuple[Share, ...] = SHARES
    most: PositiveInt = 300


def spectrum(scene: Scene, settings: SpectrumSettings) -> Findings:
    """Accuracy after a projection on the top, the bottom and both ends of the spectrum.

    Train models as in the paper, of which the covariance is, and test models, which it has not seen.
    """
    train = scene.bench.splits["train"].rows
    populations = {
        "train models": _some(_last(scene.bench.splits["train"]).rows, settings.most),
        "test models": _some(_last(scene.bench.splits["test"]).rows, settings.most),
    }
    table = explore_spectrum(train, populations, _accuracy(scene.bench), shares=settings.shares)
    return Findings(as_facts(table, ["acc", "l2", "num_directions"], ["models", "kind", "share"]))


class VarianceSettings(Section):
    """Factors that make a group for VAR_c."""

    by: tuple[str, ...] = ("init", "activation")


def variance(scene: Scene, settings: VarianceSettings) -> Findings:
    """VAR and VAR_c of all usable checkpoints of the study's epochs."""
    splits = scene.bench.splits.values()
    rows = np.concatenate([split.rows for split in splits])
    table = weight_variance(rows, pd.concat([split.frame for split in splits]), settings.by)
    return Findings(as_facts(table, ["var", "var_c", "num_groups"]))


class MapSettings(Section):
    """Projection, number of networks at most, and the factors to colour by."""

    method: ProjectionName = "UMAP"
    most: PositiveInt = 2_000
    seed: NonNegativeInt = 0


def zoo_map(scene: Scene, settings: MapSettings) -> Findings:
    """Networks on a plane, with their factors and properties."""
    splits = scene.bench.splits.values()
    rows = np.concatenate([split.rows for split in splits])
    frame = pd.concat([split.frame for split in splits], ignore_index=True)
    points = map_networks(rows, method=settings.method, most=settings.most, seed=settings.seed)
    known = [name for name in ("epoch", "test_acc", "init", "activation", "lr", "seed") if name in frame]
    chosen = frame.loc[points["place"], known].reset_index(drop=True)
    items = pd.concat([points, chosen], axis=1)
    return Findings(pd.DataFrame({"measure": ["mapped"], "value": [float(len(items))]}), items)


class RobustnessSettings(Section):
    """Noise relative to the spread of each latent dimension."""

    levels: Annotated[tuple[float, ...], Field(min_length=1)] = LEVELS
    most: PositiveInt = 150
    seed: NonNegativeInt = 0


def robustness(scene: Scene, settings: RobustnessSettings) -> Findings:
    """Accuracy and R2 of the weights of test models decoded from noisy latents."""
    rows = _some(_last(scene.bench.splits["test"]).rows, settings.most)
    hyper = scene.hyper
    table = probe_robustness(
        np.asarray(hyper.encode(rows)), rows, lambda latents: np.asarray(hyper.decode(latents)), _accuracy(scene.bench),
        levels=settings.levels, seed=settings.seed,
    )  # fmt: skip
    return Findings(as_facts(table, ["acc", "weights_r2"], ["level"]))


class InterpolationSettings(Section):
    """How many pairs of models, and how many trajectories, at most."""

    pairs: PositiveInt = 250
    seed: NonNegativeInt = 0


def interpolation(scene: Scene, settings: InterpolationSettings) -> Findings:
    """Accuracy on the straight way between latents, along trajectories and between models, beside that of weights."""
    split = scene.bench.splits["test"]
    epochs = sorted(split.frame["epoch"].unique())
    ends = _last(split)
    first = split.where((split.frame["epoch"] == epochs[0]).to_numpy())
    shared = sorted(set(first.frame["model_id"]) & set(ends.frame["model_id"]))[: settings.pairs]
    if len(epochs) < 2 or len(ends) < 2 or not shared:
        raise InputError(
            f"interpolation: {scene.bench.path}: expected two epochs and two test models. Choose more epochs."
        )
    rows = [part.rows[pd.Index(part.frame["model_id"]).get_indexer(shared)] for part in (first, ends)]
    generator = np.random.default_rng(settings.seed)
    start = generator.integers(len(ends), size=settings.pairs)
    end = (start + 1 + generator.integers(len(ends) - 1, size=settings.pairs)) % len(ends)
    ways = {"along trajectories": (rows[0], rows[1]), "between models": (ends.rows[start], ends.rows[end])}
    hyper = scene.hyper
    table = interpolate(
        ways, lambda values: np.asarray(hyper.encode(values)), lambda values: np.asarray(hyper.decode(values)),
        _accuracy(scene.bench),
    )  # fmt: skip
    return Findings(as_facts(table, ["acc"], ["way", "space", "step"]))


class RankSettings(Section):
    """Properties that are ranked, and how many untrained encoders stand beside."""

    properties: tuple[str, ...] = ("generalization_gap", "test_acc", "epoch")
    untrained: PositiveInt = 3


def rank_baselines(scene: Scene, settings: RankSettings) -> Findings:
    """Kendall's tau of W and s(W), in the zoo and in the others."""
    return _rank(scene, settings, trained=False)


def rank_embedding(scene: Scene, settings: RankSettings) -> Findings:
    """Kendall's tau of the embedding and of untrained encoders, in the zoo and in the others."""
    return _rank(scene, settings, trained=True)


def _rank(scene: Scene, settings: RankSettings, *, trained: bool) -> Findings:
    hyper = scene.hyper if trained else None
    sets = feature_sets(
        scene.bench.zoo.layout, hyper, name=EMBEDDING, untrained_seeds=tuple(range(settings.untrained)), projections=()
    )
    kept = {name: apply for name, apply in sets.fixed.items() if (name in ("W", "s(W)")) != trained}
    targets = {role: bench.splits["test"] for role, bench in scene.others.items()}
    table = probe_out_of_zoo(scene.bench.splits, targets, replace(sets, fixed=kept), properties=settings.properties)
    table["other"] = table.pop("zoo").replace({"in zoo": scene.bench.role})
    table["features"] = merged_untrained(table["features"])
    return Findings(as_facts(table, ["tau", "ceiling", "r2"], ["features", "property", "other"]))


ANALYSIS_TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "spectrum": Task(SpectrumSettings, on_zoo=spectrum),
        "variance": Task(VarianceSettings, on_zoo=variance),
        "map": Task(MapSettings, on_zoo=zoo_map),
        "robustness": Task(RobustnessSettings, on_training=robustness),
        "interpolation": Task(InterpolationSettings, on_training=interpolation),
        "ranks": Task(RankSettings, on_zoo=rank_baselines, on_training=rank_embedding, others=True),
    }
)
