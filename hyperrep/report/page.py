"""One self-contained page: no scripts, no network, figures inside."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperrep.report.tables import ReportTable

_CSS = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; color: #222; background: #fff;
  max-width: 60rem; margin: 2.5rem auto 5rem; padding: 0 1.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .4rem; border-top: 1px solid #ddd; padding-top: 1.2rem; }
p { max-width: 44rem; }
.lead { font-size: 1.08rem; color: #444; }
.note, figcaption, footer { font-size: .86rem; color: #555; }
figure { margin: 1.2rem 0; }
figure img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1.1rem 0 .3rem; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: .35rem; }
th, td { padding: .32rem .6rem; border-bottom: 1px solid #e4e4e4; text-align: right; vertical-align: top; }
td { white-space: nowrap; }
td:first-child { white-space: normal; min-width: 8rem; }
th { border-bottom: 2px solid #999; font-weight: 600; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td.strong { font-weight: 700; }
footer { margin-top: 3rem; border-top: 1px solid #ddd; padding-top: 1rem; }
code { font-size: .88em; background: #f4f4f4; padding: .1em .3em; border-radius: 3px; }
"""


@dataclass(frozen=True, slots=True)
class PageFigure:
    """A PNG file and what it shows."""

    path: Path
    caption: str


@dataclass(frozen=True, slots=True)
class PageSection:
    """A heading, what to know before looking, figures and tables."""

    heading: str
    text: str = ""
    figures: tuple[PageFigure, ...] = ()
    tables: tuple[ReportTable, ...] = ()


def render_page(title: str, lead: str, sections: Sequence[PageSection], footer: Sequence[str]) -> str:
    """Render the page as HTML; all text is escaped, figures are embedded as PNG.

    >>> page = render_page("A <study>", "Lead.", [PageSection("One")], ["made today"])
    >>> "A &lt;study&gt;" in page and "<h2>One</h2>" in page
    True
    """
    body = "\n".join(_section(section) for section in sections)
    last = "<br>\n".join(html.escape(line) for line in footer)
    return (
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head>\n"
        f'<body><h1>{html.escape(title)}</h1>\n<p class="lead">{html.escape(lead)}</p>\n{body}\n'
        f"<footer>{last}</footer></body></html>\n"
    )


def _section(section: PageSection) -> str:
    parts = [f"<h2>{html.escape(section.heading)}</h2>"]
    if section.text:
        parts.append(f"<p>{html.escape(section.text)}</p>")
    for figure in section.figures:
        data = base64.b64encode(figure.path.read_bytes()).decode("ascii")
        caption = html.escape(figure.caption)
        parts.append(
            f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    parts += [f'<div class="scroll">{table.to_html()}</div>' for table in section.tables]
    return "\n".join(parts)
