"""A hyper-representation as a scikit-learn transformer: a thin face on `fit`, `embed`, `encode` and `decode`."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.exceptions import NotFittedError

from hyperrep.config import TrainConfig, load_config
from hyperrep.training.data import FitData
from hyperrep.training.fit import fit
from hyperrep.training.saved import HyperRepresentation, load
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout


class WeightTransformer(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Turn rows of weights ``[N, P]`` into features, in a `sklearn.pipeline.Pipeline` or alone.

    Training on rows alone has no images and no architecture to permute: ``loss.beta`` must be 1 and
    ``augment.permute`` false, unless ``data`` brings what they need. To use a trained one: `WeightTransformer.load`.

    Parameters
    ----------
    config
        A `TrainConfig`, its plain values, or the path of a YAML file.
    layout
        Columns of the rows.
    features
        What `transform` returns: ``embedding``, the mean latent of each layer, or ``latent``, all of it as one row,
        which `inverse_transform` turns back into weights.
    data
        Population, permutations and queries for the training; its rows and layout are not read.
    out
        Folder for the trained model and its checkpoint; None keeps neither.

    Examples
    --------
    >>> from sklearn.base import clone
    >>> layout = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight"), "fc.bias": ((2,), "bias")})
    >>> config = {"name": "toy", "tokens": {"width": 4}, "loss": {"gamma": 0.0, "beta": 1.0},
    ...     "model": {"d_model": 8, "num_heads": 2, "num_layers": 1, "latent": 3},
    ...     "augment": {"permute": False}, "training": {"steps": 2, "batch_size": 4}}
    >>> transformer = clone(WeightTransformer(config, layout, features="latent"))
    >>> rows = np.ones((5, 8), dtype=np.float32)
    >>> latents = transformer.fit_transform(rows)
    >>> latents.shape, transformer.inverse_transform(latents).shape
    ((5, 6), (5, 8))
    """

    def __init__(
        self,
        config: TrainConfig | Mapping[str, Any] | str | Path | None = None,
        layout: WeightLayout | None = None,
        *,
        features: str = "embedding",
        data: FitData | None = None,
        out: str | Path | None = None,
    ) -> None:
        self.config, self.layout, self.features, self.data, self.out = config, layout, features, data, out

    @classmethod
    def load(cls, path: str | Path, *, features: str = "embedding") -> WeightTransformer:
        """Open a saved hyper-representation as a fitted transformer."""
        hyper = load(path)
        transformer = cls(hyper.config, hyper.layout, features=features)
        transformer.hyper_ = hyper
        return transformer

    def fit(self, X: np.ndarray, y: object = None) -> WeightTransformer:
        """Train on rows ``[N, P]``; ``y`` is not read.

        Raises
        ------
        InputError
            If config or layout are missing, or the rows do not fit them.
        """
        self._check_features()
        if self.config is None or self.layout is None:
            raise InputError("WeightTransformer: fit needs a config and a layout. Pass both, or use load.")
        rows = torch.from_numpy(np.ascontiguousarray(X, dtype=np.float32))
        data = FitData(rows, self.layout) if self.data is None else self._data_with(rows)
        with tempfile.TemporaryDirectory() as scratch:
            self.hyper_ = fit(_config_of(self.config), data, scratch if self.out is None else self.out)
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Features of rows ``[N, P]``: ``[N, F]``, float32."""
        hyper = self._fitted()
        if self.features == "embedding":
            return np.asarray(hyper.embed(np.asarray(X)))
        return np.asarray(hyper.encode(np.asarray(X)).flatten(1))

    def inverse_transform(self, X: np.ndarray) -> np.ndarray:
        """Weights ``[N, P]`` of latents as `transform` returns them with ``features="latent"``."""
        hyper = self._fitted()
        if self.features != "latent":
            raise InputError("WeightTransformer: an embedding is an average and has no inverse. Use features='latent'.")
        latents = torch.as_tensor(np.asarray(X), dtype=torch.float32)
        if latents.ndim != 2 or latents.shape[1] != int(np.prod(hyper.latent_shape)):
            raise InputError(
                f"WeightTransformer: latents have shape {tuple(latents.shape)}; "
                f"expected [N, {int(np.prod(hyper.latent_shape))}]."
            )
        return np.asarray(hyper.decode(latents.view(-1, *hyper.latent_shape)))

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """Names of the columns of `transform`."""
        hyper = self._fitted()
        if self.features == "embedding":
            return np.array(hyper.embedding_names, dtype=object)
        return np.array([f"z{number:04d}" for number in range(int(np.prod(hyper.latent_shape)))], dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "hyper_")

    def _fitted(self) -> HyperRepresentation:
        self._check_features()
        if not hasattr(self, "hyper_"):
            raise NotFittedError("WeightTransformer is not fitted. Call fit, or open a trained one with load.")
        hyper: HyperRepresentation = self.hyper_
        return hyper

    def _check_features(self) -> None:
        if self.features not in ("embedding", "latent"):
            raise InputError(f"WeightTransformer: unknown features {self.features!r}; expected embedding or latent.")

    def _data_with(self, rows: torch.Tensor) -> FitData:
        assert self.data is not None
        assert self.layout is not None
        given = self.data
        return FitData(
            rows, self.layout, given.population, given.permutations, given.queries, query_images=given.query_images
        )


def _config_of(config: TrainConfig | Mapping[str, Any] | str | Path) -> TrainConfig:
    if isinstance(config, TrainConfig):
        return config
    if isinstance(config, Mapping):
        return TrainConfig.model_validate_json(json.dumps(dict(config)))
    return load_config(config)
