"""How the convolutions of a zoo are carried out: measured or asked for once, then pinned in the zoo.

A lowering changes rounding, and training amplifies rounding. So the first worker that trains a kind of cohort (a
layout in one batch size) decides, on the machine that does the work, and puts its choice into a file of the zoo that
nobody replaces. A resumed build, a retry, another worker and ``zookeeper retrain`` read it there; what a cache or
a spec says later changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from zookeeper.errors import StoreError
from zookeeper.population import Population
from zookeeper.population.choice import choose_lowerings
from zookeeper.population.convolution import GROUPED, TRITON
from zookeeper.population.tiles import tile_slices
from zookeeper.population.triton_convolution import require_usable
from zookeeper.store.files import create_durable
from zookeeper.store.records import read_commits

FOLDER = "lowerings"
AUTO = "auto"
_MOST_ON_GPU = 64  # models of a trial: their number decides little beyond, and memory grows with it


def decide_lowerings(
    population: Population, wanted: str | None, num_models: int, batch_size: int, device: str
) -> dict[str, str]:
    """Choose a lowering for every convolution, without looking at any zoo.

    Parameters
    ----------
    wanted
        The name of a lowering for all of them, or ``auto`` (also None): the fastest here, as measured now or
        remembered. A device that is not here cannot be measured: grouped.

    Raises
    ------
    InputError
        If the lowering is unknown, or is triton where its kernels cannot run.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> decide_lowerings(Population(net, (1, 4, 4)), "unfold", 4, 8, "cpu")
    {'0': 'unfold'}
    """
    convolutions = [op.layer for op in population.graph.ops if op.kind == "conv"]
    where = torch.device(device)
    if wanted == TRITON:
        require_usable(where)
    if wanted not in (AUTO, None) or (where.type == "cuda" and not torch.cuda.is_available()):
        name = GROUPED if wanted in (AUTO, None) else str(wanted)
        return population.lowered(dict.fromkeys(convolutions, name)).lowerings
    if not convolutions:
        return {}
    tiles = tile_slices(population, num_models, batch_size, where)
    largest = max(tile.stop - tile.start for tile in tiles)
    tile = largest if where.type == "cpu" else min(largest, _MOST_ON_GPU)
    return choose_lowerings(population, tile, batch_size, device=where)


def pinned_lowerings(root: Path, population: Population, batch_size: int) -> dict[str, str] | None:
    """Read what a zoo has pinned for a kind of cohort; None if it has pinned nothing.

    Raises
    ------
    StoreError
        If the file is damaged.
    InputError
        If it names a lowering that this release does not know.
    """
    path = _path(root, population, batch_size)
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}). Restore it from a copy.") from error
    pinned = value.get("lowerings") if isinstance(value, dict) else None
    if not isinstance(pinned, dict) or not all(isinstance(name, str) for name in pinned.values()):
        raise StoreError(f"{path}: damaged; expected lowerings by layer. Restore it from a copy.")
    return population.lowered(pinned).lowerings


def settle_lowerings(
    root: Path, population: Population, *, wanted: str, num_models: int, batch_size: int, device: str
) -> dict[str, str]:
    """Return what a zoo has pinned; decide and pin it if nothing is. Of several workers the first one decides.

    Networks without convolutions pin nothing. A zoo of a release that pinned nothing keeps its grouped
    convolutions.

    Raises
    ------
    StoreError
        If the file cannot be written, or is damaged.
    """
    pinned = pinned_lowerings(root, population, batch_size)
    if pinned is not None:
        return pinned
    if not (root / FOLDER).exists() and _has_rows(root, population.layout.digest):
        wanted = GROUPED
    decided = decide_lowerings(population, wanted, num_models, batch_size, device)
    if not decided:
        return {}
    path = _path(root, population, batch_size)
    try:
        path.parent.mkdir(exist_ok=True)
        create_durable(path, _document(population, batch_size, decided, wanted, device))
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror or error}). Make room, then build again."
        ) from error
    return pinned_lowerings(root, population, batch_size) or decided


def _path(root: Path, population: Population, batch_size: int) -> Path:
    return root / FOLDER / f"{population.layout.digest}-{batch_size}.json"


def _has_rows(root: Path, layout: str) -> bool:
    return any(record.layout == layout for record in read_commits(root))


def _document(population: Population, batch_size: int, decided: Mapping[str, str], wanted: str, device: str) -> bytes:
    value = {
        "layout": population.layout.digest,
        "batch_size": batch_size,
        "lowerings": dict(decided),
        "decided": "measured" if wanted == AUTO else "asked for",
        "device": device,
        "torch": torch.__version__,
    }
    return json.dumps(value, indent=1).encode()
