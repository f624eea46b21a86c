"""Reconstruction: is the decoded network close to the original in weights, and does it behave like it?

Source: "Structure and Behavior in Weight Space Representation Learning", section 4.2.2, Figure 2, Table 5.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.split import Role, ZooSplit, select_on_validation
from zookeeper.errors import InputError

STAND_IN = "best train model for all"


def compare(
    originals: ZooSplit, reconstructions: np.ndarray, examiner: Examiner, *, images: Role = "test"
) -> pd.DataFrame:
    """Compare each checkpoint with its reconstruction, pairwise.

    Parameters
    ----------
    originals
        Checkpoints with their rows ``[N, P]``.
    reconstructions
        float32 ``[N, P]`` in the same order.
    images
        The image split on which behaviour is measured.

    Returns
    -------
    One row per checkpoint: ``model_id``, ``epoch``, ``split``, ``l2`` (distance of the weights),
    ``agreement`` (share of images with the same argmax), ``acc`` and ``acc_reconstructed`` on those
    images, ``above_chance`` (the original's accuracy exceeds `LabelledImages.chance_threshold`).

    Raises
    ------
    InputError
        If the shapes differ.
    """
    if reconstructions.shape != originals.rows.shape:
        raise InputError(
            f"reconstructions: expected shape {originals.rows.shape} like the originals, got {reconstructions.shape}."
        )
    labels = examiner.labels(images)
    before = examiner.classes(originals.rows, images)
    after = examiner.classes(reconstructions, images)
    accuracy = (before == labels).mean(axis=1)
    difference = originals.rows.astype(np.float64) - reconstructions
    frame = originals.frame[["model_id", "epoch"]].reset_index(drop=True)
    return frame.assign(
        split=originals.role,
        l2=np.sqrt((difference**2).sum(axis=1)),
        agreement=(before == after).mean(axis=1),
        acc=accuracy,
        acc_reconstructed=(after == labels).mean(axis=1),
        above_chance=accuracy > examiner.images[images].chance_threshold,
    )


def summarise(comparison: pd.DataFrame) -> pd.DataFrame:
    """Average a comparison over all models, over those above chance, and over the latter at the last epoch.

    Returns
    -------
    One row per group (``all``, ``above chance``, ``above chance, last epoch``): ``num`` checkpoints, mean
    and standard deviation of ``l2`` and ``agreement``, mean and best accuracy of originals and
    reconstructions. A group without checkpoints has ``num`` 0 and NaN elsewhere.
    """
    last = comparison["epoch"].max()
    above = comparison[comparison["above_chance"]]
    groups = {"all": comparison, "above chance": above, "above chance, last epoch": above[above["epoch"] == last]}
    return pd.DataFrame(
        [
            {
                "models": name,
                "num": len(part),
                "l2": part["l2"].mean(),
                "l2_std": part["l2"].std(ddof=0),
                "agreement": part["agreement"].mean(),
                "agreement_std": part["agreement"].std(ddof=0),
                "acc": part["acc"].mean(),
                "acc_reconstructed": part["acc_reconstructed"].mean(),
                "best_acc": part["acc"].max(),
                "best_acc_reconstructed": part["acc_reconstructed"].max(),
            }
            for name, part in groups.items()
        ]
    )


def compare_stand_in(train: ZooSplit, originals: ZooSplit, examiner: Examiner) -> pd.DataFrame:
    """Compare each checkpoint with one and the same network: the train model chosen on validation images.

    This is what an autoencoder reaches that decodes everything to one good network. Agreement up to here needs
    no knowledge of the original.

    Returns
    -------
    A frame like that of `compare`.
    """
    if train.role != "train":
        raise InputError(f"stand-in: expected models of the train split, got the {train.role} split.")
    chosen = train.rows[select_on_validation(train.frame)]
    return compare(originals, np.repeat(chosen[None], len(originals), axis=0), examiner)
