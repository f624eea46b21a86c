"""From a plan to the work of one worker, and to the directory all workers write to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zookeeper.errors import InputError
from zookeeper.images import ImageSet, Transforms, find_root, load_images
from zookeeper.nets.registry import build_network
from zookeeper.spec import ImageSpec, ZooSpec
from zookeeper.spec.grid import ModelConfig
from zookeeper.spec.identity import canonical_json, difference, image_identity
from zookeeper.spec.plan import Cohort, Plan
from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.header import HEADER, CohortEntry, ImageShape, ZooHeader, create_zoo, read_header

if TYPE_CHECKING:
    from zookeeper.population import Population


@dataclass(frozen=True)
class CohortJob:
    """All that a worker needs to know; plain values, so it travels to any process.

    Parameters
    ----------
    root
        The zoo directory, reachable by every worker.
    cohort
        The models.
    epochs
        Checkpoint epochs, 0 and the last included.
    images
        The spec's image section as canonical JSON.
    fingerprint
        The images the zoo was created with; a worker that finds others refuses.
    layout
        Digest of the layout of the rows.
    device
        ``cpu`` or ``cuda``.
    num_threads
        Threads of torch in the worker.
    tile
        Most models in one forward pass; None leaves the choice to the engine.
    lowering
        What the spec asks for if the zoo has pinned nothing yet: the name of a lowering, or ``auto``.
    """

    root: str
    cohort: Cohort
    epochs: tuple[int, ...]
    images: str
    fingerprint: str
    layout: str
    device: str = "cpu"
    num_threads: int = 1
    tile: int | None = None
    lowering: str = "auto"


@lru_cache(maxsize=4)
def load_spec_images(images: str) -> ImageSet:
    """Load the image set of an image section in canonical JSON, once per process."""
    spec = ImageSpec.model_validate_json(images)
    dumped = spec.model_dump(mode="json")
    split = {name: share for name, share in spec.split.fractions().items() if share > 0}
    loaded = load_images(
        spec.name,
        split=split,
        seed=spec.seed,
        normalise=dumped["normalise"],
        root=None if spec.root is None else Path(spec.root),
        download=spec.download,
        path=spec.path,
        transforms=Transforms(resize=spec.resize, crop=spec.crop, greyscale=spec.greyscale),
        share=spec.share,
    )
    return loaded if spec.augment is None else replace(loaded, augment=spec.augment.model_dump())


@lru_cache(maxsize=16)
def load_population(
    architecture: str, activation: str, image_shape: tuple[int, int, int], num_classes: int
) -> Population:
    """Build the stacked form of an architecture, once per process."""
    from zookeeper.population import Population

    network = build_network(
        architecture,
        in_channels=image_shape[0],
        image_size=image_shape[1:],
        num_classes=num_classes,
        activation=activation,
    )
    return Population(network, image_shape)


def population_of(model: ModelConfig, images: ImageSet) -> Population:
    """Build the stacked form of a model's architecture for an image set."""
    return load_population(model.architecture, model.activation, images.image_shape, images.num_classes)


def image_json(spec: ZooSpec) -> str:
    """Return the image section as canonical JSON, the form in which it travels to workers.

    The root is absolute: a worker may have another working directory and other environment variables.
    """
    images = spec.images
    root = find_root(None if images.root is None else Path(images.root)).absolute()
    return canonical_json(images.model_copy(update={"root": str(root)}).model_dump(mode="json", exclude_none=True))


