"""Draw many networks and keep some: subsampling and bootstrapping, on validation images alone.

Roles are types: `subsample` takes anchors of the train split (`hyperrep.tasks.generate.Anchors`) or networks that were
themselves chosen on validation images (`Chosen`), and the images it may look at are a `ValidationImages`, which holds
no others. Nothing here takes test images.

Source: Schürholt et al., "Towards Scalable and Versatile Weight Space Learning" (SANE, 2024), section 3.3: subsampling
keeps the best of many samples; bootstrapping makes the best samples the next anchors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.spatial.distance import cdist

from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.generate import Anchors
from hyperrep.tasks.method import FittedMethod, Method, Samples
from zookeeper.errors import InputError

Keep = Literal["best", "diverse"]


@dataclass(frozen=True, slots=True, eq=False)
class ValidationImages:
    """An examiner that can only look at validation images."""

    examiner: Examiner

    @classmethod
    def of(cls, examiner: Examiner) -> ValidationImages:
        """Take the validation images of an examiner, and leave the others behind."""
        if "val" not in examiner.images:
            raise InputError("selection: there are no validation images; expected a zoo whose images have a val split.")
        return cls(Examiner(examiner.population, {"val": examiner.images["val"]}))

    def scores(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Accuracy in [0, 1] and mean cross-entropy in nats of rows ``[M, P]``, ``[M]`` each."""
        return self.examiner.scores(rows, "val")

    def classes(self, rows: np.ndarray) -> np.ndarray:
        """Predicted classes int64 ``[M, n]``."""
        return self.examiner.classes(rows, "val")


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Networks chosen on validation images, best first, with the scores they were chosen by, ``[n]`` each."""

    samples: Samples
    val_acc: np.ndarray
    val_loss: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        """Weights float32 ``[n, P]``."""
        return self.samples.rows

    def __len__(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which of many samples are kept.

    Parameters
    ----------
    draws
        Samples that are drawn, 1 or more.
    keep
        ``best``: those of highest validation accuracy (ties: of lowest loss), as in SANE. ``diverse``: of those at
        least as accurate as the anchors are on average, the ones that lie farthest apart, beginning with the best.
    rounds
        How often the samples kept become the next anchors before the last draw, >= 0.
    """

    draws: int
    keep: Keep = "best"
    rounds: int = 0

    def __post_init__(self) -> None:
        if self.draws < 1 or self.rounds < 0:
            raise InputError(
                f"selection: draws must be 1 or more and rounds 0 or more, got {self.draws} and {self.rounds}."
            )


def subsample(
    method: Method,
    anchors: Anchors | Chosen,
    selection: Selection,
    num: int,
    validation: ValidationImages,
    generator: np.random.Generator,
) -> Chosen:
    """Draw ``selection.draws`` networks and keep ``num`` of them; ``selection.rounds`` times before as new anchors.

    Networks with a loss that is not finite are never kept.

    Raises
    ------
    InputError
        If fewer are drawn than kept, or too few of the drawn ones can be kept.
    """
    if num > selection.draws:
        raise InputError(f"selection: cannot keep {num} of {selection.draws} draws. Raise draws or lower the number.")
    if selection.keep == "diverse":
        rows = anchors.checkpoints.rows if isinstance(anchors, Anchors) else anchors.rows
        floor = float(validation.scores(rows)[0].mean())
    else:
        floor = -np.inf
    source = anchors
    for _ in range(selection.rounds + 1):
        samples = _fit(method, source).draw(selection.draws, generator)
        source = _keep(samples, validation, selection.keep, num, floor)
    assert isinstance(source, Chosen)
    return source


def _fit(method: Method, anchors: Anchors | Chosen) -> FittedMethod:
    if isinstance(anchors, Chosen):
        return method.fit_latents(anchors.samples.latents)
    return method.fit(anchors.checkpoints.rows)


def _keep(samples: Samples, validation: ValidationImages, keep: Keep, num: int, floor: float) -> Chosen:
    accuracy, loss = validation.scores(samples.rows)
    order = np.lexsort((loss, -accuracy))
    order = order[np.isfinite(loss[order]) & (accuracy[order] >= floor)]
    if len(order) < num:
        threshold = "" if floor < 0 else f" and a validation accuracy of the anchors' mean, {floor:.4f}, or more"
        raise InputError(
            f"selection: {len(order)} of {len(samples)} draws have a finite loss{threshold}; expected {num}. "
            "Draw more, or choose another sampler."
        )
    kept = order[:num] if keep == "best" else order[farthest_first(samples.rows[order], num)]
    return Chosen(Samples(samples.rows[kept], samples.latents[kept]), accuracy[kept], loss[kept])


def farthest_first(points: np.ndarray, num: int) -> np.ndarray:
    """Choose ``num`` of the points ``[N, F]``: the first, then again and again the one farthest from those chosen.

    Source: Gonzalez, "Clustering to minimize the maximum intercluster distance" (1985).

    >>> farthest_first(np.array([[0.0], [1.0], [5.0], [4.0]]), 3).tolist()
    [0, 2, 1]
    """
    values = points.astype(np.float64)
    chosen = [0]
    nearest = np.full(len(values), np.inf)
    for _ in range(num - 1):
        nearest = np.minimum(nearest, cdist(values, values[chosen[-1:]])[:, 0])
        nearest[chosen] = -1.0  # also of two equal points each is taken once
        chosen.append(int(nearest.argmax()))
    return np.array(chosen, dtype=np.int64)
