"""The command align: what lies between two networks before and after weight matching. Arguments and printing only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from zookeeper.errors import InputError


def align(
    zoo: Annotated[Path, typer.Argument(help="Folder of a zoo.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for the figure and the tables.", show_default=False)],
    pairs: Annotated[int, typer.Option(help="Pairs of networks, of one epoch and different seeds.")] = 100,
    epoch: Annotated[int | None, typer.Option(help="Epoch of the networks; default: the last.")] = None,
    query: Annotated[str | None, typer.Option(help='Which networks, e.g. "val_acc > 0.9".')] = None,
    images: Annotated[str, typer.Option(help="Images to evaluate on: train, val or test.")] = "test",
    points: Annotated[int, typer.Option(min=3, help="Points of a path, ends included.")] = 25,
    seed: Annotated[int, typer.Option(help="Seed of the pairs and of the alignment.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare the straight line between networks before and after Git Re-Basin alignment (weight matching)."""
    import torch

    import zookeeper
    from hyperrep.report.alignment_figure import barrier_figure, barrier_table
    from hyperrep.tasks.barrier import compare_alignment, draw_pairs, summarise_barriers
    from hyperrep.tasks.opening import build_examiner
    from hyperrep.tasks.split import ROLES
    from hyperrep.training.zoo import read_symmetry
    from zookeeper.population.process import prepare_process
    from zookeeper.report.style import save_figure

    if images not in ROLES:
        raise InputError(f"--images {images!r}: expected train, val or test.")
    prepare_process(threads)
    opened = zookeeper.open(zoo)
    view = opened.query("status == 'ok'") if "status" in opened.frame else opened
    last = opened.epochs[-1] if epoch is None else epoch
    if last not in opened.epochs:
        raise InputError(
            f"{zoo}: no checkpoints of epoch {last}; stored are {opened.epochs[0]} to {opened.epochs[-1]}."
        )
    view = view.query("epoch == @epoch", epoch=last)
    view = view if query is None else view.query(query)
    chosen = draw_pairs(view.frame, pairs, seed)
    starts, ends = (torch.from_numpy(view[chosen[:, side]].weights().copy()) for side in (0, 1))
    paths, measured = compare_alignment(
        starts,
        ends,
        read_symmetry(view),
        build_examiner(view),
        images=images,
        num_points=points,
        seed=seed,
    )
    for number, name in enumerate(("start", "end")):
        ids = view.frame["model_id"].to_numpy()[chosen[:, number]]
        measured.insert(1 + number, name, ids[measured["pair"]])
    summary = summarise_barriers(measured)
    subject = f"{opened.header.name}, epoch {last}, {query or 'all models'}, {images} images"
    out.mkdir(parents=True, exist_ok=True)
    measured.to_csv(out / "pairs.csv", index=False, float_format="%.6g")
    paths.to_csv(out / "paths.csv", index=False, float_format="%.6g")
    save_figure(barrier_figure(paths, measured, subject=subject), out / "barriers.png")
    if as_json:
        typer.echo(json.dumps({"subject": subject, "alignments": json.loads(summary.to_json(orient="records"))}))
    else:
        console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
        barrier_table(summary, subject=subject).print_to(console)
    typer.echo(out / "barriers.png", err=True)
