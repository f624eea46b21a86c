"""One hyper-representation for several architectures and image sets.

Every architecture has its own view of the shared autoencoder: its tokens, its scaling, its alignment. A view is an
ordinary `HyperRepresentation`, so all that works on one works on a view.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save as save_tensors

from hyperrep.config import TrainConfig
from hyperrep.models.autoencoder import Autoencoder
from hyperrep.models.placed import PlacedAutoencoder
from hyperrep.training.building import build_autoencoder, build_tokens
from hyperrep.training.saved import (
    HyperRepresentation,
    json_bytes,
    load,
    read_json,
    read_layout,
    read_weights,
)
from hyperrep.training.streams import keyed_generator
from hyperrep.weights.alignment import Aligner
from hyperrep.weights.scaling import Scaling
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.files import write_durable

FORMAT, FORMAT_VERSION = "hyperrep-mixed", 1
Part = tuple[WeightLayout, Scaling, Aligner | None]


@dataclass(frozen=True, eq=False)
class MixedRepresentation:
    """Encode and decode rows of several architectures with one autoencoder.

    A row's latent does not depend on rows of other architectures, nor on which there are.

    Parameters
    ----------
    config
        How it was trained.
    shared
        The autoencoder, built for the longest architecture.
    views
        One per architecture, all with the weights of ``shared``.
    provenance
        Plain values about every zoo it was trained on; stored, never read.
    loss_scales
        What each part of the training loss was divided by; empty if nothing was.
    """

    config: TrainConfig
    shared: Autoencoder
    views: tuple[HyperRepresentation, ...]
    provenance: tuple[Mapping[str, Any], ...] = ()
    loss_scales: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def initialise(cls, config: TrainConfig, parts: Sequence[Part], *, seed: int) -> MixedRepresentation:
        """Build one with initial weights drawn from the seed; ``parts`` have different layouts."""
        tokenisers = [build_tokens(config, layout) for layout, _, _ in parts]
        longest = max(tokenisers, key=lambda tokeniser: tokeniser.num_tokens)
        shared = build_autoencoder(config, longest, keyed_generator(seed, "initialise"), tokenisers).eval()
        if len(parts) == 1:  # nothing to place: it was built for this architecture
            layout, scaling, aligner = parts[0]
            return cls(config, shared, (HyperRepresentation(config, layout, scaling, shared, aligner=aligner),))
        views = []
        for tokeniser, (layout, scaling, aligner) in zip(tokenisers, parts, strict=True):
            num = tokeniser.num_tokens if config.windows is None else min(config.windows.size, tokeniser.num_tokens)
            window = tokeniser.window(0, num)
            model = PlacedAutoencoder(shared, window.mask, window.positions).eval()
            views.append(HyperRepresentation(config, layout, scaling, model, aligner=aligner))
        return cls(config, shared, tuple(views))

    def for_layout(self, layout: WeightLayout) -> HyperRepresentation:
        """The view of one architecture: encode, decode, embed and reconstruct its rows with it.

        Raises
        ------
        InputError
            If it was not trained on networks of this layout.
        """
        for view in self.views:
            if view.layout.digest == layout.digest:
                return view
        known = ", ".join(f"{view.layout.num_weights:,}" for view in self.views)
        raise InputError(
            f"mixed: was trained on networks of {known} weights, got a layout of {layout.num_weights:,}. "
            "Choose rows of one of its architectures."
        )

    def save(self, folder: str | Path) -> Path:
        """Write ``model.safetensors``, a folder per layout below ``layouts``, and last ``config.json``; no pickle."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.shared.state_dict().items()}
        write_durable(folder / "model.safetensors", save_tensors(tensors))
        for view in self.views:
            view.save_layout(folder / "layouts" / view.layout.digest)
        header = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "layouts": [view.layout.digest for view in self.views],
            "train": self.config.to_json(),
            "zoos": [dict(one) for one in self.provenance],
            "loss_scales": dict(self.loss_scales),
        }
        write_durable(folder / "config.json", json_bytes(header))
        return folder


def load_for(folder: str | Path, layout: WeightLayout) -> HyperRepresentation:
    """Open a saved hyper-representation, of one zoo or of several, for rows of a layout.

    Raises
    ------
    InputError
        If it cannot be read, or is of several architectures but not of this one.
    """
    if read_json(Path(folder) / "config.json").get("format") == FORMAT:
        return load_mixed(folder).for_layout(layout)
    return load(folder)


def load_mixed(folder: str | Path) -> MixedRepresentation:
    """Open a saved mixed hyper-representation, on the CPU.

    Raises
    ------
    InputError
        If the folder, one of its files or a tensor is missing, damaged or of an unknown version.
    """
    folder = Path(folder)
    header = read_json(folder / "config.json")
    if header.get("format") != FORMAT or header.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{folder / 'config.json'}: expected a mixed hyper-representation of version {FORMAT_VERSION}, got format "
            f"{header.get('format')!r}, version {header.get('format_version')!r}. One of a single zoo opens with load."
        )
    config = TrainConfig.model_validate_json(json.dumps(header["train"]))
    parts = [read_layout(folder / "layouts" / digest, config, digest) for digest in header["layouts"]]
    mixed = MixedRepresentation.initialise(config, parts, seed=0)
    read_weights(folder, mixed.shared)
    scales = header["loss_scales"]
    views = tuple(replace(view, loss_scales=scales) for view in mixed.views)
    return replace(mixed, views=views, provenance=tuple(header["zoos"]), loss_scales=scales)
