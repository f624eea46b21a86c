"""What a person asks for: one zoo, typed and validated. A `ZooSpec` is a frozen value."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError, model_validator

from zookeeper.errors import SpecError
from zookeeper.spec import names
from zookeeper.spec.axes import Axis, RandomAxis, RangeAxis, Scalar, duplicate_problems
from zookeeper.spec.document import Document, Section, load_document, parse_document, validate_document
from zookeeper.spec.factors import (
    DEFAULTS,
    FACTORS,
    REQUIRED,
    Activation,
    Architecture,
    Init,
    LearningRate,
    NonNegative,
    Optimizer,
    PositiveInt,
    Seed,
    Share,
    ShareBelowOne,
    default_momentum,
    known,
    safe_name,
)
from zookeeper.spec.identity import canonical_json, content_digest
from zookeeper.spec.problems import KeyPath, Problem, problems_of, raise_problems, refuse, show

HUGE_NUM_MODELS: Final = 20_000
MAX_NUM_MODELS: Final = 1_000_000


class Fractions(Section):
    """Shares of train, val and test that add to 1; a left-out share is 0."""

    train: Share
    val: Share = 0.0
    test: Share = 0.0

    @model_validator(mode="after")
    def _check_sum(self) -> Fractions:
        total = math.fsum((self.train, self.val, self.test))
        if abs(total - 1.0) > 1e-9:
            refuse("fractions do not add to 1", expected="train + val + test = 1", got=f"{total:.12g}")
        if self.train == 0:
            raise_problems([Problem(("train",), "out of range", "a number > 0", show(self.train))])
        return self

    def fractions(self) -> dict[str, float]:
        """Return the shares by name, in the order train, val, test."""
        return {"train": self.train, "val": self.val, "test": self.test}


class Normalisation(Section):
    """Fixed mean and standard deviation of each channel, on the scale where pixels are 0 to 1."""

    mean: Annotated[tuple[float, ...], Field(min_length=1, max_length=64)]
    std: Annotated[tuple[LearningRate, ...], Field(min_length=1, max_length=64)]

    @model_validator(mode="after")
    def _check_lengths(self) -> Normalisation:
        if len(self.mean) != len(self.std):
            expected = f"{len(self.mean)} values, as mean has"
            raise_problems([Problem(("std",), "wrong length", expected, show(self.std), also=("mean",))])
        return self


def _normalisation_form(value: object) -> str:
    return "Normalisation" if isinstance(value, dict | Normalisation) else "name"


class ImageSpec(Section):
    """The labelled image set and its split.

    `root` is where the files lie and `download` whether they may be fetched; neither changes what a
    model sees, so neither is part of any identity.
    """

    name: Annotated[str, AfterValidator(known("image set", names.IMAGE_SETS))]
    split: Fractions
    seed: Seed = 0
    normalise: Annotated[
        Annotated[Literal["auto", "none"], Tag("name")] | Annotated[Normalisation, Tag("Normalisation")],
        Discriminator(_normalisation_form),
    ] = "auto"
    root: str | None = None
    download: bool = False


class ModelSection(Section):
    """Factors of the network that are the same for every model; None where the grid or the default decides."""

    architecture: Architecture | None = None
    activation: Activation | None = None
    init: Init | None = None
    dropout: ShareBelowOne | None = None


class TrainingSection(Section):
    """Factors of training that are the same for every model; None where the grid or the default decides."""

    optimizer: Optimizer | None = None
    lr: LearningRate | None = None
    weight_decay: NonNegative | None = None
    momentum: ShareBelowOne | None = None
    nesterov: bool | None = None
    batch_size: PositiveInt | None = None
    epochs: PositiveInt | None = None
    seed: Seed | None = None


class GridSection(Section):
    """The axes of the grid; `order` is the nesting of the product, the last axis fastest."""

    order: tuple[str, ...] = ()
    architecture: Axis[Architecture] | None = None
    activation: Axis[Activation] | None = None
    init: Axis[Init] | None = None
    dropout: Axis[ShareBelowOne] | None = None
    optimizer: Axis[Optimizer] | None = None
    lr: Axis[LearningRate] | None = None
    weight_decay: Axis[NonNegative] | None = None
    momentum: Axis[ShareBelowOne] | None = None
    nesterov: Axis[bool] | None = None
    batch_size: Axis[PositiveInt] | None = None
    seed: Axis[Seed] | None = None

    @model_validator(mode="after")
    def _check_axes(self) -> GridSection:
        given = [name for name in FACTORS if getattr(self, name, None) is not None]
        if sorted(self.order) != sorted(given):
            expected = f"each axis once: {', '.join(given)}" if given else "no name, as there are no axes"
            raise_problems([Problem(("order",), "not an order of the axes", expected, show(self.order))])
        raise_problems([problem for name in given for problem in _axis_problems(name, getattr(self, name))])
        return self

    def values(self, factor: str) -> tuple[Scalar, ...]:
        """Return the distinct values of an axis, of the factor's type."""
        axis = getattr(self, factor)
        return _typed_values(factor, axis)


