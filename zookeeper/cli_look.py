"""Commands that look at stored zoos and change nothing: info, query, ls, diff, report."""

from __future__ import annotations

import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zookeeper.terminal import (
    JsonOption,
    SourceArgument,
    format_bytes,
    print_json,
    print_pairs,
    print_table,
)

if TYPE_CHECKING:
    from zookeeper.difference import ZooDifference


def info(zoo: SourceArgument, as_json: JsonOption = False) -> None:
    """Describe a stored zoo from its metadata; reads no weights."""
    import zookeeper
    from zookeeper.listing import stored_bytes
    from zookeeper.store.records import cohort_progress

    opened = zookeeper.open(zoo)
    frame, models, header = opened.frame, opened.models, opened.header
    num_bytes = stored_bytes(opened)
    splits = models["split"].value_counts().to_dict() if "split" in models else {}
    value = {
        "path": str(zoo),
        "name": header.name,
        "kind": header.kind,
        "complete": all(progress.final for progress in cohort_progress(opened.path).values()),
        "models": len(models),
        "checkpoints": len(opened),
        "num_weights": [_num_weights(layout) for layout in header.layouts.values()],
        "epochs": [min(opened.epochs), max(opened.epochs)] if len(opened) else [],
        "factors": list(opened.factors),
        "properties": list(opened.properties),
        "splits": {str(name): int(count) for name, count in splits.items()},
        "diverged": int((models["status"] == "diverged").sum()) if "status" in models else 0,
        "best_test_acc": float(frame["test_acc"].max()) if "test_acc" in frame and len(frame) else math.nan,
        "images": None if header.image is None else header.image.name,
        "store": header.store.to_json(),
        "bytes": num_bytes,
        "created": header.created,
    }
    if as_json:
        print_json(value)
    else:
        shown = {key: _plain(entry) for key, entry in value.items()}
        print_pairs({**shown, "bytes": format_bytes(num_bytes)})