def prepare_zoo(plan: Plan, root: Path, *, device: str = "cpu", num_threads: int = 1) -> tuple[CohortJob, ...]:
    """Create the zoo directory, or check that the one that is there was made from the same spec.

    An existing zoo keeps its partition into cohorts, whatever the cohort size of this plan, so that what
    is half done can go on.

    Returns
    -------
    tuple of CohortJob
        One job per cohort, finished ones included.

    Raises
    ------
    InputError
        If the directory holds something else, such as a zoo of another spec (the differences are listed), or
        the images or an architecture changed, or the device cannot take products in the spec's precision.
    """
    from zookeeper.population.precision import check_precision

    spec = plan.spec
    for precision in spec.factor_values("precision"):
        check_precision(str(precision), device)
    images = load_spec_images(image_json(spec))
    layouts = {cohort.name: population_of(cohort.models[0], images).layout for cohort in plan.cohorts}
    if (root / HEADER).exists():
        header = read_header(root)
        _check_same(header, spec, images, root)
    else:
        header = create_zoo(
            root, _header(plan, images, {layout.digest: layout.to_json() for layout in layouts.values()})
        )
    configs = {model.model_id: model for cohort in plan.cohorts for model in cohort.models}
    digests = {model.model_id: layouts[cohort.name].digest for cohort in plan.cohorts for model in cohort.models}
    if set(configs) != set(header.models):
        raise InputError(f"{root}: another release named its models in another way. Finish it with that release.")
    if changed := {layout.digest for layout in layouts.values()} - set(header.layouts):
        names = {cohort.models[0].architecture for cohort in plan.cohorts if layouts[cohort.name].digest in changed}
        raise InputError(
            f"{root}: the architecture {', '.join(sorted(names))} has changed since the zoo was created; expected "
            "the same weights. Restore its code, or choose another directory."
        )
    return tuple(
        CohortJob(
            root=str(root),
            cohort=Cohort(name, tuple(configs[model_id] for model_id in entry.models)),
            epochs=entry.epochs,
            images=image_json(spec),
            fingerprint=images.fingerprint,
            layout=digests[entry.models[0]],
            device=device,
            num_threads=num_threads,
            lowering=spec.build.lowering or "auto",
        )
        for name, entry in header.cohorts.items()
    )


def _header(plan: Plan, images: ImageSet, layouts: Mapping[str, Mapping[str, Any]]) -> ZooHeader:
    channels, height, width = images.image_shape
    details = {
        **{key: value for key, value in image_identity(plan.spec.images).items() if key != "name"},
        "fingerprint": images.fingerprint,
        "mean": list(images.mean),
        "std": list(images.std),
    }
    return ZooHeader(
        name=plan.spec.name,
        cohorts={
            cohort.name: CohortEntry(tuple(model.model_id for model in cohort.models), plan.epochs)
            for cohort in plan.cohorts
        },
        layouts=layouts,
        image=ImageShape(images.name, channels, height, width, images.num_classes, details),
        spec=json.loads(plan.spec.to_json()),
        store=store_encoding(plan.spec),
    )


def store_encoding(spec: ZooSpec) -> Encoding:
    """How a spec wants rows to be stored."""
    return PLAIN if spec.store is None else Encoding(**spec.store.model_dump())


def _check_same(header: ZooHeader, spec: ZooSpec, images: ImageSet, root: Path) -> None:
    if header.spec is None:
        raise InputError(f"{root}: holds a zoo of kind {header.kind!r} without a spec. Choose another directory.")
    stored = ZooSpec.from_json(json.dumps(header.spec), where=str(root / HEADER))
    if stored.digest != spec.digest:
        lines = "; ".join(difference(stored, spec))
        raise InputError(
            f"{root}: holds a zoo of another spec: {lines}. Use the stored spec, or another directory for this one."
        )
    check_images(header, images, root)


def check_images(header: ZooHeader, images: ImageSet, root: Path) -> None:
    """Refuse images other than those a zoo was created with.

    Raises
    ------
    InputError
        If their fingerprint is another.
    """
    known = None if header.image is None else header.image.details.get("fingerprint")
    if known != images.fingerprint:
        raise InputError(
            f"{root}: the images changed since the zoo was created; expected fingerprint {known}, got "
            f"{images.fingerprint}. Restore the image files ({images.name})."
        )
