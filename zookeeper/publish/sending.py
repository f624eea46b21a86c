"""What sending has in common: destinations, what is sent as a value, tokens that never leave the program."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from zookeeper.errors import InputError

_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}")
_SCHEME = re.compile(r"([a-z][a-z0-9]{1,9}):(.*)")  # one letter is a drive of Windows


@dataclass(frozen=True, slots=True)
class Destination:
    """Where a publication goes: ``folder``, ``hf`` or ``zenodo``, and which one there."""

    kind: str
    name: str

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.name)


def parse_destination(text: str) -> Destination:
    """Read ``DIR``, ``hf:user/name``, ``zenodo`` or ``zenodo:DEPOSITION``.

    >>> parse_destination("hf:me/zoo"), parse_destination("out/zoo").kind
    (Destination(kind='hf', name='me/zoo'), 'folder')

    Raises
    ------
    InputError
        If the part after the colon is not a name, or the word before it is unknown.
    """
    if text == "zenodo":
        return Destination("zenodo", "")
    found = _SCHEME.fullmatch(text)
    if found is None:
        if not text:
            raise InputError("--to: empty; expected a folder, hf:user/name or zenodo.")
        return Destination("folder", text)
    kind, name = found.groups()
    if kind == "hf" and _REPOSITORY.fullmatch(name):
        return Destination("hf", name)
    if kind == "zenodo" and name.isascii() and name.isdigit():
        return Destination("zenodo", name)
    raise InputError(
        f"--to: cannot read {text!r}; expected a folder, hf:user/name, zenodo or zenodo:DEPOSITION (a number). "
        "A folder with a colon: ./NAME."
    )


@dataclass(frozen=True, slots=True)
class Item:
    """A file as it is sent: its name there, bytes, and the members if it is an archive made on the way."""

    name: str
    size: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sent:
    """What a transfer did: where the publication is now, and which files were sent, there already, or removed."""

    url: str
    sent: tuple[str, ...]
    skipped: tuple[str, ...]
    removed: tuple[str, ...]
    note: str = ""


def redact(text: str, *secrets: str) -> str:
    """Take secrets out of a text that will be shown.

    >>> redact("401: token abc refused", "abc", "")
    '401: token *** refused'
    """
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text
