"""The training state of an unfinished cohort, as one safetensors file: arrays and nothing executable."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from zookeeper.errors import InputError, StoreError
from zookeeper.store.files import hash_bytes
from zookeeper.store.records import CommitRecord

STATE_VERSION = {"zookeeper.state": "1"}  # one key: the order of several is not fixed, and equal states hash equally
State = Mapping[str, npt.NDArray[np.generic]]


def encode_state(state: State) -> bytes:
    """Encode named arrays of numbers; `decode_state` restores equal arrays.

    >>> data = encode_state({"step": np.array(3), "moment": np.zeros((2, 2), np.float32)})
    >>> {name: array.shape for name, array in sorted(decode_state(data, "state").items())}
    {'moment': (2, 2), 'step': ()}

    Raises
    ------
    InputError
        If an array holds something other than numbers or truth values.
    """
    for name, array in state.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise InputError(f"training state {name!r}: expected a NumPy array of numbers, got {type(array)}.")
    # ascontiguousarray would turn a scalar into a vector
    plain = {name: np.array(array, order="C", copy=None) for name, array in state.items()}
    return bytes(save(plain, metadata=STATE_VERSION))


def decode_state(data: bytes, where: str) -> dict[str, npt.NDArray[np.generic]]:
    """Restore the arrays of `encode_state`; raises `StoreError` on damage."""
    try:
        return dict(load(data))
    except SafetensorError as error:
        raise StoreError(f"{where}: damaged training state ({error}).") from error


class StateGone(StoreError):
    """The training state after a block is not there: a later block retired it, or it was damaged and set aside."""


def load_state(root: Path, record: CommitRecord) -> dict[str, npt.NDArray[np.generic]]:
    """Load the training state after ``record``, checked against its size and hash.

    Raises
    ------
    StateGone
        If the record has no state, or the file is gone (a newer block was committed).
    StoreError
        If the file is damaged.
    """
    if record.state is None:
        raise StateGone(f"{root}: cohort {record.cohort} has no training state after epoch {record.last_epoch}.")
    path = root / record.state.file
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise StateGone(
            f"{path}: training state is gone; another process may have committed a later block. "
            "Read the progress again."
        ) from error
    if len(data) != record.state.size or hash_bytes(data) != record.state.xxh3:
        raise StoreError(
            f"{path}: damaged training state; expected {record.state.size} bytes with xxh3 {record.state.xxh3}, "
            f"got {len(data)} bytes with xxh3 {hash_bytes(data)}. Committed rows are intact. Restore the file, "
            "or: zookeeper verify --repair, then build again, which trains this cohort from its start."
        )
    return decode_state(data, str(path))
