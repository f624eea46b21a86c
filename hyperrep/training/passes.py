"""Passes of a fixed shape through an autoencoder: the same bits alone and in any company, in bounded memory.

Every pass has the same number of items, filled up with zeros, so all passes run the same kernels; an item's result
depends neither on its batch-mates nor on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from hyperrep.models.autoencoder import Autoencoder, Place
from hyperrep.weights.scaling import Scaling
from hyperrep.weights.tokens import Tokeniser, TokenWindow
from hyperrep.weights.windows import HaloWindow

TILE = 32  # networks of one pass
WINDOW_TILE = 8  # windows of one pass


def run_in_tiles(
    values: torch.Tensor,
    run: Callable[[torch.Tensor], torch.Tensor],
    shape: tuple[int, ...],
    device: torch.device,
) -> torch.Tensor:
    """Run ``[N, ...]`` through ``run``, 32 at a time, and return ``[N, *shape]`` on the CPU."""
    out = torch.empty((values.shape[0], *shape))
    tile = torch.zeros((TILE, *values.shape[1:]), device=device)
    for first in range(0, values.shape[0], TILE):
        part = values[first : first + TILE]
        tile[: len(part)] = part
        tile[len(part) :] = 0
        out[first : first + len(part)] = run(tile)[: len(part)].cpu()
    return out


def read_window(rows: torch.Tensor, window: TokenWindow, scaling: Scaling) -> torch.Tensor:
    """Scale the window's entries of rows ``[N, P]`` and return them as tokens ``[N, S, D]``; differentiable."""
    tokens = window.read(rows)
    if scaling.is_identity:
        return tokens
    mean, std = (window.read(line.to(rows)[None]) for line in (scaling.mean_columns, scaling.std_columns))
    return ((tokens - mean) / std).masked_fill(~window.mask, 0.0)


def scale_back(tokens: torch.Tensor, window: TokenWindow, scaling: Scaling) -> torch.Tensor:
    """Bring decoded tokens ``[N, S, D]`` of a window to the scale of weights; differentiable."""
    if scaling.is_identity:
        return tokens
    mean, std = (window.read(line.to(tokens)[None]) for line in (scaling.mean_columns, scaling.std_columns))
    return torch.addcmul(mean, tokens, std)


def encode_windows(
    model: Autoencoder, tokeniser: Tokeniser, scaling: Scaling, rows: torch.Tensor, plan: Sequence[HaloWindow]
) -> torch.Tensor:
    """Encode rows ``[N, P]`` window by window to latents ``[N, T, Z]`` on the CPU; halos are dropped.

    Beside rows and latents the memory is that of eight windows, whatever the network.
    """
    width = model.latent_shape[-1]
    out = torch.empty(len(rows), tokeniser.num_tokens, width)
    tile = _Tile(model, tokeniser.width)
    for numbers, halos in _batches(len(rows), plan):
        for place, (number, halo) in enumerate(zip(numbers, halos, strict=True)):
            window = tile.window(tokeniser, halo)
            tile.set(place, read_window(rows[number : number + 1], window, scaling)[0], window)
        tile.clear(len(numbers))
        latents = model.encode(tile.tokens, tile.place).cpu()
        for latent, number, halo in zip(latents, numbers, halos, strict=False):
            out[number, halo.low : halo.high] = latent[halo.kept]
    return out


def decode_windows(
    model: Autoencoder, tokeniser: Tokeniser, scaling: Scaling, latents: torch.Tensor, plan: Sequence[HaloWindow]
) -> torch.Tensor:
    """Decode latents ``[N, T, Z]`` window by window to rows ``[N, P]`` on the CPU; halos are dropped."""
    out = torch.empty(len(latents), tokeniser.layout.num_weights)
    tile = _Tile(model, latents.shape[2])
    size = model.latent_shape[0]
    for numbers, halos in _batches(len(latents), plan):
        for place, (number, halo) in enumerate(zip(numbers, halos, strict=True)):
            tile.set(place, latents[number, halo.first : halo.first + size], tile.window(tokeniser, halo))
        tile.clear(len(numbers))
        decoded = model.decode(tile.tokens, tile.place).cpu()
        for tokens, number, halo in zip(decoded, numbers, halos, strict=False):
            window = tile.window(tokeniser, halo)
            kept = window.part(halo.kept)
            scaled = scale_back(tokens[None, halo.kept], kept, scaling)
            out[number, kept.real_columns] = scaled[0][kept.mask]
    return out


def _batches(num: int, plan: Sequence[HaloWindow]) -> Iterator[tuple[list[int], list[HaloWindow]]]:
    """(network, window) pairs, window after window, in batches of at most eight."""
    numbers: list[int] = []
    halos: list[HaloWindow] = []
    for halo in plan:
        for number in range(num):
            numbers.append(number)
            halos.append(halo)
            if len(numbers) == WINDOW_TILE:
                yield numbers, halos
                numbers, halos = [], []
    if numbers:
        yield numbers, halos


class _Tile:
    """The inputs of one pass of windows, written anew for every pass."""

    def __init__(self, model: Autoencoder, width: int) -> None:
        device = next(model.parameters()).device
        size = model.latent_shape[0]
        self.tokens = torch.zeros(WINDOW_TILE, size, width, device=device)
        self.positions = torch.zeros(WINDOW_TILE, size, 3, dtype=torch.int64, device=device)
        self.mask: torch.Tensor | None = None
        self._windows: dict[HaloWindow, TokenWindow] = {}

    @property
    def place(self) -> Place:
        """Where the windows of this pass stand."""
        assert self.mask is not None
        return Place(self.mask, self.positions)

    def window(self, tokeniser: Tokeniser, halo: HaloWindow) -> TokenWindow:
        """The indices of a window; those of the last pass are remembered."""
        if halo not in self._windows:
            if len(self._windows) > WINDOW_TILE:
                self._windows.clear()
            self._windows[halo] = tokeniser.window(halo.first, self.tokens.shape[1])
        return self._windows[halo]

    def set(self, number: int, tokens: torch.Tensor, window: TokenWindow) -> None:
        """Put a window at a place of the pass."""
        if self.mask is None:
            shape = (WINDOW_TILE, *window.mask.shape)
            self.mask = torch.zeros(shape, dtype=torch.bool, device=self.tokens.device)
        self.tokens[number], self.mask[number], self.positions[number] = tokens, window.mask, window.positions

    def clear(self, first: int) -> None:
        """Empty the places from ``first`` on."""
        assert self.mask is not None
        self.tokens[first:], self.mask[first:], self.positions[first:] = 0.0, False, 0
