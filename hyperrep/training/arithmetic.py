"""How the autoencoder runs while it is trained: float32 or bf16 products, eager or compiled, with little memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from hyperrep.config import TrainingSection
from hyperrep.models.autoencoder import Autoencoder, Place

Pass = Callable[[torch.Tensor, Place | None], torch.Tensor]
PIECE = 16  # networks whose activations are in memory at once, if they are computed again


def training_passes(model: Autoencoder, settings: TrainingSection) -> tuple[Pass, Pass]:
    """Encode and decode as the configuration says; what goes in and comes out keeps its type.

    ``precision: bf16`` runs matrix products in bfloat16 and keeps weights, gradients, optimiser, losses and the
    networks of the behavioural part in float32. ``compile`` fuses what stands between the products; the first step
    then takes a minute or two, and a C++ compiler is needed on the CPU. With ``recompute`` see `in_pieces`. Validation
    and everything after training run eagerly in float32.
    """
    if not settings.compile and not settings.recompute and settings.precision == "float32":
        return model.encode, model.decode
    return tuple(_adapted(function, settings) for function in (model.encode, model.decode))  # type: ignore[return-value]


def _adapted(function: Pass, settings: TrainingSection) -> Pass:
    run: Pass = torch.compile(function, dynamic=False) if settings.compile else function

    def adapted(values: torch.Tensor, place: Place | None) -> torch.Tensor:
        with torch.autocast(values.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            return run(values, place).to(values.dtype)

    if not settings.recompute:
        return adapted
    return lambda values, place: in_pieces(lambda piece: adapted(piece, place), values)


def in_pieces(run: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Run ``[N, ...]`` in pieces of 16 and keep no activations: the backward pass computes those of a piece again.

    Memory is that of one piece, whatever N; the time that of one more forward pass. ``run`` must treat items alone.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016).

    Examples
    --------
    >>> values = torch.arange(40.0).requires_grad_()
    >>> in_pieces(torch.square, values).sum().backward()
    >>> bool((values.grad == 2 * values).all())
    True
    """
    pieces = [checkpoint(run, piece, use_reentrant=False) for piece in torch.split(values, PIECE)]
    return torch.cat(pieces)
