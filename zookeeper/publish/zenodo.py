"""Send a publication to Zenodo as a draft, through its REST API (depositions and buckets)."""

from __future__ import annotations

import html
import os
import re
import tempfile
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zookeeper.errors import InputError, PublishError
from zookeeper.publish.archive import PART_BYTES, plan_parts, write_part
from zookeeper.publish.checksums import hash_md5
from zookeeper.publish.exchange import Service
from zookeeper.publish.folder import Publication
from zookeeper.publish.sending import Item, Sent
from zookeeper.publish.staging import scratch_parent
from zookeeper.store.files import TEMPORARY

ADDRESS = "https://zenodo.org/api"
TOKEN, ADDRESS_VARIABLE = "ZENODO_TOKEN", "ZENODO_API"
_MOST_FILES = 100
_MOST_BYTES = 50 * 10**9
_PART = re.compile(r"files-\d{3}\.zip")


def zenodo_service() -> Service:
    """The service that the environment names: ``ZENODO_TOKEN``, and ``ZENODO_API`` for the sandbox."""
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise InputError(
            f"zenodo: no token; expected one in the environment variable {TOKEN}. Make one at "
            "https://zenodo.org/account/settings/applications with the scope deposit:write."
        )
    return Service(os.environ.get(ADDRESS_VARIABLE, ADDRESS), token)


def plan_zenodo(publication: Publication, limit: int = PART_BYTES) -> tuple[Item, ...]:
    """Say what is sent: files at the root as they are, folders in archives, as a record has no folders.

    Raises
    ------
    InputError
        If a record cannot hold it: 100 files, 50 GB.
    """
    sizes = publication.sizes
    flat = tuple(Item(name, sizes[name]) for name in sizes if "/" not in name)
    items = (*flat, *plan_parts([name for name in sizes if "/" in name], sizes, limit))
    if len(items) > _MOST_FILES or publication.num_bytes > _MOST_BYTES:
        raise InputError(
            f"{publication.path}: {len(items)} files, {publication.num_bytes:,} bytes; a Zenodo record takes "
            f"{_MOST_FILES} and {_MOST_BYTES:,}. Compress it (zookeeper convert --compression zstd), or publish to hf:."
        )
    return items


def deposition_metadata(publication: Publication) -> dict[str, Any]:
    """Describe a publication in the words of a Zenodo deposition."""
    credits = publication.credits
    return {
        "title": publication.title,
        "upload_type": "dataset",
        "description": f"<p>{html.escape(publication.description)}</p><p>Unpack all archives into one folder, beside "
        "the other files: that folder is the data set, described in README.md.</p>",
        "creators": [
            {"name": f"{author.family}, {author.given}" if author.given else author.family}
            for author in credits.authors
        ],
        "license": publication.licence.lower(),
        "keywords": list(credits.keywords),
        "version": credits.version,
        "publication_date": credits.date,
    }


def send_zenodo(
    publication: Publication,
    service: Service,
    deposition: str = "",
    *,
    limit: int = PART_BYTES,
    on_item: Callable[[Item, bool], None] | None = None,
) -> Sent:
    """Fill a draft with a publication; it stays a draft, and a person makes it public.

    Files that are there with the right checksum are not sent again, so that the same call with the number of
    the deposition goes on after any failure. Files of others in the draft are left alone.

    Parameters
    ----------
    deposition
        The number of a draft; without it a new one is made.
    on_item
        Called with each file, and whether it had to be sent.

    Raises
    ------
    InputError
        If the draft was made public already, or the publication is too large.
    PublishError
        If the service refuses, cannot be reached, or stored something else than was sent.
    """
    items = plan_zenodo(publication, limit)
    draft = _find_draft(service, deposition)
    number = str(draft["id"])
    try:
        return _fill(publication, service, draft, items, on_item)
    except PublishError as error:
        raise PublishError(f"{error} Draft: --to zenodo:{number}") from error


def _find_draft(service: Service, deposition: str) -> Mapping[str, Any]:
    if deposition:
        draft = service.call("GET", f"deposit/depositions/{deposition}")
    else:  # an attempt whose answer was lost leaves an empty draft behind, which harms nobody
        draft = service.call("POST", "deposit/depositions", {})
    if not isinstance(draft, dict) or "id" not in draft or "bucket" not in draft.get("links", {}):
        raise PublishError(f"{service.address}: expected a deposition with a bucket. Is the address right?")
    if draft.get("submitted"):
        raise InputError(
            f"zenodo:{deposition}: is public already, and public records do not change. Make a new version there "
            "and give its number."
        )
    return draft


def _fill(
    publication: Publication,
    service: Service,
    draft: Mapping[str, Any],
    items: tuple[Item, ...],
    on_item: Callable[[Item, bool], None] | None,
) -> Sent:
    place = f"deposit/depositions/{draft['id']}"
    service.call("PUT", place, {"metadata": deposition_metadata(publication)})
    present = {str(file["filename"]): file for file in draft.get("files", ())}
    sent: list[str] = []
    skipped: list[str] = []
    removed: list[str] = []
    with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=scratch_parent(publication.path)) as scratch:
        for item in items:
            path = publication.path / item.name
            if item.members:
                path = Path(scratch) / item.name
                write_part(publication.path, item, path)
            digest = hash_md5(path)
            new = item.name not in present or _plain(present[item.name].get("checksum")) != digest
            if new:
                url = f"{draft['links']['bucket']}/{urllib.parse.quote(item.name)}"
                stored = service.call("PUT", url, file=path)
                if _plain((stored or {}).get("checksum")) != digest:
                    raise PublishError(f"{item.name}: the service stored other bytes than were sent. Try again.")
            (sent if new else skipped).append(item.name)
            if item.members:
                path.unlink()
            if on_item is not None:
                on_item(item, new)
    for name in sorted(set(present) - {item.name for item in items}):
        if _PART.fullmatch(name):
            service.call("DELETE", f"{place}/files/{present[name]['id']}")
            removed.append(name)
    url = str(draft["links"].get("html", f"{service.address}/{place}"))
    note = "a draft; look at it there and press publish"
    return Sent(url, tuple(sent), tuple(skipped), tuple(removed), note)


def _plain(checksum: object) -> str:
    return str(checksum).removeprefix("md5:")
