"""What to train: one small YAML document per hyper-representation, typed and validated."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from zookeeper.spec.document import Section, load_document, validate_document
from zookeeper.spec.problems import Problem, raise_problems

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class TokenSection(Section):
    """How rows are cut into tokens."""

    width: PositiveInt


class ModelSection(Section):
    """Sizes of the SANE autoencoder."""

    d_model: PositiveInt
    num_heads: PositiveInt
    num_layers: PositiveInt
    latent: PositiveInt

    @model_validator(mode="after")
    def _check_heads(self) -> ModelSection:
        if self.d_model % self.num_heads:
            expected, got = f"a divisor of d_model {self.d_model}", str(self.num_heads)
            raise_problems([Problem(("num_heads",), "heads do not divide the model width", expected, got)])
        return self


class LossSection(Section):
    """Weights and variants of the loss parts.

    ``gamma`` weighs contrast, ``beta`` structure against behaviour: 0.05 and 0.1 are paper 000's
    "structure and behaviour", ``beta: 1`` its baseline without behaviour. ``normalise: layer`` divides
    the structural error by each layer's variance. ``outputs`` says what the behavioural part compares.
    ``decoded_views: 1`` decodes only the first of the two views that the contrastive part needs, which
    saves half of the decoder and of the behavioural part.
    """

    gamma: Share
    beta: Share
    normalise: Literal["layer", "none"] = "layer"
    outputs: Literal["softmax", "raw"] = "softmax"
    queries: PositiveInt = 256
    decoded_views: Literal[1, 2] = 2
    temperature: Positive = 0.1


class AugmentSection(Section):
    """What changes between the views: permutation, share of erased models, deviation of added noise."""

    permute: bool = True
    erase: Share = 0.0
    noise: NonNegative = 0.0


class TrainingSection(Section):
    """The optimiser (AdamW, linear warm-up, cosine decay to 0) and its rhythm, counted in steps.

    Give ``steps`` or ``epochs`` (passes over the train rows). ``warmup`` is a share of all steps,
    ``clip`` the largest norm of the gradient (0: no limit). ``threads`` is applied by the command line.
    """

    steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    batch_size: PositiveInt = 32
    lr: Positive = 1e-3
    weight_decay: NonNegative = 3e-9
    warmup: Share = 0.1
    clip: NonNegative = 1.0
    seed: NonNegativeInt = 0
    threads: PositiveInt = 1
    device: Literal["cpu", "cuda"] = "cpu"
    evaluate_every: PositiveInt = 100
    checkpoint_every: PositiveInt = 250
    log_every: PositiveInt = 10

    @model_validator(mode="after")
    def _check_length(self) -> TrainingSection:
        if (self.steps is None) == (self.epochs is None):
            got = "neither" if self.steps is None else "both"
            raise_problems([Problem((), "the length of the training is unclear", "steps or epochs", got)])
        return self

    def num_steps(self, num_rows: int) -> int:
        """Number of optimiser steps on ``num_rows`` train rows; an incomplete last batch is left out.

        >>> TrainingSection(epochs=2, batch_size=4).num_steps(10)
        4
        """
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return self.epochs * steps_per_epoch(num_rows, self.batch_size)


class TrainConfig(Section):
    """One training of a hyper-representation. Paths are relative to the working directory.

    ``standardise`` shifts and scales the weights before they are encoded, with the mean and deviation of each
    layer over the train split, or of each ``block`` (a layer's biases apart from its weights: biases are small,
    and how far they moved says how long a network was trained). The structural loss is normalised alike.
    """

    name: Annotated[str, Field(min_length=1)]
    zoo: str | None = None
    epochs_of_zoo: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] | None = None
    standardise: Literal["layer", "block", "none"] = "layer"
    tokens: TokenSection
    model: ModelSection
    loss: LossSection
    augment: AugmentSection = AugmentSection()
    training: TrainingSection

    @property
    def digest(self) -> str:
        """16 hex digits over everything that may change the trained weights."""
        value = self.model_dump(mode="json", exclude={"name", "zoo", "epochs_of_zoo"})
        for rhythm in ("threads", "evaluate_every", "checkpoint_every", "log_every"):
            del value["training"][rhythm]
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Complete batches in one pass, at least one (then the batch holds all rows).

    >>> steps_per_epoch(10, 4), steps_per_epoch(3, 4)
    (2, 1)
    """
    return max(1, num_rows // batch_size)


def load_config(path: str | Path) -> TrainConfig:
    """Read and validate a YAML file.

    Raises
    ------
    SpecError
        One error that lists every problem with file, line, key and the nearest valid name.
    """
    return validate_document(load_document(Path(path)), TrainConfig)


def packaged_config(name: str) -> Path:
    """Path of a configuration that comes with the package.

    >>> load_config(packaged_config("digits_csb")).loss.beta
    0.02
    """
    return Path(__file__).parent / "configs" / f"{name}.yaml"
