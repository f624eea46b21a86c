"""A hyper-representation: encoder, decoder, tokens and scaling in one value, saved as a plain folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from hyperrep.config import TrainConfig
from hyperrep.models.autoencoder import Autoencoder
from hyperrep.training.building import build_autoencoder, build_tokens
from hyperrep.training.passes import TILE, decode_windows, encode_windows, read_window, run_in_tiles, scale_back
from hyperrep.training.streams import keyed_generator
from hyperrep.weights.alignment import Aligner
from hyperrep.weights.scaling import Scaling
from hyperrep.weights.tokens import Tokeniser, TokenWindow
from hyperrep.weights.windows import HaloWindow, plan_windows
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.files import write_durable

if TYPE_CHECKING:
    import numpy as np

__all__ = ["TILE", "HyperRepresentation", "load"]

FORMAT_VERSIONS = (1, 2)  # 2: kinds of tokens, models and losses that came later


@dataclass(frozen=True, eq=False)
class HyperRepresentation:
    """Encode rows of a zoo to latents and decode latents to rows.

    Models, or windows of their tokens, go through in passes of a fixed size, filled up with zeros, so all
    passes run the same kernels: a model's latent has the same bits alone and among any batch-mates, on one
    machine with one number of threads. Nothing here tracks gradients; training uses ``model`` directly.

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
    loss_scales
        What each part of the training loss was divided by; empty if nothing was.
    aligner
        Aligned the rows it was trained on, and aligns every row before it is encoded; None: rows stay as they are.
    """

    config: TrainConfig
    layout: WeightLayout
    scaling: Scaling
    model: Autoencoder
    provenance: Mapping[str, Any] = field(default_factory=dict)
    loss_scales: Mapping[str, float] = field(default_factory=dict)
    aligner: Aligner | None = None

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
        generator = keyed_generator(seed, "initialise")
        model = build_autoencoder(config, build_tokens(config, layout), generator)
        return cls(config, layout, scaling, model.eval(), {} if provenance is None else provenance)

    def untrained(self, seed: int) -> HyperRepresentation:
        """Build the same encoder and decoder with initial weights, the baseline beside every probe."""
        fresh = self.initialise(self.config, self.layout, self.scaling, seed=seed, provenance=self.provenance)
        fresh.model.to(self.device)
        return replace(fresh, aligner=self.aligner)

    @cached_property
    def tokeniser(self) -> Tokeniser:
        """Rows to tokens and back."""
        return build_tokens(self.config, self.layout)

    @cached_property
    def windows(self) -> tuple[HaloWindow, ...] | None:
        """The windows in which a network is encoded and decoded; None: whole."""
        sizes = self.config.windows
        return None if sizes is None else plan_windows(self.tokeniser.num_tokens, sizes.size, sizes.halo)

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape of a network's latent: ``(T, Z)``, or ``(Z,)`` if there is one per network."""
        shape = self.model.latent_shape
        return shape if self.windows is None else (self.tokeniser.num_tokens, shape[-1])

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

    def tokens_of(self, rows: torch.Tensor, window: TokenWindow | None = None) -> torch.Tensor:
        """Scale rows ``[N, P]`` and cut them into tokens ``[N, T, D]``, or those of a window; differentiable."""
        if window is not None:
            return read_window(rows, window, self.input_scaling)
        return self.tokeniser.tokenise(self.input_scaling.normalise(rows))

    def rows_of(self, tokens: torch.Tensor) -> torch.Tensor:
        """Join decoded tokens ``[N, T, D]`` into rows ``[N, P]`` in the scale of weights; differentiable."""
        return self.input_scaling.denormalise(self.tokeniser.detokenise(tokens))

    def rows_with(self, tokens: torch.Tensor, window: TokenWindow, rows: torch.Tensor) -> torch.Tensor:
        """Put decoded tokens ``[N, S, D]`` of a window into copies of rows ``[N, P]``; differentiable."""
        return window.write(scale_back(tokens, window, self.input_scaling), rows)

    @cached_property
    def _variances(self) -> torch.Tensor:
        """Columns that hold running variances."""
        names = [block.name for block in self.layout.blocks if block.kind == "running_var"]
        return torch.from_numpy(self.layout.columns(names))

    def as_networks(self, rows: torch.Tensor) -> torch.Tensor:
        """Mirror running variances below 0 in decoded rows ``[N, P]``: no network has them; differentiable.

        Rows of networks, and rows of architectures without running statistics, stay as they are.
        """
        if len(self._variances) == 0:
            return rows
        columns = self._variances.to(rows.device)
        return rows.index_copy(1, columns, rows[:, columns].abs())

    @torch.no_grad()
    def encode(self, rows: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Encode rows ``[N, P]`` to latents ``[N, *latent_shape]``, float32 on the CPU.

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
        if self.aligner is not None:
            values = self.aligner.align(values)
        if self.windows is not None:
            return encode_windows(self.model, self.tokeniser, self.input_scaling, values, self.windows)
        return run_in_tiles(
            values, lambda tile: self.model.encode(self.tokens_of(tile)), self.latent_shape, self.device
        )

    @torch.no_grad()
    def decode(self, latents: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Decode latents ``[N, *latent_shape]`` to rows ``[N, P]``, float32 on the CPU; running variances are >= 0.

        Raises
        ------
        InputError
            If the latents have the wrong shape.
        """
        values = torch.as_tensor(latents, dtype=torch.float32)
        if values.ndim < 1 or tuple(values.shape[1:]) != self.latent_shape:
            expected = ", ".join(map(str, self.latent_shape))
            raise InputError(f"decode: latents have shape {tuple(values.shape)}; expected [N, {expected}].")
        if self.windows is not None:
            rows = decode_windows(self.model, self.tokeniser, self.input_scaling, values, self.windows)
        else:
            shape = (self.layout.num_weights,)
            rows = run_in_tiles(values, lambda tile: self.rows_of(self.model.decode(tile)), shape, self.device)
        return self.as_networks(rows)

    def embed(self, rows: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Average the latents of rows ``[N, P]`` over the tokens of each layer, the features of the probes.

        Returns
        -------
        ``[N, num_layers * Z]``, layer after layer, or ``[N, Z]`` if there is one latent per network;
        `embedding_names` names the columns.
        """
        latents = self.encode(rows)
        if latents.ndim == 2:
            return latents
        layers = self.tokeniser.positions[:, 1]
        counts = torch.bincount(layers)
        sums = latents.new_zeros(len(latents), len(counts), latents.shape[2]).index_add_(1, layers, latents)
        return (sums / counts[:, None]).flatten(1)

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """Names of the columns of `embed`: ``layer.z00``, ..., or ``z00``, ... for one latent per network."""
        if len(self.latent_shape) == 1:
            return tuple(f"z{number:02d}" for number in range(self.config.model.latent))
        return tuple(
            f"{layer}.z{number:02d}" for layer in self.layout.layers for number in range(self.config.model.latent)
        )

    def reconstruct(self, rows: torch.Tensor | np.ndarray) -> torch.Tensor:
        """Encode and decode rows ``[N, P]``; units that alignment moved go back to their places."""
        decoded = self.decode(self.encode(rows))
        if self.aligner is None:
            return decoded
        index = self.aligner.match(torch.as_tensor(rows, dtype=torch.float32))
        return decoded.gather(1, torch.from_numpy(self.aligner.symmetry.inverse(index)))

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors``, ``config.json``, ``layout.json`` and ``scaling.json``; no pickle.

        Of an aligned one also ``alignment.json`` (groups of units, seed) and ``alignment.safetensors`` (reference).

        Every file appears whole or not at all; ``config.json``, without which nothing loads, comes last.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.model.state_dict().items()}
        header = {
            "format": "hyperrep",
            "format_version": self.config.format_version,
            "layout_digest": self.layout.digest,
            "train": self.config.to_json(),
            "zoo": dict(self.provenance),
        }
        if self.loss_scales:
            header["loss_scales"] = dict(self.loss_scales)
        write_durable(folder / "model.safetensors", save_tensors(tensors))
        self.save_layout(folder)
        write_durable(folder / "config.json", json_bytes(header))
        return folder

    def save_layout(self, folder: Path) -> None:
        """Write what belongs to the layout: its columns, the scaling and, if there is one, the alignment."""
        folder.mkdir(parents=True, exist_ok=True)
        write_durable(folder / "layout.json", json_bytes(self.layout.to_json()))
        write_durable(folder / "scaling.json", json_bytes(self.scaling.to_json()))
        if self.aligner is not None:
            reference = self.aligner.reference.detach().cpu().float().contiguous()
            write_durable(folder / "alignment.safetensors", save_tensors({"reference": reference}))
            write_durable(folder / "alignment.json", json_bytes(self.aligner.to_json()))


def load(folder: str | Path) -> HyperRepresentation:
    """Open a saved hyper-representation, on the CPU.

    Raises
    ------
    InputError
        If the folder, one of its files or a tensor is missing, damaged or of an unknown version.
    """
    folder = Path(folder)
    header = read_json(folder / "config.json")
    if header.get("format") != "hyperrep" or header.get("format_version") not in FORMAT_VERSIONS:
        raise InputError(
            f"{folder / 'config.json'}: not a hyper-representation of format version 1 or 2; "
            f"got format {header.get('format')!r}, version {header.get('format_version')!r}."
        )
    config = TrainConfig.model_validate_json(json.dumps(header["train"]))
    layout, scaling, aligner = read_layout(folder, config, str(header.get("layout_digest")))
    hyper = HyperRepresentation.initialise(config, layout, scaling, seed=0, provenance=header.get("zoo", {}))
    hyper = replace(hyper, loss_scales=header.get("loss_scales", {}), aligner=aligner)
    read_weights(folder, hyper.model)
    return hyper


def read_weights(folder: Path, model: torch.nn.Module) -> None:
    """Load the weights of a saved autoencoder in place."""
    path = folder / "model.safetensors"
    try:
        model.load_state_dict(load_tensors(path.read_bytes()))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Copy the whole folder again.") from error


def read_layout(folder: Path, config: TrainConfig, digest: str) -> tuple[WeightLayout, Scaling, Aligner | None]:
    """Read what `HyperRepresentation.save_layout` wrote; the layout must have the digest."""
    layout = WeightLayout.from_json(read_json(folder / "layout.json"))
    if layout.digest != digest:
        raise InputError(f"{folder / 'layout.json'}: does not belong to config.json. Copy the whole folder again.")
    scaling = Scaling.from_json(read_json(folder / "scaling.json"), layout)
    return layout, scaling, None if config.align is None else _load_aligner(folder, layout)


def _load_aligner(folder: Path, layout: WeightLayout) -> Aligner:
    path = folder / "alignment.safetensors"
    try:
        reference = load_tensors(path.read_bytes())["reference"]
    except (OSError, SafetensorError, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Copy the whole folder again.") from error
    return Aligner.from_json(read_json(folder / "alignment.json"), layout, reference)


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """JSON as it stands in a saved folder: indented, with sorted keys."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object of a saved folder."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: cannot be read ({error}). Give the folder of a saved hyper-representation."
        ) from error
    if not isinstance(value, dict):
        raise InputError(f"{path}: expected a JSON object. Copy the whole folder again.")
    return value
