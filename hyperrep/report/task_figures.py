"""Figures of the tasks, each from the tidy frame of one: probes on splits, ranks, fine-tuning, ensembles, novelty."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from zookeeper.report.style import GREY, INK, PALETTE, house_style

_LOWEST_R2 = -0.5
_SHIFT = 0.04


def split_scores(summary: pd.DataFrame, *, label: str, highlight: Sequence[str] = ()) -> Figure:
    """Show how well one property is read on each split, one panel per split, baselines beside the embedding.

    Parameters
    ----------
    summary
        `hyperrep.tasks.probe_splits.summarise_probes`. R2 below -0.5 is an arrow with its number.
    label
        The property.
    highlight
        Feature sets drawn in colour.
    """
    part = summary[summary["property"] == label]
    names, panels = list(dict.fromkeys(part["features"]))[::-1], list(dict.fromkeys(part["split"]))
    score = str(part["score"].iloc[0])
    with house_style():
        figure = Figure(figsize=(2.0 + 1.9 * len(panels), 1.0 + 0.3 * len(names)), layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, split in zip(grid, panels, strict=True):
            lines = part[part["split"] == split].set_index("features")
            for place, name in enumerate(names):
                if name in lines.index:
                    colour = PALETTE[0] if name in highlight else GREY
                    _interval(axes, lines.loc[name], place, colour, _LOWEST_R2 if score == "r2" else 0.0)
            axes.set(xlim=(_LOWEST_R2 if score == "r2" else 0, 1.02), ylim=(-0.6, len(names) - 0.4))
            axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
            seen = f"encoder saw {100 * float(lines['encoder_saw'].mean()):.0f} % of them"
            axes.set_title(f"split: {split}\n{seen}", fontsize=8)
            axes.set_xlabel(f"{'R2' if score == 'r2' else 'accuracy'} of {label.replace('_', ' ')}")
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        grid[0].set_yticks(range(len(names)), labels=names)
    return figure


def rank_scores(table: pd.DataFrame, *, label: str, highlight: Sequence[str] = ()) -> Figure:
    """Show Kendall's tau of every feature set on every zoo; a tick marks the ceiling that ties impose.

    Parameters
    ----------
    table
        `hyperrep.tasks.ranking.probe_out_of_zoo`.
    """
    part = table[table["property"] == label]
    names, panels = list(dict.fromkeys(part["features"]))[::-1], list(dict.fromkeys(part["zoo"]))
    with house_style():
        figure = Figure(figsize=(2.0 + 2.1 * len(panels), 1.0 + 0.3 * len(names)), layout="constrained")
        for axes, zoo in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
            lines = part[part["zoo"] == zoo].set_index("features").rename(columns={"tau": "value"})
            for place, name in enumerate(names):
                if name in lines.index:
                    _interval(axes, lines.loc[name], place, PALETTE[0] if name in highlight else GREY, -1.0)
            axes.axvline(float(lines["ceiling"].iloc[0]), color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
            axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
            axes.set(xlim=(min(-0.1, float(lines["low"].min()) - 0.05), 1.04), ylim=(-0.6, len(names) - 0.4))
            axes.set_title(zoo, fontsize=9)
            axes.set_xlabel(f"Kendall's tau of {label.replace('_', ' ')}")
            axes.set_yticks(range(len(names)), labels=names)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
    return figure


def fine_tuning_curves(summary: pd.DataFrame) -> Figure:
    """Show mean test accuracy of each kind over the reported epochs, with its standard deviation.

    Parameters
    ----------
    summary
        `hyperrep.tasks.finetune.summarise_fine_tuning`.
    """
    epochs = sorted(set(summary["epoch"]))
    with house_style():
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        kinds = list(dict.fromkeys(summary["start"]))
        for number, kind in enumerate(kinds):
            part = summary[summary["start"] == kind].sort_values("epoch")
            x = np.array([epochs.index(epoch) for epoch in part["epoch"]]) + _SHIFT * (number - (len(kinds) - 1) / 2)
            axes.errorbar(
                x, part["test_acc"], yerr=part["test_acc_std"], color=PALETTE[number % len(PALETTE)], linewidth=1.6,
                elinewidth=0.9, capsize=2, marker="o", markersize=4, label=f"{kind} ({int(part['num'].iloc[0])})",
            )  # fmt: skip
        axes.set_xticks(range(len(epochs)), labels=[str(epoch) for epoch in epochs])
        axes.set(xlabel="epochs of fine-tuning", ylabel="test accuracy", ylim=(0, 1.03))
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.legend(loc="lower right")
    return figure


def ensemble_curves(table: pd.DataFrame) -> Figure:
    """Show test accuracy by size of the ensemble: chosen members as lines, random ones dashed with their spread.

    Parameters
    ----------
    table
        `hyperrep.tasks.ensemble.compare_ensembles`.
    """
    with house_style():
        figure = Figure(figsize=(5.6, 3.2), layout="constrained")
        axes = figure.subplots()
        for number, kind in enumerate(dict.fromkeys(table["networks"])):
            colour = PALETTE[number % len(PALETTE)]
            for rule, part in table[table["networks"] == kind].groupby("rule", sort=False):
                x, y, spread = (part[name].to_numpy(np.float64) for name in ("size", "test_acc", "test_acc_std"))
                dashes = "-" if (part["num_ensembles"] == 1).all() else (0, (4, 3))
                axes.plot(x, y, color=colour, linewidth=1.6, linestyle=dashes, label=f"{kind}, {rule}")
                axes.fill_between(x, y - spread, y + spread, color=colour, alpha=0.12, linewidth=0)
        axes.set(xlabel="networks in the ensemble", ylabel="test accuracy")
        axes.set_xticks(sorted(set(table["size"]))[::2])
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
        axes.legend(loc="best")
    return figure


def novelty_audit(audit: pd.DataFrame) -> Figure:
    """Show accuracy and shared errors against the distance from the nearest training model, samples and baselines.

    Parameters
    ----------
    audit
        `hyperrep.tasks.novelty.audit_novelty`. Networks that could not be put at the wanted distance are hollow.
    """
    panels = (("test_acc", "test accuracy"), ("max_error_overlap", "errors shared with a training model (IoU)"))
    with house_style():
        figure = Figure(figsize=(8.4, 3.4), layout="constrained")
        for axes, (column, title) in zip(figure.subplots(1, 2), panels, strict=True):
            for number, (kind, part) in enumerate(audit.groupby("networks", sort=False)):
                colour = PALETTE[number % len(PALETTE)]
                there = part["reached"].to_numpy(dtype=bool)
                faces = [to_rgba(colour, 0.6 if filled else 0.0) for filled in there]
                axes.scatter(
                    part["distance"], part[column], s=16, linewidths=0.8, edgecolors=to_rgba(colour, 0.6),
                    facecolors=faces,
                )  # fmt: skip
                axes.scatter([], [], s=16, color=colour, label=kind)
            axes.set(xlabel="L2 distance to the nearest training model", ylim=(0, 1.04))
            axes.set_xlim(left=0)
            axes.set_title(title, fontsize=9)
            axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        figure.axes[0].legend(loc="lower left")
    return figure


def diversity_bars(table: pd.DataFrame) -> Figure:
    """Show how diverse each kind of networks is against the reference, in weights and in predictions.

    Parameters
    ----------
    table
        `hyperrep.tasks.diversity.compare_diversity`.
    """
    measures = ("weights_ratio", "outputs_ratio", "disagreement_ratio")
    labels = ("weights, L2", "class probabilities, L2", "different classes")
    with house_style():
        figure = Figure(figsize=(6.0, 0.9 + 0.5 * len(table)), layout="constrained")
        axes = figure.subplots()
        height = 0.8 / len(measures)
        for number, (measure, label) in enumerate(zip(measures, labels, strict=True)):
            places = np.arange(len(table))[::-1] + height * (1 - number)
            axes.barh(places, table[measure], height=height * 0.9, color=PALETTE[number], label=label)
        axes.axvline(1, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_yticks(np.arange(len(table))[::-1], labels=list(table["networks"]))
        axes.set_xlabel("mean over pairs, anchors = 1")
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def other_zoo_bars(table: pd.DataFrame) -> Figure:
    """Show the accuracy of networks decoded from, and sampled of, embeddings of another zoo.

    Parameters
    ----------
    table
        `hyperrep.tasks.other_zoo.decode_other_zoo`.
    """
    with house_style():
        figure = Figure(figsize=(6.0, 0.8 + 0.4 * len(table)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(table))[::-1]
        axes.barh(places, table["test_acc"], xerr=table["test_acc_std"], height=0.6, color=PALETTE[5], ecolor=GREY)
        axes.plot(table["ensemble_test_acc"], places, "D", color=INK, markersize=5, label="ensemble")
        axes.set_yticks(places, labels=list(table["networks"]))
        axes.set(xlabel="test accuracy, mean and deviation", xlim=(0, 1.02))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.tick_params(axis="y", length=0)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _interval(axes: Axes, line: pd.Series, place: int, colour: str, lowest: float) -> None:
    value, low, high = (float(line[name]) for name in ("value", "low", "high"))
    if value < lowest:
        axes.plot(lowest + 0.04, place, marker="<", color=colour, markersize=5, clip_on=False)
        axes.text(lowest + 0.1, place, f"{value:.1f}", va="center", fontsize=8, color=INK)
        return
    axes.plot([max(low, lowest), high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
    axes.plot(value, place, "o", color=colour, markersize=5, markeredgecolor="white", markeredgewidth=0.8)
    axes.annotate(f"{value:.2f}", (value, place), (0, 4), textcoords="offset points", ha="center", fontsize=7)
