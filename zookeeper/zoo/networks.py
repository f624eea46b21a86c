"""One stored checkpoint as a network that computes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from zookeeper.errors import InputError
from zookeeper.nets.registry import build_network

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zookeeper.zoo.view import Zoo


def read_state(checkpoint: Zoo) -> dict[str, torch.Tensor]:
    """Read the first checkpoint of a view as named tensors that share no memory."""
    parts = checkpoint.layout.unflatten(checkpoint.tensor()[0])
    return {name: part.clone() for name, part in parts.items()}


def build_checkpoint(checkpoint: Zoo, *, allow_import: bool) -> nn.Module:
    """Build the network of a view of one checkpoint, in evaluation mode; see `Zoo.network`."""
    where, line = checkpoint.source, checkpoint.frame.iloc[0]
    missing = [name for name in ("architecture", "activation") if pd.isna(line.get(name))]
    if missing:
        raise InputError(f"{where}: networks cannot be built without column {missing[0]!r}.")
    architecture = str(line["architecture"])
    if ":" in architecture and not allow_import:
        raise InputError(
            f"{where}: architecture {architecture!r} would import code. If you trust it, pass allow_import=True."
        )
    dropout = line.get("dropout")
    network = build_network(
        architecture,
        in_channels=checkpoint.image.channels,
        image_size=(checkpoint.image.height, checkpoint.image.width),
        num_classes=checkpoint.image.num_classes,
        activation=str(line["activation"]),
        dropout=0.0 if pd.isna(dropout) else float(dropout),
    )
    state = read_state(checkpoint)
    wanted = {n: t for n, t in network.state_dict().items() if not n.endswith("num_batches_tracked")}
    for name in {**wanted, **state}:
        stored, expected = (tuple(p[name].shape) if name in p else None for p in (state, wanted))
        if stored != expected:
            raise InputError(
                f"{where}: stored weights do not fit architecture {architecture!r}; "
                f"{name}: stored {stored}, expected {expected}."
            )
    network.load_state_dict(state, strict=False)
    return network.eval()
