"""From measured facts to the paper's table: labels in rows and columns, the paper's number, ours, the difference."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hyperrep.report.tables import ReportTable
from hyperrep.studies.table_config import DifferenceSection, TableSection
from zookeeper.errors import InputError

JOIN = " | "
_ROUNDING = 1e-6  # seeds that differ by less than this differ in the order of a sum
COLUMNS = ("row", "column", "paper", "paper_spread", "measured", "spread", "seed_spread", "num_seeds", "difference")
_CELL = re.compile(r"(?P<value>[-+]?[0-9.]+)(?: ± (?P<spread>[0-9.]+))?")


def read_paper(path: Path) -> pd.DataFrame:
    """Read a paper's table: row labels in the first column, column labels in the header, ``30.7 ± 10`` in the cells.

    Empty cells and ``-`` are absent.

    Returns
    -------
    ``row``, ``column``, ``paper``, ``paper_spread`` in the order of the file.

    Raises
    ------
    InputError
        If the file is missing, a line has another number of cells, or a cell is no number.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file with the values of the paper; expected it beside the study.")
    with path.open(newline="", encoding="utf-8") as file:
        head, *lines = [line for line in csv.reader(file) if line]
    records = []
    for number, (label, *cells) in enumerate(lines, start=2):
        if len(cells) != len(head) - 1:
            raise InputError(f"{path}:{number}: expected {len(head)} cells as in the header, got {len(cells) + 1}.")
        for column, text in zip(head[1:], cells, strict=True):
            value, spread = _read_cell(text.strip(), f"{path}:{number} {column}")
            records.append({"row": label, "column": column, "paper": value, "paper_spread": spread})
    return pd.DataFrame.from_records(records, columns=["row", "column", "paper", "paper_spread"])


def _read_cell(text: str, where: str) -> tuple[float, float]:
    if text in ("", "-"):
        return float("nan"), float("nan")
    found = _CELL.fullmatch(text)
    if found is None:
        raise InputError(f"{where}: not a number: {text!r}; expected such as 0.742, or 30.7 ± 10, or nothing.")
    return float(found["value"]), float(found["spread"] or "nan")


def tabulate(facts: pd.DataFrame, table: TableSection, paper: pd.DataFrame | None = None) -> pd.DataFrame:
    """Fill a table with what was measured and put the paper's values beside it.

    A cell is the mean over the facts of one seed that fall into it, then over seeds. ``spread`` is the standard
    deviation over networks (or, of several facts, over these), ``seed_spread`` the one over seeds, of what they change.

    Parameters
    ----------
    facts
        Columns ``task``, ``measure``, ``value``, ``spread``, ``run_seed`` and keys as text.

    Returns
    -------
    One row per cell: `COLUMNS`; rows and columns in the order of the paper's, then of the facts; numbers increase.
    """
    chosen = facts[facts["task"].isin(table.tasks)]
    for key, values in table.where.items():
        chosen = chosen[_column(chosen, key).isin(values)]
    keys = [*table.rows, *table.columns]
    chosen = chosen[np.logical_and.reduce([_column(chosen, key) != "" for key in keys])] if len(chosen) else chosen
    cells = chosen.assign(row=_labels(chosen, table.rows, table), column=_labels(chosen, table.columns, table))
    measured = _average(cells, 100.0 if table.unit == "%" else 1.0)
    measured = _with_differences(measured, table.differences)
    known = pd.DataFrame(columns=["row", "column", "paper", "paper_spread"]) if paper is None else paper
    result = known.merge(measured, on=["row", "column"], how="outer")
    rows = _in_order([*known["row"], *measured["row"]])
    columns = _in_order([*known["column"], *measured["column"]])
    order = [
        rows.index(row) * len(columns) + columns.index(column)
        for row, column in zip(result["row"], result["column"], strict=True)
    ]
    result = result.iloc[np.argsort(order)].reset_index(drop=True)
    result["difference"] = result["measured"].astype(float) - result["paper"].astype(float)
    return result[list(COLUMNS)]


def _in_order(labels: list[str]) -> list[str]:
    """Every label once: numbers increasing, others as they come."""
    distinct = list(dict.fromkeys(labels))
    try:
        return sorted(distinct, key=float)
    except ValueError:
        return distinct


