"""Studies by name: where they lie, how one is read over its setup, and which of them can be run today."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hyperrep.studies.config import packaged_studies
from hyperrep.studies.measures import TASKS
from hyperrep.studies.overrides import merge
from hyperrep.studies.table_config import SCALES, Scale, ScaleSection, TableStudy, ZooSource
from zookeeper.errors import InputError
from zookeeper.spec.document import Document, Section, load_document, validate_document
from zookeeper.spec.problems import nearest_name

PAPERS = Path(__file__).parent / "papers"
BEYOND = Path(__file__).parent / "beyond"
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


def beyond_studies() -> tuple[str, ...]:
    """Names of the packaged studies of what no paper shows, sorted.

    >>> "leak" in beyond_studies()
    True
    """
    return tuple(sorted(path.stem for path in BEYOND.glob("*.yaml")))


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
        for folder in (PAPERS, BEYOND, Path(__file__).parent):
            if (folder / f"{path}.yaml").is_file():
                return folder / f"{path}.yaml"
    names = (*packaged_studies(), *beyond_studies(), *paper_studies())
    near = nearest_name(path.name, names)
    hint = f" Did you mean {near}?" if near else " `hyperrep study list` shows all."
    raise InputError(f"{name}: no such study; expected a YAML file or one of {', '.join(packaged_studies())}.{hint}")


def is_table_study(path: Path) -> bool:
    """Whether a document describes tables and figures over zoos and trainings, and not a study with its own report."""
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
    """A study as a list shows it: ``needs`` says by scale what must be given before it can be run there."""

    name: str
    shows: str
    title: str
    needs: Mapping[Scale, str]

    @property
    def state(self) -> str:
        """``runnable``, or what is missing, by scale where scales differ.

        >>> Listed("a", "", "", {"smoke": "", "cpu": "--zoo PATH", "paper": ""}).state
        'runnable at smoke, paper; cpu needs --zoo PATH'
        """
        ready = [scale for scale, needs in self.needs.items() if not needs]
        waiting = [f"{scale} needs {needs}" for scale, needs in self.needs.items() if needs]
        if len(set(self.needs.values())) == 1 and waiting:
            return f"not runnable yet: needs {next(iter(self.needs.values()))}"
        return "; ".join([f"runnable at {', '.join(ready)}" if waiting else "runnable", *waiting])


def list_studies() -> list[Listed]:
    """All packaged studies, with what each scale of them needs."""
    title = "structure and behaviour on scikit-learn's digits, with claims and a report"
    own = [Listed(name, "", title, {"cpu": ""}) for name in packaged_studies()]
    listed = []
    for name in (*beyond_studies(), *paper_studies()):
        found = load_table_study(find_study(name))
        needs: dict[Scale, str] = {scale: missing(found.study) or missing_zoos(found, scale) for scale in SCALES}
        listed.append(Listed(found.study.name, found.study.shows, found.study.title, needs))
    return [*own, *listed]


def missing(study: TableStudy) -> str:
    """What a study waits for at every scale; empty if nothing.

    Raises nothing: a task that is not registered is something to wait for.
    """
    unknown = [name for name in study.tasks if name not in TASKS]
    return study.needs or ", ".join(f"the task {name!r}" for name in unknown)


def missing_zoos(found: Found, scale: Scale) -> str:
    """Zoos that must be given with ``--zoo`` at a scale, since it has too few of its own; empty if none."""
    tasks = {name: TASKS[name] for name in found.study.tasks}
    if not any(task.on_zoo or task.on_training for task in tasks.values()):
        return ""
    num = len(found.zoos(scale))
    several = [name for name, task in tasks.items() if task.needs_others(settings_of(found, scale, name))]
    if num == 0:
        return "--zoo PATH" + (" twice" if several else "")
    return f"two zoos (--zoo PATH --zoo PATH) for {', '.join(several)}" if several and num < 2 else ""


def settings_of(found: Found, scale: Scale, task: str) -> Section:
    """Settings of a task at a scale.

    Raises
    ------
    SpecError
        If a setting is unknown or out of range.
    """
    study = found.study
    value = merge(study.tasks[task], found.at(scale).tasks.get(task, {}))
    return validate_document(Document(value, f"{study.name} tasks.{task}"), TASKS[task].settings)
