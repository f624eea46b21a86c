"""Tables, figures and lists as HTML; every text is escaped here."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from zookeeper.report.svg import short


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text.

    >>> paragraph("a < b", "note")
    '<p class="note">a &lt; b</p>'
    """
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{html.escape(text)}</p>"


def figure(drawing: str, caption: str, *, heading: str = "", wide: bool = False) -> str:
    """A drawing (HTML) with what it shows (text)."""
    head = f"<h3>{html.escape(heading)}</h3>" if heading else ""
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure{' class=wide' if wide else ''}>{head}{drawing}{words}</figure>"


def pairs(values: Mapping[str, str], kind: str = "pairs") -> str:
    """Names and values as a description list; ``facts`` are set as tiles."""
    lines = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in values.items())
    if kind != "facts":
        lines = lines.replace("<div>", "").replace("</div>", "")
    return f'<dl class="{kind}">{lines}</dl>'


def small_table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of finished texts whose first column names the row."""
    top = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{html.escape(row[0])}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(caption)}">'
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def model_table(models: pd.DataFrame, caption: str) -> str:
    """The sortable, filterable table of models: a line per model, whose first column is its id.

    Without scripts it is a plain table.
    """
    names = [str(name) for name in models.columns]
    kinds = ["number" if pd.api.types.is_numeric_dtype(models[name].dtype) else "text" for name in models.columns]
    head = "".join(
        f'<th scope="col" class="{kind}" data-column="{html.escape(name)}">'
        f'<button type="button">{html.escape(name)}</button></th>'
        for name, kind in zip(names, kinds, strict=True)
    )
    columns = [[html.escape(cell_text(value)) for value in models[name]] for name in models.columns]
    lines = []
    for cells in zip(*columns, strict=True):
        rest = "".join(
            f'<td class="text">{cell}</td>' if kind == "text" else f"<td>{cell}</td>"
            for cell, kind in zip(cells[1:], kinds[1:], strict=True)
        )
        lines.append(f'<tr><th scope="row">{cells[0]}</th>{rest}</tr>')
    return (
        '<div class="filter" id="controls" hidden><label for="filter">Filter</label>'
        '<input id="filter" type="search" autocomplete="off" aria-describedby="filter-help">'
        '<output id="count" for="filter" aria-live="polite"></output></div>'
        '<p class="note" id="filter-help">Words a row must contain, and comparisons without spaces such as '
        "<code>test_acc&gt;0.9</code>; all must hold. The heads of the columns sort.</p>"
        '<div class="scroll" id="models-region" role="region" tabindex="0" aria-labelledby="models-caption">'
        f'<table id="model-table"><caption id="models-caption">{html.escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{chr(10).join(lines)}</tbody></table></div>"
    )


def cell_text(value: object) -> str:
    """A value of a table: numbers in at most four digits, nothing for a missing one.

    >>> cell_text(0.93456), cell_text(12345), cell_text(None), cell_text("tanh"), cell_text(True)
    ('0.9346', '12345', '', 'tanh', 'True')
    """
    if isinstance(value, float | np.floating):
        return "" if np.isnan(value) else short(float(value))
    return "" if value is None or value is pd.NA else str(value)
