"""Are sampled networks new, and better than what needs no model of weights?

Each sample stands beside two networks at the same distance from the training set: an anchor plus noise, and an
average of anchors. Errors show copies that distances hide: two networks that fail on the same images are one
network in two places. Source: Zeng et al., "Generative Modeling of Weights: Generalization or Memorization?"
(2025); the equal distance is ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.diversity import pairwise_distances
from hyperrep.tasks.generate import Anchors
from hyperrep.tasks.nearest import TrainingModels
from hyperrep.tasks.split import select_on_validation
from zookeeper.errors import InputError

SAMPLED, NOISE, AVERAGE = "sampled", "anchor + noise", "average of anchors"
_HALVINGS = 60


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Networks ``[M, P]`` put at wanted distances from a set; ``reached`` bool ``[M]`` where that was possible."""

    rows: np.ndarray
    reached: np.ndarray


def noisy_anchors(
    wanted: np.ndarray, anchors: np.ndarray, others: np.ndarray, generator: np.random.Generator
) -> Placed:
    """Move anchors in random directions until the nearest of the others is as far as wanted.

    Parameters
    ----------
    wanted
        Distances ``[M]``, 0 or more.
    anchors
        Rows ``[A, P]`` to start from; one is drawn for each distance.
    others
        The training set ``[N, P]``; the anchors are among it.
    """
    starts = anchors[generator.integers(len(anchors), size=len(wanted))].astype(np.float64)
    noise = generator.normal(size=starts.shape)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    path = _Path.of(starts, noise, others)
    far = 1.0 + wanted
    while (short := path.distances(far) < wanted).any():
        far = np.where(short, 2 * far, far)
    return _place(path, wanted, far)


def averaged_anchors(
    wanted: np.ndarray, anchors: np.ndarray, others: np.ndarray, generator: np.random.Generator
) -> Placed:
    """Move anchors towards averages of themselves and others until the nearest model is as far as wanted.

    As few anchors are averaged as reach the distance: 2, 4, 8, ... An average of anchors cannot be arbitrarily
    far from all models (of k anchors at distance D of each other it is at most D sqrt((k - 1) / 2k) away); where
    none is far enough, the one that comes furthest stands and is not ``reached``.
    """
    num = len(anchors)
    orders = np.argsort(generator.random((len(wanted), num)), axis=1)
    starts = anchors[orders[:, 0]].astype(np.float64)
    towards, furthest = np.zeros_like(starts), np.full(len(wanted), -np.inf)
    short = np.arange(len(wanted))
    size = 1
    while len(short) and size < num:
        size = min(2 * size, num)
        means = np.stack([anchors[order[:size]].mean(axis=0, dtype=np.float64) for order in orders[short]])
        ends = _Path.of(starts[short], means - starts[short], others).distances(np.ones(len(short)))
        better = ends > furthest[short]
        towards[short[better]] = (means - starts[short])[better]
        furthest[short] = np.maximum(furthest[short], ends)
        short = short[ends < wanted[short]]
    return _place(_Path.of(starts, towards, others), wanted, np.ones(len(wanted)))


@dataclass(frozen=True, slots=True, eq=False)
class _Path:
    """Points ``start + t * direction``; their squared distances to all others are parabolas of t."""

    starts: np.ndarray  # [M, P]
    directions: np.ndarray  # [M, P]
    constant: np.ndarray  # [M, N]
    linear: np.ndarray  # [M, N]
    square: np.ndarray  # [M]

    @classmethod
    def of(cls, starts: np.ndarray, directions: np.ndarray, others: np.ndarray) -> _Path:
        points = others.astype(np.float64)
        constant = pairwise_distances(starts, points) ** 2
        linear = 2 * ((directions * starts).sum(axis=1)[:, None] - directions @ points.T)
        return cls(starts, directions, constant, linear, (directions**2).sum(axis=1))

    def distances(self, t: np.ndarray) -> np.ndarray:
        """Distance ``[M]`` of the points at ``t`` ``[M]`` to the nearest of the others."""
        squares = self.constant + t[:, None] * self.linear + (t**2 * self.square)[:, None]
        distances: np.ndarray = np.sqrt(np.maximum(squares.min(axis=1), 0.0))
        return distances


def _place(path: _Path, wanted: np.ndarray, far: np.ndarray) -> Placed:
    """Halve [0, far]: the distance is continuous and 0 at the start, so if the far end is far enough it is met."""
    reached = path.distances(far) >= wanted
    low, high = np.zeros(len(wanted)), far.copy()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = path.distances(middle) >= wanted
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    t = np.where(reached, high, far)
    return Placed((path.starts + t[:, None] * path.directions).astype(np.float32), reached)


@dataclass(frozen=True, slots=True, eq=False)
class ErrorOverlap:
    """Overlap of the errors of M networks with those of training models, ``[M]`` each."""

    nearest: np.ndarray  # with the model nearest in weights
    largest: np.ndarray  # with whichever model shares most


def error_overlap(errors: np.ndarray, known: np.ndarray, nearest: np.ndarray) -> ErrorOverlap:
    """Intersection over union of the images that networks get wrong; 1 is the same errors, NaN if neither errs.

    Parameters
    ----------
    errors, known
        Wrong answers, bool ``[M, n]`` of networks and ``[N, n]`` of training models.
    nearest
        For each network the number of the nearest training model, int64 ``[M]``.

    Examples
    --------
    >>> overlap = error_overlap(np.array([[True, True, False]]), np.array([[True, False, True]]), np.array([0]))
    >>> round(float(overlap.nearest[0]), 3)
    0.333
    """
    both = errors.astype(np.float32) @ known.astype(np.float32).T
    either = errors.sum(axis=1)[:, None] + known.sum(axis=1)[None] - both
    shares = np.divide(both, either, out=np.full(both.shape, np.nan), where=either > 0)
    largest = np.fmax.reduce(shares, axis=1)
    return ErrorOverlap(shares[np.arange(len(errors)), nearest].astype(np.float64), largest.astype(np.float64))


