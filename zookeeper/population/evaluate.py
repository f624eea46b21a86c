"""Accuracy and loss of a whole population, stacked like training.

Images are shared by all models, so the first convolution is one dense convolution. Models go through in tiles and
images in chunks, about as many of one as of the other: what a pass pays once per model (kernels brought into the
library's order) and once per image (patches) is then shared by as many as fit. A pass of 40 MB is larger than a
core's own cache, but smaller ones lose more to calls (`benchmarks/evaluation.py --passes`); a single value above
32 MB would be mapped anew at every call.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F

from zookeeper.errors import InputError
from zookeeper.population.lower import Population

_PASS_BYTES = 40_000_000
_DEVICE_BYTES = 2_000_000_000
_MAX_MODELS = 64
_LEAST_IMAGES = 8


class Images(Protocol):
    """Images that can be counted and cut: a tensor ``[n, C, H, W]``, or what makes one from stored pixels."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice) -> torch.Tensor: ...


@dataclass(frozen=True)
class Evaluation:
    """Mean cross-entropy and accuracy per model, float32 ``[M]`` each; loss in nats, accuracy in [0, 1]."""

    loss: torch.Tensor
    accuracy: torch.Tensor


def _passes(population: Population, num_models: int, num_images: int, device: torch.device) -> tuple[int, int]:
    """Models and images of one pass, from shapes alone so that results do not depend on the machine's load."""
    per_pair = 4 * population.activation_floats
    if device.type != "cpu":
        models = max(1, num_models)
        return models, _even(num_images, max(_LEAST_IMAGES, _DEVICE_BYTES // (per_pair * models)))
    pairs = _PASS_BYTES // per_pair
    models = _even(num_models, min(_MAX_MODELS, math.isqrt(pairs)))
    return models, _even(num_images, max(_LEAST_IMAGES, pairs // models))


def _even(num: int, most: int) -> int:
    """Size of the parts when ``num`` are cut into as few as hold ``most`` or fewer, none much smaller than another.

    >>> _even(100, 28), _even(5, 28), _even(0, 28)
    (25, 5, 1)
    """
    parts = -(-num // max(1, most))
    return -(-num // parts) if parts else 1


def logits_by_pass(
    population: Population, rows: torch.Tensor, images: Images
) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Yield (models, images, logits ``[m, b, K]``) of every pass; the grid of passes covers all pairs once."""
    models, chunk = _passes(population, rows.shape[0], len(images), rows.device)
    for first in range(0, rows.shape[0], models):
        members = slice(first, min(first + models, rows.shape[0]))
        for start in range(0, len(images), chunk):
            part = slice(start, min(start + chunk, len(images)))
            yield members, part, population.forward(rows[members], images[part])


@torch.inference_mode()
def evaluate(population: Population, rows: torch.Tensor, images: Images, labels: torch.Tensor) -> Evaluation:
    """Measure loss and accuracy of M networks on the same images.

    A network with NaN outputs gets a NaN loss and the accuracy of the class that argmax then returns.

    Parameters
    ----------
    rows
        ``[M, P]``.
    images, labels
        ``[n, C, H, W]`` normalised (or `Images` that give such tensors), and int64 ``[n]``; n is 1 or more.

    Raises
    ------
    InputError
        If there are no images, or rows or images do not fit the architecture.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> population = Population(net, (1, 2, 2))
    >>> rows = torch.zeros(3, population.layout.num_weights)
    >>> result = evaluate(population, rows, torch.randn(6, 1, 2, 2), torch.zeros(6, dtype=torch.int64))
    >>> result.accuracy.tolist()
    [1.0, 1.0, 1.0]
    >>> [round(v, 4) for v in result.loss.tolist()]
    [0.6931, 0.6931, 0.6931]
    """
    if len(images) == 0:
        raise InputError("evaluate: there are no images; expected one or more.")
    loss = torch.zeros(rows.shape[0], dtype=torch.float64, device=rows.device)
    correct = torch.zeros(rows.shape[0], dtype=torch.int64, device=rows.device)
    for members, part, logits in logits_by_pass(population, rows, images):
        num_models, num_images, num_classes = logits.shape
        target = labels[part]
        losses = F.cross_entropy(logits.reshape(-1, num_classes), target.repeat(num_models), reduction="none").view(
            num_models, num_images
        )
        loss[members] += losses.sum(1, dtype=torch.float64)
        correct[members] += (logits.argmax(2) == target).sum(1)
    num = len(images)
    return Evaluation((loss / num).to(torch.float32), (correct.to(torch.float64) / num).to(torch.float32))


@torch.inference_mode()
def predict(population: Population, rows: torch.Tensor, images: Images) -> torch.Tensor:
    """Predict the class of every image by every network: int64 ``[M, n]``."""
    classes = torch.empty((rows.shape[0], len(images)), dtype=torch.int64, device=rows.device)
    for members, part, logits in logits_by_pass(population, rows, images):
        classes[members, part] = logits.argmax(2)
    return classes