def _typed_values(factor: str, axis: RangeAxis | RandomAxis | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    if isinstance(axis, tuple):
        return axis
    adapter: TypeAdapter[Scalar] = TypeAdapter(FACTORS[factor][1])
    return tuple(adapter.validate_python(value, strict=True) for value in axis.values())


def _axis_problems(factor: str, axis: RangeAxis | RandomAxis | tuple[Scalar, ...]) -> list[Problem]:
    try:
        values = _typed_values(factor, axis)
    except ValidationError as error:
        first = problems_of(error, None, Section)[0]
        remedy = "A value of this axis is not valid."
        return [Problem((factor,), first.what, first.expected, first.got, first.name, first.names, remedy=remedy)]
    return duplicate_problems(values, (factor,))


class CheckpointSection(Section):
    """When weights are stored: every k epochs, at a list of epochs, or at n log-spaced epochs.

    Epoch 0 (the untrained network) and the last epoch are always stored.
    """

    every: PositiveInt | None = None
    at: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(min_length=1)] | None = None
    log: PositiveInt | None = None

    @model_validator(mode="after")
    def _check_one(self) -> CheckpointSection:
        given = [key for key in ("every", "at", "log") if getattr(self, key) is not None]
        if len(given) != 1:
            refuse("not a schedule", expected="exactly one of every, at, log", got=", ".join(given) or "none of them")
        raise_problems(duplicate_problems(self.at or (), ("at",)))
        return self

    def epochs(self, last: int) -> tuple[int, ...]:
        """Return the stored epochs in increasing order, from 0 to `last`.

        ``log: n`` gives at most n epochs after 0, at equal ratios from 1 to `last`; those that round to
        the same epoch are one.

        >>> CheckpointSection(every=20).epochs(50), CheckpointSection(log=4).epochs(50)
        ((0, 20, 40, 50), (0, 1, 4, 14, 50))
        """
        if self.every is not None:
            chosen = set(range(0, last + 1, self.every))
        elif self.at is not None:
            chosen = set(self.at)
        else:
            steps = (self.log or 1) - 1
            chosen = {round(last ** (i / steps)) for i in range(steps)}
        return tuple(sorted(chosen | {0, last}))


class ZooSplit(Fractions):
    """Split of the zoo's models into train, val and test; models of one group stay on one side.

    `by` is ``model``, one factor, or several factors whose combination makes a group.
    """

    by: Annotated[
        Annotated[str, Tag("name")] | Annotated[tuple[str, ...], Field(min_length=1), Tag("list")],
        Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "name"),
    ] = "model"
    seed: Seed = 0

    @property
    def group_factors(self) -> tuple[str, ...]:
        """Names of the factors that make a group; empty when each model is its own group."""
        if self.by == "model":
            return ()
        return (self.by,) if isinstance(self.by, str) else self.by


class BuildSection(Section):
    """How to build; nothing here changes the content of a zoo."""

    cohort_size: PositiveInt | None = None


def _known_version(version: int) -> int:
    if version != 1:
        refuse("unknown version of the spec", expected="1", got=show(version), remedy="Use a newer release.")
    return version


