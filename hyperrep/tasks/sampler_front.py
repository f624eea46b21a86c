"""Accuracy, diversity and novelty of every sampler on one zoo: the front that a choice is made on.

Only validation images are looked at. Diversity and novelty are reported as the weights stand and after the hidden
units of all networks were matched to one of the anchors: a sampler must not look diverse because its networks are
permuted copies, nor lack diversity because its networks are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.spatial.distance import cdist, pdist

from hyperrep.tasks.behaviour import Examiner
from hyperrep.tasks.generate import Anchors
from hyperrep.tasks.recipe import AnchorSection, Recipe, build_method, draw_rows, select_anchors, with_changes
from hyperrep.tasks.selection import ValidationImages
from hyperrep.tasks.split import select_on_validation
from hyperrep.training.saved import HyperRepresentation
from hyperrep.training.zoo import read_symmetry
from hyperrep.weights.alignment import Aligner
from zookeeper.errors import InputError
from zookeeper.nets.symmetry import Symmetry
from zookeeper.zoo import Zoo

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "uniform": {"sampler": {"name": "uniform"}},
        "counterfactual": {"sampler": {"name": "counterfactual"}},
        "kde, per dimension": {"sampler": {"name": "kde"}},
        "kde, per token": {"sampler": {"name": "kde", "together": "token"}},
        "kde, joint": {"sampler": {"name": "kde", "together": "network"}},
        "kde, joint, cross-validated": {
            "sampler": {"name": "kde", "together": "network", "bandwidth": "cross-validated"}
        },
        "kde, joint, full kernel": {"sampler": {"name": "kde", "together": "network", "kernel": "full"}},
        "kde, joint, full kernel, spread 1.4": {
            "sampler": {"name": "kde", "together": "network", "kernel": "full", "spread": 1.4}
        },
        "kde, joint, full kernel, flat noise": {
            "sampler": {"name": "kde", "together": "network", "kernel": "full"}, "weight_noise.scale": 1.0
        },
        "pca-kde": {"sampler": {"name": "pca-kde"}},
        "neighbour": {"sampler": {"name": "neighbour"}},
        "gan": {"sampler": {"name": "gan"}},
        "flow": {"sampler": {"name": "flow"}},
        "crossover": {"sampler": {"name": "crossover"}},
        "crossover, aligned": {"sampler": {"name": "crossover"}, "anchors.align": True},
        "noise": {"sampler": {"name": "noise", "scale": 0.5}},
        "average": {"sampler": {"name": "average"}},
        "weights: noise 0.1": {"sampler": {"name": "noise", "scale": 0.1}, "space": "weights"},
        "weights: noise 0.5": {"sampler": {"name": "noise", "scale": 0.5}, "space": "weights"},
        "weights: flat noise": {
            "sampler": {"name": "noise", "scale": 0.0}, "space": "weights", "weight_noise.scale": 1.0
        },
        "weights: crossover": {"sampler": {"name": "crossover"}, "space": "weights"},
        "weights: crossover, aligned": {
            "sampler": {"name": "crossover"}, "space": "weights", "anchors.align": True
        },
        "weights: average": {"sampler": {"name": "average"}, "space": "weights"},
        "weights: average, aligned": {"sampler": {"name": "average"}, "space": "weights", "anchors.align": True},
        "pca-kde, best of 5": {"sampler": {"name": "pca-kde"}, "selection.draws": 5},
        "pca-kde, best of 5, 2 rounds": {"sampler": {"name": "pca-kde"}, "selection.draws": 5, "selection.rounds": 2},
        "full kernel, spread 1.4, diverse of 5": {
            "sampler": {"name": "kde", "together": "network", "kernel": "full", "spread": 1.4},
            "selection.draws": 5, "selection.keep": "diverse",
        },
        "full kernel, flat noise, best of 5": {
            "sampler": {"name": "kde", "together": "network", "kernel": "full"}, "weight_noise.scale": 1.0,
            "selection.draws": 5,
        },
    }
)  # fmt: skip


def sampler_front(
    hyper: HyperRepresentation,
    zoo: Zoo,
    examiner: Examiner,
    methods: Mapping[str, Mapping[str, Any]] = METHODS,
    *,
    num: int = 200,
    seed: int = 0,
    anchor_share: float = 0.3,
    say: Callable[[str], None] = lambda line: None,
) -> pd.DataFrame:
    """Draw ``num`` networks by every method, from the same anchors, and measure them on validation images.

    Parameters
    ----------
    methods
        Name -> changes of a `Recipe`, by path; ``selection.draws`` is in multiples of ``num``.
    say
        Told what is being done.

    Returns
    -------
    One row per method, after those of the anchors and of their reconstructions: ``method``; ``val_acc``,
    ``val_acc_std``, ``best_val_acc`` over the networks; ``diversity`` (mean pairwise L2 of weights over that of the
    anchors), ``novelty`` (median L2 to the nearest anchor over the mean distance of anchors), and both again after
    alignment of all networks to the best anchor, ``aligned_diversity`` and ``aligned_novelty``; ``disagreement``
    (mean share of validation images on which two networks differ); ``seconds`` to fit and draw; ``error``, empty
    unless the sampler refused these anchors.
    """
    validation = ValidationImages.of(examiner)
    anchors = select_anchors(zoo, AnchorSection(share=anchor_share))
    rows = anchors.checkpoints.rows
    measure = partial(_measure, validation=validation, spread=Spread(anchors, read_symmetry(zoo)))
    records = [
        {"method": "anchors", **measure(rows), "novelty": np.nan, "aligned_novelty": np.nan, "seconds": 0.0},
        {"method": "reconstructed anchors", **measure(np.asarray(hyper.reconstruct(rows))), "seconds": 0.0},
    ]
    plain = with_changes(Recipe(), {"samples": num, "seed": seed, "anchors.share": anchor_share})
    for name, changes in methods.items():
        say(f"{name} ...")
        draws = changes.get("selection.draws")
        recipe = with_changes(plain, {**changes, "selection.draws": None if draws is None else draws * num})
        started = time.perf_counter()
        try:
            chosen = select_anchors(zoo, recipe.anchors)
            drawn = draw_rows(build_method(recipe, hyper, zoo, examiner, chosen), recipe, chosen, validation)
        except InputError as error:
            records.append({"method": name, "error": str(error)})
            continue
        seconds = time.perf_counter() - started
        records.append({"method": name, **measure(drawn), "seconds": seconds})
    return pd.DataFrame(records).assign(error=lambda frame: frame.get("error", pd.Series(dtype=str)).fillna(""))


class Spread:
    """How far apart networks lie, and how far from the anchors, as they stand and with hidden units matched.

    Parameters
    ----------
    anchors
        What distances are compared with; hidden units are matched to the best of them.
    symmetry
        The hidden units of the architecture.
    """

    def __init__(self, anchors: Anchors, symmetry: Symmetry) -> None:
        rows = anchors.checkpoints.rows
        best = select_on_validation(anchors.checkpoints.frame)
        self._aligner = Aligner(symmetry, torch.from_numpy(rows[best].copy()))
        self._anchors = {"": rows.astype(np.float64), "aligned_": self._align(rows)}
        self._scale = {prefix: float(pdist(points).mean()) for prefix, points in self._anchors.items()}

    def __call__(self, rows: np.ndarray) -> dict[str, float]:
        """Measure rows ``[n, P]``: ``diversity``, ``novelty``, ``aligned_diversity``, ``aligned_novelty``."""
        finite = bool(np.isfinite(rows).all())
        places = {"": rows.astype(np.float64), "aligned_": self._align(rows) if finite else np.full(rows.shape, np.nan)}
        return {
            f"{prefix}{name}": value / self._scale[prefix]
            for prefix, points in places.items()
            for name, value in (
                ("diversity", float(pdist(points).mean())),
                ("novelty", float(np.median(cdist(points, self._anchors[prefix]).min(axis=1)))),
            )
        }

    def _align(self, rows: np.ndarray) -> np.ndarray:
        return self._aligner.align(torch.from_numpy(np.array(rows))).numpy().astype(np.float64)


def _measure(rows: np.ndarray, validation: ValidationImages, spread: Spread) -> dict[str, float]:
    accuracy, _ = validation.scores(rows)
    return {
        "val_acc": float(accuracy.mean()),
        "val_acc_std": float(accuracy.std()),
        "best_val_acc": float(accuracy.max()),
        "disagreement": float(pdist(validation.classes(rows), metric="hamming").mean()),
        **spread(rows),
    }
