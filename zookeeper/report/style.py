"""One look for every figure: quiet axes, few colours that colour-blind readers can tell apart.

Palette: Okabe and Ito, "Color Universal Design" (2008). Figures are made without pyplot, so nothing global
changes and no display is needed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#333333"
GREY = "#8c8c8c"
PALE = "#d9d9d9"
PALETTE: tuple[str, ...] = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")

_STYLE: Any = {
    "font.size": 9,
    "font.family": "DejaVu Sans",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 100,
    "savefig.dpi": 150,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the look inside a ``with`` block; outside nothing changes."""
    with mpl.rc_context(_STYLE):
        yield


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, PDF or SVG by its suffix, without a creation date: same data, same bytes."""
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix)
    with house_style():
        figure.savefig(path, metadata=metadata)


def draw_ridge(
    axes: Axes,
    values: np.ndarray,
    *,
    base: float,
    colour: str,
    bins: np.ndarray,
    height: float = 0.8,
) -> None:
    """Draw a histogram of ``values`` standing on the line ``y = base``, its tallest bin ``height`` high.

    The median is a short dark tick on the base. Values outside the bins are counted in the outer bins.
    """
    finite = values[np.isfinite(values)]
    axes.plot(bins[[0, -1]], [base, base], color=PALE, linewidth=0.8, zorder=1)
    if len(finite) == 0:
        return
    counts, _ = np.histogram(np.clip(finite, bins[0], bins[-1]), bins=bins)
    tops = base + height * counts / counts.max()
    axes.stairs(tops, bins, baseline=base, fill=True, color=colour, alpha=0.75, linewidth=0, zorder=2)
    axes.stairs(tops, bins, baseline=base, color=colour, linewidth=0.9, zorder=3)
    median = float(np.median(finite))
    axes.plot([median, median], [base - 0.1, base], color=INK, linewidth=2, solid_capstyle="butt", zorder=4)
