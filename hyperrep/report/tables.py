"""Tables for people: on a terminal and in HTML, from the same cells."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True, slots=True)
class ReportTable:
    """A titled table of finished strings; ``note`` says what the numbers are from.

    ``emphasis`` holds the (row, column) places of cells to set in bold.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""
    emphasis: frozenset[tuple[int, int]] = frozenset()

    def print_to(self, console: Console) -> None:
        """Print to a terminal; the first column is text, the others are aligned right."""
        table = Table(title=self.title, title_justify="left", title_style="bold", caption=self.note or None)
        table.caption_justify = "left"
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="left" if number == 0 else "right", overflow="fold")
        for row_number, row in enumerate(self.rows):
            cells = [
                Text(cell, style="bold" if (row_number, place) in self.emphasis else "")
                for place, cell in enumerate(row)
            ]
            table.add_row(*cells)
        console.print(table)
        console.print()

    def to_html(self) -> str:
        """One HTML table with its caption; every cell is escaped."""
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = []
        for row_number, row in enumerate(self.rows):
            cells = []
            for place, cell in enumerate(row):
                strong = ' class="strong"' if (row_number, place) in self.emphasis else ""
                cells.append(f"<td{strong}>{html.escape(cell)}</td>")
            body.append(f"<tr>{''.join(cells)}</tr>")
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        title = f"<caption>{html.escape(self.title)}</caption>"
        return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>{note}"


def probe_table(probes: pd.DataFrame, *, num_train: int, num_test: int) -> ReportTable:
    """Feature sets by properties; the best of each property is set in bold."""
    wide = probes.pivot(index="features", columns="property", values="value")
    wide = wide.loc[list(dict.fromkeys(probes["features"])), list(dict.fromkeys(probes["property"]))]
    kinds = probes.drop_duplicates("property").set_index("property")["score"]
    spread = probes.set_index(["features", "property"]).get("spread", pd.Series(dtype=float))
    rows, emphasis = [], set()
    for number, (name, scores) in enumerate(wide.iterrows()):
        cells = [str(name)]
        for place, label in enumerate(wide.columns, start=1):
            extra = spread.get((name, label), float("nan"))
            cells.append(f"{scores[label]:.3f}" + ("" if pd.isna(extra) else f" ± {extra:.3f}"))
            if scores[label] == wide[label].max():
                emphasis.add((number, place))
        rows.append(tuple(cells))
    columns = ("features", *(f"{label.replace('_', ' ')} ({_kind(kinds[label])})" for label in wide.columns))
    note = (
        f"Linear probes fitted on {num_train:,} checkpoints of train models, penalty chosen on validation models, "
        f"scored on {num_test:,} checkpoints of test models. ± is the spread over seeds."
    )
    return ReportTable("What a linear probe reads from the weights", columns, tuple(rows), note, frozenset(emphasis))


def reconstruction_table(summary: pd.DataFrame) -> ReportTable:
    """Reconstruction measures of each hyper-representation, for all models and those above chance."""
    rows = tuple(
        (
            str(line["losses"]),
            str(line["models"]),
            f"{int(line['num']):,}",
            f"{line['l2']:.1f} ± {line['l2_std']:.1f}",
            f"{percent(line['agreement'])} ± {100 * line['agreement_std']:.1f}",
            percent(line["acc"]),
            percent(line["acc_reconstructed"]),
            percent(line["best_acc"]),
            percent(line["best_acc_reconstructed"]),
        )
        for _, line in summary.iterrows()
    )
    columns = (
        "losses", "models", "rows", "L2 of weights", "agreement",
        "mean acc", "decoded", "best acc", "decoded",
    )  # fmt: skip
    note = (
        "Models of the test split, one row per checkpoint, originals and decoded networks on test images; mean ± "
        "standard deviation. The last lines put one network, chosen on validation images, in the place of every "
        "reconstruction: agreement that needs no knowledge of the original."
    )
    return ReportTable("Do reconstructions behave like their originals?", columns, rows, note)


def generation_table(summary: pd.DataFrame) -> ReportTable:
    """Samples of each hyper-representation beside the zoo."""
    lines: Mapping[str, str] = {
        "selected_test_acc": "best sample, chosen on validation images",
        "zoo_selected_test_acc": "best model of the zoo, chosen on validation images",
        "mean_test_acc": "mean of all samples",
        "median_test_acc": "median of all samples",
        "anchor_mean_test_acc": "mean of the anchors",
        "max_test_acc": "highest of all samples (an upper bound: chosen on test images)",
        "zoo_max_test_acc": "highest of the zoo (an upper bound: chosen on test images)",
    }
    names = [str(name) for name in summary["losses"]]
    rows = [(text, *(percent(value) for value in summary[key])) for key, text in lines.items()]
    rows += [
        ("novelty: distance to the nearest anchor / mean distance between anchors", *_plain(summary["novelty"])),
        ("diversity of weights, samples / anchors", *_plain(summary["diversity"] / summary["anchor_diversity"])),
        ("test images on which two samples differ", *(percent(value) for value in summary["disagreement"])),
        ("test images on which two anchors differ", *(percent(value) for value in summary["anchor_disagreement"])),
    ]
    first = summary.iloc[0]
    note = (
        f"{int(first['num_samples']):,} samples each, from {int(first['num_anchors']):,} anchors of the train split "
        f"with validation accuracy {percent(first['anchor_threshold'])} or more; accuracies on test images."
    )
    return ReportTable("Do sampled networks work, and are they new?", ("", *names), tuple(rows), note)


def percent(value: float) -> str:
    """Return a share as a percentage with one decimal; a dash for NaN.

    >>> percent(0.934), percent(float("nan"))
    ('93.4 %', '-')
    """
    return "-" if pd.isna(value) else f"{100 * value:.1f} %"


def _plain(values: Sequence[float] | pd.Series) -> tuple[str, ...]:
    return tuple("-" if pd.isna(value) else f"{value:.2f}" for value in values)


def _kind(score: str) -> str:
    return "R2" if score == "r2" else score
