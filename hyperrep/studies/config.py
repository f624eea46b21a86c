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

    Files it reads (``spec``, ``config``) are relative to the study's own file; folders it writes
    (``zoo.path``, ``out``) are relative to the working directory.
    """

    version: Literal[1]
    name: Text
    zoo: ZooSection
    hyper_representations: SubjectsSection
    epochs: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)]
    probe: ProbeSection = ProbeSection()
    generate: GenerateSection = GenerateSection()
    claims: ClaimSection = ClaimSection()
    out: Text


def load_study(path: str | Path) -> StudyConfig:
    """Read and validate a study; its input paths come back absolute.

    Raises
    ------
    SpecError
        One error that lists every problem with file, line, key and the nearest valid name.
    InputError
        If a file it names is missing.
    """
    source = Path(path)
    study = validate_document(load_document(source), StudyConfig)
    folder = source.resolve().parent

    def resolve(name: str, key: str) -> str:
        target = folder / name
        if not target.is_file():
            raise InputError(f"{source} {key}: no file {name!r} beside the study. Paths are relative to {folder}.")
        return str(target.resolve())

    subjects = study.hyper_representations
    resolved = {
        role: subject.model_copy(update={"config": resolve(subject.config, f"hyper_representations.{role}.config")})
        for role, subject in (("baseline", subjects.baseline), ("behaviour", subjects.behaviour))
    }
    spec = None if study.zoo.spec is None else resolve(study.zoo.spec, "zoo.spec")
    return study.model_copy(
        update={
            "zoo": study.zoo.model_copy(update={"spec": spec}),
            "hyper_representations": subjects.model_copy(update=resolved),
        }
    )


def load_subject(subject: SubjectSection) -> TrainConfig:
    """Read the training configuration of one hyper-representation."""
    return load_config(subject.config)
