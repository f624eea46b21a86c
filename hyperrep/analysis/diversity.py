"""How diverse a zoo is: the variance of its weights, all over and within groups; a map of it in two dimensions.

Source: Schürholt et al., "Self-Supervised Representation Learning on Neural Network Weights for Model
Characteristic Prediction" (2021), Table 4 (VAR and VAR_c) and Figure 4 (UMAP).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hyperrep.baselines.projections import ProjectionName, fit_projection
from zookeeper.errors import InputError

GROUPED_BY = ("init", "activation")


def weight_variance(rows: np.ndarray, frame: pd.DataFrame, by: Sequence[str] = GROUPED_BY) -> pd.DataFrame:
    """VAR and VAR_c: variance over networks, mean over columns; of all, and the mean of that within groups.

    Parameters
    ----------
    rows
        ``[N, P]``, finite.
    frame
        One row per network.
    by
        Factors that make a group; those that the frame does not have make none. The paper groups by initialisation
        and activation.

    Returns
    -------
    One row: ``var``, ``var_c``, ``num_groups``, ``num``.

    Examples
    --------
    >>> frame = pd.DataFrame({"init": ["a", "a", "b", "b"]})
    >>> weight_variance(np.array([[0.0], [2.0], [4.0], [6.0]]), frame)[["var", "var_c"]].to_numpy().tolist()
    [[5.0, 1.0]]
    """
    if rows.ndim != 2 or len(rows) != len(frame) or len(rows) == 0:
        raise InputError(f"variance: expected one row per line of the frame, got {rows.shape} and {len(frame)}.")
    values = rows.astype(np.float64)
    names = [name for name in by if name in frame]
    groups = frame.groupby(names, observed=True).ngroup().to_numpy() if names else np.zeros(len(frame), dtype=np.int64)
    within = [values[groups == group].var(axis=0).mean() for group in np.unique(groups)]
    record = {"var": float(values.var(axis=0).mean()), "var_c": float(np.mean(within))}
    return pd.DataFrame([{**record, "num_groups": len(within), "num": len(rows)}])


def map_networks(
    rows: np.ndarray, *, method: ProjectionName = "UMAP", most: int = 2_000, seed: int = 0
) -> pd.DataFrame:
    """Place networks on a plane, near ones near each other.

    Parameters
    ----------
    rows
        ``[N, P]``, finite, at least 3.
    method
        UMAP as in the paper, or another projection of `hyperrep.baselines.projections`.
    most
        Of more rows, this many evenly spaced ones are placed.

    Returns
    -------
    ``place`` (position in ``rows``), ``x``, ``y``; one seed gives one map.
    """
    places = np.arange(len(rows)) if len(rows) <= most else np.linspace(0, len(rows) - 1, most).round().astype(np.int64)
    chosen = rows[places]
    points = fit_projection(method, chosen, 2, seed=seed)(chosen)
    return pd.DataFrame({"place": places, "x": points[:, 0], "y": points[:, 1]})
