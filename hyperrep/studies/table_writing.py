"""From what a study measured to its folder: CSV, JSON, Markdown and figures, with hardware, scale, seeds and date."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from hyperrep.report import table_figures
from hyperrep.report.tables import ReportTable
from hyperrep.studies.claims import check_cells, claim_table
from hyperrep.studies.measures import TASKS
from hyperrep.studies.table_config import FigureSection
from hyperrep.studies.table_study import Measured, Run
from hyperrep.studies.tabulate import read_paper, report_table, tabulate, wide
from zookeeper.report.style import save_figure
from zookeeper.store.files import write_durable

_PLUS_MINUS = (
    "± is the deviation over the seeds of the trainings; of numbers that no such seed changes, the one over networks, "
    "or over untrained encoders."
)


def write_study(run: Run, measured: Measured, out: Path) -> tuple[dict[str, Any], list[ReportTable]]:
    """Write everything a study shows into a folder.

    Returns
    -------
    The content of ``results.json``, and the tables for a terminal.
    """
    study = run.found.study
    out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {**_head(run, measured), "tables": {}}
    tables, parts, made = [], [], {}
    for section in study.tables:
        paper = None if section.paper is None else read_paper(run.found.folder / section.paper)
        table = made[section.name] = tabulate(measured.facts, section, paper)
        write_durable(out / f"{section.name}.csv", table.to_csv(index=False).encode())
        shown = section.picture and bool(table["measured"].notna().any())
        if shown:
            figure = table_figures.against_paper(table, unit=section.unit)
            save_figure(figure, out / f"{section.name}.png")
        results["tables"][section.name] = json.loads(table.to_json(orient="records"))
        tables.append(report_table(table, section, section.note))
        columns, lines = wide(table, digits=section.digits)
        picture = section.name if shown else ""
        parts.append(_markdown_table(tables[-1].title, columns, lines, section.note, picture))
    if study.claims:
        claims = check_cells(study.claims, made, {section.name: section for section in study.tables})
        results |= {"claims": [claim.to_json() for claim in claims], "all_held": all(claim.held for claim in claims)}
        tables.insert(0, claim_table(claims))
        parts.insert(0, _plain_table(tables[0]))
    for wanted in study.figures:
        figure_made = draw(wanted, measured)
        if figure_made is not None:
            save_figure(figure_made, out / f"{wanted.name}.png")
            parts.append(f"![{wanted.title}]({wanted.name}.png)\n\n*{wanted.title}*\n")
    write_durable(out / "facts.csv", measured.facts.to_csv(index=False).encode())
    write_durable(out / "results.json", json.dumps(results, indent=1).encode())
    write_durable(out / "README.md", _page(run, results, parts).encode())
    return results, tables


def draw(wanted: FigureSection, measured: Measured) -> Figure | None:
    """Draw a figure of a study; None if nothing of it was measured."""
    frame = measured.items if wanted.of == "items" else measured.facts
    if len(frame) == 0:
        return None
    frame = frame[frame["task"] == wanted.task]
    for key, values in wanted.where.items():
        frame = frame[frame[key].isin(values)]
    frame = frame.assign(zoo=[wanted.names.get(role) or _stand_in(role, measured) for role in frame["zoo"]])
    for key in {wanted.hue, wanted.panels} if wanted.names else ():
        frame = frame.assign(**{key: [wanted.names.get(str(value), value) for value in frame[key]]})
    columns = [wanted.x] if wanted.kind in ("distributions", "dots") else [wanted.x, wanted.y]
    frame = frame.assign(**{name: pd.to_numeric(frame[name]) for name in columns}).dropna(subset=columns)
    if len(frame) == 0:
        return None
    common = {"x": wanted.x, "hue": wanted.hue, "panels": wanted.panels, "x_label": wanted.x_label}
    if wanted.kind == "distributions":
        return table_figures.distributions(frame, **common)
    if wanted.kind == "dots":
        return table_figures.dots(frame, **common, y=wanted.y)
    make = {"lines": table_figures.lines, "points": table_figures.points, "numbers": table_figures.numbers}[wanted.kind]
    return make(frame, **common, y=wanted.y, y_label=wanted.y_label)


def _stand_in(role: str, measured: Measured) -> str:
    """The paper's zoo, and what stood in for it."""
    name = measured.zoos.get(role, {}).get("name", role)
    return role if name == role else f"{role} (here {name})"


