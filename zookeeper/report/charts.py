"""The page's charts, each from numbers alone."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from zookeeper.report.groups import Groups
from zookeeper.report.sample import ModelMap, TensorSpread
from zookeeper.report.svg import Chart, Format, share, short

Floats = npt.NDArray[np.float64]
_NAMES = {"test_acc": "test accuracy", "val_acc": "validation accuracy", "train_acc": "train accuracy"}


def spoken(column: str) -> str:
    """A column's name in words.

    >>> spoken("test_acc"), spoken("weight_decay")
    ('test accuracy', 'weight decay')
    """
    return _NAMES.get(column, column.replace("_", " "))


def by_epoch(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Quartiles, largest and number of finite values of a column at every epoch."""
    finite = frame[np.isfinite(frame[column].to_numpy(dtype=np.float64))]
    groups = finite.groupby("epoch")[column]
    low, middle, high = (groups.quantile(q) for q in (0.25, 0.5, 0.75))
    return pd.DataFrame({"low": low, "median": middle, "high": high, "best": groups.max(), "models": groups.size()})


def accuracy_chart(table: pd.DataFrame, column: str) -> str:
    """Median, quartiles and best by epoch, from `by_epoch`."""
    epochs = table.index.to_numpy(dtype=np.float64)
    chart = Chart((epochs.min(), epochs.max()), (0, 1), width=760, height=320)
    chart.axes("training epoch", spoken(column), x_format=_stored_epoch(epochs), y_format=share)
    chart.band(epochs, table["low"].to_numpy(), table["high"].to_numpy(), "c0")
    chart.line(epochs, table["median"].to_numpy(), "c0")
    chart.line(epochs, table["best"].to_numpy(), "c1")
    last = table.iloc[-1]
    return chart.render(
        f"{spoken(column)} by epoch; at epoch {table.index[-1]} the median is {share(last['median'])}, "
        f"the best {share(last['best'])}"
    ) + legend((("c0", "median, with quartiles"), ("c1", "best model")))


def gap_charts(table: pd.DataFrame, last: Floats) -> tuple[str, str]:
    """The generalization gap by epoch, and its distribution over models at their last checkpoint."""
    epochs = table.index.to_numpy(dtype=np.float64)
    low, high = float(table["low"].min()), float(table["high"].max())
    lines = Chart((epochs.min(), epochs.max()), (min(0.0, low), max(0.0, high)))
    lines.axes("training epoch", "gap", x_format=_stored_epoch(epochs), y_format=share)
    lines.band(epochs, table["low"].to_numpy(), table["high"].to_numpy(), "c0")
    lines.line(epochs, table["median"].to_numpy(), "c0")
    counts, edges = np.histogram(last, bins=40)
    bars = Chart((edges[0], edges[-1]), (0, float(counts.max())))
    bars.axes("gap at the last checkpoint", "models", x_format=share)
    for count, left, right in zip(counts, edges, edges[1:], strict=False):
        if count:
            bars.bar(left, right, 0, float(count), "c0", f"{share(left)} to {share(right)}: {count:,} models")
    median = float(np.median(last))
    return (
        lines.render(f"generalization gap by epoch; median at the end {share(table['median'].iloc[-1])}"),
        bars.render(f"histogram of the generalization gap of {len(last):,} models; median {share(median)}"),
    )


def factor_chart(values: Floats, groups: Groups, column: str) -> str:
    """One box per group: quartiles and median, with a line from the 5th to the 95th percentile."""
    row = 24
    labels = [label if len(label) <= 18 else f"{label[:8]}…{label[-8:]}" for label in groups.labels]
    finite = np.isfinite(values)
    low = min(0.0, float(values[finite].min())) if finite.any() else 0.0
    high = max(1.0, float(values[finite].max())) if finite.any() else 1.0
    chart = Chart(
        (low, high), (0, len(labels)), width=340, height=44 + row * len(labels), left=124, bottom=38, top=6, right=22
    )
    chart.axes(spoken(column), "", x_format=share, about=1)
    chart.marks = [mark for mark in chart.marks if 'class="grid"' not in mark and 'text-anchor="end"' not in mark]
    told = []
    for number, label in enumerate(labels):
        part = values[(groups.members == number) & finite]
        middle = len(labels) - number - 0.5
        chart.text(chart.left - 8, chart.py(middle) + 4, label, anchor="end")
        if len(part) == 0:
            chart.text(chart.left + 4, chart.py(middle) + 4, "no finite value")
            continue
        ends = np.quantile(part, (0.05, 0.25, 0.5, 0.75, 0.95))
        tip = f"{groups.labels[number]}: median {share(ends[2])}, {len(part):,} models"
        told.append(tip)
        chart.bar(ends[0], ends[4], middle - 0.04, middle + 0.04, "c0", tip)
        chart.bar(ends[1], ends[3], middle - 0.3, middle + 0.3, "c0 soft", tip)
        place = chart.px(ends[2])
        chart.marks.append(
            f'<line class="median" x1="{place}" x2="{place}" y1="{chart.py(middle + 0.36)}" '
            f'y2="{chart.py(middle - 0.36)}"/>'
        )
    return chart.render(f"{spoken(column)} by {groups.factor}: {'; '.join(told)}")


