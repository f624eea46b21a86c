"""A bounded sample of a zoo's weights: their spread by tensor over the epochs, and a map of the models.

However large the zoo, about `READ_FLOATS` weights are read for each of the two, and what is held at a time is one batch
or the map's matrix.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module, util

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.linalg
from tqdm import tqdm

from zookeeper.errors import InputError
from zookeeper.zoo import RowBatch, Zoo

Floats = npt.NDArray[np.float64]
READ_FLOATS = 1 << 27
MAP_METHODS = ("pca", "umap")
_BATCH_FLOATS = 1 << 21
_MAP_COLUMNS = 4096
_NUM_EPOCHS = 16
_NEIGHBOURS = 15
_MODELS_OF_SPREAD = (8, 200)
_MODELS_OF_MAP = (40, 1200)


@dataclass(frozen=True, slots=True, eq=False)
class TensorSpread:
    """Standard deviation of one tensor's weights within a model, over models, at some epochs.

    ``quartiles`` is [3, E]: lower quartile, median and upper quartile over models.
    """

    name: str
    shape: tuple[int, ...]
    quartiles: Floats
    last_mean: float
    last_low: float
    last_high: float


@dataclass(frozen=True, slots=True, eq=False)
class SpreadSample:
    """The spread of every tensor, [T] entries, and what was read for it."""

    epochs: tuple[int, ...]
    tensors: tuple[TensorSpread, ...]
    num_models: int


@dataclass(frozen=True, slots=True, eq=False)
class ModelMap:
    """Places of models in a plane, [N, 2], beside their N lines of the frame.

    ``shares`` are the shares of variance of the two axes for PCA, None for UMAP.
    """

    method: str
    places: Floats
    frame: pd.DataFrame
    num_columns: int
    shares: tuple[float, float] | None


def widest_layout(zoo: Zoo) -> Zoo:
    """Keep the finite checkpoints of the layout that most checkpoints have."""
    frame = zoo.frame
    if "status" in frame:
        zoo = zoo[(frame["status"] != "diverged").to_numpy()]
    if len(zoo.header.layouts) < 2 or len(zoo) == 0:
        return zoo
    names, places = np.unique(zoo.layout_digests, return_inverse=True)
    return zoo[places == int(np.bincount(places, minlength=len(names)).argmax())]


def sample_spread(zoo: Zoo) -> SpreadSample:
    """Measure every tensor's spread in some models at up to 16 epochs; ``zoo`` has one layout."""
    layout = zoo.layout
    picked = np.unique(np.linspace(0, len(zoo.epochs) - 1, _NUM_EPOCHS).round().astype(int))
    epochs = tuple(zoo.epochs[place] for place in picked)
    frame = zoo.frame
    names = pd.unique(frame["model_id"])
    low, high = _MODELS_OF_SPREAD
    count = min(len(names), max(low, min(high, READ_FLOATS // (layout.num_weights * len(epochs)))))
    chosen = names[_spaced(len(names), count)]
    at_epochs = np.flatnonzero(frame["epoch"].isin(epochs).to_numpy() & frame["model_id"].isin(chosen).to_numpy())
    part = zoo.take(at_epochs)
    spread, mean, low_, high_ = (np.empty((len(part), len(layout.blocks))) for _ in range(4))
    start = 0
    for batch in _read(part):
        rows = slice(start, start + len(batch.weights))
        for number, block in enumerate(layout.blocks):
            values = batch.weights[:, block.columns]
            spread[rows, number] = values.std(axis=1, dtype=np.float64)
            mean[rows, number] = values.mean(axis=1, dtype=np.float64)
            low_[rows, number], high_[rows, number] = values.min(axis=1), values.max(axis=1)
        start = rows.stop
    at = part.frame["epoch"].to_numpy()
    last = at == epochs[-1]
    quartiles = np.stack([np.nanquantile(spread[at == epoch], (0.25, 0.5, 0.75), axis=0) for epoch in epochs], axis=1)
    tensors = tuple(
        TensorSpread(
            name=block.name,
            shape=block.shape,
            quartiles=quartiles[:, :, number],
            last_mean=float(mean[last, number].mean()),
            last_low=float(low_[last, number].min()),
            last_high=float(high_[last, number].max()),
        )
        for number, block in enumerate(layout.blocks)
    )
    return SpreadSample(epochs, tensors, count)


def map_models(zoo: Zoo, method: str) -> ModelMap | None:
    """Place each model's last checkpoint in a plane by its weights; None for fewer than three models.

    Weights are centred; of wide networks 4,096 columns are drawn with a fixed seed, so a map can be repeated.

    Raises
    ------
    InputError
        If ``method`` is unknown, or is ``umap`` and the package umap-learn is not installed.
    """
    check_method(method)
    frame = zoo.frame
    last = np.flatnonzero(~frame["model_id"].duplicated(keep="last").to_numpy())
    if len(last) < 3:
        return None
    width = zoo.layout.num_weights
    low, high = _MODELS_OF_MAP
    count = min(len(last), max(low, min(high, READ_FLOATS // width)))
    part = zoo.take(last[_spaced(len(last), count)])
    columns = np.arange(width)
    if width > _MAP_COLUMNS:
        columns = np.sort(np.random.default_rng(0).choice(width, _MAP_COLUMNS, replace=False))
    matrix = np.empty((count, len(columns)), np.float32)
    start = 0
    for batch in _read(part):
        matrix[start : start + len(batch.weights)] = batch.weights[:, columns]
        start += len(batch.weights)
    finite = np.flatnonzero(np.isfinite(matrix).all(axis=1))
    if len(finite) < 3:
        return None
    matrix, lines = matrix[finite], part[finite].frame
    if method == "umap":
        return ModelMap(method, _umap_plane(matrix), lines, len(columns), None)
    places, shares = principal_plane(matrix)
    return ModelMap(method, places, lines, len(columns), shares)


def check_method(method: str) -> None:
    """Raise `InputError` unless a method of mapping is known and installed."""
    if method not in MAP_METHODS:
        raise InputError(f"--map: unknown method {method!r}; expected {' or '.join(MAP_METHODS)}.")
    if method == "umap" and util.find_spec("umap") is None:
        raise InputError(
            "--map umap: needs the package umap-learn, which is not installed. "
            "Run pip install umap-learn, or use --map pca."
        )


def principal_plane(rows: npt.NDArray[np.float32]) -> tuple[Floats, tuple[float, float]]:
    """Project rows [N, P] on their first two principal components; also the share of variance of each.

    The sign of an axis is such that its largest coordinate is positive.

    >>> places, shares = principal_plane(np.float32([[0, 0, 1], [2, 0, 1], [-2, 0, 1]]))
    >>> places.round(3).tolist(), shares
    ([[0.0, 0.0], [2.0, 0.0], [-2.0, 0.0]], (1.0, 0.0))
    """
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    gram = centred @ centred.T
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=[len(rows) - 2, len(rows) - 1])
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    places = vectors * np.sqrt(values) + 0.0
    flip = places[np.abs(places).argmax(axis=0), [0, 1]] < 0
    places = np.where(flip, -places, places) + 0.0
    total = max(float(np.trace(gram)), 1e-300)
    return places, (round(float(values[0] / total), 6), round(float(values[1] / total), 6))


def _umap_plane(rows: npt.NDArray[np.float32]) -> Floats:
    """Place rows [N, P] by UMAP with its defaults, or with fewer neighbours where there are not so many rows."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImportWarning)  # of a part of umap that needs tensorflow
        umap = import_module("umap")
    few = len(rows) <= _NEIGHBOURS  # the spectral start needs more rows than it finds vectors
    neighbours = min(_NEIGHBOURS, len(rows) - 1)
    settings = {"n_neighbors": neighbours, "init": "random" if few else "spectral", "random_state": 0, "n_jobs": 1}
    return np.asarray(umap.UMAP(n_components=2, **settings).fit_transform(rows), np.float64)


def _read(part: Zoo) -> Iterator[RowBatch]:
    """Read a view in small batches; a bar appears if it takes long."""
    with tqdm(total=len(part), desc="reading weights", unit="checkpoint", delay=2, disable=None, leave=False) as bar:
        for batch in part.batches(max(1, _BATCH_FLOATS // part.layout.num_weights)):
            yield batch
            bar.update(len(batch.weights))


def _spaced(length: int, count: int) -> npt.NDArray[np.int64]:
    """``count`` different places in 0..length-1, drawn with a fixed seed: an even spacing could follow a factor."""
    if count >= length:
        return np.arange(length)
    return np.sort(np.random.default_rng(0).choice(length, count, replace=False))