def _column(frame: pd.DataFrame, key: str) -> pd.Series:
    return frame[key] if key in frame else pd.Series("", index=frame.index)


def _labels(frame: pd.DataFrame, keys: Sequence[str], table: TableSection) -> list[str]:
    parts = [[table.names.get(value, value) for value in _column(frame, key)] for key in keys]
    return [JOIN.join(values) for values in zip(*parts, strict=True)]


def _average(cells: pd.DataFrame, factor: float) -> pd.DataFrame:
    records = []
    for (row, column), part in cells.groupby(["row", "column"], sort=False):
        per_seed = part.groupby("run_seed")["value"].mean()
        spread = part["spread"].mean() if part["spread"].notna().any() else _deviation(part["value"], len(per_seed))
        records.append(
            {
                "row": row,
                "column": column,
                "measured": factor * per_seed.mean(),
                "spread": factor * spread,
                "seed_spread": factor * per_seed.std(ddof=1) if np.ptp(per_seed) > _ROUNDING else float("nan"),
                "num_seeds": len(per_seed),
            }
        )
    return pd.DataFrame.from_records(
        records, columns=["row", "column", "measured", "spread", "seed_spread", "num_seeds"]
    )


def _deviation(values: pd.Series, num_seeds: int) -> float:
    return float(values.std(ddof=0)) if len(values) > num_seeds else float("nan")


def _with_differences(measured: pd.DataFrame, differences: Sequence[DifferenceSection]) -> pd.DataFrame:
    for wanted in differences:
        own, other = ("row", "column") if wanted.along == "rows" else ("column", "row")
        of, minus = (measured[measured[own] == name] for name in (wanted.of, wanted.minus))
        both = of.merge(minus[[other, "measured"]], on=other, suffixes=("", "_minus"))
        lines = pd.DataFrame(
            {
                own: wanted.name, other: both[other], "measured": both["measured"] - both["measured_minus"],
                "num_seeds": both["num_seeds"],
            }
        )  # fmt: skip
        measured = pd.concat([measured, lines], ignore_index=True) if len(lines) else measured
    return measured


def wide(table: pd.DataFrame, *, digits: int) -> tuple[list[str], list[list[str]]]:
    """Column labels and lines of cells for people: ``0.731 (0.742: -0.011)``, measured (paper: difference).

    >>> cell = {"row": "C + S", "column": "acc", "paper": 0.742, "paper_spread": None, "measured": 0.731}
    >>> line = {**cell, "spread": None, "seed_spread": 0.02, "num_seeds": 3, "difference": -0.011}
    >>> wide(pd.DataFrame([line]), digits=3)
    (['acc'], [['C + S', '0.731 ± 0.020 (0.742: -0.011)']])
    """
    columns = list(dict.fromkeys(table["column"]))
    cells = {(line["row"], line["column"]): _format(line, digits) for line in table.to_dict("records")}
    rows = list(dict.fromkeys(table["row"]))
    return columns, [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]


def _format(line: Mapping[Any, Any], digits: int) -> str:
    measured, paper, difference = line["measured"], line["paper"], line["difference"]
    spread = line["spread"] if pd.isna(line["seed_spread"]) else line["seed_spread"]
    if pd.isna(measured) and pd.isna(paper):
        return ""
    ours = (
        "-" if pd.isna(measured) else f"{measured:.{digits}f}" + ("" if pd.isna(spread) else f" ± {spread:.{digits}f}")
    )
    if pd.isna(paper):
        return ours
    theirs = f"{paper:.{digits}f}"
    return f"{ours} ({theirs})" if pd.isna(difference) else f"{ours} ({theirs}: {difference:+.{digits}f})"


def report_table(table: pd.DataFrame, section: TableSection, note: str) -> ReportTable:
    """The table for a terminal or a page."""
    columns, lines = wide(table, digits=section.digits)
    unit = f" [{section.unit}]" if section.unit else ""
    compared = ": measured (paper: difference)" if table["paper"].notna().any() else ""
    title = f"{section.title}{unit}{compared}"
    return ReportTable(title, ("", *columns), tuple(tuple(line) for line in lines), note)