class ZooSpec(Section):
    """One zoo, completely described.

    Factors are fixed in `model` and `training` or are axes of `grid`, never both. Relations between
    sections are checked as well, so that a `ZooSpec` that exists can be expanded.
    """

    version: Annotated[int, AfterValidator(_known_version)]
    name: Annotated[str, AfterValidator(safe_name)]
    images: ImageSpec
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    grid: GridSection = GridSection()
    checkpoints: CheckpointSection = CheckpointSection(every=1)
    split: ZooSplit = ZooSplit(train=1.0)
    build: BuildSection = BuildSection()

    @model_validator(mode="after")
    def _check_relations(self) -> ZooSpec:
        raise_problems([*_factor_problems(self)])
        raise_problems([*_momentum_problems(self), *_split_problems(self), *_checkpoint_problems(self)])
        return self

    @property
    def axes(self) -> dict[str, tuple[Scalar, ...]]:
        """Values of every axis, in the order of the product."""
        return {name: self.grid.values(name) for name in self.grid.order}

    @property
    def num_models(self) -> int:
        """Number of models of the grid."""
        return math.prod(len(values) for values in self.axes.values())

    @property
    def checkpoint_epochs(self) -> tuple[int, ...]:
        """Epochs at which weights are stored, from 0 to the last."""
        return self.checkpoints.epochs(int(self.factor_values("epochs")[0]))

    def factor_values(self, factor: str) -> tuple[Scalar, ...]:
        """Return the values a factor takes in this zoo: its axis, its fixed value, or its default."""
        if factor in self.grid.order:
            return self.grid.values(factor)
        fixed: Scalar | None = getattr(getattr(self, FACTORS[factor][0]), factor)
        if fixed is not None:
            return (fixed,)
        if factor == "momentum":
            return tuple(dict.fromkeys(default_momentum(str(o)) for o in self.factor_values("optimizer")))
        return (DEFAULTS[factor],)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of all that may change the content of the zoo.

        It leaves out `build`, `images.root`, `images.download`, the order of axes and values, and the
        way in which axes and checkpoints are written: ``{range: [0, 3]}`` equals ``[0, 1, 2]``.
        """
        return content_digest(self)

    def to_json(self) -> str:
        """Return canonical JSON: sorted keys, no white space, the shortest floats; `from_json` inverts it."""
        return canonical_json(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def from_json(cls, text: str, where: str = "spec") -> ZooSpec:
        """Return the spec that `to_json` wrote.

        Raises
        ------
        SpecError
            The text is not JSON or not a valid spec.
        """
        try:
            value = json.loads(text)
        except ValueError as error:
            raise SpecError(f"{where}: not valid JSON: {error}. Restore the file from its source.") from None
        return validate_document(Document(value, where), cls)


def _factor_problems(spec: ZooSpec) -> list[Problem]:
    problems = []
    for factor, (section, _) in FACTORS.items():
        fixed = getattr(getattr(spec, section), factor) is not None
        axis = factor in spec.grid.order
        if fixed and axis:
            what = f"{factor} is both an axis of the grid and fixed in {section}"
            problems.append(Problem(("grid", factor), what, also=(section, factor), remedy="Remove one of them."))
        elif factor in REQUIRED and not fixed and not axis:
            or_axis = "" if factor == "epochs" else f" or as an axis grid.{factor}"
            problems.append(Problem((section, factor), "missing factor", f"a value here{or_axis}"))
    return problems


def _momentum_problems(spec: ZooSpec) -> list[Problem]:
    """Momentum and nesterov are settings of sgd; torch takes nesterov only with momentum."""
    others = [str(name) for name in spec.factor_values("optimizer") if name != "sgd"]
    problems = []
    for factor in ("momentum", "nesterov"):
        section = "grid" if factor in spec.grid.order else "training"
        explicit = section == "grid" or getattr(spec.training, factor) is not None
        harmless = factor == "nesterov" and not any(spec.factor_values(factor))
        if explicit and others and not harmless:
            also = ("grid" if "optimizer" in spec.grid.order else "training", "optimizer")
            what = f"{factor} is a setting of sgd"
            remedy = f"Remove {factor}, or make sgd the only optimizer."
            problem = Problem((section, factor), what, "optimizer sgd", ", ".join(others), also=also, remedy=remedy)
            problems.append(problem)
        elif factor == "nesterov" and not harmless and 0.0 in spec.factor_values("momentum"):
            also = ("grid" if "momentum" in spec.grid.order else "training", "momentum")
            problems.append(Problem((section, factor), "nesterov without momentum", "momentum > 0", "0", also=also))
    return problems


def _split_problems(spec: ZooSpec) -> list[Problem]:
    split, axes = spec.split, spec.axes
    valid = ("model", *axes)
    for index, factor in enumerate(split.group_factors):
        if factor not in axes:
            path = ("split", "by") if isinstance(split.by, str) else ("split", "by", index)
            expected = f"{', '.join(valid)} (a group is made of axes of the grid)"
            return [Problem(path, f"no axis {factor!r}", expected, name=factor, names=valid)]
    if duplicates := duplicate_problems(split.group_factors, ("split", "by")):
        return duplicates
    num_groups = math.prod(len(axes[name]) for name in split.group_factors or axes)
    wanted = [name for name, share in split.fractions().items() if share > 0]
    if num_groups < len(wanted):
        what = f"too few groups for {', '.join(wanted)}"
        remedy = "Split by something finer, or set a fraction to 0."
        return [Problem(("split",), what, f"at least {len(wanted)} groups", str(num_groups), remedy=remedy)]
    return []


def _checkpoint_problems(spec: ZooSpec) -> list[Problem]:
    last, also = int(spec.factor_values("epochs")[0]), ("training", "epochs")
    return [
        Problem(("checkpoints", "at", index), "epoch after the last", f"0 to {last}", str(epoch), also=also)
        for index, epoch in enumerate(spec.checkpoints.at or ())
        if epoch > last
    ]


def load_spec(path: Path, *, allow_huge: bool = False, data_root: Path | None = None) -> ZooSpec:
    """Read and validate the YAML file of a zoo.

    `images.root` of the result is absolute, or None.

    Parameters
    ----------
    path
        The YAML file; a relative `images.root` in it is taken from its folder and may not leave it.
    allow_huge
        Whether more than 20,000 models are wanted.
    data_root
        Where the image files lie, instead of `images.root`; any folder.

    Raises
    ------
    SpecError
        The file cannot be read, is not YAML, or is not a valid spec; lists every problem found.
    """
    return read_spec(load_document(path), path.parent, allow_huge=allow_huge, data_root=data_root)


def parse_spec(
    text: str,
    where: str = "spec",
    *,
    folder: Path | None = None,
    allow_huge: bool = False,
    data_root: Path | None = None,
) -> ZooSpec:
    """Validate YAML text as `load_spec` does a file; `folder` (default: the current one) stands for its folder."""
    document = parse_document(text, where)
    return read_spec(document, folder or Path(), allow_huge=allow_huge, data_root=data_root)


def read_spec(document: Document, folder: Path, *, allow_huge: bool = False, data_root: Path | None = None) -> ZooSpec:
    """Validate a document as `load_spec` does a file that lies in `folder`."""
    value = document.value
    if nulls := [*_null_paths(value, ())]:
        remedy = "Give a value, or remove the key to take the default."
        raise document.error(*(Problem(path, "empty value", "a value", "nothing", remedy=remedy) for path in nulls))
    if isinstance(value, dict) and isinstance(value.get("grid"), dict) and "order" not in value["grid"]:
        value = {**value, "grid": {**value["grid"], "order": [k for k in value["grid"] if k in FACTORS]}}
    spec = validate_document(Document(value, document.where, document.lines), ZooSpec)
    num_models = spec.num_models
    if num_models > (MAX_NUM_MODELS if allow_huge else HUGE_NUM_MODELS):
        limit = MAX_NUM_MODELS if allow_huge else HUGE_NUM_MODELS
        remedy = "Make the grid smaller." if allow_huge else "Pass --yes if you mean it, or make the grid smaller."
        problem = Problem(("grid",), "huge grid", f"at most {limit:,} models", f"{num_models:,}", remedy=remedy)
        raise document.error(problem)
    root = _image_root(document, spec.images.root, folder, data_root)
    return spec.model_copy(update={"images": spec.images.model_copy(update={"root": root})})


def _null_paths(value: object, path: KeyPath) -> Iterator[KeyPath]:
    """Yield the paths of nulls below the root: a key whose value was forgotten, not a wish for the default."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if item is None:
            yield (*path, key)
        else:
            yield from _null_paths(item, (*path, key))


def _image_root(document: Document, root: str | None, folder: Path, data_root: Path | None) -> str | None:
    """Return the absolute folder of the image files; refuse to be led outside the spec's folder."""
    if root is not None:
        path = ("images", "root")
        if PurePosixPath(root).is_absolute() or PureWindowsPath(root).is_absolute() or root.startswith("~"):
            remedy = "Give an absolute path on the command line: --data-root PATH."
            expected = "a path relative to the spec's folder"
            raise document.error(Problem(path, "absolute path in a spec", expected, show(root), remedy=remedy))
        base = folder.resolve()
        inside = "\0" not in root and (base / root).resolve().is_relative_to(base)
        if not root or not inside:
            remedy = "Move the images, or give the path on the command line: --data-root PATH."
            expected = "a path inside it"
            raise document.error(Problem(path, "path outside the spec's folder", expected, show(root), remedy=remedy))
        root = str((base / root).resolve())
    return str(data_root.resolve()) if data_root is not None else root
