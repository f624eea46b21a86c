"""The command ``zookeeper``: arguments and printing only. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from zookeeper.cli_interop import export, import_
from zookeeper.cli_leaks import leaks
from zookeeper.cli_look import diff, info, ls, query, report
from zookeeper.cli_publish import publish
from zookeeper.cli_store import convert, verify
from zookeeper.terminal import (
    DataRootOption,
    JsonOption,
    ZooArgument,
    format_bytes,
    format_duration,
    format_share,
    print_json,
    print_pairs,
    print_table,
    run_app,
)

app = typer.Typer(
    name="zookeeper",
    help="Generate, store, open and query zoos of neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecArgument = Annotated[Path, typer.Argument(help="YAML file that describes the zoo.", show_default=False)]
YesOption = Annotated[bool, typer.Option("--yes", help="Allow more than 20,000 models.")]
WorkersOption = Annotated[int, typer.Option("--workers", "-w", min=1, help="Workers at a time.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")]
MemoryOption = Annotated[str | None, typer.Option("--memory", help="What one worker may take, such as 8GB.")]
CohortOption = Annotated[int | None, typer.Option("--cohort-size", min=1, help="Models that train together.")]


@app.command()
def plan(
    spec: SpecArgument,
    workers: WorkersOption = 1,
    device: DeviceOption = "auto",
    cohort_size: CohortOption = None,
    memory: MemoryOption = None,
    data_root: DataRootOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print what a spec asks for: models, cohorts, checkpoints, bytes, and a measured ETA. Builds nothing."""
    from zookeeper.build.estimate import estimate_build
    from zookeeper.build.fit import fit_plan, memory_budget, parse_bytes
    from zookeeper.build.workers import resolve_device
    from zookeeper.spec import load_spec, make_plan

    wanted, where = load_spec(spec, allow_huge=yes, data_root=data_root), resolve_device(device)
    budget = memory_budget(where, workers) if memory is None else parse_bytes(memory)
    made = make_plan(wanted, cohort_size)
    if cohort_size is None and wanted.build.cohort_size is None:
        made = fit_plan(made, budget=budget, device=where, num_workers=workers, strict=memory is not None)
    estimate = estimate_build(made, num_workers=workers, device=where)
    if as_json:
        print_json({"name": made.spec.name, **asdict(estimate)})
        return
    axes = ", ".join(f"{name} {len(values)}" for name, values in made.spec.axes.items()) or "none"
    weights = ", ".join(f"{name} {num:,}" for name, num in estimate.num_weights.items())
    sizes = sorted({len(cohort.models) for cohort in made.cohorts})
    print_pairs(
        {
            "zoo": made.spec.name,
            "axes": axes,
            "models": f"{estimate.num_models:,}",
            "cohorts": f"{estimate.num_cohorts:,} of {' to '.join(map(str, sorted({sizes[0], sizes[-1]})))} models",
            "checkpoints": f"{estimate.num_checkpoints:,} ({len(made.epochs)} epochs per model)",
            "weights per model": weights,
            "on disk": format_bytes(estimate.num_bytes),
            "model-steps": f"{estimate.model_steps:,} at {estimate.seconds_per_model_step * 1e3:.3g} ms",
            "ETA": f"{format_duration(estimate.seconds)} with {estimate.num_workers} worker(s) on {estimate.device}",
        }
    )


