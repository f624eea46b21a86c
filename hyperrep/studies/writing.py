"""From a study's tables to its figures, page, terminal tables and ``results.json``; nothing is measured here."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from hyperrep.report import figures
from hyperrep.report.page import PageFigure, PageSection, render_page
from hyperrep.report.tables import ReportTable, generation_table, probe_table, reconstruction_table
from hyperrep.studies.claims import Claim, check_claims, claim_table, is_seed_of, seed_table
from hyperrep.studies.steps import StepResult
from hyperrep.studies.study import SUBJECTS, UNTRAINED, Study
from zookeeper.report.figures import accuracy_by_epoch
from zookeeper.report.style import save_figure
from zookeeper.store.files import write_durable


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """Everything a study measured, as tables, and the claims checked against them."""

    zoo: pd.DataFrame
    probes: pd.DataFrame
    comparisons: pd.DataFrame
    reconstructions: pd.DataFrame
    samples: pd.DataFrame
    generations: pd.DataFrame
    training: pd.DataFrame
    claims: list[Claim]
    over_seeds: dict[int, list[Claim]]


def gather(study: Study, others: Sequence[Study] = ()) -> Findings:
    """Read a study's tables and check its claims, also for the same study with other seeds."""
    probes, claims = study.table("probes"), check_study(study)
    over_seeds = {study.seed: claims} | {other.seed: check_study(other) for other in others} if others else {}
    return Findings(
        zoo=study.zoo.frame,
        probes=merge_seeds(probes),
        comparisons=study.table("reconstructions"),
        reconstructions=study.table("reconstruction_summary"),
        samples=study.table("samples"),
        generations=study.table("generation_summary"),
        training=_training_logs(study),
        claims=claims,
        over_seeds=over_seeds,
    )


def check_study(study: Study) -> list[Claim]:
    """Check the claims of a study against its tables."""
    labels = [study.subject(role).label for role in SUBJECTS]
    return check_claims(
        study.config.claims,
        baseline=labels[0],
        behaviour=labels[1],
        reconstructions=study.table("reconstruction_summary"),
        generations=study.table("generation_summary"),
        probes=study.table("probes"),
        rivals=("W", "s(W)", UNTRAINED, labels[0]),
    )


def _training_logs(study: Study) -> pd.DataFrame:
    logs = [
        pd.read_csv(study.folder / study.model_name(role) / "log.csv").assign(losses=study.subject(role).label)
        for role in SUBJECTS
    ]
    return pd.concat(logs, ignore_index=True)


def merge_seeds(probes: pd.DataFrame, name: str = UNTRAINED) -> pd.DataFrame:
    """Replace the rows of a baseline's seeds by one row: mean value, ``low`` and ``high`` of the seeds, ``spread``.

    ``spread`` (standard deviation over seeds) is NaN for everything that has one seed.
    """
    several = probes["features"].map(lambda features: is_seed_of(features, name))
    merged = (
        probes[several]
        .groupby(["property", "score"], sort=False)
        .agg(
            low=("value", "min"),
            high=("value", "max"),
            spread=("value", lambda values: values.std(ddof=0)),
            value=("value", "mean"),
            num_features=("num_features", "first"),
            num_train=("num_train", "first"),
            num_test=("num_test", "first"),
        )
        .reset_index()
        .assign(features=name)
    )
    first = int(several.to_numpy().argmax()) if several.any() else len(probes)
    return pd.concat(
        [probes.iloc[:first][~several.iloc[:first]], merged, probes.iloc[first:][~several.iloc[first:]]],
        ignore_index=True,
    )


def report_tables(findings: Findings) -> list[ReportTable]:
    """The study's tables for people: claims, reconstructions, generation, probes."""
    first = findings.probes.iloc[0]
    return [
        *claim_tables(findings),
        reconstruction_table(findings.reconstructions),
        generation_table(findings.generations),
        probe_table(findings.probes, num_train=int(first["num_train"]), num_test=int(first["num_test"])),
    ]


def claim_tables(findings: Findings) -> tuple[ReportTable, ...]:
    """The claims, and beside them the same over several seeds if there are several."""
    over_seeds = (seed_table(findings.over_seeds),) if findings.over_seeds else ()
    return (claim_table(findings.claims), *over_seeds)


def write_report(
    study: Study, steps: Sequence[StepResult], others: Sequence[Study] = ()
) -> tuple[dict[str, Any], list[ReportTable]]:
    """Write figures, ``index.html`` and ``results.json``; return what the JSON holds, and the tables."""
    findings = gather(study, others)
    pictures = write_figures(study, findings)
    results = _results(study, findings, steps)
    page = _page(study, findings, pictures, steps)
    write_durable(study.folder / "index.html", page.encode())
    write_durable(study.folder / "results.json", json.dumps(results, indent=1).encode())
    return results, report_tables(findings)


