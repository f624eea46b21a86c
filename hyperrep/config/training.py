"""The sections about views and about the optimiser."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from hyperrep.config.numbers import NonNegative, NonNegativeInt, Positive, PositiveInt, Share
from zookeeper.spec.document import Section
from zookeeper.spec.problems import Problem, raise_problems

Watched = Literal["total", "contrast", "structure", "behaviour", "cycle", "agreement", "probe_r2"]


class AugmentSection(Section):
    """What changes between the views: permutation, share of erased models, deviation of added noise.

    ``noise`` is in units of the standardised weights, ``relative_noise`` in those of each weight: w (1 + sigma eps).
    """

    permute: bool = True
    erase: Share = 0.0
    noise: NonNegative = 0.0
    relative_noise: NonNegative = 0.0


class StoppingSection(Section):
    """Stop early, and save the weights that were best on the validation models.

    ``value`` is what is watched: a part of the loss (less is better), ``agreement`` or ``probe_r2`` (more is better).
    It stops when ``patience`` evaluations in a row did not gain more than ``min_gain`` over the best.
    """

    value: Watched = "total"
    patience: PositiveInt = 5
    min_gain: NonNegative = 0.0


class BatchSection(Section):
    """Which train rows share a batch: equally many of ``groups`` groups of rows that agree in the factors ``by``.

    Rows that share ``[init, seed]`` grew from one initial draw. Told apart from each other by the contrastive part,
    they teach the encoder what training does to weights; told apart from rows of other draws, they teach it the draws.
    """

    by: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    groups: PositiveInt = 1


class TrainingSection(Section):
    """The optimiser (AdamW, linear warm-up, cosine decay to 0) and its rhythm, counted in steps.

    Give ``steps`` or ``epochs`` (passes over the train rows). ``warmup`` is a share of all steps,
    ``clip`` the largest norm of the gradient (0: no limit). ``threads`` is applied by the command line.
    ``precision: bf16`` multiplies the autoencoder's matrices in bfloat16, ``compile`` fuses its operations: both
    change digits, not what is saved. ``recompute`` keeps no activations, so that memory does not grow with the batch,
    for a third more time. ``batches`` puts relatives into a batch; with several zoos a batch is of ``one`` of them or
    of ``all`` (``zoos_in_batch``). ``stopping`` ends a training early; ``tensorboard`` writes events beside
    ``log.csv``. ``rows: streamed`` keeps the rows in a mapped file instead of in memory, with the same bits.
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
    precision: Literal["float32", "bf16"] = "float32"
    compile: bool = False
    recompute: bool = False
    rows: Literal["resident", "streamed"] = "resident"
    batches: BatchSection | None = None
    zoos_in_batch: Literal["one", "all"] = "one"
    stopping: StoppingSection | None = None
    tensorboard: bool = False

    @model_validator(mode="after")
    def _check_length(self) -> TrainingSection:
        if (self.steps is None) == (self.epochs is None):
            got = "neither" if self.steps is None else "both"
            raise_problems([Problem((), "the length of the training is unclear", "steps or epochs", got)])
        if self.rows == "streamed" and self.device != "cpu":
            what = "rows are streamed from disk to the CPU alone"
            raise_problems([Problem(("rows",), what, "resident, or device cpu", f"device {self.device}")])
        if self.batches is not None and self.zoos_in_batch == "all":
            what = "relatives of one zoo fill a batch"
            raise_problems([Problem(("zoos_in_batch",), what, "one, or no batches", "all")])
        if self.batches is not None and self.batch_size % self.batches.groups:
            expected, got = f"a divisor of batch_size {self.batch_size}", str(self.batches.groups)
            raise_problems([Problem(("batches", "groups"), "groups do not fill a batch evenly", expected, got)])
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

    def num_rows_of_batch(self, num_rows: int) -> int:
        """Rows of a batch: all there are, if they do not fill one."""
        return min(self.batch_size, num_rows)


def steps_per_epoch(num_rows: int, batch_size: int) -> int:
    """Complete batches in one pass, at least one (then the batch holds all rows).

    >>> steps_per_epoch(10, 4), steps_per_epoch(3, 4)
    (2, 1)
    """
    return max(1, num_rows // batch_size)
