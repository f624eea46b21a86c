"""A hyper-representation: encoder, decoder, tokens and scaling in one value, saved as a plain folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hyperrep.config import TrainConfig
from hyperrep.models.sane import Sane
from hyperrep.training.streams import keyed_generator
from hyperrep.weights.scaling import Scaling
from hyperrep.weights.tokens import Tokeniser
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.files import write_durable

if TYPE_CHECKING:
    import numpy as np

FORMAT_VERSION = 1
TILE = 32  # models of one pass; constant, so that every pass has the same shapes


@dataclass(frozen=True, eq=False)
class HyperRepresentation:
    """Encode rows of a zoo to latents and decode latents to rows.

    Models go through in passes of a fixed size, filled up with zeros, so all passes run the same
    kernels: a model's latent has the same bits alone and among any batch-mates, on one machine with
    one number of threads. Nothing here tracks gradients; training uses ``model`` directly.

    Parameters
    ----------
    config
        How it was trained.
    layout
        Columns of the rows.
    scaling
        Mean and spread of the layers over the train split.
    model
        The autoencoder.
    provenance
        Plain values about the zoo it was trained on; stored, never read.
    """

    config: TrainConfig
    layout: WeightLayout
    scaling: Scaling
    model: Sane
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def initialise(
        cls,
        config: TrainConfig,
        layout: WeightLayout,
        scaling: Scaling,
        *,
        seed: int,
        provenance: Mapping[str, Any] | None = None,
    ) -> HyperRepresentation:
        """Build one with initial weights drawn from the seed."""
        tokeniser = Tokeniser(layout, config.tokens.width)
        sizes = config.model
        model = Sane(
            tokeniser.mask,
            tokeniser.positions,
            latent=sizes.latent,
            d_model=sizes.d_model,
            num_heads=sizes.num_heads,
            num_layers=sizes.num_layers,
            generator=keyed_generator(seed, "initialise"),
        )
        return cls(config, layout, scaling, model.eval(), {} if provenance is None else provenance)

    def untrained(self, seed: int) -> HyperRepresentation:
        """Build the same encoder and decoder with initial weights, the baseline beside every probe."""
        fresh = self.initialise(self.config, self.layout, self.scaling, seed=seed, provenance=self.provenance)
        fresh.model.to(self.device)
        return fresh

    @cached_property
    def tokeniser(self) -> Tokeniser:
        """Rows to tokens and back."""
        return Tokeniser(self.layout, self.config.tokens.width)

    @cached_property
    def input_scaling(self) -> Scaling:
        """What is applied to rows before they become tokens."""
        return Scaling.identity(self.layout) if self.config.standardise == "none" else self.scaling

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return next(self.model.parameters()).device

    @property
    def num_weights(self) -> int:
        """Number of weights of the autoencoder with its projection head."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    def tokens_of(self, rows: torch.Tensor) -> torch.Tensor:
        """Scale rows ``[N, P]`` and cut them into tokens ``[N, T, D]``; differentiable."""
        return self.tokeniser.tokenise(self.input_scaling.normalise(rows))

    def rows_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Join decoded tokens ``[N, T, D]`` into rows ``[N, P]`` in the scale of weights; differentiable."""
        return self.input_scaling.denormalise(self.tokeniser.detokenise(tokens))

    @torch.no_grad()
    def encode(self, rows: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Encode rows ``[N, P]`` to latents ``[N, T, Z]``, float32 on the CPU.

        Raises
        ------
        InputError
            If the rows do not have the layout's columns.
        """
        values = torch.as_tensor(rows, dtype=torch.float32)
        if values.ndim != 2 or values.shape[1] != self.layout.num_weights:
            raise InputError(
                f"encode: rows have shape {tuple(values.shape)}; expected [N, {self.layout.num_weights}]. "
                "Check that the rows belong to the architecture this hyper-representation was trained on."
            )
        width = (self.tokeniser.num_tokens, self.config.model.latent)
        return self._in_tiles(values, lambda tile: self.model.encode(self.tokens_of(tile)), width)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Decode latents ``[N, T, Z]`` to rows ``[N, P]``, float32 on the CPU.

        Raises
        ------
        InputError
            If the latents have the wrong shape.
        """
        values = torch.as_tensor(latents, dtype=torch.float32)
        expected = (self.tokeniser.num_tokens, self.config.model.latent)
        if values.ndim != 3 or tuple(values.shape[1:]) != expected:
            raise InputError(
                f"decode: latents have shape {tuple(values.shape)}; expected [N, {expected[0]}, {expected[1]}]."
            )
        return self._in_tiles(values, lambda tile: self.rows_of(self.model.decode(tile)), (self.layout.num_weights,))

    def embed(self, rows: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Average the latents of rows ``[N, P]`` over the tokens of each layer, the features of the probes.

        Returns
        -------
        ``[N, num_layers * Z]``, layer after layer; `embedding_names` names the columns.
        """
        layers = self.tokeniser.positions[:, 1]
        counts = torch.bincount(layers)
        latents = self.encode(rows)
        sums = latents.new_zeros(len(latents), len(counts), latents.shape[2]).index_add_(1, layers, latents)
        return (sums / counts[:, None]).flatten(1)

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """Names of the columns of `embed`: ``layer.z00``, ..."""
        return tuple(
            f"{layer}.z{number:02d}" for layer in self.layout.layers for number in range(self.config.model.latent)
        )

    def reconstruct(self, rows: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Encode and decode rows ``[N, P]``."""
        return self.decode(self.encode(rows))

    def _in_tiles(self, values: torch.Tensor, run: Any, width: tuple[int, ...]) -> torch.Tensor:
        out = torch.empty((values.shape[0], *width))
        tile = torch.zeros((TILE, *values.shape[1:]), device=self.device)
        for first in range(0, values.shape[0], TILE):
            part = values[first : first + TILE]
            tile[: len(part)] = part
            tile[len(part) :] = 0
            out[first : first + len(part)] = run(tile)[: len(part)].cpu()
        return out

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors``, ``config.json``, ``layout.json`` and ``scaling.json``; no pickle.

        Every file appears whole or not at all; ``config.json``, without which nothing loads, comes last.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        header = {
            "format": "hyperrep",
            "format_version": FORMAT_VERSION,
            "layout_digest": self.layout.digest,
            "train": self.config.model_dump(mode="json"),
            "zoo": dict(self.provenance),
        }
        write_durable(folder / "model.safetensors", save_tensors(tensors))
        write_durable(folder / "layout.json", _json(self.layout.to_json()))
        write_durable(folder / "scaling.json", _json(self.scaling.to_json()))
        write_durable(folder / "config.json", _json(header))
        return folder


def load(folder: str | Path) -> HyperRepresentation:
    """Open a saved hyper-representation, on the CPU.

    Raises
    ------
    InputError
        If the folder, one of its files or a tensor is missing, damaged or of an unknown version.
    """
    folder = Path(folder)
    header = _read_json(folder / "config.json")
    if header.get("format") != "hyperrep" or header.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{folder / 'config.json'}: not a hyper-representation of format version {FORMAT_VERSION}; "
            f"got format {header.get('format')!r}, version {header.get('format_version')!r}."
        )
    config = TrainConfig.model_validate_json(json.dumps(header["train"]))
    layout = WeightLayout.from_json(_read_json(folder / "layout.json"))
    if layout.digest != header.get("layout_digest"):
        raise InputError(f"{folder / 'layout.json'}: does not belong to config.json. Copy the whole folder again.")
    scaling = Scaling.from_json(_read_json(folder / "scaling.json"), layout)
    hyper = HyperRepresentation.initialise(config, layout, scaling, seed=0, provenance=header.get("zoo", {}))
    path = folder / "model.safetensors"
    try:
        hyper.model.load_state_dict(load_tensors(path.read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Copy the whole folder again.") from error
    return hyper


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). Give the folder of a saved hyper-representation."
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object. Copy the whole folder again.")
    return value
