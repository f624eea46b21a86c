"""A generative adversarial network in the latent space.

Source: "Hyper-Representations as Generative Models", section 3.2.4 (S_GAN): a generator from 16-D Gaussian noise.
The sizes of both networks are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from hyperrep.sampling.anchors import Points, check_anchors, check_number
from hyperrep.sampling.perceptron import build_perceptron, training_alone
from zookeeper.errors import InputError


@dataclass(frozen=True, slots=True)
class LatentGan:
    """Generator and discriminator with two hidden layers each, on standardised latents.

    Trained with the non-saturating loss (Goodfellow et al., 2014) and a penalty on the discriminator's gradient at
    the anchors (R1; Mescheder et al., "Which Training Methods for GANs do actually Converge?", 2018), without which
    a few hundred anchors are learnt by heart at once.

    Parameters
    ----------
    noise
        Width of the generator's Gaussian input, at least 1.
    hidden
        Width of the hidden layers, at least 1.
    steps, batch_size, lr
        Steps of Adam, each for both networks; anchors of a step; step size.
    penalty
        Weight of the gradient penalty, >= 0.
    seed
        Of initial weights and batches.

    Examples
    --------
    >>> anchors = np.random.default_rng(0).normal(size=(50, 6))
    >>> LatentGan(steps=2).fit(anchors).sample(4, np.random.default_rng(1)).shape
    (4, 6)
    """

    noise: int = 16
    hidden: int = 128
    steps: int = 1500
    batch_size: int = 64
    lr: float = 5e-4
    penalty: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("noise", "hidden", "steps", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"sampler gan: {name} must be 1 or more, got {getattr(self, name)}.")
        for name, least in (("lr", "> 0"), ("penalty", ">= 0")):
            value = getattr(self, name)
            if not np.isfinite(value) or value < 0 or (value == 0 and least == "> 0"):
                raise InputError(f"sampler gan: {name} must be a finite number {least}, got {value}.")

    def fit(self, anchors: np.ndarray, tokens: np.ndarray | None = None) -> FittedLatentGan:
        """Train on flattened latents ``[N, F]``; tokens play no part.

        Raises
        ------
        InputError
            If the anchors cannot be used, or training gives NaN.
        """
        points = check_anchors(anchors, "gan")
        mean, spread = points.mean(axis=0), points.std(axis=0, ddof=1)
        values = torch.from_numpy((points - mean) / spread).float()
        random = torch.Generator().manual_seed(self.seed)
        width = values.shape[1]
        generator = build_perceptron([self.noise, self.hidden, self.hidden, width], nn.ReLU, random)
        judge = build_perceptron([width, self.hidden, self.hidden, 1], nn.SiLU, random)
        with training_alone():
            self._train(generator, judge, values, random)
        if not all(bool(torch.isfinite(weight).all()) for weight in generator.parameters()):
            raise InputError("sampler gan: training diverged to NaN. Use a smaller lr.")
        return FittedLatentGan(mean, spread, generator.eval().requires_grad_(False), self.noise)

    def _train(self, generator: nn.Module, judge: nn.Module, values: torch.Tensor, random: torch.Generator) -> None:
        betas = (0.5, 0.99)
        generator_steps = torch.optim.Adam(generator.parameters(), lr=self.lr, betas=betas)
        judge_steps = torch.optim.Adam(judge.parameters(), lr=self.lr, betas=betas)
        for _ in range(self.steps):
            real = values[torch.randint(len(values), (self.batch_size,), generator=random)].requires_grad_()
            fake = generator(torch.randn(self.batch_size, self.noise, generator=random))
            verdict = judge(real)
            (slope,) = torch.autograd.grad(verdict.sum(), real, create_graph=True)
            loss = F.softplus(-verdict).mean() + F.softplus(judge(fake.detach())).mean()
            loss = loss + 0.5 * self.penalty * (slope**2).sum(1).mean()
            judge_steps.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            judge_steps.step()
            generator_steps.zero_grad()
            F.softplus(-judge(fake)).mean().backward()  # type: ignore[no-untyped-call]
            generator_steps.step()


@dataclass(frozen=True, slots=True, eq=False)
class FittedLatentGan:
    """A trained generator, and what standardised the latents: ``mean [F]``, ``spread [F]``."""

    mean: Points
    spread: Points
    network: nn.Module
    noise: int

    @torch.no_grad()
    def sample(self, num: int, generator: np.random.Generator) -> Points:
        """Draw latents ``[num, F]`` (float64)."""
        check_number(num, "gan")
        noise = torch.from_numpy(generator.standard_normal((num, self.noise))).float()
        drawn: Points = self.mean + self.spread * self.network(noise).double().numpy()
        return drawn
