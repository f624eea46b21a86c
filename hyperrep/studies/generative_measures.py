"""Tasks about generated networks that studies name in YAML: sampling, fine-tuning, transfer, ensembles, other zoos."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from hyperrep.analysis.drift import follow_drift
from hyperrep.sampling import build_sampler
from hyperrep.studies.benches import Bench
from hyperrep.studies.findings import EMBEDDING, Findings, Scene, Task, as_facts
from hyperrep.tasks.diversity import compare_diversity
from hyperrep.tasks.ensemble import compare_ensembles
from hyperrep.tasks.finetune import SAMPLED, FineTuneSettings, fine_tune, starting_rows, summarise_fine_tuning
from hyperrep.tasks.generate import Anchors, examine_samples, sample_rows, summarise_samples
from hyperrep.tasks.nearest import TrainingModels
from hyperrep.tasks.novelty import audit_novelty, summarise_novelty
from hyperrep.tasks.other_zoo import decode_other_zoo
from hyperrep.tasks.split import select_on_validation
from hyperrep.tasks.targets import choose_target, move_starts, symmetry_of
from hyperrep.training.saved import HyperRepresentation
from zookeeper.errors import InputError
from zookeeper.spec.document import Section

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]
Epochs = Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]


class SamplerSection(Section):
    """A registered sampler, its settings, and the share of the best train models it learns from."""

    sampler: str = "pca-kde"
    settings: dict[str, Any] = Field(default_factory=dict)
    share: Share = 0.3


class SamplingSettings(Section):
    """Samplers by the name they have in the table, number of draws, seed."""

    samplers: Annotated[dict[str, SamplerSection], Field(min_length=1)]
    samples: PositiveInt = 200
    seed: NonNegativeInt = 0


def draw(hyper: HyperRepresentation, bench: Bench, settings: SamplingSettings) -> dict[str, tuple[Anchors, np.ndarray]]:
    """Anchors and sampled rows ``[n, P]`` of every sampler, from the embeddings of a zoo's train models."""
    drawn = {}
    for name, section in settings.samplers.items():
        anchors = Anchors.select(bench.splits["train"], share=section.share)
        sampler = build_sampler(section.sampler, section.settings)
        generator = np.random.default_rng(settings.seed)
        drawn[name] = (anchors, sample_rows(hyper, anchors, sampler, settings.samples, generator))
    return drawn


def generate(scene: Scene, settings: SamplingSettings) -> Findings:
    """Accuracy, novelty and diversity of the samples of every sampler, beside the anchors'."""
    bench, facts, items = scene.bench, [], []
    for name, (anchors, rows) in draw(scene.hyper, bench, settings).items():
        samples = examine_samples(rows, anchors, bench.examiner)
        summary = summarise_samples(samples, rows, anchors, bench.zoo.frame, bench.examiner)
        summary["mean_test_acc_std"] = samples["test_acc"].std(ddof=0)
        measures = [str(column) for column in summary.columns if not str(column).endswith("_std")]
        facts.append(as_facts(summary, measures).assign(sampler=name))
        items.append(samples.assign(sampler=name))
    return Findings(pd.concat(facts, ignore_index=True), pd.concat(items, ignore_index=True))


def diversity(scene: Scene, settings: SamplingSettings) -> Findings:
    """Distance between pairs of samples, and of anchors, in weights and in class probabilities."""
    parts = []
    for name, (anchors, rows) in draw(scene.hyper, scene.bench, settings).items():
        kinds = {"anchors": anchors.checkpoints.rows, "samples": rows}
        table = compare_diversity(kinds, scene.bench.examiner)
        features = table["networks"].replace({"samples": EMBEDDING})
        parts.append(
            as_facts(table.assign(features=features), ["weights", "outputs", "disagreement"], ["features"]).assign(
                sampler=name
            )
        )
    return Findings(pd.concat(parts, ignore_index=True))


class NoveltySettings(SamplingSettings):
    """Whether hidden units are matched before distances are taken."""

    aligned: bool = True


