"""The sections of the page about one zoo, each HTML made from a frame or a sample of weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from zookeeper.report.charts import (
    accuracy_chart,
    by_epoch,
    factor_chart,
    gap_charts,
    map_chart,
    spoken,
    spread_chart,
)
from zookeeper.report.groups import explained, group_by
from zookeeper.report.markup import cell_text, figure, model_table, paragraph, small_table
from zookeeper.report.sample import ModelMap, SpreadSample
from zookeeper.report.svg import share, short
from zookeeper.zoo import Zoo

MOST_ROWS = 2000
_MOST_FACTORS = 24
_MOST_TENSORS = 24
_MOST_DIVERGED = 20
_MOST_SPEC = 20_000
_LATER = (
    "split",
    "status",
    "epoch",
    "train_acc",
    "val_acc",
    "test_acc",
    "generalization_gap",
    "train_loss",
    "test_loss",
)


def accuracy_section(frame: pd.DataFrame, column: str | None) -> str:
    """Accuracy by epoch, and its numbers."""
    if column is None:
        return paragraph("No accuracy is stored.", "note")
    table = by_epoch(frame, column)
    shown = table.iloc[np.unique(np.linspace(0, len(table) - 1, 12).round().astype(int))]
    rows = [
        (str(epoch), *(share(line[name]) for name in ("low", "median", "high", "best")), f"{int(line['models']):,}")
        for epoch, line in shown.iterrows()
    ]
    head = ("epoch", "lower quartile", "median", "upper quartile", "best", "models")
    numbers = small_table(f"{spoken(column)} by epoch", head, rows)
    words = "" if column == "test_acc" else f" Test accuracy is not stored; this is {spoken(column)}."
    caption = f"All models with a finite {spoken(column)}; the band holds the middle half of them.{words}"
    return (
        figure(accuracy_chart(table, column), caption, wide=True)
        + f"<details><summary>Numbers</summary>{numbers}</details>"
    )


def factor_section(models: pd.DataFrame, varying: Sequence[str], column: str | None) -> str:
    """One chart per factor, those that explain most first."""
    if column is None or not varying:
        return paragraph("No accuracy is stored." if column is None else "No factor varies.", "note")
    values = models[column].to_numpy(dtype=np.float64)
    groups = [group_by(models, name) for name in varying]
    ranked = sorted(((explained(values, entry), entry) for entry in groups), key=lambda pair: -pair[0])
    charts = [
        figure(factor_chart(values, entry, column), f"explains {share(part)} of the variance", heading=entry.factor)
        for part, entry in ranked[:_MOST_FACTORS]
    ]
    cut = len(ranked) - len(charts)
    more = f" {cut} factors that explain less are left out." if cut > 0 else ""
    words = (
        "Last checkpoint of every model. Box: middle half; line across: median; thin line: 5th to 95th percentile. "
        f"Variance explained is that between the groups shown, one factor at a time.{more}"
    )
    return paragraph(words, "note") + f'<div class="grid">{"".join(charts)}</div>'


def gap_section(frame: pd.DataFrame, models: pd.DataFrame) -> str:
    """Train accuracy minus test accuracy, by epoch and at the end."""
    name = "generalization_gap"
    if name not in frame or not np.isfinite(frame[name].to_numpy(dtype=np.float64)).any():
        return paragraph("No generalization gap is stored; it needs train and test accuracy.", "note")
    last = models[name].to_numpy(dtype=np.float64)
    last = last[np.isfinite(last)]
    first, second = gap_charts(by_epoch(frame, name), last if len(last) else np.zeros(1))
    drawings = figure(first, "median and quartiles over models") + figure(second, "last checkpoints")
    return (
        paragraph("Train accuracy minus test accuracy, in points of accuracy.", "note")
        + f'<div class="grid two">{drawings}</div>'
    )


def diverged_section(frame: pd.DataFrame, models: pd.DataFrame, varying: Sequence[str]) -> str:
    """Models with weights that are not finite: how many, which, since when, and under which factors."""
    if "status" not in frame:
        return paragraph("The zoo does not say which models diverged.", "note")
    bad = frame[(frame["status"] == "diverged").to_numpy()]
    num, total = int(bad["model_id"].nunique()), len(models)
    if num == 0:
        return paragraph(f"None of {total:,} models diverged.")
    since = bad.groupby("model_id", sort=False)["epoch"].min()
    flags = models["model_id"].isin(since.index).to_numpy()
    ranked = sorted(
        (-explained(flags.astype(np.float64), entry), entry.factor)
        for entry in (group_by(models, name) for name in varying)
    )
    rows = []
    for negative, factor in ranked[:4]:
        if negative < -0.01:
            entry = group_by(models, factor)
            for number, label in enumerate(entry.labels):
                here = flags[entry.members == number]
                rows.append((f"{factor} = {label}", f"{here.sum():,}", f"{len(here):,}", share(float(here.mean()))))
    table = small_table("where models diverged", ("factor", "diverged", "models", "share"), rows) if rows else ""
    names = list(varying)[:6]
    lines = models[flags].head(_MOST_DIVERGED)
    listed = [
        (str(line["model_id"]), str(since[line["model_id"]]), *(cell_text(line[name]) for name in names))
        for _, line in lines.iterrows()
    ]
    caption = f"diverged models{'' if num <= _MOST_DIVERGED else f', the first {_MOST_DIVERGED} of {num:,}'}"
    return (
        paragraph(
            f"{num:,} of {total:,} models ({share(num / total)}) have weights that are not finite from some epoch on."
        )
        + table
        + small_table(caption, ("model", "since epoch", *names), listed)
    )


def spread_section(found: SpreadSample | None, note: str) -> str:
    """Standard deviation of every tensor over the epochs."""
    if found is None:
        return paragraph(f"There are no finite weights to show.{note}", "note")
    shown = found.tensors[:_MOST_TENSORS]
    charts = [
        figure(spread_chart(tensor, found.epochs), " x ".join(map(str, tensor.shape)), heading=tensor.name)
        for tensor in shown
    ]
    rows = [
        (
            tensor.name,
            " x ".join(map(str, tensor.shape)),
            *(short(value) for value in (tensor.last_mean, tensor.quartiles[1, -1], tensor.last_low, tensor.last_high)),
        )
        for tensor in found.tensors
    ]
    head = ("tensor", "shape", "mean", "standard deviation", "smallest", "largest")
    numbers = small_table(f"weights at epoch {found.epochs[-1]}, all sampled models", head, rows)
    cut = (
        f" The first {len(shown)} of {len(found.tensors)} tensors are drawn; the table has all."
        if len(found.tensors) > len(shown)
        else ""
    )
    words = (
        f"Standard deviation of the weights of a tensor within a model: median and middle half over a sample of "
        f"{found.num_models:,} models at {len(found.epochs)} epoch{'s' if len(found.epochs) > 1 else ''}.{cut}{note}"
    )
    return (
        paragraph(words, "note")
        + f'<div class="grid small">{"".join(charts)}</div>'
        + f"<details><summary>Numbers</summary>{numbers}</details>"
    )


def map_section(maps: Sequence[ModelMap], color: str, column: str | None, note: str) -> str:
    """Maps of the last checkpoints, coloured by a column."""
    if not maps:
        return paragraph(f"A map needs at least three models with finite weights.{note}", "note")
    parts = []
    for found in maps:
        groups = group_by(found.frame, color)
        title = "Principal components" if found.method == "pca" else "UMAP"
        caption = (
            f"Weights of the last checkpoint of {len(found.frame):,} models, {found.num_columns:,} columns"
            f"{' drawn at random' if found.num_columns == 4096 else ''}. Dots tell their model when pointed at."
        )
        parts.append(figure(map_chart(found, groups, column), caption, heading=title, wide=True))
    words = (
        f"Each dot is a model. Networks that compute the same may lie apart: their hidden units may be permuted.{note}"
    )
    return paragraph(words, "note") + "".join(parts)


def table_section(models: pd.DataFrame, varying: Sequence[str], column: str | None) -> str:
    """The table of models, the best first, cut where it would be too long for a browser."""
    order = models if column is None else models.sort_values(column, ascending=False, kind="stable")
    names = ["model_id", *varying, *(name for name in _LATER if name in models and models[name].notna().any())]
    shown = order[names].head(MOST_ROWS)
    what = f"{len(models):,} models at their last checkpoint"
    if len(shown) < len(models):
        by = f"by {spoken(column)}" if column else "in stored order"
        what = f"The first {len(shown):,} of {len(models):,} models {by}; the others are not on this page"
    return model_table(shown, f"{what}. Factors with one value are listed under Specification.")


def spec_section(zoo: Zoo, models: pd.DataFrame, varying: Sequence[str]) -> tuple[dict[str, str], str]:
    """Factors with one value for all models, and the specification as text."""
    constant = {
        name: cell_text(models[name].iloc[0]) or "no value"
        for name in zoo.factors
        if len(models) and name not in varying
    }
    if zoo.header.spec is None:
        return constant, paragraph("No specification is stored: the zoo was not built from one.", "note")
    text = "\n".join(outline(zoo.header.spec))
    cut = paragraph(f"Cut after {_MOST_SPEC:,} of {len(text):,} characters.", "note") if len(text) > _MOST_SPEC else ""
    escaped = text[:_MOST_SPEC].replace("&", "&amp;").replace("<", "&lt;")
    return constant, f'<pre tabindex="0" aria-label="specification">{escaped}</pre>{cut}'


def outline(value: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """Lines of a nested value: a key each, what is below it indented, lists and plain values as JSON.

    >>> list(outline({"name": "toy", "grid": {"lr": [0.1, 0.2]}, "build": {}}))
    ['name: "toy"', 'grid:', '  lr: [0.1, 0.2]', 'build: {}']
    """
    for key, entry in value.items():
        if isinstance(entry, Mapping) and entry:
            yield f"{indent}{key}:"
            yield from outline(entry, indent + "  ")
        else:
            yield f"{indent}{key}: {json.dumps(entry, ensure_ascii=False)}"
