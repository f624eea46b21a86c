"""Figures about hyper-representations, each from one tidy frame.

Every function takes data and returns a figure; nothing is read, computed anew or written here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from zookeeper.report.style import GREY, INK, PALETTE, draw_ridge, house_style

_ACCURACY_BINS = np.linspace(0, 1, 51)
_POPULATION_COLOURS = {"originals": GREY, "reconstructions": PALETTE[0], "samples": PALETTE[2]}
_LOWEST_SHOWN_R2 = -0.5


def accuracy_distributions(frame: pd.DataFrame, *, best: float) -> Figure:
    """Show originals, reconstructions and samples side by side, one row of histograms per loss combination.

    As Figure 3 of "Structure and Behavior in Weight Space Representation Learning".

    Parameters
    ----------
    frame
        Columns ``losses``, ``population`` (originals | reconstructions | samples) and ``acc`` in [0, 1].
    best
        Test accuracy of the zoo's best model, drawn as a line.
    """
    losses = list(dict.fromkeys(frame["losses"]))
    with house_style():
        figure = Figure(figsize=(7.4, 0.5 + 1.75 * len(losses)), layout="constrained")
        grid = figure.subplots(len(losses), 1, sharex=True, squeeze=False)[:, 0]
        for axes, name in zip(grid, losses, strict=True):
            part = frame[frame["losses"] == name]
            labels = []
            for place, (population, colour) in enumerate(reversed(_POPULATION_COLOURS.items())):
                values = part.loc[part["population"] == population, "acc"].to_numpy(dtype=np.float64)
                draw_ridge(axes, values, base=place, colour=colour, bins=_ACCURACY_BINS)
                labels.append(f"{population}\n{len(values):,}, median {_percent(np.median(values))}")
            axes.axvline(best, color=INK, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
            axes.set_yticks(np.arange(len(labels)) + 0.25, labels=labels)
            _open_ridges(axes, len(labels))
            axes.set_title(name)
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            axes.set_xlim(0, 1.0)
        grid[0].annotate(
            f"best of the zoo {_percent(best)}",
            (best, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            fontsize=8,
        )
        grid[-1].set_xlabel("test accuracy")
    return figure


def pairwise_distributions(frame: pd.DataFrame) -> Figure:
    """Show how far reconstructions are from their originals: in weights, and in what they predict.

    As Figure 2 of "Structure and Behavior in Weight Space Representation Learning".

    Parameters
    ----------
    frame
        `hyperrep.tasks.reconstruct.compare` with a column ``losses``.
    """
    losses = list(dict.fromkeys(frame["losses"]))
    chance = frame[frame["above_chance"]]
    panels = (
        ("l2", frame, "L2 distance of the weights, all models", np.linspace(0, _upper(frame["l2"]), 51)),
        ("agreement", frame, "agreement, all models", _ACCURACY_BINS),
        ("agreement", chance, "agreement, models above chance", _ACCURACY_BINS),
    )
    with house_style():
        figure = Figure(figsize=(9.6, 0.9 + 0.95 * len(losses)), layout="constrained")
        grid = figure.subplots(1, len(panels), sharey=True)
        for axes, (column, data, title, bins) in zip(grid, panels, strict=True):
            for place, name in enumerate(reversed(losses)):
                values = data.loc[data["losses"] == name, column].to_numpy(dtype=np.float64)
                draw_ridge(axes, values, base=place, colour=_loss_colour(losses, name), bins=bins, height=0.7)
                if len(values):
                    mean = _percent(values.mean()) if column == "agreement" else f"{values.mean():.1f}"
                    axes.text(0.02, place + 0.76, f"mean {mean}", transform=axes.get_yaxis_transform(), fontsize=8)
            _open_ridges(axes, len(losses))
            axes.set_title(title, fontsize=9)
            if column == "agreement":
                axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
                axes.set_xlim(0, 1)
            else:
                axes.set_xlim(0, bins[-1])
        grid[0].set_yticks(np.arange(len(losses)) + 0.25, labels=list(reversed(losses)))
    return figure


def probe_scores(table: pd.DataFrame, *, properties: Sequence[str], highlight: Sequence[str] = ()) -> Figure:
    """Show probe scores with their 95 % intervals, one panel per property, baselines beside embeddings.

    Parameters
    ----------
    table
        `hyperrep.tasks.probe.probe`. Scores below -0.5 are drawn as an arrow with their number.
    properties
        Which properties to show, in this order.
    highlight
        Feature sets drawn in colour; the others are grey.
    """
    names = list(dict.fromkeys(table["features"]))[::-1]
    shown = [name for name in properties if name in set(table["property"])]
    with house_style():
        figure = Figure(figsize=(2.1 + 2.0 * len(shown), 0.9 + 0.34 * len(names)), layout="constrained")
        grid = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
        for axes, label in zip(grid, shown, strict=True):
            part = table[table["property"] == label].set_index("features")
            score = str(part["score"].iloc[0])
            for place, name in enumerate(names):
                if name in part.index:
                    colour = _loss_colour(highlight, name) if name in highlight else GREY
                    _draw_score(axes, part.loc[name], place, colour)
            axes.axvline(0, color=GREY, linewidth=0.8, zorder=0)
            axes.set(xlim=(_LOWEST_SHOWN_R2 if score == "r2" else 0, 1.02), ylim=(-0.6, len(names) - 0.4))
            axes.set_title(label.replace("_", " ").replace("acc", "accuracy"), fontsize=9)
            axes.set_xlabel("R2" if score == "r2" else "accuracy")
            axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        grid[0].set_yticks(range(len(names)), labels=names)
    return figure


def novelty(samples: pd.DataFrame, *, references: Mapping[str, float]) -> Figure:
    """Show how good and how new every sample is; the sample chosen on validation images is ringed.

    Parameters
    ----------
    samples
        `hyperrep.tasks.generate.examine_samples` with columns ``losses`` and ``selected``.
    references
        Label -> test accuracy, drawn as horizontal lines.
    """
    losses = list(dict.fromkeys(samples["losses"]))
    with house_style():
        figure = Figure(figsize=(7.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for name in losses:
            part = samples[samples["losses"] == name]
            colour = _loss_colour(losses, name)
            axes.scatter(part["novelty"], part["test_acc"], s=14, color=colour, alpha=0.55, linewidths=0, label=name)
            chosen = part[part["selected"]]
            axes.scatter(chosen["novelty"], chosen["test_acc"], s=90, facecolors="none", edgecolors=INK, linewidths=1.3)
        highest = max(references.values())
        for label, value in references.items():
            axes.axhline(value, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
            above = value == highest
            axes.annotate(
                f"{label} {_percent(value)}", (0.005, value), (0, 3 if above else -3), fontsize=8, ha="left",
                va="bottom" if above else "top", xycoords=axes.get_yaxis_transform(), textcoords="offset points",
            )  # fmt: skip
        ring = Line2D([], [], marker="o", color="none", markeredgecolor=INK, markersize=9, label="chosen on validation")
        axes.legend(handles=[*axes.get_legend_handles_labels()[0], ring], loc="center right")
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(0, 1.1)
        axes.set_xlim(left=0)
        axes.set_xlabel("novelty: distance to the nearest anchor / mean distance between anchors")
        axes.set_ylabel("test accuracy")
    return figure


def training_curves(log: pd.DataFrame) -> Figure:
    """Show how agreement and the structural error on validation models developed during training.

    Parameters
    ----------
    log
        Rows of ``log.csv`` of each training with a column ``losses``; rows without validation are skipped.
    """
    losses = list(dict.fromkeys(log["losses"]))
    panels = (("val_agreement", "agreement"), ("val_structure", "structural error"))
    with house_style():
        figure = Figure(figsize=(7.4, 2.6), layout="constrained")
        for axes, (column, label) in zip(figure.subplots(1, len(panels)), panels, strict=True):
            for name in losses:
                part = log[(log["losses"] == name) & log[column].notna()]
                axes.plot(part["step"], part[column], color=_loss_colour(losses, name), linewidth=1.6, label=name)
            axes.set(xlabel="training step", title=label)
            axes.set_ylim(bottom=0)
            if column == "val_agreement":
                axes.set_ylim(0, 1)
                axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
                axes.legend()
    return figure


def _draw_score(axes: Axes, record: pd.Series, place: int, colour: str) -> None:
    value, low, high = float(record["value"]), float(record["low"]), float(record["high"])
    if value < _LOWEST_SHOWN_R2:
        axes.plot(_LOWEST_SHOWN_R2 + 0.04, place, marker="<", color=colour, markersize=5, clip_on=False)
        axes.text(_LOWEST_SHOWN_R2 + 0.1, place, f"{value:.1f}", va="center", fontsize=8, color=INK)
        return
    axes.plot([max(low, _LOWEST_SHOWN_R2), high], [place, place], color=colour, linewidth=2, solid_capstyle="round")
    axes.plot(value, place, marker="o", color=colour, markersize=5.5, markeredgecolor="white", markeredgewidth=0.8)
    axes.annotate(
        f"{value:.2f}", (value, place), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7, color=INK
    )


def _open_ridges(axes: Axes, num: int) -> None:
    axes.set_ylim(-0.2, num)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _loss_colour(losses: Sequence[str], name: str) -> str:
    return (PALETTE[1], PALETTE[0], *PALETTE[2:])[list(losses).index(name) % len(PALETTE)]


def _upper(values: pd.Series) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.quantile(0.995)) * 1.05 if len(finite) else 1.0


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"
