"""The second copy of a zoo's header: what is wrong with either of the two, and what can still be known."""

from __future__ import annotations

import json
from pathlib import Path

from zookeeper.errors import InputError, StoreError
from zookeeper.store.findings import Finding
from zookeeper.store.header import COPY, HEADER, ZooHeader, parse_header, read_header

_FROM_COPY = f"zookeeper verify --repair makes it again from {COPY}, which is whole."
_FROM_HEADER = f"zookeeper verify --repair makes it again from {HEADER}, which is whole."
_LOST = f"Restore it from elsewhere: there is no whole {COPY}. Shards can still be read one by one."


def read_copy(root: Path) -> ZooHeader | None:
    """The header as its copy has it; None if the copy is missing or damaged."""
    try:
        return parse_header((root / COPY).read_bytes(), str(root / COPY))
    except (OSError, StoreError):
        return None


def examine_header(root: Path) -> tuple[ZooHeader | None, Finding | None]:
    """Read the header, or what its copy says; name what is wrong with either, if anything is."""
    try:
        header = read_header(root)
    except (StoreError, InputError) as error:
        kept = read_copy(root)
        return kept, Finding("header", HEADER, str(error), _LOST if kept is None else _FROM_COPY)
    what = _copy_problem(root)
    return header, None if what is None else Finding("header", COPY, what, _FROM_HEADER)


def _copy_problem(root: Path) -> str | None:
    data = (root / HEADER).read_bytes()
    try:
        copy = (root / COPY).read_bytes()
    except FileNotFoundError:
        return f"missing, though {HEADER} names it" if json.loads(data).get("copy") == COPY else None
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"
    if copy == data:
        return None
    kept = read_copy(root)
    whole = "damaged" if kept is None else f"the header of another zoo ({kept.name!r}), or another text"
    return f"its bytes are not those of {HEADER}; it is {whole}"
