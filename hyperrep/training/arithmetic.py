"""How the autoencoder runs while it is trained: float32 or bf16 products, eager or compiled, with little memory."""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint

from hyperrep.config import TrainingSection
from hyperrep.models.autoencoder import Autoencoder, Place

Pass = Callable[[torch.Tensor, Place | None], torch.Tensor]
ENCODED, DECODED = 32, 16  # views of networks in one pass, where pieces pay


def piece_sizes(device: torch.device, settings: TrainingSection) -> tuple[int, int]:
    """Views of networks in one pass of the encoder, and of the decoder beside all that the encoder keeps.

    Pieces stay in the cache and the heap of a CPU, and save memory everywhere; else all go at once.
    """
    return (ENCODED, DECODED) if device.type == "cpu" or settings.recompute else (sys.maxsize, sys.maxsize)


def training_passes(model: Autoencoder, settings: TrainingSection) -> tuple[Pass, Pass]:
    """Encode and decode as the configuration says; what goes in and comes out keeps its type.

    ``precision: bf16`` runs matrix products in bfloat16 and keeps weights, gradients, optimiser, losses and the
    networks of the behavioural part in float32. ``compile`` fuses what stands between the products; the first step
    then takes a minute or two, and a C++ compiler is needed on the CPU. Encoding goes in pieces of `piece_sizes`; with
    ``recompute`` none of their activations is kept. Decoding is given pieces (`hyperrep.training.pieces`).
    Validation and everything after training run eagerly in float32.
    """
    encode, decode = (_adapted(function, settings) for function in (model.encode, model.decode))

    def encode_all(values: torch.Tensor, place: Place | None) -> torch.Tensor:
        size, _ = piece_sizes(values.device, settings)
        return in_pieces(lambda piece: encode(piece, place), values, size, recompute=settings.recompute)

    return encode_all, decode


def _adapted(function: Pass, settings: TrainingSection) -> Pass:
    run: Pass = torch.compile(function, dynamic=False) if settings.compile else function
    if not settings.compile and settings.precision == "float32":
        return function

    def adapted(values: torch.Tensor, place: Place | None) -> torch.Tensor:
        with torch.autocast(values.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            return run(values, place).to(values.dtype)

    return adapted


def in_pieces(
    run: Callable[[torch.Tensor], torch.Tensor], values: torch.Tensor, size: int, *, recompute: bool
) -> torch.Tensor:
    """Run ``[N, ...]`` in pieces of ``size``, of whose activations with ``recompute`` none are kept.

    Then the backward pass computes those of a piece again: memory is that of one piece, whatever N; the time that of
    one more forward pass. ``run`` must treat items alone.

    Source: Chen et al., "Training Deep Nets with Sublinear Memory Cost" (2016).

    Examples
    --------
    >>> values = torch.arange(40.0).requires_grad_()
    >>> in_pieces(torch.square, values, 16, recompute=True).sum().backward()
    >>> bool((values.grad == 2 * values).all())
    True
    """
    pieces = torch.split(values, min(size, max(1, len(values))))
    if recompute:
        return torch.cat([checkpoint(run, piece, use_reentrant=False) for piece in pieces])
    return torch.cat([run(piece) for piece in pieces]) if len(pieces) > 1 else run(values)
