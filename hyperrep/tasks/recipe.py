"""A whole generation as one value: anchors, space, sampler, selection. From YAML or from a command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from hyperrep.config.numbers import NonNegativeInt, PositiveInt
from hyperrep.sampling import Sampler, build_sampler, describe_sampler
from hyperrep.tasks.batchnorm import BatchNormConditioning
from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.curvature import FlatNoise, WeightNoise
from hyperrep.tasks.generate import Anchors, examine_samples, summarise_samples
from hyperrep.tasks.method import Method, WeightSpace
from hyperrep.tasks.opening import read_split
from hyperrep.tasks.selection import Keep, Selection, ValidationImages, subsample
from hyperrep.training.saved import HyperRepresentation
from hyperrep.training.zoo import read_symmetry
from zookeeper.errors import InputError, SpecError
from zookeeper.spec.document import Document, Section, load_document, validate_document
from zookeeper.zoo import Zoo


class AnchorSection(Section):
    """Which train models the density is fitted to: the best ``share`` by validation accuracy at one epoch.

    ``align`` exchanges their hidden units to match the best one first.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.3
    epoch: NonNegativeInt | None = None
    align: bool = False


class SelectionSection(Section):
    """SANE's subsampling (``draws`` above the number of samples) and bootstrapping (``rounds``)."""

    draws: PositiveInt | None = None
    keep: Keep = "best"
    rounds: NonNegativeInt = 0


class BatchNormSection(Section):
    """Batches of training images that set running statistics, where a network has them; 0 keeps the decoded ones."""

    batches: NonNegativeInt = 8
    batch_size: Annotated[int, Field(ge=2)] = 64


class Recipe(Section):
    """How a population of networks is generated.

    ``sampler`` holds the name of a registered sampler and any of its settings. ``space`` is where it works: the
    latents of the hyper-representation, or the weights themselves. ``weight_noise`` moves drawn networks along
    directions that hardly change what they do.

    >>> Recipe(sampler={"name": "kde", "together": "network"}).build_sampler()
    Kde(together='network', bandwidth='scott', kernel='diagonal', spread=1.0)
    """

    sampler: dict[str, str | int | float | bool] = Field(default={"name": "pca-kde"})
    space: Literal["latents", "weights"] = "latents"
    anchors: AnchorSection = AnchorSection()
    weight_noise: WeightNoise = WeightNoise()
    selection: SelectionSection = SelectionSection()
    batch_norm: BatchNormSection = BatchNormSection()
    keep_constant: bool = False
    samples: PositiveInt = 200
    seed: NonNegativeInt = 0

    def build_sampler(self) -> Sampler:
        """Build the sampler; raises `InputError` if its name or a setting is wrong."""
        settings = dict(self.sampler)
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise InputError("sampler: has no name; expected name: kde, for example, beside its settings.")
        return build_sampler(name, settings)

    @property
    def description(self) -> dict[str, Any]:
        """Every setting as plain values, those of the sampler in full."""
        return {**self.model_dump(mode="json"), "sampler": describe_sampler(self.build_sampler())}


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe from YAML.

    Raises
    ------
    SpecError
        One error that lists every problem with file, line, key and the nearest valid name.
    """
    document = load_document(Path(path))
    recipe = validate_document(document, Recipe)
    try:
        recipe.build_sampler()
    except InputError as error:
        raise SpecError(f"{document.place(('sampler',))}: {error}") from None
    return recipe


@dataclass(frozen=True, eq=False)
class Generated:
    """New networks ``rows`` float32 ``[n, P]``, what was measured of each, the summary, and their anchors."""

    rows: np.ndarray
    samples: pd.DataFrame
    summary: pd.DataFrame
    anchors: Anchors


def check_fits(hyper: HyperRepresentation, zoo: Zoo) -> None:
    """Refuse a hyper-representation of another architecture than the zoo's networks.

    Raises
    ------
    InputError
        If their layouts differ.
    """
    if hyper.layout.digest != zoo.layout.digest:
        raise InputError(
            f"{zoo.path}: holds another architecture ({zoo.layout.num_weights:,} weights) than the one the "
            f"hyper-representation was trained on ({hyper.layout.num_weights:,} weights). Choose another zoo."
        )


def select_anchors(zoo: Zoo, section: AnchorSection) -> Anchors:
    """Read the anchors from the train split of a zoo."""
    last = zoo.split("train").epochs[-1] if section.epoch is None else section.epoch
    anchors = Anchors.select(read_split(zoo, "train", [last]), share=section.share)
    return anchors.aligned(read_symmetry(zoo)) if section.align else anchors


def build_method(recipe: Recipe, hyper: HyperRepresentation, zoo: Zoo, examiner: Examiner, anchors: Anchors) -> Method:
    """Put space, sampler, noise and batch-norm conditioning together; `InputError` if hyper and zoo do not fit."""
    check_fits(hyper, zoo)
    settings = recipe.batch_norm
    has_statistics = zoo.layout.num_trainable < zoo.layout.num_weights
    finish = (
        BatchNormConditioning.of(examiner, batches=settings.batches, batch_size=settings.batch_size, seed=recipe.seed)
        if has_statistics and settings.batches
        else None
    )
    space = hyper if recipe.space == "latents" else WeightSpace(zoo.layout)
    noise = None
    if recipe.weight_noise.scale > 0:
        rows = anchors.checkpoints.rows
        networks = np.asarray(space.decode(np.asarray(space.encode(rows))), dtype=np.float32)
        noise = FlatNoise.fit(recipe.weight_noise, examiner, networks, rows, zoo.layout)
    return Method(space, recipe.build_sampler(), recipe.keep_constant, noise, finish)


def draw_rows(method: Method, recipe: Recipe, anchors: Anchors, validation: ValidationImages) -> np.ndarray:
    """Carry out the draw, with its selection on validation images if there is one: rows float32 ``[n, P]``."""
    generator = np.random.default_rng(recipe.seed)
    section = recipe.selection
    if section.draws is None:
        if section.rounds or section.keep != "best":
            raise InputError("selection: rounds and keep need draws; set how many samples are drawn.")
        return method.fit(anchors.checkpoints.rows).draw(recipe.samples, generator).rows
    selection = Selection(section.draws, section.keep, section.rounds)
    return subsample(method, anchors, selection, recipe.samples, validation, generator).rows


def generate(recipe: Recipe, hyper: HyperRepresentation, zoo: Zoo, examiner: Examiner) -> Generated:
    """Generate networks from the good train models of a zoo and measure them; test images are looked at once, last.

    Raises
    ------
    InputError
        If hyper-representation and zoo do not fit, anchors cannot be used, or too few draws can be kept.
    """
    anchors = select_anchors(zoo, recipe.anchors)
    method = build_method(recipe, hyper, zoo, examiner, anchors)
    rows = draw_rows(method, recipe, anchors, ValidationImages.of(examiner))
    samples = examine_samples(rows, anchors, examiner)
    return Generated(rows, samples, summarise_samples(samples, rows, anchors, zoo.frame, examiner), anchors)


def with_changes(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Return the recipe with some settings replaced, by their path such as ``anchors.share``; None changes nothing.

    >>> with_changes(Recipe(), {"anchors.share": 0.5, "seed": None}).anchors.share
    0.5
    """
    value = recipe.model_dump()
    for path, setting in changes.items():
        if setting is not None:
            *parents, last = path.split(".")
            part = value
            for parent in parents:
                part = part[parent]
            part[last] = setting
    return validate_document(Document(value, "recipe"), Recipe)
