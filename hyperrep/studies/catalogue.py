"""Studies by name: where they lie, how one is read over its setup, and which of them can be run today."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hyperrep.studies.config import packaged_studies
from hyperrep.studies.measures import TASKS
from hyperrep.studies.overrides import merge
from hyperrep.studies.table_config import Scale, ScaleSection, TableStudy, ZooSource
from zookeeper.errors import InputError
from zookeeper.spec.document import Document, load_document, validate_document
from zookeeper.spec.problems import nearest_name

PAPERS = Path(__file__).parent / "papers"
SETUPS = Path(__file__).parent / "setups"


@dataclass(frozen=True, slots=True)
class Found:
    """A study and the folder its files lie in."""

    study: TableStudy
    folder: Path

    def at(self, scale: Scale) -> ScaleSection:
        """What the scale changes; nothing if the study does not speak of it."""
        return self.study.scales.get(scale, ScaleSection())

    def zoos(self, scale: Scale) -> dict[str, ZooSource]:
        """The zoos that are measured at a scale, under the names the paper gives them."""
        study = self.study
        sources = self.at(scale).zoos
        chosen = study.zoos if sources is None else sources
        return {role: chosen[role] for role in (study.on or study.zoos or chosen) if role in chosen}


def paper_studies() -> tuple[str, ...]:
    """Names of the packaged studies of papers, sorted.

    >>> "000-table-1" in paper_studies()
    True
    """
    return tuple(sorted(path.stem for path in PAPERS.glob("*.yaml")))


def find_study(name: str | Path) -> Path:
    """Path of a study by the name of a packaged one, or by its path.

    Raises
    ------
    InputError
        If there is none; with the nearest name.
    """
    path = Path(name)
    if path.is_file():
        return path
    if len(path.parts) == 1:
        for folder in (PAPERS, Path(__file__).parent):
            if (folder / f"{path}.yaml").is_file():
                return folder / f"{path}.yaml"
    names = (*packaged_studies(), *paper_studies())
    near = nearest_name(path.name, names)
    hint = f" Did you mean {near}?" if near else " `hyperrep study list` shows all."
    raise InputError(f"{name}: no such study; expected a YAML file or one of {', '.join(packaged_studies())}.{hint}")


def is_table_study(path: Path) -> bool:
    """Whether a document describes a table or figure of a paper, and not a study with a report of its own."""
    value = load_document(path).value
    return isinstance(value, dict) and "shows" in value


def load_table_study(path: Path) -> Found:
    """Read and validate a study of a table or figure; ``setup`` in it names the document it lies over.

    Raises
    ------
    SpecError
        One error that lists every problem with file, line, key and the nearest valid name.
    InputError
        If the setup is missing.
    """
    document = load_document(path)
    value = document.value
    if isinstance(value, dict) and "setup" in value:
        setup = _find_setup(str(value["setup"]), path)
        base = load_document(setup).value
        value = merge(base if isinstance(base, dict) else {}, {k: v for k, v in value.items() if k != "setup"})
    return Found(validate_document(Document(value, document.where, document.lines), TableStudy), path.parent)


def _find_setup(name: str, study: Path) -> Path:
    for path in (study.parent / name, SETUPS / f"{name}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.stem for path in SETUPS.glob("*.yaml")))
    raise InputError(f"{study} setup: no such setup {name!r}; expected a YAML file beside the study or one of {known}.")


@dataclass(frozen=True, slots=True)
class Listed:
    """A study as a list shows it; ``needs`` is empty if it can be run."""

    name: str
    shows: str
    title: str
    needs: str

    @property
    def state(self) -> str:
        """``runnable``, or what is missing."""
        return "runnable" if not self.needs else f"not runnable yet: needs {self.needs}"


def list_studies() -> list[Listed]:
    """All packaged studies; those without a runner say what they need."""
    own = [
        Listed(name, "", "structure and behaviour on scikit-learn's digits, with claims and a report", "")
        for name in packaged_studies()
    ]
    return [*own, *_listed()]


def _listed() -> Iterator[Listed]:
    for name in paper_studies():
        study = load_table_study(PAPERS / f"{name}.yaml").study
        yield Listed(study.name, study.shows, study.title, missing(study))


def missing(study: TableStudy) -> str:
    """What a study waits for; empty if nothing.

    Raises nothing: a task that is not registered is something to wait for.
    """
    unknown = [name for name in study.tasks if name not in TASKS]
    return study.needs or ", ".join(f"the task {name!r}" for name in unknown)