@app.command()
def build(
    spec: SpecArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Zoo directory; default data/zoos/NAME.")] = None,
    workers: WorkersOption = 1,
    device: DeviceOption = "auto",
    local: Annotated[bool, typer.Option("--local", help="Build in this process, without Ray.")] = False,
    address: Annotated[str | None, typer.Option("--address", help="An existing Ray cluster.")] = None,
    cpus_per_worker: Annotated[
        float, typer.Option("--cpus-per-worker", min=0.1, help="Also the threads of torch, rounded down.")
    ] = 1.0,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option("--gpus-per-worker", min=0.0, help="May be a fraction; default an even share of the GPUs."),
    ] = None,
    cohort_size: CohortOption = None,
    memory: MemoryOption = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="i/n: build every n-th cohort, from the i-th on.")
    ] = None,
    data_root: DataRootOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build a zoo, or finish one: the same command again does only what is missing."""
    from zookeeper.build import Workers, build_zoo
    from zookeeper.build.claim import parse_shard
    from zookeeper.build.fit import fit_plan, memory_budget, parse_bytes
    from zookeeper.spec import load_spec, make_plan

    part = None if shard is None else parse_shard(shard)
    wanted = load_spec(spec, allow_huge=yes, data_root=data_root)
    limit = None if memory is None else parse_bytes(memory)
    made = make_plan(wanted, cohort_size)
    who = Workers(
        num_workers=workers,
        backend="local" if local else "auto",
        device=device,
        num_threads=max(1, int(cpus_per_worker)),
        num_cpus=cpus_per_worker,
        num_gpus=gpus_per_worker,
        address=address,
    )
    if cohort_size is None and wanted.build.cohort_size is None and (address is None or limit is not None):
        settled = who.resolve()
        budget = memory_budget(settled.device, settled.num_workers) if limit is None else limit
        made = fit_plan(
            made,
            budget=budget,
            device=settled.device,
            num_workers=settled.num_workers,
            num_threads=settled.num_threads,
            strict=limit is not None,
        )
    root = Path("data/zoos") / wanted.name if out is None else out
    summary = build_zoo(made, root, who, shard=part, memory=limit)
    if as_json:
        print_json({**asdict(summary), "path": str(summary.path)})
    else:
        print_pairs(
            {
                "zoo": f"{summary.path}{'' if summary.complete else ' (not complete)'}",
                "models": f"{summary.num_models:,} ({summary.num_diverged:,} diverged)",
                "checkpoints": f"{summary.num_checkpoints:,}",
                "best test accuracy": format_share(summary.best_test_acc),
                "time": format_duration(summary.seconds),
            }
        )
    for cohort, reason in summary.failures.items():
        typer.echo(f"failed cohort {cohort}: {reason}", err=True)
    if summary.failures:
        raise typer.Exit(3)


@app.command()
def check(
    spec: SpecArgument,
    models: Annotated[int, typer.Option("--models", min=2, help="Models of each kind that train together.")] = 4,
    steps: Annotated[int, typer.Option("--steps", min=2, help="Optimiser steps of each.")] = 4,
    device: DeviceOption = "cpu",
    data_root: DataRootOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check the engine on a spec's own networks: alone, together, permuted, poisoned, resumed, against plain torch."""
    from zookeeper.build.check import check_spec
    from zookeeper.build.workers import resolve_device
    from zookeeper.spec import load_spec, make_plan

    made = make_plan(load_spec(spec, allow_huge=yes, data_root=data_root))
    report = check_spec(made, num_models=models, num_steps=steps, device=resolve_device(device))
    if as_json:
        lines = [{**asdict(line), "holds": line.holds} for line in report.checks]
        print_json({"name": made.spec.name, "holds": report.holds, **asdict(report), "checks": lines})
    else:
        print_pairs(
            {
                "images": f"{report.images}, random stand-ins: {report.synthetic}"
                if report.synthetic
                else report.images,
                "trained": f"{report.num_models} models of each kind, {report.num_steps} steps, on {report.device}",
                "difference": "distance of the weights, as a share of how far training moved them",
            }
        )
        rows = [
            (
                line.subject,
                line.check,
                line.dtype,
                f"{line.difference:.1e}",
                f"{line.tolerance:.0e}",
                _verdict(line.holds),
            )
            for line in report.checks
        ]
        print_table(("networks", "check", "dtype", "difference", "at most", ""), rows)
    if not report.holds:
        raise typer.Exit(3)


@app.command()
def retrain(
    zoo: ZooArgument,
    model_id: Annotated[str, typer.Argument(help="A model of the zoo.", show_default=False)],
    epoch: Annotated[int | None, typer.Option("--epoch", min=0, help="Stop there; default the last stored.")] = None,
    device: DeviceOption = "cpu",
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one stored model again, alone, and compare it with its stored checkpoints. Writes nothing."""
    from zookeeper.build.retrain import retrain_model
    from zookeeper.build.workers import resolve_device

    where = resolve_device(device)
    again = retrain_model(zoo, model_id, last_epoch=epoch, data_root=data_root, device=where)
    if as_json:
        print_json({**asdict(again), "equal": again.equal, "same_start": again.same_start})
    else:
        names = list(again.epochs[0].metrics)
        rows = [
            (str(one.epoch), "yes" if one.equal else "no", f"{one.weights:.1e}", *map(_short, one.metrics.values()))
            for one in again.epochs
        ]
        typer.echo(f"model {model_id}: largest absolute differences between stored and trained again")
        print_table(("epoch", "same bits", "weights", *names), rows)
    if not again.same_start:
        raise typer.Exit(3)


for command in (info, query, ls, diff, leaks, report, convert, verify):
    app.command()(command)
app.command()(publish)
app.command("import")(import_)
app.command()(export)


def _short(difference: float) -> str:
    return f"{difference:.1e}"


def _verdict(holds: bool) -> str:
    return "holds" if holds else "FAILS"


def main() -> NoReturn:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
