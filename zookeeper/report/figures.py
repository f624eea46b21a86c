"""Figures about a zoo alone."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from zookeeper.errors import InputError
from zookeeper.report.style import INK, PALETTE, house_style

_BINS = np.linspace(0, 1, 51)


def accuracy_by_epoch(frame: pd.DataFrame, *, column: str = "test_acc", by: str = "init") -> Figure:
    """Show how a zoo's accuracies are distributed at every epoch, and at the last one by a factor.

    Left: each epoch is a column of accuracy bins, darker where more of the models are, with the median and
    the best model as lines. Right: the last epoch, stacked by the factor. As Figure 4 of "Structure and
    Behavior in Weight Space Representation Learning".

    Parameters
    ----------
    frame
        One row per checkpoint with ``epoch`` and ``column`` (a share in [0, 1]); ``by`` is optional.

    Raises
    ------
    InputError
        If the frame is empty or lacks a column.
    """
    missing = [name for name in ("epoch", column) if name not in frame]
    if missing or frame.empty:
        raise InputError(f"figure: expected checkpoints with {column} and epoch, got {len(frame)} rows; {missing=}.")
    frame = frame[np.isfinite(frame[column])]
    with house_style():
        figure = Figure(figsize=(9.0, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(2.6, 1))
        _draw_epochs(figure, left, frame, column)
        _draw_last(right, frame[frame["epoch"] == frame["epoch"].max()], column, by)
        left.set_ylabel(column.replace("_", " ").replace("acc", "accuracy"))
    return figure


def _draw_epochs(figure: Figure, axes: Axes, frame: pd.DataFrame, column: str) -> None:
    groups = frame.groupby("epoch")[column]
    epochs = np.sort(frame["epoch"].unique())
    shares = np.stack([np.histogram(groups.get_group(e), bins=_BINS)[0] / groups.get_group(e).size for e in epochs])
    middles = (epochs[1:] + epochs[:-1]) / 2
    first, last = (middles[0] - epochs[0], epochs[-1] - middles[-1]) if len(middles) else (0.5, 0.5)
    edges = np.concatenate([[epochs[0] - first], middles, [epochs[-1] + last]])
    mesh = axes.pcolormesh(edges, _BINS, np.sqrt(shares.T), cmap="Blues", vmin=0, vmax=np.sqrt(0.5), rasterized=True)
    axes.plot(epochs, groups.median(), color=INK, linewidth=1.4, label="median")
    axes.plot(epochs, groups.max(), color=PALETTE[1], linewidth=1.4, label="best")
    axes.set(xlabel="training epoch", title=f"{frame['model_id'].nunique():,} models, {len(frame):,} checkpoints")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set_ylim(0, 1)
    axes.legend(loc="center right")
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=30)
    ticks = np.array([0, 0.02, 0.1, 0.25, 0.5])
    bar.set_ticks(list(np.sqrt(ticks)), labels=[*(f"{t:.0%}" for t in ticks[:-1]), "50%+"])
    bar.set_label("share of models")
    bar.outline.set_visible(False)


def _draw_last(axes: Axes, frame: pd.DataFrame, column: str, by: str) -> None:
    if by in frame and 1 < frame[by].nunique() <= len(PALETTE):
        names = sorted(frame[by].unique(), key=lambda name: -float(frame.loc[frame[by] == name, column].median()))
        parts = [frame.loc[frame[by] == name, column].to_numpy() for name in names]
        labels = [str(name).replace("_", " ") for name in names]
        axes.hist(
            parts, bins=list(_BINS), stacked=True, orientation="horizontal", color=PALETTE[: len(names)], label=labels
        )
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), title=by, alignment="left")
    else:
        axes.hist(frame[column], bins=list(_BINS), orientation="horizontal", color=PALETTE[0])
    axes.set(xlabel="models", title=f"epoch {frame['epoch'].max()}")
