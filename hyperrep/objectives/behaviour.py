"""The behavioural part of the loss: how far the outputs of decoded networks are from the originals'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch.nn import functional as F

from hyperrep.objectives.gradient import attach_gradient
from zookeeper.errors import InputError

OutputKind = Literal["softmax", "raw"]
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Mean over models and queries of a distance of decoded outputs ``[V * M, B, K]`` from outputs ``[M, B, K]``."""

_CPU_MODELS = 32
_TILE_BYTES = {"cpu": 64_000_000, "cuda": 4_000_000_000}


class Network(Protocol):
    """A population's stacked forward pass (`zookeeper.population`), differentiable in the rows."""

    @property
    def activation_floats(self) -> int:
        """Numbers that one network produces on its way from one image to its logits."""
        ...

    def forward(self, rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Compute logits ``[M, B, K]`` of rows ``[M, P]`` on images ``[B, C, H, W]``."""
        ...


@torch.no_grad()
def outputs_of(network: Network, rows: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Compute logits ``[M, B, K]`` tile by tile, without a gradient; memory is that of one tile and the logits."""
    models, queries = _tile(network, rows, images)
    return torch.cat(
        [
            torch.cat([network.forward(part, some) for some in torch.split(images, queries)], dim=1)
            for part in torch.split(rows, models)
        ]
    )


def behaviour_part(
    network: Network, decoded: torch.Tensor, rows: torch.Tensor, images: torch.Tensor, distance: Distance
) -> torch.Tensor:
    """Average the distance of decoded networks' outputs from the originals' over models and queries.

    Both means are taken tile by tile, some networks on some images, and the gradient of a tile is computed at once:
    memory is that of one tile, 64 MB of activations and as much of their gradients on a CPU, whatever the batch, the
    queries and the network, and no activation is computed twice. Differentiable once, in ``decoded``.

    Parameters
    ----------
    network
        Stacked forward pass.
    decoded
        ``[V * M, P]``: V decoded views of M networks, view after view.
    rows
        The originals ``[M, P]``; they get no gradient.
    images
        Queries ``[B, C, H, W]``.
    distance
        What is averaged, as a mean over the models and queries of a tile.

    Examples
    --------
    >>> from torch import nn
    >>> from zookeeper.population import Population
    >>> population = Population(nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False)), (1, 1, 1))
    >>> decoded = torch.tensor([[1.0], [4.0]], requires_grad=True)
    >>> distance = lambda decoded, logits: behaviour_loss(decoded, logits, outputs="raw")
    >>> loss = behaviour_part(population, decoded, torch.tensor([[2.0]]), torch.ones(3, 1, 1, 1), distance)
    >>> loss.backward()
    >>> loss.item(), decoded.grad.flatten().tolist()  # (1 + 4) / 2 / 2
    (1.25, [-0.5, 1.0])
    """
    if len(rows) < 1 or len(decoded) % len(rows):
        raise InputError(f"behaviour_part: {len(decoded)} decoded networks are not views of {len(rows)} networks.")
    wanted = torch.is_grad_enabled() and decoded.requires_grad
    views = decoded.detach().view(-1, *rows.shape)  # [V, M, P]
    gradients = torch.zeros_like(views)
    total = decoded.new_zeros(())
    models, queries = _tile(network, rows, images, len(views))
    for first in range(0, len(rows), models):
        originals = rows[first : first + models]
        for some in torch.split(images, queries):
            with torch.no_grad():
                logits = network.forward(originals, some)
            with torch.set_grad_enabled(wanted):
                tile = views[:, first : first + models].flatten(0, 1).requires_grad_(wanted)
                value = distance(network.forward(tile, some), logits)
                value = value * (len(originals) * len(some) / (len(rows) * len(images)))
            total += value.detach()
            if wanted:
                (gradient,) = torch.autograd.grad(value, tile)
                gradients[:, first : first + models] += gradient.view(len(views), *originals.shape)
    return attach_gradient(total, [decoded], [gradients.view_as(decoded)]) if wanted else total


def _tile(network: Network, rows: torch.Tensor, images: torch.Tensor, num_views: int = 1) -> tuple[int, int]:
    """Networks and images of a tile; on a CPU 32 decoded networks, and fewer images of large networks."""
    device = rows.device.type
    pairs = max(1, _TILE_BYTES[device] // (rows.element_size() * network.activation_floats))
    models = min(pairs, _CPU_MODELS) if device == "cpu" else pairs
    models = min(len(rows), max(1, models // num_views))
    return models, min(len(images), max(1, pairs // (models * num_views)))


def behaviour_loss(decoded_logits: torch.Tensor, logits: torch.Tensor, *, outputs: OutputKind) -> torch.Tensor:
    """Half the squared distance of outputs, averaged over models and queries.

    Source: equation 2 of "Structure and Behavior in Weight Space Representation Learning". ``raw``
    compares logits, as the paper's formula; ``softmax`` compares class probabilities, so networks
    with large outputs do not dominate and the loss lies in [0, 1].

    Parameters
    ----------
    decoded_logits
        ``[V * M, B, K]``: V views of M models, view after view.
    logits
        ``[M, B, K]`` of the original models on the same B queries.
    outputs
        What the distance is taken between.

    Examples
    --------
    >>> logits = torch.tensor([[[1.0, 0.0]]])
    >>> behaviour_loss(torch.tensor([[[0.0, 0.0]], [[1.0, 2.0]]]), logits, outputs="raw").item()  # (1 + 4) / 2 / 2
    1.25
    """
    _check_fit(decoded_logits, logits)
    if outputs == "softmax":
        decoded_logits, logits = decoded_logits.softmax(-1), logits.softmax(-1)
    elif outputs != "raw":
        raise InputError(f"loss.outputs: unknown kind {outputs!r}; expected softmax or raw.")
    difference = decoded_logits.view(-1, *logits.shape) - logits  # [V, M, B, K]
    return difference.square().sum(-1).mean() * 0.5


def distillation_loss(decoded_logits: torch.Tensor, logits: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Divergence of softened class probabilities, times the squared temperature; in nats, 0 for equal functions.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network" (2015); appendix D.2 of "Structure and
    Behavior in Weight Space Representation Learning" uses temperature 2. The squared temperature keeps the size of
    the gradient. The entropy of the originals, a constant, is taken off.

    Parameters
    ----------
    decoded_logits, logits
        ``[V * M, B, K]`` and ``[M, B, K]``, as in `behaviour_loss`.
    temperature
        Divides the logits of both; positive.

    Examples
    --------
    >>> logits = torch.tensor([[[1.0, 0.0], [0.0, 3.0]]])
    >>> distillation_loss(torch.cat([logits, logits + 5]), logits, temperature=2.0).item()
    0.0
    """
    if not temperature > 0:
        raise InputError(f"loss.distillation_temperature: expected a positive number, got {temperature}.")
    _check_fit(decoded_logits, logits)
    target = (logits / temperature).log_softmax(-1)
    decoded = (decoded_logits / temperature).log_softmax(-1).view(-1, *logits.shape)  # [V, M, B, K]
    divergence = (target.exp() * (target - decoded)).sum(-1)
    return divergence.mean() * temperature**2


def cross_entropy_loss(decoded_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the decoded networks' class probabilities under those of the originals, in nats.

    Its least value, for equal functions, is the mean entropy of the originals. Targets are probabilities rather
    than the originals' classes: a decoded network that is surer than its original is not rewarded.

    Source: appendix D.2 of "Structure and Behavior in Weight Space Representation Learning", which does not say
    what its targets are.

    Parameters
    ----------
    decoded_logits, logits
        ``[V * M, B, K]`` and ``[M, B, K]``, as in `behaviour_loss`.

    Examples
    --------
    >>> round(cross_entropy_loss(torch.zeros(2, 1, 4), torch.randn(1, 1, 4)).item(), 4)  # log 4
    1.3863
    """
    _check_fit(decoded_logits, logits)
    classes = logits.shape[-1]
    target = logits.softmax(-1).expand(len(decoded_logits) // len(logits), *logits.shape)
    return F.cross_entropy(decoded_logits.reshape(-1, classes), target.reshape(-1, classes))


def _check_fit(decoded_logits: torch.Tensor, logits: torch.Tensor) -> None:
    num = logits.shape[0]
    if num < 1 or decoded_logits.shape[0] % num or decoded_logits.shape[1:] != logits.shape[1:]:
        raise InputError(
            f"behaviour_loss: decoded outputs {tuple(decoded_logits.shape)} do not fit outputs {tuple(logits.shape)}."
        )


def agreement(decoded_logits: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Share of images on which two networks choose the same class, one number per model.

    Parameters
    ----------
    decoded_logits, logits
        ``[M, B, K]``.

    Examples
    --------
    >>> agreement(torch.tensor([[[2.0, 1.0], [2.0, 1.0]]]), torch.tensor([[[9.0, 0.0], [0.0, 9.0]]])).tolist()
    [0.5]
    """
    return (decoded_logits.argmax(-1) == logits.argmax(-1)).float().mean(-1)