def _head(run: Run, measured: Measured) -> dict[str, Any]:
    study = run.found.study
    return {
        "study": study.name,
        "shows": study.shows,
        "title": study.title,
        "scale": run.scale,
        "seeds": run.seeds,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "hardware": _hardware(),
        "zoos": measured.zoos,
        "seconds": measured.seconds,
        "packages": {name: metadata.version(name) for name in ("torch", "numpy", "scikit-learn", "pandas")},
    }


def _hardware() -> str:
    """Processor, cores and GPU in words."""
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    gpu = f", {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else ""
    return f"{model}, {os.cpu_count()} cores{gpu}, Python {platform.python_version()}"


def _page(run: Run, results: dict[str, Any], parts: list[str]) -> str:
    study = run.found.study
    zoos = [
        f"- **{role}** is `{zoo['name']}` here: {zoo['models']:,} models, {zoo['checkpoints']:,} checkpoints, "
        f"{zoo['num_weights']:,} weights{zoo['trained']}"
        for role, zoo in results["zoos"].items()
    ]
    seconds = ", ".join(f"{name} {value:g} s" for name, value in results["seconds"].items())
    command = f"hyperrep study run {study.name} --scale {run.scale} --seeds {run.seeds}"
    lines = [
        f"# {study.shows}: {study.title}",
        "",
        f"`{command}` on {results['date']}: {results['hardware']}.",
        f"Time of the trainings and tasks behind it, also where they were kept from before: {seconds}.",
        "",
        *([study.note, ""] if study.note else []),
        *([_PLUS_MINUS, ""] if run.seeds > 1 else []),
        *([*zoos, ""] if zoos else []),
        *_scale_lines(run),
        *([f"The paper's values: {study.source}", ""] if study.source else []),
    ]
    return "\n".join(lines) + "\n" + "\n".join(parts)


def _scale_lines(run: Run) -> list[str]:
    """What the scale changes of the paper's trainings, checkpoints and tasks; nothing at scale paper."""
    study, section = run.found.study, run.found.at(run.scale)
    trainings = study.trainings if study.use is None else study.use
    own = {label: change for label, change in section.trainings.items() if label in trainings}
    tasks = {name: change for name, change in section.tasks.items() if name in study.tasks}
    changes = {
        "every training": section.change if trainings else {},
        **own,
        **{f"task {name}": change for name, change in tasks.items()},
    }
    lines = [f"- {what}: `{json.dumps(change)}`" for what, change in changes.items() if change]
    if section.epochs and run.epochs and any(TASKS[name].on_spec is None for name in study.tasks):
        lines.append(f"- checkpoints of epochs {', '.join(str(epoch) for epoch in run.epochs)}")
    return [f"What scale {run.scale} changes of the paper's settings:", "", *lines, ""] if lines else []


def _plain_table(table: ReportTable) -> str:
    lines = [list(line) for line in table.rows]
    return _markdown_table(table.title, list(table.columns[1:]), lines, "", "", first=table.columns[0])


def _markdown_table(
    title: str, columns: list[str], lines: list[list[str]], note: str, picture: str, first: str = ""
) -> str:
    def row(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"

    head = [f"## {title}", "", row([first, *columns]), "|" + "---|" * (len(columns) + 1)]
    tail = ["", *([note, ""] if note else []), *([f"![{title}]({picture}.png)", ""] if picture else [])]
    return "\n".join([*head, *(row(line) for line in lines), *tail])
