"""Commands that take zoos of others in, and write ours for others: import, export."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from zookeeper.terminal import JsonOption, SourceArgument, print_json, print_pairs


def import_(
    format: Annotated[
        str, typer.Argument(help="ray-tune, unterthiner, dataset-pt, state-dict, safetensors, npz or npy.")
    ],
    source: Annotated[Path, typer.Argument(help="Folder to read (dataset-pt: or file).", show_default=False)],
    target: Annotated[Path, typer.Argument(help="Zoo to write; the same command again goes on.", show_default=False)],
    architecture: Annotated[
        str | None, typer.Option("--architecture", help="Registered name; default recognised by shapes.")
    ] = None,
    image: Annotated[
        str | None, typer.Option("--image", help="Images the networks take, such as mnist:1x28x28:10.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the zoo; default that of the folder.")] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="Licence of the source; default its LICENSE file.")
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="Where the source was published.")] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float64 keeps doubles; default float32, refused if bits were lost.")
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Shares of models for train,val,test if the source has no split, or none.")
    ] = "0.7,0.15,0.15",
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Leave out files that cannot be read, and list them.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Store networks that others published as a zoo. Pickles are read as data and never executed."""
    from tqdm import tqdm

    from zookeeper.interop.importing import import_zoo, with_image
    from zookeeper.interop.source import ImportOptions, parse_split

    options = ImportOptions(
        architecture=architecture,
        name=name,
        licence=licence,
        url=url,
        dtype=dtype,
        split=parse_split(split),
        skip_damaged=skip_damaged,
    )
    options = with_image(options, image, name or source.name)
    with tqdm(unit=" rows", desc="importing", disable=None, dynamic_ncols=True) as bar:

        def start(total: int) -> None:
            bar.total = total
            bar.refresh()

        def advance(count: int) -> None:
            bar.update(count)

        done = import_zoo(format, source, target, options, on_start=start, on_rows=advance)
    if as_json:
        print_json(asdict(done))
        return
    found = ", ".join(done.architectures) or "none recognised, names kept"
    rest = f"; {done.unknown_architecture:,} other" if done.architectures and done.unknown_architecture else ""
    print_pairs(
        {
            "zoo": str(done.path),
            "models": f"{done.num_models:,} ({done.num_diverged:,} diverged)",
            "checkpoints": f"{done.num_checkpoints:,} ({done.num_resumed:,} were there already)",
            "architecture": found + rest,
        }
    )
    for entry in done.skipped:
        more = ", ..." if entry["count"] > len(entry["examples"]) else ""
        typer.echo(f"skipped {entry['count']:,}: {entry['reason']} ({', '.join(entry['examples'])}{more})")


def export(
    format: Annotated[str, typer.Argument(help="state-dict, safetensors, npz, npy, unterthiner or ray-tune.")],
    zoo: SourceArgument,
    target: Annotated[Path, typer.Argument(help="A new directory.", show_default=False)],
    query: Annotated[str | None, typer.Option("--query", help='Only these, e.g. "epoch == 50 and lr < .01".')] = None,
    published_names: Annotated[
        bool, typer.Option("--published-names", help="Keys of the published zoos instead of canonical ones.")
    ] = False,
    table: Annotated[str, typer.Option("--table", help="csv or parquet.")] = "csv",
    as_json: JsonOption = False,
) -> None:
    """Write a zoo in a format of others: all of it or nothing. Importing it gives the same rows to the bit."""
    from tqdm import tqdm

    import zookeeper
    from zookeeper.interop.exporting import ExportOptions, export_zoo

    opened = zookeeper.open(zoo)
    chosen = opened if query is None else opened.query(query)
    options = ExportOptions(published_names=published_names, table=table)
    with tqdm(total=len(chosen), unit=" rows", desc="exporting", disable=None, dynamic_ncols=True) as bar:

        def advance(count: int) -> None:
            bar.update(count)

        done = export_zoo(format, chosen, target, options, on_rows=advance)
    if as_json:
        print_json(asdict(done))
        return
    print_pairs(
        {
            "folder": str(done.path),
            "models": f"{done.num_models:,}",
            "checkpoints": f"{done.num_checkpoints:,}",
            "not carried": "; ".join(done.lost),
        }
    )
