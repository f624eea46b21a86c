"""A datasheet for a zoo: the questions of Gebru et al., "Datasheets for Datasets" (2021), answered from its spec."""

from __future__ import annotations

from collections.abc import Iterator

from zookeeper.publish.facts import Facts
from zookeeper.publish.licences import Licence


def answer_questions(facts: Facts, licence: Licence) -> Iterator[tuple[str, str]]:
    """Go through the questions a zoo can answer, with answers that follow from what is stored."""
    yield (
        "Why was it made?",
        "To study populations of neural networks through their weights: to predict what a network does from its "
        "weights, to learn representations of networks, and to generate new ones.",
    )
    yield "What does one row stand for?", _instance(facts)
    yield "How many rows are there, and is that all of them?", _counts(facts)
    yield (
        "Is anything missing?",
        f"Nothing was filtered. {facts.num_diverged:,} models diverged; they are kept with `status` diverged."
        if facts.num_diverged
        else "Nothing was filtered, and no model diverged.",
    )
    yield "Are there recommended splits?", _splits(facts)
    yield (
        "Does it hold personal or confidential data?",
        "It holds weights, hyperparameters and metrics. Networks can memorise parts of their training images; "
        "whoever considers the images sensitive should treat the weights alike.",
    )
    yield "How was it collected?", _collection(facts)
    yield "Was it cleaned or labelled?", _processing(facts)
    yield (
        "What else could it be used for?",
        "Benchmarks of model comparison, ensembling, initialisation, pruning and fine-tuning. The networks are small "
        "and exist to be studied; they are not meant for applications.",
    )
    yield (
        "How is it distributed and kept?",
        f"Under {licence.spdx}. The files are immutable: `SHA256SUMS` names them all, and a change is a new version.",
    )


def _instance(facts: Facts) -> str:
    return (
        "One checkpoint of one network: its weights as a vector, the hyperparameters and seed that generated it "
        "(generating factors), and its losses and accuracies (properties). `model_id` and `epoch` identify it."
    )


def _counts(facts: Facts) -> str:
    counted = f"{facts.num_checkpoints:,} checkpoints of {facts.num_models:,} models"
    if not facts.complete:
        return f"{counted}: a part of the {facts.num_planned:,} checkpoints that were planned."
    grid = (facts.spec or {}).get("grid")
    sampled = isinstance(grid, dict) and grid.get("sample") is not None
    if not isinstance(grid, dict):
        return f"{counted}."
    how = "a random sample of the grid in `rebuild/spec.yaml`" if sampled else "the whole grid in `rebuild/spec.yaml`"
    return f"{counted}: {how}."


def _splits(facts: Facts) -> str:
    if not facts.splits:
        return "None is stored. Split by `model_id`: epochs of one model are close to each other."
    split = (facts.spec or {}).get("split")
    by = split.get("by", "model") if isinstance(split, dict) else "model"
    groups = "model" if by in ("model", ["model"]) else f"the factor {by}" if isinstance(by, str) else ", ".join(by)
    return f"Yes, in the column `split` and in `splits/`, grouped by {groups}: no group is on two sides."


def _collection(facts: Facts) -> str:
    if facts.spec is None or "version" not in facts.spec:
        source = facts.provenance.get("source") or facts.provenance.get("format")
        known = f" Their origin: {source}." if isinstance(source, str) and "/" not in source else ""
        return f"The rows were not trained from a specification of this package ({facts.kind}).{known}"
    training = facts.spec.get("training", {})
    settings = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in training.items() if value is not None)
    versions = ", ".join(f"{name} {version}" for name, version in facts.packages.items())
    return (
        f"Each network was trained from a random initialisation ({settings}), with random streams keyed by its own "
        f"seed, so that it does not depend on the others. Software: {versions}."
    )


def _processing(facts: Facts) -> str:
    converted = [step for step in facts.provenance.get("converted", ()) if isinstance(step, dict)]
    if any(step.get("lossy") for step in converted):
        return "Weights were rounded to a smaller type after training; metrics are those of the weights before."
    return "No. Weights are stored as training left them; metrics were computed on the images at each checkpoint."
