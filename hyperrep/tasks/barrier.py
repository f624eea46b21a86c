"""Loss and accuracy along the straight line between two networks, before and after alignment.

Source: Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (2020), section 2, for the
barrier; Ainsworth et al., "Git Re-Basin" (2023), section 4, for the comparison.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.split import Role
from hyperrep.weights.alignment import Aligner
from zookeeper.errors import InputError
from zookeeper.nets.symmetry import Symmetry

BEFORE, AFTER = "before", "after"


def draw_pairs(frame: pd.DataFrame, num: int, seed: int) -> np.ndarray:
    """Draw pairs of networks that have nothing in common but the zoo.

    Both checkpoints of a pair are of one epoch. Where the frame has a column ``seed`` with more than one value, they
    are of different seeds: networks that began alike are aligned from birth.

    Parameters
    ----------
    frame
        One row per checkpoint with ``model_id`` and ``epoch``.
    num
        Number of pairs, drawn without repetition while there are enough.
    seed
        Decides the draw.

    Returns
    -------
    Row numbers int64 ``[num, 2]``.

    Raises
    ------
    InputError
        If there are fewer than ``num`` such pairs.

    Examples
    --------
    >>> frame = pd.DataFrame({"model_id": ["a", "b", "c"], "epoch": 5, "seed": [0, 0, 1]})
    >>> sorted(sorted(pair) for pair in draw_pairs(frame, 2, seed=0).tolist())
    [[0, 2], [1, 2]]
    """
    models, epochs = pd.factorize(frame["model_id"])[0], frame["epoch"].to_numpy()
    seeds = frame["seed"].to_numpy() if "seed" in frame and frame["seed"].nunique() > 1 else models
    generator = np.random.default_rng(seed)
    pairs: list[tuple[int, int]] = []
    for first in generator.permutation(len(frame)):
        fits = (epochs == epochs[first]) & (seeds != seeds[first]) & (models != models[first])
        fits[[n for pair in pairs if first in pair for n in pair]] = False
        others = np.flatnonzero(fits)
        if len(others) and len(pairs) < num:
            pairs.append((int(first), int(generator.choice(others))))
    if num < 1 or len(pairs) < num:
        raise InputError(
            f"--pairs: expected 1 to {len(pairs)} (models of one epoch and different seeds), got {num}. "
            "Ask for fewer pairs or choose more models."
        )
    return np.array(pairs, dtype=np.int64)


def interpolate(start: torch.Tensor, end: torch.Tensor, num_points: int) -> torch.Tensor:
    """Networks ``[N, T, P]`` at T even steps from rows ``start [N, P]`` to rows ``end [N, P]``, both included.

    Running statistics of batch norms are interpolated like weights.

    >>> interpolate(torch.zeros(1, 2), torch.tensor([[2.0, 4.0]]), 3).tolist()
    [[[0.0, 0.0], [1.0, 2.0], [2.0, 4.0]]]
    """
    if start.shape != end.shape or start.ndim != 2 or num_points < 3:
        raise InputError(
            f"interpolate: rows have shapes {tuple(start.shape)} and {tuple(end.shape)} and {num_points} points; "
            "expected [N, P] twice and 3 points or more."
        )
    return torch.lerp(start[:, None], end[:, None], torch.linspace(0, 1, num_points).to(start)[None, :, None])


def barrier(values: np.ndarray) -> np.ndarray:
    """How far values ``[N, T]`` along a path rise above the straight line between their ends, 0 or more ``[N]``.

    Of a loss that is the barrier as it is; of an accuracy pass its negative.

    >>> barrier(np.array([[0.0, 3.0, 2.0], [1.0, 0.0, 1.0]])).tolist()
    [2.0, 0.0]
    """
    t = np.linspace(0, 1, values.shape[1])
    chord = (1 - t) * values[:, :1] + t * values[:, -1:]
    above: np.ndarray = (values - chord).max(axis=1)
    return above


def compare_alignment(
    starts: torch.Tensor,
    ends: torch.Tensor,
    symmetry: Symmetry,
    examiner: Examiner,
    *,
    images: Role,
    num_points: int = 25,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Walk from each start to its end, and to the same end after it was aligned to the start.

    All networks of all paths go through one stacked evaluation.

    Parameters
    ----------
    starts, ends
        float32 ``[N, P]``.
    symmetry
        Of their architecture.
    images
        The image split they are evaluated on.
    num_points
        T, points of a path.
    seed
        Of the alignment.

    Returns
    -------
    Paths: ``pair``, ``alignment`` (before | after), ``t`` in [0, 1], ``loss`` in nats, ``acc`` in [0, 1]. Pairs, one
    row per pair and alignment: ``l2`` distance of the weights, ``loss_barrier``, ``acc_barrier``, and ``loss_ends``,
    ``acc_ends``, the means of both ends.
    """
    moved = torch.cat([Aligner(symmetry, one, seed).align(end[None]) for one, end in zip(starts, ends, strict=True)])
    kinds = {BEFORE: ends, AFTER: moved}
    networks = torch.stack([interpolate(starts, end, num_points) for end in kinds.values()])  # [2, N, T, P]
    accuracy, loss = examiner.scores(networks.flatten(0, 2).numpy(), images)
    shape = networks.shape[:3]
    scores: Mapping[str, np.ndarray] = {"loss": loss.reshape(shape), "acc": accuracy.reshape(shape)}
    kind, pair, point = (axis.ravel() for axis in np.indices(shape))
    names = np.array(list(kinds))
    t = np.linspace(0, 1, num_points)[point]
    paths = pd.DataFrame({"pair": pair, "alignment": names[kind], "t": t} | {k: v.ravel() for k, v in scores.items()})
    pairs = [
        pd.DataFrame(
            {
                "pair": np.arange(len(starts)),
                "alignment": name,
                "l2": (starts.double() - end.double()).norm(dim=1).numpy(),
                "loss_barrier": barrier(scores["loss"][number].astype(np.float64)),
                "acc_barrier": barrier(-scores["acc"][number].astype(np.float64)),
                "loss_ends": scores["loss"][number][:, [0, -1]].mean(axis=1),
                "acc_ends": scores["acc"][number][:, [0, -1]].mean(axis=1),
            }
        )
        for number, (name, end) in enumerate(kinds.items())
    ]
    return paths, pd.concat(pairs, ignore_index=True)


def summarise_barriers(pairs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation over the pairs, one row per alignment."""
    measures = ["l2", "loss_barrier", "acc_barrier", "loss_ends", "acc_ends"]
    groups = pairs.groupby("alignment", sort=False)[measures]
    spread = groups.std(ddof=0).add_suffix("_std")
    return groups.mean().join(spread).reset_index().assign(num=groups.size().to_numpy())
