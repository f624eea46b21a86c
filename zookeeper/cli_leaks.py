"""The command that says what two parts of a zoo, or two zoos, share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from zookeeper.terminal import JsonOption, SourceArgument, print_json


def leaks(
    zoo: SourceArgument,
    other: Annotated[str | None, typer.Argument(help="Another zoo to compare with.", show_default=False)] = None,
    query: Annotated[str | None, typer.Option("--query", help="Look at these checkpoints only.")] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Also find rows that are equal to the bit.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Name what the sides of a zoo's split share, or two zoos: models, seeds, initial draws, configurations."""
    import zookeeper

    opened = [zookeeper.open(path) for path in (zoo, other) if path is not None]
    views = [one if query is None else one.query(query) for one in opened]
    if other is None:
        found = views[0].splits.leaks(weights=weights)
    else:
        found = zookeeper.find_leaks(views[0], views[1], names=(zoo, other), weights=weights)
    if as_json:
        print_json([asdict(pair) for pair in found.pairs])
    else:
        typer.echo(str(found))
