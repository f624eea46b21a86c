"""The command ``zookeeper``: arguments and printing only. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from zookeeper.errors import ZooError

app = typer.Typer(
    name="zookeeper",
    help="Generate, store, open and query zoos of neural networks.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecArgument = Annotated[Path, typer.Argument(help="YAML file that describes the zoo.", show_default=False)]
ZooArgument = Annotated[Path, typer.Argument(help="A zoo directory.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Allow more than 20,000 models.")]
DataRootOption = Annotated[Path | None, typer.Option("--data-root", help="Folder that holds the image files.")]
WorkersOption = Annotated[int, typer.Option("--workers", "-w", min=1, help="Workers at a time.")]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")]
CohortOption = Annotated[int | None, typer.Option("--cohort-size", min=1, help="Models that train together.")]


@app.command()
def plan(
    spec: SpecArgument,
    workers: WorkersOption = 1,
    device: DeviceOption = "auto",
    cohort_size: CohortOption = None,
    data_root: DataRootOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Print what a spec asks for: models, cohorts, checkpoints, bytes, and a measured ETA. Builds nothing."""
    from zookeeper.build.estimate import estimate_build
    from zookeeper.spec import load_spec, make_plan

    made = make_plan(load_spec(spec, allow_huge=yes, data_root=data_root), cohort_size)
    estimate = estimate_build(made, num_workers=workers, device=_device(device))
    if as_json:
        _print_json({"name": made.spec.name, **asdict(estimate)})
        return
    axes = ", ".join(f"{name} {len(values)}" for name, values in made.spec.axes.items()) or "none"
    weights = ", ".join(f"{name} {num:,}" for name, num in estimate.num_weights.items())
    sizes = sorted({len(cohort.models) for cohort in made.cohorts})
    _print_pairs(
        {
            "zoo": made.spec.name,
            "axes": axes,
            "models": f"{estimate.num_models:,}",
            "cohorts": f"{estimate.num_cohorts:,} of {' to '.join(map(str, sorted({sizes[0], sizes[-1]})))} models",
            "checkpoints": f"{estimate.num_checkpoints:,} ({len(made.epochs)} epochs per model)",
            "weights per model": weights,
            "on disk": _bytes(estimate.num_bytes),
            "model-steps": f"{estimate.model_steps:,} at {estimate.seconds_per_model_step * 1e3:.3g} ms",
            "ETA": f"{_duration(estimate.seconds)} with {estimate.num_workers} worker(s) on {estimate.device}",
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
    cpus_per_worker: Annotated[float, typer.Option("--cpus-per-worker", min=0.1)] = 1.0,
    gpus_per_worker: Annotated[float, typer.Option("--gpus-per-worker", min=0.0)] = 0.0,
    cohort_size: CohortOption = None,
    data_root: DataRootOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build a zoo, or finish one: the same command again does only what is missing."""
    from zookeeper.build.run import build_zoo
    from zookeeper.spec import load_spec, make_plan

    wanted = load_spec(spec, allow_huge=yes, data_root=data_root)
    made = make_plan(wanted, cohort_size)
    summary = build_zoo(
        made,
        Path("data/zoos") / wanted.name if out is None else out,
        num_workers=workers,
        backend="local" if local else "ray" if address is not None else "auto",
        device=_device(device),
        cpus_per_worker=cpus_per_worker,
        gpus_per_worker=gpus_per_worker,
        address=address,
    )
    if as_json:
        _print_json({**asdict(summary), "path": str(summary.path)})
    else:
        _print_pairs(
            {
                "zoo": str(summary.path),
                "models": f"{summary.num_models:,} ({summary.num_diverged:,} diverged)",
                "checkpoints": f"{summary.num_checkpoints:,}",
                "best test accuracy": f"{summary.best_test_acc:.1%}",
                "time": _duration(summary.seconds),
            }
        )
    for cohort, reason in summary.failures.items():
        typer.echo(f"failed cohort {cohort}: {reason}", err=True)
    if summary.failures:
        raise typer.Exit(3)


@app.command()
def info(zoo: ZooArgument, as_json: JsonOption = False) -> None:
    """Describe a stored zoo from its metadata; reads no weights."""
    import zookeeper

    opened = zookeeper.open(zoo)
    models = opened.models
    splits = models["split"].value_counts().to_dict() if "split" in models else {}
    value = {
        "path": str(zoo),
        "name": opened.header.name,
        "kind": opened.header.kind,
        "models": len(models),
        "checkpoints": len(opened),
        "num_weights": [_num_weights(layout) for layout in opened.header.layouts.values()],
        "epochs": [min(opened.epochs), max(opened.epochs)] if len(opened) else [],
        "factors": list(opened.factors),
        "properties": list(opened.properties),
        "splits": {str(name): int(count) for name, count in splits.items()},
        "diverged": int((models["status"] == "diverged").sum()) if "status" in models else 0,
        "best_test_acc": float(models["test_acc"].max()) if "test_acc" in models and len(models) else None,
    }
    if as_json:
        _print_json(value)
    else:
        _print_pairs({key: _plain(entry) for key, entry in value.items()})


@app.command()
def query(
    zoo: ZooArgument,
    expression: Annotated[str, typer.Argument(help='pandas expression, e.g. "test_acc > .9 and epoch == 50"')],
    columns: Annotated[str | None, typer.Option("--columns", help="Comma-separated columns to print.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Print the checkpoints that match an expression."""
    import zookeeper
    from zookeeper.errors import InputError

    found = zookeeper.open(zoo).query(expression)
    frame = found.frame
    if columns is not None:
        wanted = [name.strip() for name in columns.split(",")]
        missing = [name for name in wanted if name not in frame]
        if missing:
            raise InputError(f"--columns: unknown {', '.join(missing)}; expected some of {', '.join(frame.columns)}.")
        frame = frame[wanted]
    if as_json:
        sys.stdout.write(frame.to_json(orient="records", lines=True))
    elif as_csv:
        frame.to_csv(sys.stdout, index=False)
    else:
        typer.echo(frame.to_string(index=False) if len(frame) else "no checkpoint matches")


def _num_weights(layout: Any) -> int:
    from zookeeper.nets.layout import WeightLayout

    return WeightLayout.from_json(layout).num_weights


def _device(name: str) -> str:
    from zookeeper.errors import InputError

    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device: unknown device {name!r}; expected auto, cpu or cuda.")
    if name == "auto":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, default=str))


def _print_pairs(pairs: dict[str, str]) -> None:
    width = max(len(key) for key in pairs)
    for key, value in pairs.items():
        typer.echo(f"{key:<{width}}  {value}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {count:,}" for key, count in value.items())
    if isinstance(value, list):
        return ", ".join(str(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{seconds:.1f} s"


def run_app(application: typer.Typer) -> NoReturn:
    """Run a command line: one line and an exit code for errors a user can act on, no traceback."""
    try:
        application()
    except ZooError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("interrupted; what was committed is safe. Run the same command again to go on.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
    sys.exit(0)


def main() -> NoReturn:
    """Entry point of the console script."""
    run_app(app)


if __name__ == "__main__":
    main()
