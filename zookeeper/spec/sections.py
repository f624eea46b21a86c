"""The sections of a spec, each valid on its own; `ZooSpec` checks how they fit together."""

from __future__ import annotations

import math
from pathlib import PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationError,
    model_serializer,
    model_validator,
)

from zookeeper.spec import names
from zookeeper.spec.axes import (
    MAX_AXIS_VALUES,
    Axis,
    OwnSeeds,
    RandomAxis,
    RangeAxis,
    Scalar,
    SeedAxis,
    duplicate_problems,
)
from zookeeper.spec.document import Section
from zookeeper.spec.factors import (
    FACTORS,
    Activation,
    Architecture,
    BiasInit,
    Init,
    LearningRate,
    NonNegative,
    Optimizer,
    PositiveInt,
    Precision,
    Schedule,
    Seed,
    Share,
    ShareAboveZero,
    ShareBelowOne,
    known,
)
from zookeeper.spec.problems import Problem, problems_of, raise_problems, refuse, show
from zookeeper.spec.rows import grid_columns, typed_bounds, typed_values


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


def _inner_path(path: str) -> str:
    """Return a path below the data root in its shortest form."""
    parts = PurePosixPath(path).parts
    is_absolute = path.startswith(("/", "~")) or PureWindowsPath(path).is_absolute() or "\\" in path
    if not path or "\0" in path or is_absolute or ".." in parts:
        remedy = "Give the folder around it on the command line: --data-root PATH."
        refuse("not a path below the data root", expected="a path like flowers/small", got=show(path), remedy=remedy)
    return str(PurePosixPath(path))


class Augmentation(Section):
    """Random change of every training image, drawn anew at every step and for every model.

    `crop_padding` is how many black pixels the crop may reach over each side, `flip` mirrors left and right
    every second image, `rotation` is the largest angle in degrees, either way.
    """

    crop_padding: Annotated[int, Field(ge=0, le=64)] = 0
    flip: bool = False
    rotation: Annotated[float, Field(ge=0, le=180, allow_inf_nan=False), AfterValidator(lambda angle: angle + 0.0)] = (
        0.0
    )


class ImageSpec(Section):
    """The labelled image set, what is done to its images, and its split.

    `root` is where the files lie and `download` whether they may be fetched; neither changes what a
    model sees, so neither is part of any identity. `path` is the folder or file below the root of the sets
    ``folder`` and ``npz``. `resize`, `crop` and `greyscale` change the images once, in this order, when they
    are loaded; `augment` changes them in training. `share` keeps only that share of the images of every part, drawn
    by `seed`. A key of these six at its default is not written out.
    """

    name: Annotated[str, AfterValidator(known("image set", names.IMAGE_SETS))]
    split: Fractions
    seed: Seed = 0
    normalise: Annotated[
        Annotated[Literal["auto", "none", "imagenet", "half"], Tag("name")]
        | Annotated[Normalisation, Tag("Normalisation")],
        Discriminator(_normalisation_form),
    ] = "auto"
    root: str | None = None
    download: bool = False
    path: Annotated[str, AfterValidator(_inner_path)] | None = None
    resize: PositiveInt | None = None
    crop: PositiveInt | None = None
    greyscale: bool = False
    share: ShareAboveZero = 1.0
    augment: Augmentation | None = None

    @model_validator(mode="after")
    def _check_path(self) -> ImageSpec:
        needs_path = self.name in names.IMAGE_SETS_WITH_PATH
        if needs_path and self.path is None:
            raise_problems([Problem(("path",), "missing key", f"what {self.name} reads, relative to the data root")])
        if not needs_path and self.path is not None:
            remedy = f"Remove it; {self.name} lies at its own place below the data root."
            expected = f"path only with {' and '.join(names.IMAGE_SETS_WITH_PATH)}"
            raise_problems([Problem(("path",), "key without a meaning here", expected, self.name, remedy=remedy)])
        return self

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # keys that came after the first release: zoos that do not use them keep their identity
        written: dict[str, Any] = serialise(self)
        neutral = {"path": None, "resize": None, "crop": None, "greyscale": False, "share": 1.0}
        dropped = {key for key, default in neutral.items() if getattr(self, key) == default}
        if self.augment in (None, Augmentation()):
            dropped.add("augment")
        return {key: value for key, value in written.items() if key not in dropped}


class ModelSection(Section):
    """Factors of the network that are the same for every model; None where the grid or the default decides."""

    architecture: Architecture | None = None
    activation: Activation | None = None
    init: Init | None = None
    init_std: LearningRate | None = None
    bias_init: BiasInit | None = None
    dropout: ShareBelowOne | None = None


class TrainingSection(Section):
    """Factors of training that are the same for every model; None where the grid or the default decides."""

    optimizer: Optimizer | None = None
    lr: LearningRate | None = None
    weight_decay: NonNegative | None = None
    momentum: ShareBelowOne | None = None
    nesterov: bool | None = None
    schedule: Schedule | None = None
    train_fraction: ShareAboveZero | None = None
    precision: Precision | None = None
    batch_size: PositiveInt | None = None
    epochs: PositiveInt | None = None
    seed: Seed | None = None


