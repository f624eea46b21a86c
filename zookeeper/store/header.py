"""``zoo.json``: what a zoo is meant to hold. Written once, never changed, with a copy beside it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from zookeeper.errors import InputError, StoreError
from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.files import TEMPORARY, create_durable, hash_bytes, sync_directory

FORMAT = "zookeeper.zoo"
FORMAT_VERSION = 1
HEADER = "zoo.json"
COPY = "zoo.json.copy"
FOLDERS = ("commits", "shards", "meta", "state")
_COHORT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_PACKAGES = ("weight-zookeeper", "torch", "numpy", "pyarrow")
_REMEDY = "zookeeper verify --repair restores it if its copy is whole."


@dataclass(frozen=True)
class CohortEntry:
    """Models that are stored together, in row order, and the epochs at which they are stored."""

    models: tuple[str, ...]
    epochs: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.models or not self.epochs:
            raise InputError("cohort: needs at least one model and one epoch.")
        if any(a >= b for a, b in zip(self.epochs, self.epochs[1:], strict=False)) or self.epochs[0] < 0:
            raise InputError(f"cohort: epochs must be non-negative and increase strictly, got {self.epochs}.")


@dataclass(frozen=True)
class ImageShape:
    """The images a zoo's networks take: the set's name, C, H, W and the number of classes K.

    ``details`` holds what else identifies the set: split, seed, normalisation, fingerprint.
    """

    name: str
    channels: int
    height: int
    width: int
    num_classes: int
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.channels, self.height, self.width)

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` restores an equal value."""
        return {
            "name": self.name,
            "channels": self.channels,
            "height": self.height,
            "width": self.width,
            "num_classes": self.num_classes,
            **self.details,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageShape:
        """Restore from `to_json`; unknown keys become details."""
        own = ("name", "channels", "height", "width", "num_classes")
        details = {key: entry for key, entry in value.items() if key not in own}
        channels, height, width, num_classes = (int(value[key]) for key in own[1:])
        return cls(str(value["name"]), channels, height, width, num_classes, details)


@dataclass(frozen=True)
class ZooHeader:
    """Everything about a zoo that is known before its first row.

    ``layouts`` maps layout digests to layouts in plain JSON, ``spec`` is the specification (or None for
    rows that no specification describes), ``kind`` is ``trained`` or ``sampled`` or a word of the writer,
    ``provenance`` is free JSON, ``store`` how shards are written from now on.
    """

    name: str
    cohorts: Mapping[str, CohortEntry]
    layouts: Mapping[str, Mapping[str, Any]]
    image: ImageShape | None = None
    spec: Mapping[str, Any] | None = None
    kind: str = "trained"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    store: Encoding = PLAIN

    def __post_init__(self) -> None:
        for name in self.cohorts:
            if not _COHORT_NAME.fullmatch(name):
                raise InputError(f"cohort {name!r}: not a usable file name; expected letters, digits, '_', '-' or '.'.")

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Model ids in stored order, each once."""
        return tuple(dict.fromkeys(model for cohort in self.cohorts.values() for model in cohort.models))

    @cached_property
    def epochs(self) -> tuple[int, ...]:
        """Every epoch at which some cohort is stored, increasing."""
        return tuple(sorted({epoch for cohort in self.cohorts.values() for epoch in cohort.epochs}))

    def content(self) -> dict[str, Any]:
        """What must agree when a build is resumed: all but creation time, versions and provenance."""
        return {
            "name": self.name,
            "kind": self.kind,
            "spec": None if self.spec is None else dict(self.spec),
            "image": None if self.image is None else self.image.to_json(),
            "layouts": {digest: dict(layout) for digest, layout in self.layouts.items()},
            "cohorts": {
                name: {"models": list(cohort.models), "epochs": list(cohort.epochs)}
                for name, cohort in self.cohorts.items()
            },
            **({} if self.store == PLAIN else {"store": self.store.to_json()}),
        }

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) of `content`."""
        return hashlib.sha256(canonical_json(self.content())).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """The document stored in ``zoo.json``."""
        value = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **self.content(),
            "provenance": dict(self.provenance),
            "created": self.created,
            "packages": dict(self.packages),
            "digest": self.digest,
            "copy": COPY,
        }
        return {**value, "check": hash_bytes(canonical_json(value))}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str) -> ZooHeader:
        """Restore from `to_json`; raises `StoreError` if it is damaged or of an unknown version."""
        if value.get("format") != FORMAT or value.get("format_version") != FORMAT_VERSION:
            raise StoreError(
                f"{where}: unknown format; expected {FORMAT} version {FORMAT_VERSION}, got "
                f"{value.get('format')!r} version {value.get('format_version')!r}. Install a newer release."
            )
        try:
            header = cls(
                name=str(value["name"]),
                cohorts={
                    str(name): CohortEntry(tuple(map(str, entry["models"])), tuple(map(int, entry["epochs"])))
                    for name, entry in value["cohorts"].items()
                },
                layouts=dict(value["layouts"]),
                image=None if value["image"] is None else ImageShape.from_json(value["image"]),
                spec=value["spec"],
                kind=str(value["kind"]),
                provenance=dict(value["provenance"]),
                created=str(value["created"]),
                packages=dict(value["packages"]),
                store=Encoding.from_json(value["store"]) if "store" in value else PLAIN,
            )
        except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
            raise StoreError(f"{where}: damaged header ({error!r}). {_REMEDY}") from error
        if header.digest != value.get("digest"):
            raise StoreError(
                f"{where}: damaged header; expected digest {value.get('digest')}, got {header.digest}. {_REMEDY}"
            )
        check = hash_bytes(canonical_json({key: entry for key, entry in value.items() if key != "check"}))
        if value.get("check", check) != check:  # headers written before there was a check have none
            raise StoreError(f"{where}: damaged header; expected check {value['check']}, got {check}. {_REMEDY}")
        return header