def novelty(scene: Scene, settings: NoveltySettings) -> Findings:
    """Samples beside an anchor with noise and an average of anchors at the same distance from all train models."""
    bench, facts, items = scene.bench, [], []
    symmetry = symmetry_of(bench.zoo) if settings.aligned else None
    training = TrainingModels(bench.splits["train"], symmetry, seed=settings.seed)
    for name, (anchors, rows) in draw(scene.hyper, bench, settings).items():
        audit = audit_novelty(rows, anchors, training, bench.examiner, seed=settings.seed)
        summary = summarise_novelty(audit)
        measures = [
            "distance", "unaligned", "reached", "test_acc", "selected_test_acc", "error_overlap", "max_error_overlap",
            "lead", "lead_low", "lead_high", "lead_all",
        ]  # fmt: skip
        facts.append(as_facts(summary, measures, ["networks"]).assign(sampler=name))
        items.append(audit.assign(sampler=name))
    return Findings(pd.concat(facts, ignore_index=True), pd.concat(items, ignore_index=True))


class EnsembleSettings(SamplingSettings):
    """Largest ensemble, and how many random ones are averaged."""

    size: PositiveInt = 15
    draws: PositiveInt = 15


def ensembles(scene: Scene, settings: EnsembleSettings) -> Findings:
    """Test accuracy of ensembles of samples, and of anchors, by size."""
    parts = []
    for name, (anchors, rows) in draw(scene.hyper, scene.bench, settings).items():
        kinds = {"samples": rows, "anchors": anchors.checkpoints.rows}
        table = compare_ensembles(
            kinds, scene.bench.examiner, size=settings.size, num_drawn=settings.draws, seed=settings.seed
        )
        features = table["networks"].replace({"samples": EMBEDDING})
        parts.append(
            as_facts(table.assign(features=features), ["test_acc"], ["features", "rule", "size"]).assign(sampler=name)
        )
    return Findings(pd.concat(parts, ignore_index=True))


class FineTuningSettings(SamplingSettings):
    """Epochs after which networks are measured; ``architectures`` other than the zoo's, by registered name.

    With ``transfer``, networks go to the images of every other zoo of the study, else they stay with their own.
    """

    samples: PositiveInt = 50
    epochs: Epochs = (0, 1, 5, 25, 50)
    transfer: bool = False
    architectures: tuple[str, ...] = ()
    train_fraction: Share = 1.0


def finetuning(scene: Scene, settings: FineTuningSettings) -> Findings:
    """Samples beside pre-trained and untrained networks, trained on in one stacked run per target.

    The target's best model on validation images lends the hyperparameters.
    """
    drawn = draw(scene.hyper, scene.bench, settings)
    targets = scene.others if settings.transfer else {scene.bench.role: scene.bench}
    if not targets:
        raise InputError(
            f"transfer from {scene.bench.role}: there is no other zoo here. Give one more with --zoo PATH."
        )
    facts, items = [], []
    for role, bench in targets.items():
        for architecture in settings.architectures or (None,):
            frame = _tune(scene, bench, architecture, drawn, settings)
            where = {"target": role, "architecture": architecture or ""}
            table = summarise_fine_tuning(frame).rename(columns={"start": "features"})
            measures = ["test_acc", "selected_test_acc", "num_diverged"]
            facts.append(as_facts(table, measures, ["features", "epoch"]).assign(**where))
            items.append(frame.rename(columns={"start": "features"}).drop(columns="status").assign(**where))
    return Findings(pd.concat(facts, ignore_index=True), pd.concat(items, ignore_index=True))


def _tune(
    scene: Scene,
    target_bench: Bench,
    architecture: str | None,
    drawn: Mapping[str, tuple[Anchors, np.ndarray]],
    settings: FineTuningSettings,
) -> pd.DataFrame:
    best = target_bench.zoo.frame[target_bench.zoo.frame["split"] == "train"]
    line = best.iloc[select_on_validation(best)]
    how = FineTuneSettings.of_model(
        line, epochs=settings.epochs, seed=settings.seed, train_fraction=settings.train_fraction
    )
    layout = scene.bench.zoo.layout
    starts: dict[str, np.ndarray] = {}
    for name, (anchors, rows) in drawn.items():
        own = starting_rows(rows, anchors, layout, how)
        label = EMBEDDING if len(drawn) == 1 else name
        starts |= {label: own.pop(SAMPLED), **{kind: values for kind, values in own.items() if kind not in starts}}
    target = choose_target(target_bench.zoo, architecture=architecture)
    moved = move_starts(starts, layout, target, str(line.get("init", "kaiming_uniform")), how)
    return fine_tune(target.population, target.data, moved, how).frame


