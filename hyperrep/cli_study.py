"""The commands ``hyperrep study list`` and ``hyperrep study run``: arguments and printing only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from zookeeper.errors import InputError
from zookeeper.terminal import print_table

if TYPE_CHECKING:
    from hyperrep.report.tables import ReportTable


class _RunByDefault(TyperGroup):
    """``hyperrep study digits`` is short for ``hyperrep study run digits``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        rest: list[str] = super().parse_args(ctx, args)
        return rest


study_app = typer.Typer(
    cls=_RunByDefault, no_args_is_help=True, help="Rerun the papers' tables and figures, on any zoo."
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@study_app.command("list")
def list_() -> None:
    """List all studies, what each shows, and whether it can be run."""
    from hyperrep.studies.catalogue import list_studies

    print_table(("study", "shows", "title", "state"), [(s.name, s.shows, s.title, s.state) for s in list_studies()])


@study_app.command()
def run(
    name: Annotated[str, typer.Argument(help="Name of a study, or a YAML file.", show_default=False)],
    zoo: Annotated[
        list[str] | None, typer.Option("--zoo", help="PATH or NAME=PATH of a zoo in place of a paper's; repeatable.")
    ] = None,
    scale: Annotated[str | None, typer.Option(help="smoke, cpu or paper; cpu by default.", show_default=False)] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds of each training; 1, or the file's.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write, instead of data/studies/NAME.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder of zoos, trainings and results that studies share.")] = Path(
        "data/studies/cache"
    ),
    workers: Annotated[int | None, typer.Option(min=1, help="Trainings at a time; one per core by default.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch in the tasks.")] = 1,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if a claim did not hold.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a study. What is done and unchanged is skipped; the same command goes on where it was stopped."""
    from hyperrep.studies.catalogue import find_study, is_table_study

    path = find_study(name)
    _use_threads(threads)
    if is_table_study(path):
        results, tables, made = _run_table_study(path, zoo or [], scale or "cpu", seeds or 1, out, cache, workers)
    else:
        results, tables, made = _run_own_study(path, zoo or [], scale, seeds, out)
    if as_json:
        typer.echo(json.dumps(results, indent=1))
    else:
        _print_tables(tables)
    typer.echo(f"report: {made}", err=True)
    if strict and not results.get("all_held", True):
        raise typer.Exit(3)


def _use_threads(num: int) -> None:
    """Limit torch and the linear algebra of NumPy: idle threads of theirs spin and slow each other down."""
    from threadpoolctl import threadpool_limits

    from zookeeper.population.process import prepare_process

    prepare_process(num)
    threadpool_limits(num)


_Shown = tuple[dict[str, Any], "list[ReportTable]", Path]


def _run_table_study(
    path: Path, zoos: list[str], scale: str, seeds: int, out: Path | None, cache: Path, workers: int | None
) -> _Shown:
    from hyperrep.studies.catalogue import load_table_study
    from hyperrep.studies.table_config import SCALES
    from hyperrep.studies.table_study import Run, measure
    from hyperrep.studies.table_writing import write_study

    known = next((one for one in SCALES if one == scale), None)
    if known is None:
        raise InputError(f"--scale {scale}: no such scale; expected {', '.join(SCALES)}.")
    found = load_table_study(path)
    settings = Run(
        found, known, cache, seeds, tuple(zoos), workers or os.cpu_count() or 1, lambda line: typer.echo(line, err=True)
    )
    folder = out or Path("data/studies") / found.study.name / known
    results, tables = write_study(settings, measure(settings), folder)
    return results, tables, folder / "README.md"


def _run_own_study(path: Path, zoos: list[str], scale: str | None, seeds: int | None, out: Path | None) -> _Shown:
    from hyperrep.studies.config import load_study
    from hyperrep.studies.structure_and_behaviour import run_study

    if scale is not None:
        raise InputError(f"--scale {scale}: {path.stem} has one scale, its own. Leave the option out.")
    settings = load_study(path)
    if len(zoos) > 1:
        raise InputError(f"--zoo: {path.stem} works on one zoo, got {len(zoos)}.")
    if zoos:
        settings = settings.model_copy(update={"zoo": settings.zoo.model_copy(update={"path": zoos[0], "spec": None})})
    if seeds is not None:
        settings = settings.model_copy(update={"seeds": seeds})
    folder = out or Path(settings.out)
    results, tables = run_study(settings, folder, lambda line: typer.echo(line, err=True))
    return results, tables, folder / "index.html"


def _print_tables(tables: list[ReportTable]) -> None:
    import sys

    from rich.console import Console

    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    for table in tables:
        table.print_to(console)
