"""Ensembles: the averaged outputs of several networks classify together.

Members are chosen on validation images, or drawn at random as in the paper; test images are looked at once.
Source: Schürholt et al., "Hyper-Representations as Generative Models" (2022), section 4.2.2, Figure 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.split import Role
from zookeeper.errors import InputError
from zookeeper.population.evaluate import logits_by_pass

CHOSEN, DRAWN = "best on validation", "drawn at random"
_BYTES = 64_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """Orders in which networks join an ensemble, fixed before a test image is seen.

    ``rows`` are the networks ``[M, P]``; ``orders`` int64 ``[R, k]`` gives for each of R ensembles who joins
    first, second, ...; ``rule`` says how they were found.
    """

    rows: np.ndarray
    orders: np.ndarray
    rule: str

    @classmethod
    def choose(cls, rows: np.ndarray, examiner: Examiner, size: int) -> Members:
        """Take the ``size`` networks with the highest validation accuracy (ties: lowest loss), best first."""
        accuracy, loss = examiner.scores(rows, "val")
        order = np.lexsort((np.nan_to_num(loss, nan=np.inf), -accuracy))[: _checked(size, len(rows))]
        return cls(rows[order], np.arange(len(order))[None], CHOSEN)

    @classmethod
    def draw(cls, rows: np.ndarray, size: int, num: int, generator: np.random.Generator) -> Members:
        """Draw ``num`` ensembles of ``size`` different networks each; nothing is selected."""
        size = _checked(size, len(rows))
        orders = np.stack([generator.permutation(len(rows))[:size] for _ in range(num)])
        used, places = np.unique(orders, return_inverse=True)
        return cls(rows[used], places.reshape(orders.shape), DRAWN)


def _checked(size: int, num: int) -> int:
    if num == 0 or size < 1:
        raise InputError(f"ensemble: expected at least one network and a size of 1 or more, got {num} and {size}.")
    return min(size, num)


def ensemble_accuracies(members: Members, examiner: Examiner, role: Role = "test") -> np.ndarray:
    """Accuracy of the first 1, 2, ..., k members of each ensemble, float64 ``[R, k]``.

    The logits of all networks are one stacked pass over each chunk of images; averages of the first 1 to k are
    one running sum. A network with NaN outputs makes every ensemble it has joined worthless.
    """
    labels = examiner.labels(role)
    correct = np.zeros(members.orders.shape)
    for part, logits in logits_by_chunk(examiner, members.rows, role):
        for number, order in enumerate(members.orders):
            sums = torch.cumsum(logits[order], dim=0)
            classes = torch.where(torch.isfinite(sums).all(2), sums.argmax(2), -1)
            correct[number] += (classes.numpy() == labels[part]).sum(axis=1)
    return correct / len(labels)


@torch.inference_mode()
def logits_by_chunk(examiner: Examiner, rows: np.ndarray, role: Role) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield (images, logits ``[M, b, K]``) of all networks on some images at a time; memory is bounded."""
    population, images = examiner.population, examiner.images[role].images
    weights = torch.from_numpy(np.require(rows, np.float32, ("C", "W")))
    per_image = 8 * len(rows) * population.num_classes
    step = max(1, _BYTES // per_image)
    for start in range(0, len(images), step):
        part = slice(start, min(start + step, len(images)))
        chunk = images[part]
        logits = torch.empty(len(rows), len(chunk), population.num_classes)
        for who, which, values in logits_by_pass(population, weights, chunk):
            logits[who, which] = values
        yield part, logits


def compare_ensembles(
    kinds: Mapping[str, np.ndarray], examiner: Examiner, *, size: int = 15, num_drawn: int = 15, seed: int = 0
) -> pd.DataFrame:
    """Test ensembles of 1 to ``size`` networks of each kind: the best on validation, and random ones.

    Parameters
    ----------
    kinds
        Name -> rows ``[M, P]``, such as samples and anchors.
    num_drawn
        How many random ensembles are averaged.

    Returns
    -------
    One row per kind, rule and size: ``networks`` (the kind), ``rule`` (best on validation | drawn at random),
    ``size``, ``test_acc`` (mean over ensembles), ``test_acc_std`` (0 for the chosen one), ``num_ensembles``.

    Raises
    ------
    InputError
        If a kind has no networks or rows do not fit the architecture.
    """
    records = []
    for number, (kind, rows) in enumerate(kinds.items()):
        generator = np.random.default_rng([seed, number])
        for members in (Members.choose(rows, examiner, size), Members.draw(rows, size, num_drawn, generator)):
            accuracies = ensemble_accuracies(members, examiner)
            for count, column in enumerate(accuracies.T, start=1):
                records.append(
                    {
                        "networks": kind,
                        "rule": members.rule,
                        "size": count,
                        "test_acc": float(column.mean()),
                        "test_acc_std": float(column.std()),
                        "num_ensembles": len(column),
                    }
                )
    return pd.DataFrame.from_records(records)