def create_zoo(path: Path, header: ZooHeader) -> ZooHeader:
    """Create a zoo directory, or accept the one that is there if it holds the same content.

    Put-if-absent: of several callers one creates, the others find. Creation time and package versions
    are filled in if the header leaves them empty; the folder of the image files on this machine is left out.

    Returns
    -------
    ZooHeader
        The header on disk.

    Raises
    ------
    InputError
        If the directory holds something that is not a zoo.
    StoreError
        If it holds another zoo (every difference is listed), or cannot be written.
    """
    target, header = path / HEADER, without_paths(header)
    if not target.exists() and not (path / COPY).exists():
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; expected a directory. Choose another path.")
        strangers = [
            entry.name
            for entry in (path.iterdir() if path.exists() else ())
            if entry.name not in FOLDERS and not entry.name.startswith((TEMPORARY, "build.lock"))
        ]
        if strangers and not target.exists():
            raise InputError(
                f"{path}: is not a zoo and not empty (it holds {sorted(strangers)[0]!r}). Choose another path."
            )
    stamped = replace(
        header,
        created=header.created or datetime.now(UTC).isoformat(timespec="seconds"),
        packages=dict(header.packages) or _package_versions(),
    )
    try:
        for folder in FOLDERS:
            (path / folder).mkdir(parents=True, exist_ok=True)
        sync_directory(path)
        if not target.exists():
            place_header(path, stamped)
    except OSError as error:
        raise StoreError(f"{path}: cannot create a zoo ({error.strerror}). Nothing was stored.") from error
    stored = read_header(path)
    if without_paths(stored).digest != header.digest:
        listed = list(differences(without_paths(stored).content(), json.loads(canonical_json(header.content()))))
        shown = "; ".join(listed[:8]) + (f"; and {len(listed) - 8} more" if len(listed) > 8 else "")
        raise StoreError(
            f"{target}: holds another zoo; {shown}. Choose another directory, or restore the old specification."
        )
    return stored


def place_header(path: Path, header: ZooHeader) -> None:
    """Write header and copy into a folder that has no header, the copy first: no header is ever without its copy.

    A copy that is there already is whose header this becomes: that of another writer, or of a header that was lost.

    Raises
    ------
    StoreError
        If the copy that is there is damaged.
    OSError
        If writing fails.
    """
    data = json.dumps(header.to_json(), indent=1).encode()
    if not create_durable(path / COPY, data):
        data = (path / COPY).read_bytes()
        parse_header(data, str(path / COPY))
    create_durable(path / HEADER, data)


def without_paths(header: ZooHeader) -> ZooHeader:
    """The header without the folder of image files, which is a path of the machine that built the zoo.

    Headers that were written before headers had copies may hold it.
    """
    if header.spec is None or "root" not in (header.spec.get("images") or {}):
        return header
    images = {key: value for key, value in header.spec["images"].items() if key != "root"}
    return replace(header, spec={**header.spec, "images": images})


def read_header(path: Path) -> ZooHeader:
    """Read and check ``zoo.json``.

    Raises
    ------
    InputError
        If there is no zoo at ``path``.
    StoreError
        If the header is damaged or of an unknown version.
    """
    target = path / HEADER
    try:
        data = target.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        if (path / COPY).is_file():
            raise StoreError(f"{target}: missing, though its copy {COPY} is there. {_REMEDY}") from error
        raise InputError(f"{path}: no zoo here; expected a directory with {HEADER}. Check the path.") from error
    except OSError as error:
        raise StoreError(f"{target}: cannot be read ({error.strerror}).") from error
    return parse_header(data, str(target))


def parse_header(data: bytes, where: str) -> ZooHeader:
    """Read and check the bytes of a header; raises `StoreError` on any damage."""
    try:
        value = json.loads(data)
    except ValueError as error:
        raise StoreError(f"{where}: not valid JSON ({error}). {_REMEDY}") from error
    if not isinstance(value, dict):
        raise StoreError(f"{where}: expected a JSON object. {_REMEDY}")
    return ZooHeader.from_json(value, where)


def canonical_json(value: Any) -> bytes:
    """One byte string per value: sorted keys, no spaces.

    >>> canonical_json({"b": 1, "a": [0.5, None]})
    b'{"a":[0.5,null],"b":1}'
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def differences(stored: Any, new: Any, where: str = "") -> Iterator[str]:
    """Name every place where two JSON values differ.

    >>> list(differences({"lr": [0.1, 0.2], "name": "a"}, {"lr": [0.1, 0.3], "seed": 1}))
    ['lr[1]: stored 0.2, new 0.3', "name: stored 'a', new nothing", 'seed: stored nothing, new 1']
    """
    if isinstance(stored, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*stored, *new]):
            place = f"{where}.{key}" if where else str(key)
            if key not in new:
                yield f"{place}: stored {_brief(stored[key])}, new nothing"
            elif key not in stored:
                yield f"{place}: stored nothing, new {_brief(new[key])}"
            else:
                yield from differences(stored[key], new[key], place)
    elif isinstance(stored, list) and isinstance(new, list) and len(stored) == len(new):
        for number, (left, right) in enumerate(zip(stored, new, strict=True)):
            yield from differences(left, right, f"{where}[{number}]")
    elif stored != new or type(stored) is not type(new):
        yield f"{where}: stored {_brief(stored)}, new {_brief(new)}"


def _brief(value: Any) -> str:
    if isinstance(value, list) and len(value) > 6:
        return f"{len(value)} values"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _package_versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