def query(
    zoo: SourceArgument,
    expression: Annotated[str, typer.Argument(help='pandas expression, e.g. "test_acc > .9 and epoch == 50"')],
    columns: Annotated[str | None, typer.Option("--columns", help="Comma-separated columns to print.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    as_table: Annotated[bool, typer.Option("--table", help="Print a table; the default.")] = False,
) -> None:
    """Print the checkpoints that match an expression."""
    import zookeeper
    from zookeeper.errors import InputError
    from zookeeper.query import suggest

    asked = [name for name, on in (("--json", as_json), ("--csv", as_csv), ("--table", as_table)) if on]
    if len(asked) > 1:
        raise InputError(f"{' and '.join(asked)}: {len(asked)} formats at once; expected one. Choose one.")
    found = zookeeper.open(zoo).query(expression)
    frame = found.frame
    if columns is not None:
        wanted = list(dict.fromkeys(name.strip() for name in columns.split(",")))
        for name in wanted:
            if name not in frame:
                raise InputError(f"--columns: unknown column {name!r}. {suggest(name, frame.columns)}")
        frame = frame[wanted]
    if as_json:
        sys.stdout.write(frame.to_json(orient="records", lines=True, double_precision=15) if len(frame) else "")
    elif as_csv:
        frame.to_csv(sys.stdout, index=False)
    elif len(frame):
        typer.echo(frame.to_string(index=False))
    else:
        typer.echo("no checkpoint matches", err=True)


def ls(
    folder: Annotated[str, typer.Argument(help="A folder or URL; zoos are looked for at any depth.")] = "data/zoos",
    as_json: JsonOption = False,
) -> None:
    """List the zoos below a folder: models, checkpoints, size, and how far each is. Reads no weights."""
    from zookeeper.listing import list_zoos

    entries = list_zoos(folder)
    if as_json:
        print_json([{**asdict(entry), "path": str(entry.path)} for entry in entries])
        return
    rows = [
        (
            str(entry.path),
            entry.kind,
            f"{entry.num_models:,}",
            f"{entry.num_checkpoints:,}",
            format_bytes(entry.num_bytes),
            entry.state
            if entry.state != "partial"
            else f"partial, {entry.num_checkpoints / entry.num_planned:.0%} of {entry.num_planned:,}",
        )
        for entry in entries
    ]
    if rows:
        print_table(("zoo", "kind", "models", "checkpoints", "size", "state"), rows)
    else:
        typer.echo(f"no zoo at or below {folder}", err=True)
    for entry in entries:
        if entry.problem:
            typer.echo(f"damaged: {entry.problem}", err=True)


def diff(
    first: SourceArgument,
    second: Annotated[str, typer.Argument(help="Another.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Say how two zoos differ and by how much. Exit code 0: equal, 1: different, 2: cannot be compared.

    How they were built and stored, and how long it took, does not count.
    """
    import zookeeper
    from zookeeper.difference import find_differences
    from zookeeper.errors import InputError, StoreError

    try:
        found = find_differences(zookeeper.open(first), zookeeper.open(second))
    except StoreError as error:  # its own exit code would say that the zoos differ
        raise InputError(str(error)) from error
    if as_json:
        print_json({"first": first, "second": second, "equal": found.equal, **asdict(found)})
    else:
        _print_difference(found, first, second)
    if not found.equal:
        raise typer.Exit(1)


def report(
    zoo: SourceArgument,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The page; default ZOO.html beside the zoo (URL: here).", show_default=False),
    ] = None,
    color: Annotated[
        str | None,
        typer.Option("--color", help="Column that colours the map; default the factor that explains most."),
    ] = None,
    map_method: Annotated[str, typer.Option("--map", help="pca, or umap for a second map (needs umap-learn).")] = "pca",
) -> None:
    """Write one static page about a zoo: figures, a map, a table of models. Opens offline, needs no other file."""
    import zookeeper
    from zookeeper.report.page import write_report
    from zookeeper.store.remote import is_url

    opened = zookeeper.open(zoo)
    folder = Path(opened.source.rpartition("/")[2]) if is_url(opened.source) else opened.path.resolve()
    target = folder.parent / f"{folder.name}.html" if out is None else out
    typer.echo(str(write_report(opened, target, color=color, map_method=map_method)))


def _print_difference(found: ZooDifference, first: str, second: str) -> None:
    if found.equal:
        typer.echo(f"equal: {found.num_shared:,} checkpoints")
        return
    for change in found.changes:
        typer.echo(f"{change.place}: {_brief(change.first)} -> {_brief(change.second)}")
    for path, models, checkpoints, columns in (
        (first, found.models_first, found.checkpoints_first, found.columns_first),
        (second, found.models_second, found.checkpoints_second, found.columns_second),
    ):
        if checkpoints:
            shown = ", ".join(models[:4]) + (", ..." if len(models) > 4 else "")
            named = f", {len(models):,} models ({shown})" if models else ""
            typer.echo(f"only in {path}: {checkpoints:,} checkpoints{named}")
        if columns:
            typer.echo(f"only in {path}: columns {', '.join(columns)}")
    differing = [*found.columns, *([found.weights] if found.weights else [])]
    if differing:
        typer.echo(f"of {found.num_shared:,} checkpoints in both:")
        rows = [
            (
                line.column,
                f"{line.num_checkpoints:,}",
                "-" if math.isnan(line.largest) else f"{line.largest:.3g}",
                line.model_id,
                str(line.epoch),
            )
            for line in differing
        ]
        print_table(("column", "differ", "at most", "model", "epoch"), rows)
    else:
        typer.echo(f"equal in both: {found.num_shared:,} checkpoints")


def _brief(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _num_weights(layout: Any) -> int:
    from zookeeper.nets.layout import WeightLayout

    return WeightLayout.from_json(layout).num_weights


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        texts = {key: f"{entry:,}" if isinstance(entry, int) else str(entry) for key, entry in value.items()}
        return ", ".join(f"{key} {text}" for key, text in texts.items())
    if isinstance(value, list):
        return ", ".join(str(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
