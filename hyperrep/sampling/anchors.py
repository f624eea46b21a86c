"""What every sampler asks of its anchors, and how their columns fall into groups that are drawn together."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from zookeeper.errors import InputError

Together = Literal["dimension", "token", "network"]
Points = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
_FLOAT32_STEPS = 4  # latents are float32: what differs by less than this many of its steps does not vary


def check_anchors(anchors: np.ndarray, sampler: str, *, at_least: int = 2) -> Points:
    """Return the anchors as float64 ``[N, F]``, or say why no density can be fitted to them.

    Parameters
    ----------
    anchors
        Flattened latents ``[N, F]``.
    sampler
        Name for messages.
    at_least
        Smallest number of anchors the sampler works with.

    Raises
    ------
    InputError
        If the anchors are not a matrix, fewer than ``at_least``, hold NaN or infinity, or a column has one value
        in all of them: a dead latent dimension, whose density has no width.

    Examples
    --------
    >>> check_anchors(np.array([[0.0, 1.0], [1.0, 1.0]]), "kde")
    Traceback (most recent call last):
    zookeeper.errors.InputError: sampler kde: 1 of 2 latent dimensions never varies over the 2 anchors (first: 1). \
Choose other anchors, or keep such dimensions as they are: keep_constant.
    """
    points = np.asarray(anchors, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise InputError(f"sampler {sampler}: anchors must be a matrix [N, F], got shape {points.shape}.")
    num_bad = int((~np.isfinite(points).all(axis=1)).sum())
    if num_bad:
        raise InputError(
            f"sampler {sampler}: {num_bad} of {len(points)} anchors hold NaN or infinite latents. "
            "Leave diverged models out."
        )
    if len(points) < at_least:
        raise InputError(
            f"sampler {sampler}: too few anchors; expected {at_least} or more, got {len(points)}. "
            "Take a larger share of the train models as anchors."
        )
    constant = np.flatnonzero(~varying(points))
    if len(constant):
        verb = "varies" if len(constant) == 1 else "vary"
        raise InputError(
            f"sampler {sampler}: {len(constant)} of {points.shape[1]} latent dimensions never {verb} over the "
            f"{len(points)} anchors (first: {constant[0]}). "
            "Choose other anchors, or keep such dimensions as they are: keep_constant."
        )
    return points


def varying(points: np.ndarray) -> npt.NDArray[np.bool_]:
    """Which columns of ``[N, F]`` take more than one value, as far as float32 can tell: bool ``[F]``.

    >>> varying(np.array([[0.0, 1.0, 5.0], [1.0, 1.0, 5.0 + 1e-9]])).tolist()
    [True, False, False]
    """
    values = np.asarray(points, dtype=np.float64)
    step = _FLOAT32_STEPS * np.finfo(np.float32).eps * np.abs(values).max(axis=0)
    result: npt.NDArray[np.bool_] = np.ptp(values, axis=0) > step
    return result


def check_number(num: int, sampler: str) -> None:
    """Refuse to draw fewer than one sample."""
    if num < 1:
        raise InputError(f"sampler {sampler}: number of samples must be 1 or more, got {num}.")


def groups_of(together: Together, num_columns: int, tokens: np.ndarray | None, sampler: str) -> Index:
    """Group of every column, int64 ``[F]`` with groups 0..G-1: one each, one per token, or one for all.

    Parameters
    ----------
    tokens
        Token of every column, int ``[F]``; needed for ``together="token"``.

    Raises
    ------
    InputError
        If tokens are asked for and not given, or given for another number of columns.

    Examples
    --------
    >>> groups_of("token", 4, np.array([7, 7, 9, 9]), "kde").tolist()
    [0, 0, 1, 1]
    """
    if together == "dimension":
        return np.arange(num_columns, dtype=np.int64)
    if together == "network":
        return np.zeros(num_columns, dtype=np.int64)
    if tokens is None:
        raise InputError(
            f"sampler {sampler}: draws per token, but these latents have no tokens; expected the token of each of "
            f"{num_columns} columns. Use dimension or network instead."
        )
    if np.shape(tokens) != (num_columns,):
        raise InputError(
            f"sampler {sampler}: expected the token of each of {num_columns} columns, got shape {np.shape(tokens)}."
        )
    return np.unique(tokens, return_inverse=True)[1].astype(np.int64)
