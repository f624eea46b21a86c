"""Steps of a study that are done once: skipped while inputs and outputs are what they were.

A step is a value: what it depends on (plain JSON), which files it leaves, and the action. Its record is
written last, so a study killed at any moment repeats at most the step it was in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperrep.studies.locks import hold
from zookeeper.store.files import hash_bytes, hash_file, write_durable
from zookeeper.store.header import canonical_json


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One piece of a study.

    Parameters
    ----------
    name
        Unique in the study; the record's file name.
    inputs
        Everything the result depends on, as plain JSON (settings, content hashes).
    outputs
        Files the action leaves, relative to the study's folder.
    action
        Does the work.
    """

    name: str
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    action: Callable[[], None]

    @property
    def digest(self) -> str:
        """Hash of the inputs."""
        return hash_bytes(canonical_json(self.inputs))


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step left: hashes of its files, how long it took, and whether it was skipped this time."""

    name: str
    files: Mapping[str, str]
    seconds: float
    skipped: bool


def is_done(step: Step, folder: Path) -> bool:
    """Whether `run_step` would skip the step."""
    known = _read(folder / "steps" / f"{step.name}.json")
    return known is not None and known.get("inputs") == step.digest and _unchanged(step, known, folder)


def run_step(step: Step, folder: Path) -> StepResult:
    """Run a step, or skip it when its record shows the same inputs and its files are unchanged."""
    record_path = folder / "steps" / f"{step.name}.json"
    known = _read(record_path)
    if known is not None and known.get("inputs") == step.digest and _unchanged(step, known, folder):
        return StepResult(step.name, dict(known["files"]), float(known["seconds"]), skipped=True)
    record_path.parent.mkdir(parents=True, exist_ok=True)
    record_path.unlink(missing_ok=True)
    started = time.monotonic()
    step.action()
    seconds = time.monotonic() - started
    files = {name: hash_file(folder / name) for name in step.outputs}
    record = {"step": step.name, "inputs": step.digest, "files": files, "seconds": round(seconds, 3)}
    write_durable(record_path, json.dumps(record, indent=1).encode())
    return StepResult(step.name, files, seconds, skipped=False)


def run_alone(step: Step, folder: Path, say: Callable[[str], None]) -> StepResult:
    """Run a step in a folder that other studies use too: if one is at work on the same step, wait for it."""
    if is_done(step, folder):
        return run_step(step, folder)
    with hold(folder, step.name, say):
        return run_step(step, folder)


def _read(path: Path) -> dict[str, Any] | None:
    """Read a record; one that is missing or damaged only means that the step runs again."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("files"), dict) else None


def _unchanged(step: Step, record: Mapping[str, Any], folder: Path) -> bool:
    files = record["files"]
    return set(files) == set(step.outputs) and all(
        (folder / name).is_file() and hash_file(folder / name) == expected for name, expected in files.items()
    )
