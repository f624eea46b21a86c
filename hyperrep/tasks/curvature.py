"""Noise on weights along directions that the outputs of networks hardly notice.

A decoder says where a network lies up to what its latent has lost; most of what is lost are directions in which a
network can move without doing anything else. A Gaussian around a decoded network that is as wide as the zoo's weights
and narrow where the loss is curved is the Laplace approximation of the posterior, at a low temperature. Curvature is
the generalised Gauss-Newton matrix, averaged over networks and training images and known by random gradients.

Sources: MacKay, "A Practical Bayesian Framework for Backpropagation Networks" (1992); Ritter et al., "A Scalable
Laplace Approximation for Neural Networks" (2018); Wenzel et al., "How Good is the Bayes Posterior in Deep Neural
Networks Really?" (2020) for the temperature.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field

from hyperrep.config.numbers import PositiveInt
from hyperrep.tasks.behaviour import Examiner
from hyperrep.training.streams import keyed_generator
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.population import Population
from zookeeper.spec.document import Section

_PASS_NUMBERS = 1 << 26  # activations of one pass: 256 MB


class WeightNoise(Section):
    """How wide the noise is and how well curvature is known; ``scale`` 0 adds none.

    Parameters
    ----------
    scale
        Deviation in directions without curvature, in units of the deviation of the anchors' weights, layer by layer
        and kind by kind.
    temperature
        Divides the curvature of the training loss: 1 is the Laplace approximation itself, lower is narrower.
    gradients, images
        How many random gradients the curvature is estimated from, each over so many training images. Directions
        beyond the number of gradients count as flat, so there should be more of them than weights.
    seed
        Of the random gradients.
    """

    scale: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    gradients: PositiveInt = 4000
    images: PositiveInt = 128
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True, slots=True, eq=False)
class FlatNoise:
    """A Gaussian over weights with precision ``1 / deviation^2 + curvature``, in the form it is drawn in.

    Parameters
    ----------
    deviation
        Without curvature, float64 ``[P]``; 0 for running statistics, which are no weights.
    directions
        Orthonormal directions with curvature in units of the deviation, float64 ``[K, P]``.
    shrink
        What is left of the noise along each, in (0, 1], ``[K]``.

    Examples
    --------
    >>> noise = FlatNoise(np.ones(2), np.array([[1.0, 0.0]]), np.array([1e-6]))
    >>> moved = noise.add(np.zeros((3, 2), np.float32), np.random.default_rng(0))
    >>> bool((np.abs(moved[:, 0]) < 1e-5).all() and (np.abs(moved[:, 1]) > 1e-2).all())
    True
    """

    deviation: np.ndarray
    directions: np.ndarray
    shrink: np.ndarray

    @classmethod
    def fit(
        cls, settings: WeightNoise, examiner: Examiner, networks: np.ndarray, anchors: np.ndarray, layout: WeightLayout
    ) -> FlatNoise:
        """Measure deviation on anchors and curvature on networks, both float32 ``[N, P]``, and training images.

        Raises
        ------
        InputError
            If weights or gradients are not finite.
        """
        images = examiner.images["train"].images
        deviation = settings.scale * block_deviation(anchors, layout)
        gradients = random_gradients(examiner.population, networks, images, settings)
        if not np.isfinite(deviation).all() or not np.isfinite(gradients).all():
            raise InputError(
                "weight noise: the networks it is fitted to have weights or gradients that are not finite. "
                "Choose other anchors, or set weight_noise.scale to 0."
            )
        scaled = gradients * deviation * np.sqrt(len(images) / settings.temperature / len(gradients))
        directions, curvature = principal_axes(scaled)
        return cls(deviation, directions, 1.0 / np.sqrt(1.0 + curvature))

    def add(self, rows: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Return rows float32 ``[n, P]`` with noise; the generator alone decides which."""
        noise = generator.standard_normal(rows.shape)
        noise -= ((noise @ self.directions.T) * (1.0 - self.shrink)) @ self.directions
        moved: np.ndarray = (rows + noise * self.deviation).astype(np.float32)
        return moved


def block_deviation(rows: np.ndarray, layout: WeightLayout) -> np.ndarray:
    """Deviation of the weights of every block over networks ``[N, P]``, spread over its columns; float64 ``[P]``.

    >>> layout = WeightLayout.from_shapes({"fc.weight": ((1, 2), "weight"), "fc.bias": ((1,), "bias")})
    >>> block_deviation(np.array([[1.0, 3.0, 7.0]], np.float32), layout).tolist()
    [1.0, 1.0, 0.0]
    """
    deviation = np.zeros(layout.num_weights)
    for block in layout.blocks:
        if block.offset < layout.num_trainable:
            columns = slice(block.offset, block.offset + block.size)
            deviation[columns] = rows[:, columns].std(dtype=np.float64)
    return deviation


def random_gradients(
    population: Population, networks: np.ndarray, images: torch.Tensor, settings: WeightNoise
) -> np.ndarray:
    """Random gradients whose mean outer product is the Gauss-Newton matrix of the cross-entropy; float64 ``[G, P]``.

    Networks take turns until there are ``settings.gradients``; each gradient is over other images.
    """
    draw = keyed_generator(settings.seed, "curvature")
    size = min(settings.images, len(images))
    tile = max(1, _PASS_NUMBERS // (population.activation_floats * size))
    turns = torch.arange(settings.gradients) % len(networks)
    parts = []
    for members in torch.split(turns, min(tile, len(networks))):
        batch = images[torch.randperm(len(images), generator=draw)[:size]]
        rows = torch.from_numpy(networks[members.numpy()]).requires_grad_()
        logits = population.forward(rows, batch)
        chance = logits.detach().softmax(-1)
        weighted = chance.sqrt() * torch.randn(logits.shape, generator=draw)
        cotangent = weighted - chance * weighted.sum(-1, keepdim=True)  # covariance: diag(p) - p p'
        (gradient,) = torch.autograd.grad(logits, rows, cotangent)
        parts.append(gradient.double() / size**0.5)
    return torch.cat(parts).numpy()


def principal_axes(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvectors ``[K, P]`` and eigenvalues ``[K]`` of ``points' points``, by the smaller of its two products.

    >>> axes, values = principal_axes(np.array([[3.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
    >>> values.tolist(), np.abs(axes).round(6).tolist()
    ([4.0, 9.0], [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    """
    if len(points) >= points.shape[1]:
        values, vectors = np.linalg.eigh(points.T @ points)
        return vectors.T, values.clip(min=0.0)
    values, vectors = np.linalg.eigh(points @ points.T)
    real = values > values.max(initial=0.0) * 1e-12
    return (vectors[:, real] / np.sqrt(values[real])).T @ points, values[real]
