"""Accuracy and loss of a whole population, stacked like training.

Images are shared by all models, so the first convolution is one dense convolution; models go through
in tiles and images in chunks chosen so that the activations of one pass stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional as F

from zookeeper.errors import InputError
from zookeeper.population.lower import Population

_CACHE_BYTES = 8_000_000
_DEVICE_BYTES = 2_000_000_000
_MAX_MODELS = 64


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
    budget = _CACHE_BYTES if device.type == "cpu" else _DEVICE_BYTES
    models = max(1, min(num_models, _MAX_MODELS if device.type == "cpu" else num_models))
    per_image = 4 * population.activation_floats * models
    return models, max(1, min(num_images, max(8, budget // per_image)))


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