def audit_novelty(
    samples: np.ndarray, anchors: Anchors, training: TrainingModels, examiner: Examiner, *, seed: int = 0
) -> pd.DataFrame:
    """Put every sample beside an anchor with noise and an average of anchors at its distance from the training set.

    The baselines are made in the common frame of ``training``: with a symmetry, the average is one of aligned
    networks, the stronger baseline.

    Parameters
    ----------
    samples
        Rows ``[M, P]``, finite.
    anchors
        The train models the samples were drawn from; the baselines start from them.
    training
        All train models that count as known.
    seed
        Of the baselines.

    Returns
    -------
    One row per kind (``sampled``, ``anchor + noise``, ``average of anchors``) and sample: ``networks`` (the kind),
    ``network``, ``nearest`` (model_id), ``distance`` (to it, aligned if there is a symmetry), ``unaligned``,
    ``wanted`` (the sample's distance) and ``reached``, ``val_acc``, ``val_loss``, ``test_acc``, ``test_loss``,
    ``error_overlap`` (with the nearest model, test images) and ``max_error_overlap`` (with any).

    Raises
    ------
    InputError
        If there are no samples, one is not finite, or has another number of weights.
    """
    expected = training.models.rows.shape[1]
    if samples.ndim != 2 or len(samples) == 0 or samples.shape[1] != expected or not np.isfinite(samples).all():
        raise InputError(f"novelty: expected finite samples [M >= 1, {expected}], got {samples.shape}.")
    generator = np.random.default_rng([seed, 0xA0D17])
    rows = np.asarray(samples, dtype=np.float32)
    found = training.nearest_to(rows)
    anchor_rows = training.align(anchors.checkpoints.rows)
    everyone = np.ones(len(rows), dtype=bool)
    kinds = {
        SAMPLED: Placed(rows, everyone),
        NOISE: noisy_anchors(found.distance, anchor_rows, training.rows, generator),
        AVERAGE: averaged_anchors(found.distance, anchor_rows, training.rows, generator),
    }
    labels = examiner.labels("test")
    known = examiner.classes(training.models.rows, "test") != labels
    ids = training.models.frame["model_id"].to_numpy()
    tables = []
    for kind, placed in kinds.items():
        near = found if kind == SAMPLED else training.nearest_to(placed.rows)
        overlap = error_overlap(examiner.classes(placed.rows, "test") != labels, known, near.index)
        val_acc, val_loss = examiner.scores(placed.rows, "val")
        test_acc, test_loss = examiner.scores(placed.rows, "test")
        tables.append(
            pd.DataFrame(
                {
                    "networks": kind,
                    "network": np.arange(len(rows)),
                    "nearest": ids[near.index],
                    "distance": near.distance,
                    "unaligned": near.unaligned,
                    "wanted": found.distance,
                    "reached": placed.reached,
                    "val_acc": val_acc,
                    "val_loss": val_loss,
                    "test_acc": test_acc,
                    "test_loss": test_loss,
                    "error_overlap": overlap.nearest,
                    "max_error_overlap": overlap.largest,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def summarise_novelty(audit: pd.DataFrame) -> pd.DataFrame:
    """Average each kind, and say by how much samples lead it.

    Returns
    -------
    One row per kind: ``networks``, ``num``, mean and standard deviation of ``distance``, mean ``unaligned``, share
    ``reached``, mean and standard deviation of ``test_acc``, ``selected_test_acc`` (chosen on validation images),
    mean ``error_overlap`` and ``max_error_overlap``; ``lead`` is the mean of test accuracy of sample minus network
    over pairs at equal distance, ``lead_low`` and ``lead_high`` its 95 % interval (normal, over pairs), and
    ``lead_all`` the mean over all pairs: a network that did not reach the distance lies nearer to the training set,
    which favours it. NaN for the samples themselves.
    """
    sampled = audit[audit["networks"] == SAMPLED].set_index("network")["test_acc"]
    records = []
    for kind, part in audit.groupby("networks", sort=False):
        lead = sampled - part.set_index("network")["test_acc"] if kind != SAMPLED else sampled * float("nan")
        equal = lead[part.set_index("network")["reached"]]
        half = 1.96 * equal.std(ddof=1) / np.sqrt(len(equal)) if len(equal) > 1 else float("nan")
        records.append(
            {
                "networks": kind,
                "num": len(part),
                "distance": part["distance"].mean(),
                "distance_std": part["distance"].std(ddof=0),
                "unaligned": part["unaligned"].mean(),
                "reached": part["reached"].mean(),
                "test_acc": part["test_acc"].mean(),
                "test_acc_std": part["test_acc"].std(ddof=0),
                "selected_test_acc": part["test_acc"].iloc[select_on_validation(part)],
                "error_overlap": part["error_overlap"].mean(),
                "max_error_overlap": part["max_error_overlap"].mean(),
                "lead": equal.mean(),
                "lead_low": equal.mean() - half,
                "lead_high": equal.mean() + half,
                "lead_all": lead.mean(),
            }
        )
    return pd.DataFrame.from_records(records)