def unseen_zoos(scene: Scene, settings: EnsembleSettings) -> Findings:
    """Networks decoded and sampled from the embeddings of zoos the hyper-representation has not seen.

    Zoos of another layout, such as those of coloured images beside grey ones, are left out: it cannot read them.
    """
    layout = scene.bench.zoo.layout
    readable = {role: bench for role, bench in scene.others.items() if bench.zoo.layout.digest == layout.digest}
    if not readable:
        raise InputError(
            f"unseen zoos: there is none of {layout.num_weights:,} weights in the same layers beside "
            f"{scene.bench.role}. Give one more with --zoo PATH."
        )
    parts = []
    for role, bench in readable.items():
        samples = {name: rows for name, (_, rows) in draw(scene.hyper, bench, settings).items()}
        autoencoders = {"decoded": scene.hyper, "decoded, untrained": scene.hyper.untrained(settings.seed)}
        table = decode_other_zoo(
            autoencoders, bench.splits, bench.examiner, samples=samples, ensemble_size=settings.size
        )
        measures = ["test_acc", "selected_test_acc", "ensemble_test_acc", "agreement"]
        parts.append(as_facts(table, measures, ["networks"]).assign(other=role))
    return Findings(pd.concat(parts, ignore_index=True))


class DriftSettings(Section):
    """How many test models are fine-tuned with their reconstructions, and at which epochs both are compared."""

    num: PositiveInt = 50
    epochs: Epochs = (0, 1, 5, 25)
    seed: NonNegativeInt = 0


def drift(scene: Scene, settings: DriftSettings) -> Findings:
    """Originals and reconstructions fine-tuned side by side: accuracy, and how far apart they come."""
    bench = scene.bench
    split = bench.splits["test"]
    last = split.where((split.frame["epoch"] == split.frame["epoch"].max()).to_numpy())
    originals = last.rows[: settings.num]
    how = FineTuneSettings.of_model(
        last.frame.iloc[select_on_validation(last.frame)], epochs=settings.epochs, seed=settings.seed
    )
    starts = {"original": originals, "reconstruction": np.asarray(scene.hyper.reconstruct(originals))}
    target = choose_target(bench.zoo)
    tuned = fine_tune(target.population, target.data, starts, how)
    accuracy = summarise_fine_tuning(tuned.frame).rename(columns={"start": "networks"})
    order = tuned.frame.sort_values(["start", "epoch", "network"], kind="stable").index
    shape = (len(starts), len(settings.epochs), len(originals), -1)
    first, second = tuned.rows[order].reshape(shape)  # "original" sorts before "reconstruction"
    distances = follow_drift(first, second, settings.epochs)
    measures = ["l2", "cosine", "moved_original", "moved_reconstruction"]
    facts = [as_facts(accuracy, ["test_acc"], ["networks", "epoch"]), as_facts(distances, measures, ["epoch"])]
    return Findings(pd.concat(facts, ignore_index=True))


def _transfers(settings: FineTuningSettings) -> bool:
    return settings.transfer


def _always(settings: EnsembleSettings) -> bool:
    return True


GENERATIVE_TASKS: Mapping[str, Task] = MappingProxyType(
    {
        "generate": Task(SamplingSettings, on_training=generate),
        "novelty": Task(NoveltySettings, on_training=novelty),
        "diversity": Task(SamplingSettings, on_training=diversity),
        "ensembles": Task(EnsembleSettings, on_training=ensembles),
        "finetuning": Task(FineTuningSettings, on_training=finetuning, others=True, needs_others=_transfers),
        "unseen_zoos": Task(EnsembleSettings, on_training=unseen_zoos, others=True, needs_others=_always),
        "drift": Task(DriftSettings, on_training=drift),
    }
)