class SampleSection(Section):
    """A random search instead of a product: `count` models, each with its own draw from every axis."""

    count: Annotated[int, Field(ge=1, le=MAX_AXIS_VALUES)]
    seed: Seed


class GridSection(Section):
    """The axes of the grid; `order` is the nesting of the product, the last axis fastest.

    With `sample`, the axes are not multiplied: each model draws a value of a list or a range, or from a
    random distribution (then without `count` and `seed`), independently for every axis.
    """

    order: tuple[str, ...] = ()
    sample: SampleSection | None = None
    architecture: Axis[Architecture] | None = None
    activation: Axis[Activation] | None = None
    init: Axis[Init] | None = None
    init_std: Axis[LearningRate] | None = None
    bias_init: Axis[BiasInit] | None = None
    dropout: Axis[ShareBelowOne] | None = None
    optimizer: Axis[Optimizer] | None = None
    lr: Axis[LearningRate] | None = None
    weight_decay: Axis[NonNegative] | None = None
    momentum: Axis[ShareBelowOne] | None = None
    nesterov: Axis[bool] | None = None
    schedule: Axis[Schedule] | None = None
    train_fraction: Axis[ShareAboveZero] | None = None
    precision: Axis[Precision] | None = None
    batch_size: Axis[PositiveInt] | None = None
    seed: SeedAxis[Seed] | None = None

    @model_validator(mode="after")
    def _check_axes(self) -> GridSection:
        given = [name for name in FACTORS if getattr(self, name, None) is not None]
        if sorted(self.order) != sorted(given):
            expected = f"each axis once: {', '.join(given)}" if given else "no name, as there are no axes"
            raise_problems([Problem(("order",), "not an order of the axes", expected, show(self.order))])
        is_sampled = self.sample is not None
        if is_sampled and not given:
            raise_problems([Problem(("sample",), "nothing to draw", "at least one axis beside it", "none")])
        raise_problems([p for name in given for p in _draw_problems(name, getattr(self, name), is_sampled)])
        raise_problems([p for name in given for p in _axis_problems(name, getattr(self, name))])
        return self

    @property
    def num_models(self) -> int:
        """Number of models, computed without listing them."""
        if self.sample is not None:
            return self.sample.count
        axes = [(name, getattr(self, name)) for name in self.order]
        sizes = [a.per_combination if isinstance(a, OwnSeeds) else len(typed_values(name, a)) for name, a in axes]
        return math.prod(sizes)

    @property
    def drawn(self) -> tuple[str, ...]:
        """Axes whose values are drawn for each model; empty for a plain product."""
        own_seeds = ("seed",) if isinstance(self.seed, OwnSeeds) else ()
        return own_seeds if self.sample is None else self.order

    def values(self, factor: str) -> tuple[Scalar, ...]:
        """Return the distinct values of an axis, of the factor's type; of a distribution those that were drawn."""
        axis = getattr(self, factor)
        if isinstance(axis, OwnSeeds) or (isinstance(axis, RandomAxis) and self.sample is not None):
            return tuple(dict.fromkeys(grid_columns(self)[factor]))
        return typed_values(factor, axis)


def _draw_problems(factor: str, axis: object, is_sampled: bool) -> list[Problem]:
    """Say where an axis does not fit the grid: sampled, or a product."""
    if isinstance(axis, OwnSeeds) and is_sampled:
        remedy = "Write {random: int, low: 0, high: 9007199254740992}."
        return [Problem((factor,), "seeds per combination in a sampled grid", "a seed per model", remedy=remedy)]
    if not isinstance(axis, RandomAxis):
        return []
    if is_sampled and axis.count is not None:
        remedy = "Remove it: every model has a draw of its own."
        keys = ("count", "seed")
        return [
            Problem((factor, key), "key without use", f"no {key}, as grid.sample has it", remedy=remedy) for key in keys
        ]
    if not is_sampled and axis.count is None:
        expected = "a whole number, as there is no grid.sample"
        return [Problem((factor, key), "missing key", expected) for key in ("count", "seed")]
    return []


def _axis_problems(factor: str, axis: RangeAxis | RandomAxis | OwnSeeds | tuple[Scalar, ...]) -> list[Problem]:
    if isinstance(axis, OwnSeeds):
        return []
    try:
        if isinstance(axis, RandomAxis) and axis.count is None:
            typed_bounds(factor, axis)
            return []
        values = typed_values(factor, axis)
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
    """How to build; nothing here changes the content of a zoo.

    `lowering` is how stacked convolutions are carried out: ``auto`` (the default) measures what is fastest, any
    other name is taken for all of them. It changes rounding. A zoo keeps the lowerings it was begun with.
    """

    cohort_size: PositiveInt | None = None
    lowering: Annotated[str, AfterValidator(known("lowering", names.LOWERINGS))] | None = None
