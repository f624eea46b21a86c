"""Changes to a document by dotted keys: ``loss.beta: 0.5`` is one entry, whatever stands beside it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperrep.config import TrainConfig
from zookeeper.errors import InputError
from zookeeper.spec.document import Document, load_document, validate_document
from zookeeper.spec.schema import ZooSpec, read_spec

Changes = Mapping[str, Any]


def change(value: Any, changes: Changes, where: str) -> dict[str, Any]:
    """Copy a mapping and replace the entries at dotted keys; sections that are absent are made.

    The value of an entry replaces what was there, whole. ``None`` removes the key.

    Raises
    ------
    InputError
        If a key leads through something that is not a mapping.

    Examples
    --------
    >>> change({"loss": {"beta": 1, "gamma": 0}}, {"loss.beta": 0.5, "loss.gamma": None}, "x.yaml")
    {'loss': {'beta': 0.5}}
    """
    result: dict[str, Any] = copy.deepcopy(dict(value)) if isinstance(value, Mapping) else {}
    for key, wanted in changes.items():
        *sections, last = key.split(".")
        place = result
        for name in sections:
            place = place.setdefault(name, {})
            if not isinstance(place, dict):
                raise InputError(f"{where} {key}: {name!r} is not a section. Name the entry itself, such as {name}.")
        if wanted is None:
            place.pop(last, None)
        else:
            place[last] = copy.deepcopy(wanted)
    return result


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another, mapping by mapping; everything else is replaced.

    >>> merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2]})
    {'a': {'b': 3, 'c': 2}, 'd': [2]}
    """
    result = dict(base)
    for key, value in over.items():
        known = result.get(key)
        both = isinstance(known, Mapping) and isinstance(value, Mapping)
        result[key] = merge(known, value) if both else value  # type: ignore[arg-type]
    return result


def load_changed_config(path: Path, changes: Changes) -> TrainConfig:
    """Read a training configuration and change it; the problems of the result name the file."""
    document = load_document(path)
    value = change(document.value, changes, str(path))
    return validate_document(Document(value, document.where, document.lines), TrainConfig)


def load_changed_spec(path: Path, changes: Changes) -> ZooSpec:
    """Read the specification of a zoo and change it; the order of its axes stays that of the file."""
    document = load_document(path)
    value = change(document.value, changes, str(path))
    return read_spec(Document(value, document.where, document.lines), path.parent, allow_huge=True)
