"""The figures of a card: accuracies over training, and at its end by each factor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import PercentFormatter

from zookeeper.publish.card import Figure
from zookeeper.report.figures import accuracy_by_epoch
from zookeeper.report.style import PALETTE, draw_ridge, house_style, save_figure
from zookeeper.zoo import Zoo

FOLDER = "figures"
_ACCURACIES = ("test_acc", "val_acc", "train_acc")
_MOST_VALUES = len(PALETTE)
_MOST_FACTORS = 3


def draw_figures(zoo: Zoo, root: Path) -> tuple[Figure, ...]:
    """Write the figures of a zoo below ``root``; none if it has no accuracies."""
    frame, models = zoo.frame, zoo.models
    column = next((name for name in _ACCURACIES if name in frame and frame[name].notna().any()), None)
    if column is None:
        return ()
    (root / FOLDER).mkdir(exist_ok=True)
    factors = rank_factors(models, zoo.factors, column)
    what = column.replace("_acc", " accuracy")
    figures = []
    last = frame["epoch"].max()
    if frame.loc[frame["epoch"] == last, column].notna().any():
        by = factors[0] if factors else ""
        save_figure(accuracy_by_epoch(frame, column=column, by=by), root / FOLDER / "accuracy.png")
        coloured = f"; right: the last epoch, by `{by}`" if by else ""
        caption = f"{what.capitalize()} of all models at every stored epoch, with median and best{coloured}."
        figures.append(Figure(f"{FOLDER}/accuracy.png", f"{what} by epoch", caption))
    if factors:
        save_figure(draw_factors(models, factors[:_MOST_FACTORS], column), root / FOLDER / "factors.png")
        caption = (
            f"{what.capitalize()} of each model's last checkpoint, by the factors that change it most (tick: median)."
        )
        figures.append(Figure(f"{FOLDER}/factors.png", f"{what} by factor", caption))
    return tuple(figures)


def rank_factors(models: pd.DataFrame, factors: tuple[str, ...], column: str) -> tuple[str, ...]:
    """Factors with 2 to 7 values, those first whose groups' mean accuracies spread most.

    >>> models = pd.DataFrame({"lr": [1, 1, 2, 2], "init": ["a", "b", "a", "b"], "acc": [0.1, 0.2, 0.8, 0.9]})
    >>> rank_factors(models, ("init", "lr"), "acc")
    ('lr', 'init')
    """
    sound = models[np.isfinite(models[column].to_numpy(dtype=float))]
    few = [name for name in factors if 1 < sound[name].nunique() <= _MOST_VALUES]
    spread = {name: float(np.ptp(sound.groupby(name)[column].mean().to_numpy())) for name in few}
    return tuple(sorted(few, key=lambda name: -spread[name]))


def draw_factors(models: pd.DataFrame, factors: tuple[str, ...], column: str) -> Picture:
    """Show how accuracies are distributed at each value of each factor, a panel per factor."""
    bins = np.linspace(0, 1, 51)
    values = [sorted(models[name].dropna().unique().tolist()) for name in factors]
    with house_style():
        figure = Picture(figsize=(3.0 * len(factors), 0.8 + 0.42 * max(map(len, values))), layout="constrained")
        panels = figure.subplots(1, len(factors), squeeze=False)[0]
        for panel, name, entries in zip(panels, factors, values, strict=True):
            for place, entry in enumerate(entries):
                accuracies = models.loc[models[name] == entry, column].to_numpy(dtype=float)
                draw_ridge(panel, accuracies, base=place, colour=PALETTE[place], bins=bins)
            labels = [f"{entry:g}" if isinstance(entry, float) else str(entry) for entry in entries]
            panel.set_yticks(range(len(entries)), labels)
            panel.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            panel.set(title=name, xlim=(0, 1), xlabel=column.replace("_acc", " accuracy"))
    return figure
