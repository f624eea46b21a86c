"""What alignment does to the straight line between networks, as one figure and one table."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from hyperrep.report.tables import ReportTable, percent
from zookeeper.report.style import GREY, PALETTE, house_style

_COLOURS = {"before": PALETTE[1], "after": PALETTE[0]}


def barrier_figure(paths: pd.DataFrame, pairs: pd.DataFrame, *, subject: str) -> Figure:
    """Show loss and accuracy along the paths before and after alignment, and every pair's barrier before and after.

    Parameters
    ----------
    paths, pairs
        `hyperrep.tasks.barrier.compare_alignment`.
    subject
        What the networks are, for the title.
    """
    with house_style():
        figure = Figure(figsize=(10.2, 3.3), layout="constrained")
        figure.suptitle(subject, x=0.01, ha="left", fontsize=9)
        left, middle, right = figure.subplots(1, 3)
        _draw_paths(left, paths, "loss")
        left.set(ylabel="loss (nats)", title="loss along the line")
        left.set_ylim(bottom=0)
        _draw_paths(middle, paths, "acc")
        middle.set(ylabel="accuracy", title="accuracy along the line", ylim=(0, 1))
        middle.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        middle.legend(title="median, middle half of pairs", title_fontsize=8, alignment="left", loc="lower center")
        wide = pairs.pivot(index="pair", columns="alignment", values="loss_barrier")
        top = 1.05 * float(wide.max().max())
        right.plot([0, top], [0, top], color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        right.scatter(wide["before"], wide["after"], s=14, color=PALETTE[0], alpha=0.6, linewidths=0)
        right.set(xlabel="loss barrier before", ylabel="loss barrier after", title="every pair", aspect="equal")
        right.set(xlim=(0, top), ylim=(0, top))
    return figure


def barrier_table(summary: pd.DataFrame, *, subject: str) -> ReportTable:
    """Distances and barriers before and after alignment; ``summary`` is `hyperrep.tasks.barrier.summarise_barriers`."""
    rows = tuple(
        (
            str(line["alignment"]),
            f"{int(line['num']):,}",
            f"{line['l2']:.2f} ± {line['l2_std']:.2f}",
            f"{line['loss_barrier']:.3f} ± {line['loss_barrier_std']:.3f}",
            f"{100 * line['acc_barrier']:.1f} ± {100 * line['acc_barrier_std']:.1f} points",
            f"{line['loss_ends']:.3f}",
            percent(float(line["acc_ends"])),
        )
        for _, line in summary.iterrows()
    )
    columns = (
        "alignment",
        "pairs",
        "L2 of weights",
        "loss barrier",
        "accuracy barrier",
        "loss of the ends",
        "accuracy",
    )
    note = (
        f"{subject}; mean ± standard deviation over pairs. A barrier is the largest rise of the loss (fall of the "
        "accuracy) above the straight line between the ends."
    )
    return ReportTable("What lies between two networks?", columns, rows, note)


def _draw_paths(axes: Axes, paths: pd.DataFrame, column: str) -> None:
    for name, colour in _COLOURS.items():
        wide = paths[paths["alignment"] == name].pivot(index="pair", columns="t", values=column)
        t, values = wide.columns.to_numpy(dtype=np.float64), wide.to_numpy(dtype=np.float64)
        low, mid, high = np.quantile(values, [0.25, 0.5, 0.75], axis=0)
        axes.fill_between(t, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.plot(t, mid, color=colour, linewidth=1.8, label=f"{name} alignment")
    axes.set(xlabel="way from one network to the other", xlim=(0, 1))
