"""Latent flow matching: a modern density model in a few lines.

Source: Lipman et al., "Flow Matching for Generative Modeling" (2023), eq. 23 with sigma_min = 0: a network learns the
velocity x1 - x0 along straight lines from Gaussian noise x0 to data x1; integrating it turns noise into samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hyperrep.sampling.anchors import Points, check_anchors, check_number
from hyperrep.sampling.perceptron import build_perceptron, training_alone
from hyperrep.sampling.projection import Projection, check_components
from zookeeper.errors import InputError


@dataclass(frozen=True, slots=True)
class LatentFlow:
    """Flow matching on whitened principal components.

    Parameters
    ----------
    num_components
        Dimensions kept by the projection; at least 1 and fewer than the number of anchors.
    hidden
        Width of the three hidden layers, at least 1.
    steps, batch_size, lr
        Steps of Adam (step size falling to 0 along a cosine), anchors of a step, first step size. More steps
        learn the anchors by heart.
    integration
        Steps of Heun's method from noise to sample, at least 1.
    seed
        Of initial weights and batches.

    Examples
    --------
    >>> anchors = np.random.default_rng(0).normal(size=(50, 6))
    >>> LatentFlow(num_components=3, steps=2).fit(anchors).sample(4, np.random.default_rng(1)).shape
    (4, 6)
    """

    num_components: int = 32
    hidden: int = 128
    steps: int = 2000
    batch_size: int = 128
    lr: float = 2e-3
    integration: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        check_components(self.num_components, "flow")
        for name in ("hidden", "steps", "batch_size", "integration"):
            if getattr(self, name) < 1:
                raise InputError(f"sampler flow: {name} must be 1 or more, got {getattr(self, name)}.")
        if not (np.isfinite(self.lr) and self.lr > 0):
            raise InputError(f"sampler flow: lr must be a finite number > 0, got {self.lr}.")

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedLatentFlow:
        """Train on flattened latents ``[N, F]``; tokens play no part.

        Raises
        ------
        InputError
            If the anchors cannot be used or vary in too few directions, or training gives NaN.
        """
        projection = Projection.fit(check_anchors(anchors, "flow"), self.num_components, "flow")
        spread = projection.scores.std(axis=0, ddof=1)
        values = torch.from_numpy(projection.scores / spread).float()
        random = torch.Generator().manual_seed(self.seed)
        sizes = [self.num_components + 1, self.hidden, self.hidden, self.hidden, self.num_components]
        velocity = build_perceptron(sizes, nn.SiLU, random)
        with training_alone():
            self._train(velocity, values, random)
        if not all(bool(torch.isfinite(weight).all()) for weight in velocity.parameters()):
            raise InputError("sampler flow: training diverged to NaN. Use a smaller lr.")
        return FittedLatentFlow(projection, spread, velocity.eval().requires_grad_(False), self.integration)

    def _train(self, velocity: nn.Module, values: torch.Tensor, random: torch.Generator) -> None:
        optimiser = torch.optim.Adam(velocity.parameters(), lr=self.lr)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        for _ in range(self.steps):
            data = values[torch.randint(len(values), (self.batch_size,), generator=random)]
            noise = torch.randn(data.shape, generator=random)
            time = torch.rand(self.batch_size, 1, generator=random)
            between = (1 - time) * noise + time * data
            loss = ((velocity(torch.cat([between, time], 1)) - (data - noise)) ** 2).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            decay.step()


@dataclass(frozen=True, slots=True, eq=False)
class FittedLatentFlow:
    """A projection with the ``spread [K]`` of its coordinates, and a velocity field over them."""

    projection: Projection
    spread: Points
    velocity: nn.Module
    integration: int

    @torch.no_grad()
    def sample(self, num: int, generator: np.random.Generator) -> Points:
        """Draw latents ``[num, F]`` (float64)."""
        check_number(num, "flow")
        state = torch.from_numpy(generator.standard_normal((num, len(self.spread)))).float()
        step = 1 / self.integration
        for number in range(self.integration):
            start = self._velocity(state, number * step)
            end = self._velocity(state + step * start, (number + 1) * step)
            state = state + step * (start + end) / 2
        return self.projection.back(state.double().numpy() * self.spread)

    def _velocity(self, state: torch.Tensor, time: float) -> torch.Tensor:
        result: torch.Tensor = self.velocity(torch.cat([state, torch.full((len(state), 1), time)], 1))
        return result
