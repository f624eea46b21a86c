"""The state of an unfinished training in one file: model, optimiser, step, best weights so far. No pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import nn

from hyperrep.training.stopping import Stopping
from zookeeper.errors import InputError
from zookeeper.store.files import write_durable

CHECKPOINT_NAME = "checkpoint.safetensors"


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    step: int,
    identity: str,
    scales: Mapping[str, float] | None = None,
    stopping: Stopping | None = None,
) -> Path:
    """Replace the folder's checkpoint, whole or not at all.

    The learning rate and every random draw are functions of the step, so nothing else is needed to
    continue with the same bits.

    Parameters
    ----------
    step
        Optimiser steps done.
    identity
        Digest of configuration and data; `load_checkpoint` refuses another one.
    scales
        What the parts of the loss are divided by, if the first batch decided it.
    stopping
        What early stopping remembers, if it is on.
    """
    tensors = {f"model.{name}": value.detach() for name, value in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{key}": value for key, value in state.items()}
    header = {"version": 1, "step": step, "identity": identity} | ({"scales": dict(scales)} if scales else {})
    if stopping is not None:
        header["stopping"] = stopping.state()
        tensors |= {f"best.{name}": value for name, value in stopping.weights.items()}
    metadata = {"hyperrep": json.dumps(header)}
    path = folder / CHECKPOINT_NAME
    write_durable(path, save_tensors({name: value.cpu().contiguous() for name, value in tensors.items()}, metadata))
    return path


def load_checkpoint(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    identity: str,
    stopping: Stopping | None = None,
) -> tuple[int, dict[str, float]]:
    """Restore model, optimiser and early stopping in place; return the steps done and the scales of the loss.

    Without a checkpoint that is 0 and no scales.

    Raises
    ------
    InputError
        If the file is damaged, or belongs to another configuration or other data.
    """
    path = folder / CHECKPOINT_NAME
    if not path.exists():
        return 0, {}
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("hyperrep", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Delete it to start again.") from error
    if header.get("version") != 1 or header.get("identity") != identity:
        raise InputError(
            f"{path}: belongs to another configuration or other data; expected identity {identity}, "
            f"got {header.get('identity')}. Train into another folder, or without resuming."
        )
    model.load_state_dict(_below("model.", tensors))
    if stopping is not None:
        stopping.restore(header["stopping"], _below("best.", tensors))
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            state.setdefault(int(number), {})[key] = tensor.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(header["step"]), dict(header.get("scales", {}))


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
