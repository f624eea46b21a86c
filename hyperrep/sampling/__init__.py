"""New latents drawn from a density fitted to anchors; one file per sampler, one small interface."""

from __future__ import annotations

from hyperrep.sampling.average import AnchorAverage
from hyperrep.sampling.counterfactual import Counterfactual
from hyperrep.sampling.crossover import Crossover
from hyperrep.sampling.flow import LatentFlow
from hyperrep.sampling.gan import LatentGan
from hyperrep.sampling.interface import FittedSampler, Sampler
from hyperrep.sampling.kde import Kde
from hyperrep.sampling.neighbour import Neighbour
from hyperrep.sampling.noise import AnchorNoise
from hyperrep.sampling.pca_kde import FittedPcaKde, PcaKde
from hyperrep.sampling.registry import SAMPLERS, build_sampler, describe_sampler
from hyperrep.sampling.uniform import Uniform

__all__ = [
    "SAMPLERS",
    "AnchorAverage",
    "AnchorNoise",
    "Counterfactual",
    "Crossover",
    "FittedPcaKde",
    "FittedSampler",
    "Kde",
    "LatentFlow",
    "LatentGan",
    "Neighbour",
    "PcaKde",
    "Sampler",
    "Uniform",
    "build_sampler",
    "describe_sampler",
]
