"""The ``hyperrep`` command: arguments and printing only.

Standard output holds data alone, progress and messages go to standard error. Exit codes: 0 done, 1 failed,
2 bad input, 3 a study finished but a claim did not hold (with ``--strict``), 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from hyperrep.cli_align import align
from hyperrep.cli_arguments import EpochOption, JsonOption, ModelArgument, ZooArgument, open_pair
from hyperrep.cli_sample import COMMANDS as SAMPLE_COMMANDS
from hyperrep.cli_study import study_app
from hyperrep.cli_tasks import COMMANDS
from hyperrep.cli_train import COMMANDS as TRAIN_COMMANDS
from zookeeper.errors import InputError
from zookeeper.terminal import DataRootOption, run_app

if TYPE_CHECKING:
    import pandas as pd

    from hyperrep.report.tables import ReportTable

app = typer.Typer(
    name="hyperrep",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def look_for_images(data_root: DataRootOption = None) -> None:
    """Learn hyper-representations from zoos of neural networks and sample new networks."""
    if data_root is not None:
        from zookeeper.images import ROOT_VARIABLE

        os.environ[ROOT_VARIABLE] = str(data_root)  # also for the processes that a command starts


_COMMANDS: tuple[Callable[..., None], ...] = (*TRAIN_COMMANDS, *SAMPLE_COMMANDS, *COMMANDS, align)
for command in _COMMANDS:
    app.command()(command)

app.add_typer(study_app, name="study")


@app.command()
def embed(
    model: ModelArgument,
    zoo: ZooArgument,
    out: Annotated[Path, typer.Option(help="File to write, .parquet or .csv.", show_default=False)],
    epoch: EpochOption = None,
) -> None:
    """Write the mean latent of each layer of every checkpoint beside its identity and split."""
    import numpy as np
    import pandas as pd

    if out.suffix not in (".parquet", ".csv"):
        raise InputError(f"--out {out}: unknown kind of file; expected a name that ends in .parquet or .csv.")
    hyper, opened, epochs = open_pair(model, zoo, epoch)
    view = opened if epochs is None else opened.query("epoch in @epochs", epochs=list(epochs))
    latents = np.asarray(hyper.embed(view.weights()))
    columns = [name for name in ("model_id", "epoch", "split", "test_acc") if name in view.frame]
    frame = pd.concat([view.frame[columns], pd.DataFrame(latents, columns=list(hyper.embedding_names))], axis=1)
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".csv":
        frame.to_csv(out, index=False)
    else:
        frame.to_parquet(out, index=False)
    typer.echo(out)


@app.command()
def evaluate(
    model: ModelArgument,
    zoo: ZooArgument,
    epoch: EpochOption = None,
    untrained: Annotated[int, typer.Option(help="How many untrained encoders stand beside.")] = 3,
    as_json: JsonOption = False,
) -> None:
    """Reconstruct the test models and probe the embedding beside W, s(W) and untrained encoders."""
    import numpy as np
    import pandas as pd

    from hyperrep.baselines.weight_statistics import weight_statistics
    from hyperrep.report.tables import probe_table, reconstruction_table
    from hyperrep.tasks.opening import build_examiner, read_split
    from hyperrep.tasks.probe import probe
    from hyperrep.tasks.reconstruct import STAND_IN, compare, compare_stand_in, summarise
    from hyperrep.tasks.split import ROLES

    hyper, opened, epochs = open_pair(model, zoo, epoch)
    splits = {role: read_split(opened, role, epochs) for role in ROLES}
    test = splits["test"]
    examiner = build_examiner(opened)
    comparisons = {
        hyper.config.name: compare(test, np.asarray(hyper.reconstruct(test.rows)), examiner),
        STAND_IN: compare_stand_in(splits["train"], test, examiner),
    }
    reconstruction = pd.concat([summarise(part).assign(losses=name) for name, part in comparisons.items()])
    encoders = {f"untrained encoder {seed}": hyper.untrained(seed) for seed in range(untrained)}
    encoders[hyper.config.name] = hyper
    features = {
        "W": {role: split.rows for role, split in splits.items()},
        "s(W)": {role: weight_statistics(split.rows, opened.layout) for role, split in splits.items()},
    } | {
        name: {role: np.asarray(encoder.embed(split.rows)) for role, split in splits.items()}
        for name, encoder in encoders.items()
    }
    probes = probe(features, {role: split.frame for role, split in splits.items()})
    if as_json:
        _print_json({"reconstruction": _records(reconstruction), "probes": _records(probes)})
    else:
        table = probe_table(probes, num_train=len(splits["train"]), num_test=len(test))
        _print_tables([reconstruction_table(reconstruction), table])


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads(frame.to_json(orient="records"))
    return records


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=1))


def _print_tables(tables: list[ReportTable]) -> None:
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    for table in tables:
        table.print_to(console)


def main() -> NoReturn:
    """Entry point of the console script; errors a user can act on are one line on standard error."""
    run_app(app)


if __name__ == "__main__":
    main()
