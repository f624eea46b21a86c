"""The section about the loss: its parts, their variants and scales, and the queries of the behavioural part."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from hyperrep.config.numbers import NonNegative, Positive, PositiveInt, Share, apportion
from zookeeper.spec.document import Section
from zookeeper.spec.names import IMAGE_SETS, IMAGE_SETS_WITH_PATH
from zookeeper.spec.problems import Problem, raise_problems, refuse_name

ZOO, NOISE = "zoo", "noise"
QUERY_SOURCES = (ZOO, NOISE, *IMAGE_SETS)


def _check_source(name: str) -> str:
    if name not in QUERY_SOURCES:
        refuse_name("source of queries", name, QUERY_SOURCES)
    return name


class QuerySection(Section):
    """One source of queries and its share of them, relative to the shares of the other sources.

    ``zoo``: the images the zoo was trained on. ``noise``: every pixel uniform between the smallest and the largest
    value of its channel in those images. Or the name of another image set, brought to the size and the channels of
    the zoo's images and normalised as they are; ``root`` and ``path`` say where it lies.
    """

    source: Annotated[str, AfterValidator(_check_source)] = ZOO
    share: Positive = 1.0
    root: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _check_place(self) -> QuerySection:
        if (self.path is not None) != (self.source in IMAGE_SETS_WITH_PATH):
            expected = "a path below the root" if self.path is None else f"nothing with source {self.source}"
            raise_problems([Problem(("path",), "path does not fit the source", expected, str(self.path))])
        if self.root is not None and self.source in (ZOO, NOISE):
            raise_problems([Problem(("root",), "only image sets have a root", "nothing", self.root)])
        return self

    @property
    def key(self) -> str:
        """What the images of this source are called among the data of a training."""
        return self.source if self.path is None else f"{self.source}:{self.path}"


class ScaleSection(Section):
    """What each part of the loss is divided by."""

    contrast: Positive = 1.0
    structure: Positive = 1.0
    behaviour: Positive = 1.0


class LossSection(Section):
    """Weights and variants of the loss parts.

    ``gamma`` weighs contrast, ``beta`` structure against behaviour: 0.05 and 0.1 are paper 000's
    "structure and behaviour", ``beta: 1`` its baseline without behaviour. The losses of paper 002: ``gamma: 1`` is
    E_c, ``gamma: 0, beta: 1`` is ED, both with ``beta: 1`` are E_cD, and ``contrast: positive`` makes that E_c+D.

    ``normalise: layer`` divides the structural error by each layer's variance. ``behaviour`` says how outputs are
    compared: ``squared`` distance of ``outputs`` (``softmax`` or ``raw``), ``cross_entropy``, or ``distillation``
    at ``distillation_temperature``; ``query_set`` where the ``queries`` of a batch come from, the zoo's images by
    default. ``decoded_views: 1`` decodes only the first of the two views that the contrastive part needs, which
    saves half of the decoder and of the behavioural part. ``cycle`` weighs the distance of a latent to that of its
    decoded network. ``scales`` divide the parts: given numbers, or (``first_batch``) what each part was in the
    first batch, as the published code does; the numbers are saved with the model.
    """

    gamma: Share
    beta: Share
    contrast: Literal["ntxent", "positive"] = "ntxent"
    normalise: Literal["layer", "none"] = "layer"
    behaviour: Literal["squared", "cross_entropy", "distillation"] = "squared"
    outputs: Literal["softmax", "raw"] = "softmax"
    distillation_temperature: Positive = 2.0
    queries: PositiveInt = 256
    query_set: Annotated[tuple[QuerySection, ...], Field(min_length=1)] = (QuerySection(),)
    decoded_views: Literal[1, 2] = 2
    temperature: Positive = 0.1
    cycle: NonNegative = 0.0
    scales: Literal["none", "first_batch"] | ScaleSection = "none"

    @property
    def query_counts(self) -> tuple[int, ...]:
        """How many of the queries of a batch come from each source; shares by largest remainders.

        >>> parts = (QuerySection(share=2.0), QuerySection(source="noise"))
        >>> LossSection(gamma=0, beta=0, queries=10, query_set=parts).query_counts
        (7, 3)
        """
        return apportion(self.queries, [part.share for part in self.query_set])