def spread_chart(tensor: TensorSpread, epochs: Sequence[int]) -> str:
    """A tensor's standard deviation over the epochs: median and quartiles over models."""
    low, middle, high = tensor.quartiles
    chart = Chart((epochs[0], epochs[-1]), (0, float(np.nanmax(high))), width=250, height=160, left=44, bottom=34)
    chart.axes("epoch", "", x_format=_stored_epoch(epochs), about=3)
    chart.band(list(epochs), low, high, "c0")
    chart.line(list(epochs), middle, "c0")
    return chart.render(
        f"standard deviation of {tensor.name} by epoch; median {short(middle[0])} at epoch {epochs[0]}, "
        f"{short(middle[-1])} at epoch {epochs[-1]}"
    )


def map_chart(found: ModelMap, groups: Groups, column: str | None) -> str:
    """Models as dots, coloured by group."""
    xs, ys = found.places.T
    pad_x, pad_y = 0.03 * np.ptp(xs), 0.03 * np.ptp(ys)
    chart = Chart(
        (xs.min() - pad_x, xs.max() + pad_x), (ys.min() - pad_y, ys.max() + pad_y), width=760, height=520, left=58
    )
    first, second = ("UMAP 1", "UMAP 2")
    if found.shares is not None:
        first, second = (f"principal component {n} ({share(part)})" for n, part in enumerate(found.shares, start=1))
    chart.axes(first, second)
    ramp = _ramp(groups)
    colours = ["none" if member < 0 else ramp[member] for member in groups.members]
    models, values = found.frame["model_id"].astype(str), found.frame[groups.factor].astype(str)
    titles = [f"{model}, {groups.factor} {value}" for model, value in zip(models, values, strict=True)]
    if column is not None and column != groups.factor:
        titles = [f"{title}, {share(acc)}" for title, acc in zip(titles, found.frame[column], strict=True)]
    order = np.random.default_rng(0).permutation(len(xs))  # no group hides another by being drawn last
    chart.points(xs[order], ys[order], [colours[n] for n in order], titles=[titles[n] for n in order], radius=3.2)
    entries = [(ramp[number], label) for number, label in enumerate(groups.labels)]
    if (groups.members < 0).any():
        entries.append(("none", "no value"))
    text = f"{found.method.upper()} of {len(xs):,} models, coloured by {groups.factor}"
    return legend(entries, groups.factor) + chart.render(text)


def _stored_epoch(epochs: npt.NDArray[np.float64] | Sequence[int]) -> Format:
    """Write a tick of an epoch axis; nothing outside the epochs, where a single one leaves room, or between two."""
    first, last = epochs[0], epochs[-1]
    return lambda value: short(value) if first <= value <= last and value == round(value) else ""


def legend(entries: Sequence[tuple[str, str]], title: str = "") -> str:
    """Colours and what they stand for.

    >>> legend([("c0", "a<b")])
    '<ul class="legend"><li><span class="key c0"></span>a&lt;b</li></ul>'
    """
    head = f'<li class="title">{html.escape(title)}</li>' if title else ""
    keys = "".join(f'<li><span class="key {colour}"></span>{html.escape(text)}</li>' for colour, text in entries)
    return f'<ul class="legend">{head}{keys}</ul>'


def _ramp(groups: Groups) -> list[str]:
    """Classes for the groups: a sequence from dark to light for numbers, else colours that differ."""
    count = len(groups.labels)
    if not groups.ordered:
        return [f"c{number}" for number in range(count)]
    return [f"q{round(number * 7 / max(1, count - 1))}" for number in range(count)]
