"""Zoos of a study: found where they lie built, or built into a cache that all studies share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import zookeeper
from hyperrep.studies.locks import hold
from hyperrep.studies.overrides import load_changed_spec
from hyperrep.studies.table_config import ZooSource
from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.opening import build_examiner, read_split
from hyperrep.tasks.regroup import AS_STORED, SplitScheme, resplit
from hyperrep.tasks.split import ROLES, Role, ZooSplit
from zookeeper.build import Workers, build_zoo
from zookeeper.errors import BuildError, InputError, ZooError
from zookeeper.spec.plan import make_plan
from zookeeper.spec.schema import ZooSpec
from zookeeper.store.files import hash_bytes
from zookeeper.store.header import canonical_json
from zookeeper.store.records import read_commits

BUILT = Path("data/zoos")  # where `zookeeper build` puts a zoo, by its name


@dataclass(frozen=True, eq=False)
class Bench:
    """A zoo on which tasks are run, under the name the paper gives it; what is read is opened on first use.

    ``epochs`` are the checkpoints that tasks see, all of them if None; ``split`` how its models are divided.
    """

    role: str
    path: Path
    epochs: tuple[int, ...] | None = None
    split: SplitScheme = AS_STORED

    @cached_property
    def zoo(self) -> zookeeper.Zoo:
        """The zoo, opened, its models on the sides of the split."""
        return resplit(zookeeper.open(self.path), self.split)

    @cached_property
    def identity(self) -> dict[str, str]:
        """Hash of everything stored in the zoo, and the split if it is not the stored one."""
        weights = sorted((*record.key, record.weights_xxh3) for record in read_commits(self.zoo.path))
        content = {"header": self.zoo.header.digest, "weights": hash_bytes(canonical_json(weights))}
        return content if self.split == AS_STORED else {**content, "split": self.split.name}

    @cached_property
    def splits(self) -> dict[Role, ZooSplit]:
        """The usable checkpoints of the study's epochs, by side of the zoo's split."""
        return {role: read_split(self.zoo, role, self.epochs) for role in ROLES}

    @cached_property
    def examiner(self) -> Examiner:
        """Runs networks on the zoo's images."""
        return build_examiner(self.zoo)


def find_spec(name: str, study_folder: Path) -> Path:
    """Path of a zoo's specification: a path from the study, or a name below ``zoo_specs``.

    Raises
    ------
    InputError
        If there is none.
    """
    specs = (Path.cwd() / "zoo_specs", Path(__file__).resolve().parents[2] / "zoo_specs")
    for path in (study_folder / name, Path(name), *(folder / f"{name}.yaml" for folder in specs)):
        if path.is_file():
            return path
    raise InputError(
        f"{name}: no such specification of a zoo; looked beside the study and in {specs[0]}. "
        "Run in a copy of the repository, or pass --zoo PATH."
    )


def open_bench(
    role: str,
    source: ZooSource,
    study_folder: Path,
    cache: Path,
    epochs: tuple[int, ...] | None,
    say: Callable[[str], None],
) -> Bench:
    """Find the zoo of a specification under ``data/zoos`` or in the cache, or build it there.

    An interrupted build goes on. The folder's name holds the digest of the specification, so studies that ask
    for the same zoo share it.

    Raises
    ------
    BuildError
        If cohorts fail.
    """
    spec = load_changed_spec(find_spec(source.spec, study_folder), source.change)
    split = AS_STORED if source.split is None else source.split.scheme
    known = BUILT / spec.name
    if _is_complete(known, spec):
        return Bench(role, known, epochs, split)
    path = cache / "zoos" / f"{spec.name}-{spec.digest[:12]}"
    if not _is_complete(path, spec):
        with hold(cache, f"zoos/{path.name}", say):
            if not _is_complete(path, spec):
                _build(role, source, spec, path, say)
    return Bench(role, path, epochs, split)


def _build(role: str, source: ZooSource, spec: ZooSpec, path: Path, say: Callable[[str], None]) -> None:
    say(f"zoo {role}: building {spec.num_models:,} models of {source.spec} in {path}")
    workers = Workers(num_workers=1 if spec.num_models < 100 else os.cpu_count() or 1)
    summary = build_zoo(make_plan(spec), path, workers, show_progress=False)
    if summary.failures:
        failed = "; ".join(f"{name}: {reason}" for name, reason in summary.failures.items())
        raise BuildError(f"{path}: some cohorts failed ({failed}). Run the same command again.")
    say(f"zoo {role}: {summary.num_checkpoints:,} checkpoints, {summary.seconds:.1f} s")


def _is_complete(path: Path, spec: ZooSpec) -> bool:
    """Whether the zoo of this very specification lies there, with every checkpoint."""
    if not (path / "zoo.json").is_file():
        return False
    try:
        zoo = zookeeper.open(path)
    except ZooError:
        return False
    stored = zoo.header.spec
    same = stored is not None and ZooSpec.from_json(json.dumps(stored), str(path)).digest == spec.digest
    return same and len(zoo.frame) == spec.num_models * len(spec.checkpoint_epochs)


def assign_zoos(given: Sequence[str], roles: Sequence[str]) -> dict[str, Path]:
    """Put zoos of the user in place of the paper's: ``ROLE=PATH``, or paths in the order of the roles.

    >>> assign_zoos(["a", "SVHN=b"], ["CIFAR-10", "SVHN"])
    {'CIFAR-10': PosixPath('a'), 'SVHN': PosixPath('b')}

    Raises
    ------
    InputError
        If a role is unknown or taken twice, or there are more zoos than roles.
    """
    assigned: dict[str, Path] = {}
    for text in given:
        role, _, path = text.partition("=")
        if role not in roles or not path:
            role, path = next((name for name in roles if name not in assigned), ""), text
        if not role or role in assigned:
            names = ", ".join(roles) or "none"
            raise InputError(
                f"--zoo {text}: no place for this zoo; expected PATH or NAME=PATH, each NAME once of {names}."
            )
        assigned[role] = Path(path)
    return {role: assigned[role] for role in roles if role in assigned}
