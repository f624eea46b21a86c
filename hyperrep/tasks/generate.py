"""Generation: new networks from a density over the latents of good anchors.

Roles are fixed by types: anchors come from train models only, a sample is chosen on validation images,
and test images are looked at once. Source: "Structure and Behavior in Weight Space Representation
Learning", section 4.2.3, Tables 2 and 6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist, pdist

from hyperrep.sampling import Sampler
from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.method import Autoencoder as Autoencoder
from hyperrep.tasks.method import Method
from hyperrep.tasks.split import ZooSplit, select_on_validation
from hyperrep.weights.alignment import Aligner
from zookeeper.errors import InputError
from zookeeper.nets.symmetry import Symmetry


@dataclass(frozen=True, slots=True, eq=False)
class Anchors:
    """Train models good enough to learn a density from, one checkpoint each.

    Raises
    ------
    InputError
        If the checkpoints are not from the train split or there are none.
    """

    checkpoints: ZooSplit
    threshold: float

    def __post_init__(self) -> None:
        if self.checkpoints.role != "train":
            raise InputError(f"anchors: expected models of the train split, got the {self.checkpoints.role} split.")
        if len(self.checkpoints) == 0:
            raise InputError(f"anchors: no train model has val_acc >= {self.threshold:g}. Lower the threshold.")

    @classmethod
    def select(cls, train: ZooSplit, *, share: float = 0.3, epoch: int | None = None) -> Anchors:
        """Take the best ``share`` of the train models by validation accuracy at one epoch (default: the last).

        Models that tie with the last one taken are anchors too. Diverged models never are.
        """
        if not 0 < share <= 1:
            raise InputError(f"anchors: share must be in (0, 1], got {share}.")
        usable = train.finite()
        last = usable.frame["epoch"].max() if epoch is None else epoch
        usable = usable.where((usable.frame["epoch"] == last).to_numpy())
        if len(usable) == 0:
            raise InputError(f"anchors: the train split holds no usable checkpoint of epoch {last}.")
        accuracy = usable.frame["val_acc"].to_numpy(dtype=np.float64)
        rank = max(1, round(share * len(accuracy)))
        threshold = float(np.sort(accuracy)[-rank])
        return cls(usable.where(accuracy >= threshold), threshold)

    def aligned(self, symmetry: Symmetry, seed: int = 0) -> Anchors:
        """Exchange hidden units of every anchor so that it matches the best one; no anchor's function changes.

        Distances and diversity then count what permutations do not explain, and anchors can be mixed.
        """
        best = select_on_validation(self.checkpoints.frame)
        rows = torch.from_numpy(np.require(self.checkpoints.rows, requirements=("C", "W")))
        matched = Aligner(symmetry, rows[best], seed).align(rows).numpy()
        return Anchors(ZooSplit("train", self.checkpoints.frame, matched), self.threshold)

    def __len__(self) -> int:
        return len(self.checkpoints)


def sample_rows(
    autoencoder: Autoencoder, anchors: Anchors, sampler: Sampler, num: int, generator: np.random.Generator
) -> np.ndarray:
    """Draw ``num`` new networks, float32 ``[num, P]``: encode anchors, fit, sample, decode.

    The same generator state gives the same networks. No image is looked at; `hyperrep.tasks.selection` draws more
    and keeps the best.
    """
    rows = anchors.checkpoints.rows
    return Method(autoencoder, sampler).fit(rows).draw(num, generator).rows


def examine_samples(rows: np.ndarray, anchors: Anchors, examiner: Examiner) -> pd.DataFrame:
    """Measure every sample: validation and test images, and how new it is.

    Returns
    -------
    One row per sample: ``sample``, ``val_acc``, ``val_loss``, ``test_acc``, ``test_loss``,
    ``nearest_anchor`` (its model_id), ``distance`` (L2 of the weights to it, unaligned) and ``novelty``
    (that distance over the mean distance between anchors: 0 is a copy, 1 is as far as anchors are apart).
    """
    val_acc, val_loss = examiner.scores(rows, "val")
    test_acc, test_loss = examiner.scores(rows, "test")
    anchor_rows = anchors.checkpoints.rows.astype(np.float64)
    distances = cdist(rows.astype(np.float64), anchor_rows)
    nearest = distances.argmin(axis=1)
    return pd.DataFrame(
        {
            "sample": np.arange(len(rows)),
            "val_acc": val_acc,
            "val_loss": val_loss,
            "test_acc": test_acc,
            "test_loss": test_loss,
            "nearest_anchor": anchors.checkpoints.frame["model_id"].to_numpy()[nearest],
            "distance": distances.min(axis=1),
            "novelty": distances.min(axis=1) / _mean_pairwise(anchor_rows),
        }
    )


def summarise_samples(
    samples: pd.DataFrame, rows: np.ndarray, anchors: Anchors, zoo: pd.DataFrame, examiner: Examiner
) -> pd.DataFrame:
    """Put the samples beside the zoo, selected the same way, and their novelty and diversity beside both.

    Parameters
    ----------
    samples, rows
        `examine_samples` and the networks it measured.
    zoo
        Frame of every checkpoint of the zoo that counts as "the best model of the zoo".

    Returns
    -------
    One row: ``num_samples``, ``num_anchors``, ``anchor_threshold``; ``selected_test_acc`` (test accuracy
    of the sample chosen on validation images), ``zoo_selected_test_acc`` (of the zoo's checkpoint chosen
    the same way), ``mean_test_acc``, ``median_test_acc``, ``max_test_acc``, ``zoo_max_test_acc`` (both
    maxima are selected on test images: an upper bound, not a result), ``anchor_mean_test_acc``, ``novelty``
    (median), ``diversity`` and ``anchor_diversity`` (mean pairwise L2 of weights), ``disagreement`` and
    ``anchor_disagreement`` (mean share of test images on which two of them differ).
    """
    usable = zoo[zoo["status"] == "ok"] if "status" in zoo else zoo
    anchor_rows = anchors.checkpoints.rows
    record = {
        "num_samples": len(samples),
        "num_anchors": len(anchors),
        "anchor_threshold": anchors.threshold,
        "selected_test_acc": samples["test_acc"].iloc[select_on_validation(samples)],
        "zoo_selected_test_acc": usable["test_acc"].iloc[select_on_validation(usable)],
        "mean_test_acc": samples["test_acc"].mean(),
        "median_test_acc": samples["test_acc"].median(),
        "max_test_acc": samples["test_acc"].max(),
        "zoo_max_test_acc": usable["test_acc"].max(),
        "anchor_mean_test_acc": anchors.checkpoints.frame["test_acc"].mean(),
        "novelty": samples["novelty"].median(),
        "diversity": _mean_pairwise(rows.astype(np.float64)),
        "anchor_diversity": _mean_pairwise(anchor_rows.astype(np.float64)),
        "disagreement": _mean_disagreement(examiner.classes(rows, "test")),
        "anchor_disagreement": _mean_disagreement(examiner.classes(anchor_rows, "test")),
    }
    return pd.DataFrame([record])


def _mean_pairwise(points: np.ndarray) -> float:
    return float(pdist(points).mean()) if len(points) > 1 else float("nan")


def _mean_disagreement(classes: np.ndarray) -> float:
    return float(pdist(classes, metric="hamming").mean()) if len(classes) > 1 else float("nan")
