"""What a study is to do: one YAML document, typed and validated."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from hyperrep.config import TrainConfig, load_config
from zookeeper.errors import InputError
from zookeeper.spec.document import Section, load_document, validate_document

Text = Annotated[str, Field(min_length=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
OpenShare = Annotated[float, Field(gt=0, le=1)]


class ZooSection(Section):
    """The zoo of the study: where it lies, and the specification that builds it if it is not there."""

    path: Text
    spec: Text | None = None
    workers: PositiveInt | None = None


class SubjectSection(Section):
    """One hyper-representation: how it is called in tables, and its training configuration."""

    label: Text
    config: Text


class SubjectsSection(Section):
    """The two hyper-representations that are compared."""

    baseline: SubjectSection
    behaviour: SubjectSection


class ProbeSection(Section):
    """Which properties are probed, and how many untrained encoders stand beside."""

    numeric: tuple[Text, ...] = ("test_acc", "generalization_gap", "epoch", "lr", "weight_decay")
    categorical: tuple[Text, ...] = ("init",)
    untrained_seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0, 1, 2)


class GenerateSection(Section):
    """How networks are sampled: anchors, sampler, number of draws."""

    samples: PositiveInt = 200
    seed: NonNegativeInt = 0
    anchor_share: OpenShare = 0.3
    components: PositiveInt = 32
    bandwidth: Literal["scott", "silverman"] | Annotated[float, Field(ge=0)] = "scott"


class ClaimSection(Section):
    """What the study is expected to show; shares of 1."""

    agreement: float = 0.80
    agreement_gap: float = 0.30
    sample_within: float = 0.03


class StudyConfig(Section):
    """A study of structure and behaviour.

    Files it reads (``spec``, ``config``) are looked for beside the study's own file, then in the working
    directory; folders it writes (``zoo.path``, ``out``) are relative to the working directory. With ``seeds``
    above 1 both hyper-representations are trained again with the next seeds, and everything is measured for each.
    """

    version: Literal[1]
    name: Text
    zoo: ZooSection
    hyper_representations: SubjectsSection
    epochs: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    probe: ProbeSection = ProbeSection()
    generate: GenerateSection = GenerateSection()
    claims: ClaimSection = ClaimSection()
    seeds: PositiveInt = 1
    out: Text


def load_study(path: str | Path) -> StudyConfig:
    """Read and validate a study; its input paths come back absolute.

    ``path`` is a YAML file or the name of a study that comes with the package, such as ``digits``.

    Raises
    ------
    SpecError
        One error that lists every problem with file, line, key and the nearest valid name.
    InputError
        If a file it names is missing.
    """
    source = _find_study(Path(path))
    study = validate_document(load_document(source), StudyConfig)
    subjects = study.hyper_representations
    resolved = {
        role: subject.model_copy(
            update={"config": _find_input(subject.config, source, f"hyper_representations.{role}.config")}
        )
        for role, subject in (("baseline", subjects.baseline), ("behaviour", subjects.behaviour))
    }
    spec = None if study.zoo.spec is None else _find_input(study.zoo.spec, source, "zoo.spec")
    return study.model_copy(
        update={
            "zoo": study.zoo.model_copy(update={"spec": spec}),
            "hyper_representations": subjects.model_copy(update=resolved),
        }
    )


def packaged_studies() -> tuple[str, ...]:
    """Names of the studies that come with the package, sorted.

    >>> "digits" in packaged_studies()
    True
    """
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.yaml")))


def _find_study(path: Path) -> Path:
    packaged = Path(__file__).parent / f"{path}.yaml"
    if path.is_file():
        return path
    if len(path.parts) == 1 and packaged.is_file():
        return packaged
    raise InputError(f"{path}: no such study; expected a YAML file or one of {', '.join(packaged_studies())}.")


def _find_input(name: str, study: Path, key: str) -> str:
    folders = (study.resolve().parent, Path.cwd())
    for folder in folders:
        if (folder / name).is_file():
            return str((folder / name).resolve())
    raise InputError(f"{study} {key}: no file {name!r}; looked in {folders[0]} and in the working directory.")


def load_subject(subject: SubjectSection) -> TrainConfig:
    """Read the training configuration of one hyper-representation."""
    return load_config(subject.config)
