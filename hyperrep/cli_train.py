"""Commands that train: train, tune. Arguments and printing only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from zookeeper.errors import InputError

ConfigArgument = Annotated[Path, typer.Argument(help="YAML file.", show_default=False)]


def train(
    config: ConfigArgument,
    zoo: Annotated[Path | None, typer.Option(help="Zoo to learn from, instead of the one in the file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default data/hyperrep/NAME.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of continuing.")] = False,
    processes: Annotated[int, typer.Option(help="Processes that share every batch, on this machine.")] = 1,
) -> None:
    """Train a hyper-representation on one zoo or several; the same command again continues an interrupted training.

    Several machines: start the command with torchrun on each of them instead of --processes.
    """
    import zookeeper
    from hyperrep.config import load_config
    from hyperrep.training.launch import launch, this_command
    from hyperrep.training.mixed_fit import fit_mixed
    from hyperrep.training.ranks import joined_ranks
    from hyperrep.training.zoo import read_parts
    from zookeeper.population.process import prepare_process

    settings = load_config(config)
    named = settings.zoos or ([settings.zoo] if settings.zoo else [])
    sources = [zoo] if zoo else [Path(one) for one in named]
    if not sources:
        raise InputError(f"{config}: names no zoo. Add `zoo: PATH` or `zoos: [PATH, PATH]`, or pass --zoo.")
    target = out or Path("data/hyperrep") / settings.name
    if processes != 1:
        options = [*(["--zoo", str(zoo)] if zoo else []), "--out", str(target), *(["--fresh"] if fresh else [])]
        launch(this_command("train", str(config), *options), processes)
        return
    prepare_process(settings.training.threads)
    with joined_ranks(settings.training.device) as ranks:
        parts = [part for source in sources for part in read_parts(settings, zookeeper.open(source))]
        fit_mixed(settings, parts, target, resume=not fresh, progress=sys.stderr.isatty(), ranks=ranks)
        if ranks.is_first:
            typer.echo(target)


def tune(
    search: Annotated[str, typer.Argument(help="YAML file, or the name of a packaged search.", show_default=False)],
    zoo: Annotated[Path | None, typer.Option(help="Zoo to learn from, instead of the one in the file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write; default data/tune/NAME.")] = None,
) -> None:
    """Search over trainings with Ray Tune; the same command again continues an interrupted search."""
    from hyperrep.training.tune import tune as run_search

    frame = run_search(search, zoo, out)
    typer.echo(frame.drop(columns="folder").to_csv(index=False), nl=False)


COMMANDS = (train, tune)
