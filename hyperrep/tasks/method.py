"""How new networks are made of anchors: a space, a sampler in it, and what is done to what comes out.

The space is the latent of a hyper-representation, or the weights themselves (`WeightSpace`), where the baselines of
paper 004 and of Zeng et al. (2025) live: the same samplers work in both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from hyperrep.sampling import FittedSampler, Sampler
from hyperrep.sampling.anchors import varying
from hyperrep.tasks.curvature import FlatNoise
from hyperrep.weights.encodings import build_tokeniser
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout


class Autoencoder(Protocol):
    """The part of a hyper-representation that generation needs."""

    def encode(self, rows: np.ndarray) -> np.ndarray | torch.Tensor:
        """Rows ``[N, P]`` to latents ``[N, T, Z]`` or ``[N, Z]``."""
        ...

    def decode(self, latents: np.ndarray) -> np.ndarray | torch.Tensor:
        """Latents to rows ``[N, P]``."""
        ...


@dataclass(frozen=True, eq=False)
class WeightSpace:
    """Weights as their own latent: nothing is encoded, nothing lost.

    >>> layout = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight"), "fc.bias": ((2,), "bias")})
    >>> WeightSpace(layout).tokens.tolist()
    [0, 0, 0, 1, 1, 1, 0, 1]
    """

    layout: WeightLayout

    def encode(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows ``[N, P]``."""
        if rows.ndim != 2 or rows.shape[1] != self.layout.num_weights:
            raise InputError(f"weights: rows have shape {rows.shape}; expected [N, {self.layout.num_weights}].")
        return rows

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Return the latents ``[N, P]``, running variances below 0 mirrored: no network has them."""
        variances = [block.name for block in self.layout.blocks if block.kind == "running_var"]
        rows = latents.copy()
        columns = self.layout.columns(variances)
        rows[:, columns] = np.abs(rows[:, columns])
        return rows

    @property
    def tokens(self) -> np.ndarray:
        """Output channel or neuron of every column, int64 ``[P]``: what crossover takes from one anchor."""
        tokeniser = build_tokeniser(self.layout, "neuron")
        real = tokeniser.mask.numpy()
        channels = np.empty(self.layout.num_weights, dtype=np.int64)
        channels[tokeniser.columns.numpy()[real]] = np.nonzero(real)[0]
        return channels


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """New networks that nobody has looked at: ``rows`` float32 ``[n, P]`` and their ``latents`` ``[n, ...]``."""

    rows: np.ndarray
    latents: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Method:
    """A space, a sampler, and what is done to decoded networks.

    Parameters
    ----------
    autoencoder
        A hyper-representation, or `WeightSpace`.
    sampler
        Density to fit to the latents of the anchors.
    keep_constant
        Whether latent dimensions that never vary over the anchors are kept at their value. Otherwise they are an
        error: most often they say that part of the autoencoder is dead.
    noise
        Added to the weights of decoded rows.
    finish
        Applied to rows ``[n, P]`` after that, such as `hyperrep.tasks.batchnorm.BatchNormConditioning`.
    """

    autoencoder: Autoencoder
    sampler: Sampler
    keep_constant: bool = False
    noise: FlatNoise | None = None
    finish: Callable[[np.ndarray], np.ndarray] | None = None

    def fit(self, rows: np.ndarray) -> FittedMethod:
        """Encode anchors ``[N, P]`` and fit the density.

        Raises
        ------
        InputError
            If the rows do not belong to the autoencoder's architecture, or their latents cannot be used.
        """
        return self.fit_latents(np.asarray(self.autoencoder.encode(rows)))

    def fit_latents(self, latents: np.ndarray) -> FittedMethod:
        """Fit the density to latents ``[N, ...]`` as the autoencoder makes them."""
        points = latents.reshape(len(latents), -1)
        tokens = self._tokens(latents.shape[1:])
        keep = np.ones(points.shape[1], dtype=bool)
        if self.keep_constant and len(points) and np.isfinite(points).all():
            keep = varying(points)
        if not keep.any():
            raise InputError("generation: all anchors have the same latent. Choose other anchors.")
        density = self.sampler.fit(points[:, keep], None if tokens is None else tokens[keep])
        return FittedMethod(self, density, latents[0].copy(), keep)

    def _tokens(self, shape: tuple[int, ...]) -> np.ndarray | None:
        if isinstance(self.autoencoder, WeightSpace):
            return self.autoencoder.tokens
        return np.repeat(np.arange(shape[0]), shape[1]) if len(shape) == 2 else None


@dataclass(frozen=True, eq=False)
class FittedMethod:
    """A fitted density over those entries of a latent that vary; the others have the value of ``template``."""

    method: Method
    density: FittedSampler
    template: np.ndarray
    varies: np.ndarray

    def draw(self, num: int, generator: np.random.Generator) -> Samples:
        """Draw ``num`` new networks; the generator alone decides which."""
        drawn = self.density.sample(num, generator)
        latents = np.tile(self.template.reshape(1, -1), (num, 1))
        latents[:, self.varies] = drawn
        latents = latents.reshape(num, *self.template.shape)
        rows = np.asarray(self.method.autoencoder.decode(latents), dtype=np.float32)
        if self.method.noise is not None:
            rows = self.method.noise.add(rows, generator)
        return Samples(rows if self.method.finish is None else self.method.finish(rows), latents)
