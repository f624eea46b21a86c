"""What the command lines share: arguments, errors that become one line and an exit code, values that become text."""

from __future__ import annotations

import gc
import json
import math
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer

from zookeeper.errors import InputError, Terminated, ZooError

INTERRUPTED = 130


def _refuse_url(path: Path) -> Path:
    """A command that needs the files themselves says so, instead of looking for a folder named like an address."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise InputError(f"{path}: is an address; this command needs a zoo in a folder. Fetch it first.")
    return path


ZooArgument = Annotated[Path, typer.Argument(help="A zoo directory.", show_default=False, callback=_refuse_url)]
SourceArgument = Annotated[str, typer.Argument(help="A zoo directory, or a URL.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
DataRootOption = Annotated[
    Path | None,
    typer.Option(
        "--data-root", help="Folder that holds the image files; default images.root, then $ZOO_DATA_ROOT, then ./data."
    ),
]
_REMEDY = "What was finished is safe; the same command goes on."


def run_app(application: Callable[..., Any]) -> NoReturn:
    """Run a command line and exit: 0 done, or the code of the error, whose message is on stderr.

    A `ZooError` ends in its own code and without a traceback, Ctrl-C in 130, SIGTERM in 143. Other
    exceptions are bugs and keep their traceback.
    """
    try:
        with _terminable():
            application()
    except ZooError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except Terminated as stop:
        typer.echo(f"terminated. {_REMEDY}", err=True)
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, SystemExit) as stop:
        if not _is_interrupt(stop):
            raise
        typer.echo(f"interrupted. {_REMEDY}", err=True)
        sys.exit(INTERRUPTED)
    finally:
        gc.freeze()  # else the interpreter, on its way out, looks through all that torch has made: .4 s
    sys.exit(0)


def print_json(value: Any) -> None:
    """Print one JSON document; numbers that JSON does not have (NaN, infinities) become null."""
    typer.echo(json.dumps(_finite(value), indent=2, default=str, allow_nan=False))


def print_pairs(pairs: dict[str, str]) -> None:
    """Print names and values in two columns."""
    width = max(len(key) for key in pairs)
    for key, value in pairs.items():
        typer.echo(f"{key:<{width}}  {value}")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text under a head, in columns of even width."""
    lines = [head, *rows]
    widths = [max(len(line[place]) for line in lines) for place in range(len(head))]
    for line in lines:
        typer.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())


def format_bytes(count: int) -> str:
    """Bytes in the unit that fits, to three digits.

    >>> format_bytes(541_862_499)
    '542 MB'
    """
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def format_duration(seconds: float) -> str:
    """Hours and minutes, or minutes and seconds, or seconds.

    >>> format_duration(2.34), format_duration(150), format_duration(7260)
    ('2.3 s', '2 min 30 s', '2 h 1 min')
    """
    minutes, left = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {left} s" if minutes else f"{seconds:.1f} s"


def format_share(share: float) -> str:
    """A share as a percentage; NaN (nothing to take a share of) as a dash.

    >>> format_share(0.9213), format_share(float("nan"))
    ('92.1%', '-')
    """
    return "-" if math.isnan(share) else f"{share:.1%}"


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is what an exception goes back to: releases of typer turn it into exits of several codes."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM raise `Terminated`, so that it is cleaned up after like Ctrl-C."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        previous = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
