"""Commands that look after stored zoos: convert, verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zookeeper.terminal import (
    DataRootOption,
    JsonOption,
    ZooArgument,
    format_bytes,
    print_json,
    print_pairs,
)

if TYPE_CHECKING:
    from zookeeper.store.findings import Finding, Report


def convert(
    source: ZooArgument,
    target: Annotated[Path, typer.Argument(help="A new directory.", show_default=False)],
    backend: Annotated[str | None, typer.Option("--backend", help="parquet or hdf5; default as it is.")] = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float32, float16, bfloat16 or float64; default as it is.")
    ] = None,
    compression: Annotated[
        str | None,
        typer.Option("--compression", help="none, zstd (parquet) or gzip (hdf5); default as it is."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Store a zoo again in another backend, type or compression: all of it or nothing."""
    from tqdm import tqdm

    from zookeeper.store.convert import convert_zoo
    from zookeeper.store.encoding import COMPRESSIONS, Encoding
    from zookeeper.store.header import read_header
    from zookeeper.store.records import CommitRecord, read_commits

    now = read_header(source).store
    where = backend or now.backend
    kept = now.compression if now.compression in COMPRESSIONS.get(where, ()) else "none"
    encoding = Encoding(where, dtype or now.dtype, compression or kept)
    total = sum(record.num_rows for record in read_commits(source))
    with tqdm(total=total, unit=" rows", desc="converting", disable=None, dynamic_ncols=True) as bar:

        def advance(record: CommitRecord) -> None:
            bar.update(record.num_rows)

        done = convert_zoo(source, target, encoding, advance)
    if as_json:
        print_json({"path": str(target), **encoding.to_json(), **asdict(done)})
    else:
        print_pairs(
            {
                "zoo": str(target),
                "stored as": f"{encoding.backend}, {encoding.dtype}, compression {encoding.compression}",
                "checkpoints": f"{done.num_rows:,}",
                "shards": f"{format_bytes(done.bytes_after)} (were {format_bytes(done.bytes_before)})",
                "kept": "every bit of every weight" if done.num_changed == 0 else "not every bit",
            }
        )
    if done.num_changed:
        typer.echo(
            f"lossy: {done.num_changed:,} weights changed, by {done.largest_change:.3g} at most; "
            f"{done.num_overflowed:,} became infinite",
            err=True,
        )


def verify(
    zoo: ZooArgument,
    deep: Annotated[
        bool, typer.Option("--deep", help="Decode every shard too, and evaluate a sample of networks again.")
    ] = False,
    sample: Annotated[int, typer.Option("--sample", min=0, help="Checkpoints that --deep evaluates.")] = 256,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended; move the rest to quarantine/.")
    ] = False,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find every damaged, missing or contradictory part of a zoo. Exit code 1 if anything is wrong."""
    from contextlib import ExitStack

    from tqdm import tqdm

    from zookeeper.store.header import read_header
    from zookeeper.store.verify import require_zoo, verify_zoo

    def look() -> Report:
        with tqdm(unit=" files", desc="verifying", disable=None, dynamic_ncols=True, leave=False) as bar:

            def advance(path: Path) -> None:
                bar.update()

            return verify_zoo(zoo, deep=deep, on_file=advance)

    repaired: tuple[str, ...] = ()
    with ExitStack() as held:
        if repair:
            from zookeeper.build.claim import claim_zoo
            from zookeeper.store.repair import repair_zoo

            require_zoo(zoo)
            held.enter_context(claim_zoo(zoo))
        report = look()
        if repair:
            repaired = repair_zoo(zoo, report)
            report = look() if repaired else report
    findings, evaluated = list(report.findings), None
    unreadable = {"header", "record", "shard", "table"} & {finding.kind for finding in findings}
    if deep and sample and not unreadable and read_header(zoo).spec is not None:
        from zookeeper.build.reevaluate import reevaluate_zoo

        evaluated = reevaluate_zoo(zoo, sample=sample, data_root=data_root)
        findings.extend(evaluated.findings)
    if as_json:
        print_json(
            {
                "path": str(zoo),
                "clean": not findings,
                "files": report.num_files,
                "bytes": report.num_bytes,
                "checkpoints": report.num_rows,
                "evaluated": 0 if evaluated is None else evaluated.num_rows,
                "largest_difference": None if evaluated is None else evaluated.largest,
                "repaired": list(repaired),
                "findings": [asdict(finding) for finding in findings],
                "notes": list(report.notes),
            }
        )
    else:
        _print_findings(report, findings, repaired, 0 if evaluated is None else evaluated.num_rows)
    if findings:
        raise typer.Exit(1)


def _print_findings(report: Report, findings: Sequence[Finding], repaired: Sequence[str], num_evaluated: int) -> None:
    for line in repaired:
        typer.echo(f"repaired: {line}")
    for finding in findings:
        typer.echo(f"{finding.kind}: {finding.where}: {finding.what}")
        if finding.lost is not None:
            typer.echo(f"  lost: {_listed(finding.lost.models, 'model')} at {_listed(finding.lost.epochs, 'epoch')}")
        typer.echo(f"  to do: {finding.remedy}")
    for note in report.notes:
        typer.echo(f"note: {note}")
    again = f", {num_evaluated:,} evaluated again" if num_evaluated else ""
    checked = f"{report.num_files:,} files, {format_bytes(report.num_bytes)}, {report.num_rows:,} checkpoints{again}"
    typer.echo(f"{'clean' if not findings else f'{len(findings)} problem(s)'}: {checked}")


def _listed(values: Sequence[object], noun: str) -> str:
    """Name a few values and count the rest."""
    shown = ", ".join(map(str, values[:6]))
    return f"{noun} {shown}" if len(values) <= 6 else f"{len(values):,} {noun}s ({shown}, ...)"
