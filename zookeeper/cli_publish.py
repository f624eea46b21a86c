"""The command that publishes a zoo: to a folder, the Hugging Face Hub, or Zenodo."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zookeeper.terminal import JsonOption, ZooArgument, format_bytes, print_json, print_pairs

if TYPE_CHECKING:
    from zookeeper.publish.folder import Publication
    from zookeeper.publish.sending import Destination, Sent

_SHOWN = 12


def publish(
    zoo: ZooArgument,
    to: Annotated[
        str,
        typer.Option("--to", help="A folder, hf:user/name, zenodo (a new draft) or zenodo:DEPOSITION."),
    ],
    licence: Annotated[
        str | None, typer.Option("--license", help="SPDX name; default from the zoo, else CC-BY-4.0.")
    ] = None,
    author: Annotated[
        list[str] | None, typer.Option("--author", help="'Family, Given', or a group; may be repeated.")
    ] = None,
    title: Annotated[str | None, typer.Option("--title", help="Default: name and number of models.")] = None,
    version: Annotated[str, typer.Option("--version", help="Version of the data set.")] = "1.0.0",
    url: Annotated[str, typer.Option("--url", help="Where the data set is found.")] = "",
    allow_incomplete: Annotated[
        bool, typer.Option("--allow-incomplete", help="Publish what is built so far; the card says so.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new Hub repository private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Publish a zoo with card, Croissant, checksums, citation and licence, for others to open without us."""
    from zookeeper.publish.folder import Wishes, publish_folder
    from zookeeper.publish.sending import parse_destination
    from zookeeper.publish.staging import staged

    where = parse_destination(to)
    wishes = Wishes(title, licence, tuple(author or ()), version, url, None, allow_incomplete)
    with ExitStack() as held:
        if where.kind == "folder" and not dry_run:
            _report_folder(_with_bar(zoo, lambda tick: publish_folder(zoo, where.path, wishes, tick)), as_json)
            return
        folder = held.enter_context(staged(zoo))
        made = _with_bar(zoo, lambda tick: publish_folder(zoo, folder, wishes, tick))
        if dry_run:
            _report_plan(made, where, to, as_json)
        else:
            _report_sent(made, _send(made, where, private), to, as_json)


def _with_bar(zoo: Path, work: Any) -> Publication:
    from tqdm import tqdm

    with tqdm(unit=" files", desc="publishing", disable=None, dynamic_ncols=True, leave=False) as bar:
        made: Publication = work(lambda name: bar.update())
        return made


def _send(made: Publication, where: Destination, private: bool) -> Sent:
    if where.kind == "hf":
        from zookeeper.publish.hub import hub_client, send_hub

        client, token = hub_client()
        return send_hub(made, where.name, client, token, private=private)
    from tqdm import tqdm

    from zookeeper.publish.sending import Item
    from zookeeper.publish.zenodo import plan_zenodo, send_zenodo, zenodo_service

    service = zenodo_service()
    total = sum(item.size for item in plan_zenodo(made))
    with tqdm(total=total, unit="B", unit_scale=True, desc="sending", disable=None, dynamic_ncols=True) as bar:

        def advance(item: Item, new: bool) -> None:
            bar.update(item.size)

        return send_zenodo(made, service, where.name, on_item=advance)


def _report_folder(made: Publication, as_json: bool) -> None:
    value = {
        "path": str(made.path),
        "title": made.title,
        "licence": made.licence,
        "complete": made.complete,
        "files": len(made.sizes),
        "bytes": made.num_bytes,
    }
    if as_json:
        print_json(value)
        return
    shown = {key: str(entry) for key, entry in value.items()}
    print_pairs({**shown, "complete": "yes" if made.complete else "no", "bytes": format_bytes(made.num_bytes)})


def _report_plan(made: Publication, where: Destination, to: str, as_json: bool) -> None:
    from zookeeper.publish.hub import plan_hub
    from zookeeper.publish.zenodo import deposition_metadata, plan_zenodo

    items = plan_zenodo(made) if where.kind == "zenodo" else plan_hub(made)
    total = sum(item.size for item in items)
    if as_json:
        files = [{"name": item.name, "bytes": item.size, "members": len(item.members)} for item in items]
        value: dict[str, Any] = {"to": to, "sent": False, "title": made.title, "licence": made.licence}
        if where.kind == "zenodo":
            value["metadata"] = deposition_metadata(made)
        print_json({**value, "complete": made.complete, "bytes": total, "files": files})
        return
    print_pairs({"to": f"{to} (nothing was sent)", "title": made.title, "licence": made.licence})
    for item in items[:_SHOWN]:
        inside = f"  ({len(item.members)} files)" if item.members else ""
        typer.echo(f"  {item.name}  {format_bytes(item.size)}{inside}")
    if len(items) > _SHOWN:
        typer.echo(f"  and {len(items) - _SHOWN:,} more")
    typer.echo(f"{len(items):,} files, {format_bytes(total)}")


def _report_sent(made: Publication, done: Sent, to: str, as_json: bool) -> None:
    counts = {"sent": len(done.sent), "already_there": len(done.skipped), "removed": len(done.removed)}
    if as_json:
        print_json({"to": to, "url": done.url, "title": made.title, "complete": made.complete, **counts})
        return
    files = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    print_pairs({"published": done.url, "title": made.title, "files": files})
    if done.note:
        typer.echo(f"note: {done.note}", err=True)
