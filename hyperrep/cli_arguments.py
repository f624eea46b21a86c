"""What several commands ask for in the same words, and how a model and a zoo are opened together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zookeeper.errors import InputError

ModelArgument = Annotated[Path, typer.Argument(help="Folder of a trained hyper-representation.", show_default=False)]
ZooArgument = Annotated[Path, typer.Argument(help="Folder of a zoo.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
EpochOption = Annotated[
    list[int] | None, typer.Option("--epoch", help="Use this epoch; repeatable. Default: those it was trained on.")
]


def open_pair(model: Path, zoo: Path, epochs: list[int] | None) -> Any:
    """Open a model and a zoo that fit each other, and decide on the epochs."""
    import zookeeper
    from hyperrep.training.mixed import load_for

    opened = zookeeper.open(zoo)
    hyper = load_for(model, opened.layout)
    if hyper.layout.digest != opened.layout.digest:
        raise InputError(
            f"{model}: was trained on networks of {hyper.layout.num_weights:,} weights, {zoo} holds another "
            f"architecture ({opened.layout.num_weights:,} weights). Choose a zoo of the same architecture."
        )
    return hyper, opened, tuple(epochs) if epochs else hyper.config.epochs_of_zoo