def write_figures(study: Study, findings: Findings) -> dict[str, Path]:
    """Draw every figure of the study into its folder; names to PNG files."""
    labels = [study.subject(role).label for role in SUBJECTS]
    behaviour = findings.generations.set_index("losses").to_dict("index")[labels[1]]
    references = {
        "best of the zoo, chosen on validation": float(behaviour["zoo_selected_test_acc"]),
        "mean of the anchors": float(behaviour["anchor_mean_test_acc"]),
    }
    properties = list(dict.fromkeys(findings.probes["property"]))
    made = {
        "zoo_accuracy": accuracy_by_epoch(findings.zoo),
        "accuracy": figures.accuracy_distributions(
            _populations(findings, labels), best=float(behaviour["zoo_max_test_acc"])
        ),
        "pairwise": figures.pairwise_distributions(findings.comparisons),
        "training": figures.training_curves(findings.training),
        "novelty": figures.novelty(findings.samples, references=references),
        "probes": figures.probe_scores(findings.probes, properties=properties, highlight=labels),
    }
    folder = study.folder / "figures"
    folder.mkdir(exist_ok=True)
    paths = {name: folder / f"{name}.png" for name in made}
    for name, figure in made.items():
        save_figure(figure, paths[name])
    return paths


def _populations(findings: Findings, labels: Sequence[str]) -> pd.DataFrame:
    parts = []
    for label in labels:
        comparison = findings.comparisons[findings.comparisons["losses"] == label]
        samples = findings.samples[findings.samples["losses"] == label]
        for name, values in (
            ("originals", comparison["acc"]),
            ("reconstructions", comparison["acc_reconstructed"]),
            ("samples", samples["test_acc"]),
        ):
            parts.append(pd.DataFrame({"losses": label, "population": name, "acc": values.to_numpy()}))
    return pd.concat(parts, ignore_index=True)


def _results(study: Study, findings: Findings, steps: Sequence[StepResult]) -> dict[str, Any]:
    return {
        "study": study.config.name,
        "claims": [claim.to_json() for claim in findings.claims],
        "all_held": all(claim.held for claim in findings.claims),
        "over_seeds": {seed: [claim.to_json() for claim in claims] for seed, claims in findings.over_seeds.items()},
        "reconstructions": json.loads(findings.reconstructions.to_json(orient="records")),
        "generation": json.loads(findings.generations.to_json(orient="records")),
        "probes": json.loads(findings.probes.to_json(orient="records")),
        "zoo": {"path": str(study.zoo.path), "models": int(findings.zoo["model_id"].nunique()), **study.zoo_identity},
        "seconds": {step.name: round(step.seconds, 1) for step in steps},
        "packages": _versions(),
        "settings": study.config.model_dump(mode="json", exclude={"zoo", "hyper_representations", "out"}),
        "hyper_representations": {role: study.subject(role).label for role in SUBJECTS},
    }


def _page(study: Study, findings: Findings, pictures: dict[str, Path], steps: Sequence[StepResult]) -> str:
    *claims, reconstructions, generation, probes = report_tables(findings)
    image, epochs = study.zoo.image, ", ".join(map(str, study.config.epochs))
    num_models = findings.zoo["model_id"].nunique()
    num_held = sum(claim.held for claim in findings.claims)
    labels = [study.subject(role).label for role in SUBJECTS]
    sections = [
        PageSection(f"Claims: {num_held} of {len(findings.claims)} held", tables=tuple(claims)),
        PageSection(
            "The zoo",
            f"Models differ in initialisation, learning rate, weight decay and seed. Checkpoints of epochs {epochs} "
            "of the train split are what the hyper-representations learn from.",
            figures=(PageFigure(pictures["zoo_accuracy"], "Test accuracy of every checkpoint, by training epoch."),),
        ),
        PageSection(
            "Training",
            "What the validation models showed during training; every training ran to its last step.",
            figures=(
                PageFigure(pictures["training"], "Models of the validation split, images of the validation split."),
            ),
        ),
        PageSection(
            "Reconstruction and generation",
            "Each histogram is one population of networks, run on the test images: models of the test split, the same "
            "models encoded and decoded, and networks decoded from samples of the latent density of good train models.",
            figures=(
                PageFigure(
                    pictures["accuracy"], "Test accuracy; the short tick is the median, the dashed line the best."
                ),
                PageFigure(
                    pictures["pairwise"], "Each test-split model against its reconstruction; ticks are medians."
                ),
            ),
            tables=(reconstructions,),
        ),
        PageSection(
            "Samples: how good, how new",
            "A sample counts as new where it is far from the nearest anchor, measured in the mean distance between "
            "anchors; permutations of hidden units are not aligned first.",
            figures=(
                PageFigure(pictures["novelty"], "Every sample; the ringed ones were chosen on validation images."),
            ),
            tables=(generation,),
        ),
        PageSection(
            "What the embeddings know",
            "W are the flat weights, s(W) their summary statistics per layer; the untrained encoder has the "
            "architecture of the trained ones and random weights.",
            figures=(
                PageFigure(
                    pictures["probes"],
                    "Score on test models; bars are 95 % intervals (bootstrap over models), or the range of the seeds.",
                ),
            ),
            tables=(probes,),
        ),
    ]
    lead = (
        f"{num_models:,} networks of {study.zoo.layout.num_weights:,} weights trained on {image.name}; "
        f"{labels[0]} against {labels[1]}: what a behavioural loss changes when weights are encoded and decoded."
    )
    return render_page(study.config.name.replace("-", " ").capitalize(), lead, sections, _footer(steps))


def _footer(steps: Sequence[StepResult]) -> list[str]:
    timing = ", ".join(f"{step.name} {step.seconds:.0f} s" for step in steps)
    versions = ", ".join(f"{name} {version}" for name, version in _versions().items())
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [
        f"Steps: {timing}.",
        f"Made {made} with {versions}; {platform.machine()}, Python {platform.python_version()}.",
    ]


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "numpy", "scikit-learn", "pandas")}
