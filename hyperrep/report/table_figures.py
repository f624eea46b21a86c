"""Figures of studies: measured against published values, lines, distributions, points; each from one tidy frame."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from zookeeper.report.style import GREY, INK, PALETTE, draw_ridge, house_style

_Draw = Callable[[Axes, pd.DataFrame, str, str], None]
_NUM_BINS = 50
_MOST_COLUMNS = 3
_LOWEST = -0.6


def against_paper(table: pd.DataFrame, *, unit: str = "") -> Figure:
    """Show every cell of a table: an open ring for the paper, a dot with its spread for what was measured.

    Parameters
    ----------
    table
        Columns ``row``, ``column``, ``paper``, ``measured``, ``spread``, ``seed_spread``; rows and columns of which
        nothing was measured are left out.
    """
    known = table["measured"].notna()
    table = table[table["column"].isin(table.loc[known, "column"]) & table["row"].isin(table.loc[known, "row"])]
    what = "dot: measured here, ring: the paper" if table["paper"].notna().any() else "measured here"
    columns, rows = (list(dict.fromkeys(table[name])) for name in ("column", "row"))
    with house_style():
        figure, grid = _panels(len(columns), height=0.55 + 0.24 * len(rows))
        for axes, column in zip(grid, columns, strict=False):
            part = (
                table[table["column"] == column]
                .set_index("row")
                .reindex(rows)
                .astype({"paper": float, "measured": float})
            )
            places = np.arange(len(rows))[::-1]
            spread = part["seed_spread"].fillna(part["spread"]).fillna(0.0).to_numpy(dtype=np.float64)
            axes.hlines(places, part["paper"], part["measured"], color=GREY, linewidth=0.8, zorder=1)
            axes.errorbar(
                part["measured"], places, xerr=spread, fmt="o", color=PALETTE[0], markersize=4, elinewidth=0.9, zorder=3
            )
            axes.plot(
                part["paper"], places, "o", markerfacecolor="none", markeredgecolor=PALETTE[1], markersize=6, zorder=2
            )
            axes.set_yticks(places, labels=[_shortened(row) for row in rows])
            axes.set_ylim(-0.6, len(rows) - 0.4)
            axes.set_title(_shortened(str(column)), fontsize=9)
            axes.tick_params(axis="x", labelsize=7.5)
            axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        _only_outer_labels(grid, len(columns))
        figure.supxlabel(f"{what}{f' [{unit}]' if unit else ''}", fontsize=8.5, color=INK)
    return figure


def lines(
    frame: pd.DataFrame, *, x: str, y: str, hue: str, panels: str, x_label: str = "", y_label: str = ""
) -> Figure:
    """Draw ``y`` over ``x``, one line per ``hue``, its mean where several values meet, with the deviation as a band."""
    return _by_panel(
        frame,
        hue,
        panels,
        x_label or x,
        y_label or y,
        lambda axes, part, colour, label: _line(axes, part, x, y, colour, label),
    )


def points(
    frame: pd.DataFrame, *, x: str, y: str, hue: str, panels: str, x_label: str = "", y_label: str = ""
) -> Figure:
    """Draw a dot for every row, coloured by ``hue``."""

    def draw(axes: Axes, part: pd.DataFrame, colour: str, label: str) -> None:
        axes.scatter(part[x], part[y], s=6, color=colour, alpha=0.6, linewidths=0, label=label)

    return _by_panel(frame, hue, panels, x_label or x, y_label or y, draw)


def numbers(
    frame: pd.DataFrame, *, x: str, y: str, hue: str, panels: str, x_label: str = "", y_label: str = ""
) -> Figure:
    """Draw one number for every ``hue`` where its means of ``x`` and ``y`` lie, with a key of the numbers beside.

    ``y`` is logarithmic: errors differ by factors.
    """
    hues, names = (list(dict.fromkeys(frame[key])) for key in (hue, panels))
    with house_style():
        figure, grid = _panels(len(names), height=max(3.2, 0.145 * len(hues)), width=4.2)
        for axes, name in zip(grid, names, strict=False):
            means = frame[frame[panels] == name].groupby(hue)[[x, y]].mean().reindex(hues)
            for number, (label, (across, up)) in enumerate(zip(hues, means.to_numpy(), strict=True)):
                colour = PALETTE[number % len(PALETTE)]
                axes.plot(across, up, "o", color=colour, markersize=3.5, label=f"{number + 1}  {label}")
                axes.annotate(
                    str(number + 1), (across, up), xytext=(3, 2), textcoords="offset points", fontsize=7, color=colour
                )
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
            axes.tick_params(axis="y", which="minor", labelsize=6)
            axes.set_title(_wrapped(str(name)))
            axes.set_xlabel(x_label or x)
        grid[0].set_ylabel(y_label or y)
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize=6.5)
    return figure


def dots(frame: pd.DataFrame, *, x: str, y: str, hue: str, panels: str, x_label: str = "") -> Figure:
    """Draw one row for each ``y``: the mean of ``x`` as a dot for every ``hue``, and its range as a bar.

    R2 far below 0 means nothing more than 0 does: what lies below -0.6 is an arrow at the edge.
    """
    rows, hues, names = (list(dict.fromkeys(frame[key])) for key in (y, hue, panels))
    lowest = max(float(frame[x].min()), _LOWEST)
    with house_style():
        figure, grid = _panels(len(names), height=0.7 + (0.16 * len(hues) + 0.2) * len(rows), width=3.4)
        for axes, name in zip(grid, names, strict=False):
            for number, label in enumerate(hues):
                part = frame[(frame[panels] == name) & (frame[hue] == label)].groupby(y)[x]
                places = np.arange(len(rows))[::-1] + 0.74 * (0.5 - (number + 0.5) / len(hues))
                colour = PALETTE[number % len(PALETTE)]
                _row_of_dots(axes, part.agg(["mean", "min", "max"]).reindex(rows), places, lowest, colour, str(label))
            axes.set_yticks(np.arange(len(rows))[::-1], labels=[str(row) for row in rows])
            axes.set_ylim(-0.55, len(rows) - 0.45)
            axes.hlines(np.arange(1, len(rows)) - 0.5, 0, 1, transform=axes.get_yaxis_transform(), color=GREY, lw=0.4)
            axes.tick_params(axis="y", length=0)
            axes.set_title(_wrapped(str(name)))
            axes.set_xlabel(x_label or x)
        _only_outer_labels(grid, len(names))
        handles, labels = grid[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
    return figure


def _row_of_dots(axes: Axes, values: pd.DataFrame, places: np.ndarray, lowest: float, colour: str, label: str) -> None:
    low, mean, high = (values[key].to_numpy(dtype=np.float64) for key in ("min", "mean", "max"))
    axes.hlines(places, np.maximum(low, lowest), np.maximum(high, lowest), color=colour, linewidth=1.2, alpha=0.6)
    below = mean < lowest
    axes.plot(np.where(below, np.nan, mean), places, "o", color=colour, markersize=4.5, label=label)
    axes.plot(np.where(below, lowest, np.nan), places, "<", color=colour, markersize=4.5)


def distributions(frame: pd.DataFrame, *, x: str, hue: str, panels: str, x_label: str = "") -> Figure:
    """Draw a histogram of ``x`` for every ``hue``, above each other, on one axis in each panel."""
    hues = list(dict.fromkeys(frame[hue]))
    names = list(dict.fromkeys(frame[panels]))
    values = frame[x].to_numpy(dtype=np.float64)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    bins = np.linspace(low, high if high > low else low + 1.0, _NUM_BINS + 1)
    with house_style():
        figure, grid = _panels(len(names), height=0.6 + 0.42 * len(hues))
        for axes, name in zip(grid, names, strict=False):
            for place, label in enumerate(reversed(hues)):
                part = frame[(frame[panels] == name) & (frame[hue] == label)]
                colour = PALETTE[(len(hues) - 1 - place) % len(PALETTE)]
                draw_ridge(axes, part[x].to_numpy(dtype=np.float64), base=place, colour=colour, bins=bins)
            axes.set_yticks(np.arange(len(hues)) + 0.25, labels=[_shortened(str(label)) for label in reversed(hues)])
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
            axes.set_title(_wrapped(str(name)))
            axes.set_xlabel(x_label or x)
        _only_outer_labels(grid, len(names))
    return figure


def _by_panel(frame: pd.DataFrame, hue: str, panels: str, x_label: str, y_label: str, draw: _Draw) -> Figure:
    hues, names = (list(dict.fromkeys(frame[key])) for key in (hue, panels))
    with house_style():
        figure, grid = _panels(len(names), height=2.5)
        for axes, name in zip(grid, names, strict=False):
            for number, label in enumerate(hues):
                part = frame[(frame[panels] == name) & (frame[hue] == label)]
                if len(part):
                    draw(axes, part, PALETTE[number % len(PALETTE)], _shortened(str(label)))
            axes.set_title(_wrapped(str(name)))
            axes.set_xlabel(x_label)
            if axes.dataLim.width >= 2:  # epochs, sizes: whole numbers
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        grid[0].set_ylabel(y_label)
        handles, labels = max((axes.get_legend_handles_labels() for axes in grid), key=lambda pair: len(pair[0]))
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside right upper")
    return figure


def _line(axes: Axes, part: pd.DataFrame, x: str, y: str, colour: str, label: str) -> None:
    means = part.groupby(x)[y].agg(["mean", "std", "size"]).sort_index()
    axes.plot(
        means.index,
        means["mean"],
        color=colour,
        linewidth=1.4,
        label=label,
        marker="o" if len(means) < 20 else None,
        markersize=3,
    )
    if (means["size"] > 1).any():
        deviation = means["std"].fillna(0.0)
        axes.fill_between(
            means.index, means["mean"] - deviation, means["mean"] + deviation, color=colour, alpha=0.15, linewidth=0
        )


def _panels(num: int, *, height: float, width: float = 2.6) -> tuple[Figure, Sequence[Axes]]:
    num_columns = min(num, _MOST_COLUMNS)
    num_rows = -(-num // num_columns)
    figure = Figure(figsize=(1.6 + width * num_columns, 0.3 + height * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False).ravel()
    for axes in grid[num:]:
        axes.set_visible(False)
    return figure, list(grid)


def _only_outer_labels(grid: Sequence[Axes], num: int) -> None:
    for number, axes in enumerate(grid[:num]):
        if number % _MOST_COLUMNS:
            axes.set_yticklabels([])


def _wrapped(text: str) -> str:
    """Break a title that would reach over its panel.

    >>> print(_wrapped("SVHN (here fashion_mnist_seed)"))
    SVHN (here
    fashion_mnist_seed)
    """
    return textwrap.fill(text, 26, break_long_words=False, break_on_hyphens=False)


def _shortened(text: str, most: int = 34) -> str:
    """Cut long labels.

    >>> _shortened("a" * 40)[-4:]
    'aaa…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"
