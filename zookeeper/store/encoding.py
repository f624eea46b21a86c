"""How rows are written: backend, stored type of a weight, compression. Nothing here changes what a model is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from zookeeper.errors import InputError

COMPRESSIONS: dict[str, tuple[str, ...]] = {"parquet": ("none", "zstd"), "hdf5": ("none", "gzip")}
SUFFIXES = {"parquet": "parquet", "hdf5": "h5"}
DTYPES = ("float32", "float16", "bfloat16", "float64")
Floats: TypeAlias = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Stored: TypeAlias = npt.NDArray[Any]
_STORED = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "float64": "<f8"}
_MANTISSA = {"float32": (23, 8), "float16": (10, 5), "bfloat16": (7, 8), "float64": (52, 11)}


@dataclass(frozen=True, slots=True)
class Encoding:
    """How the shards of a zoo are written.

    Parameters
    ----------
    backend
        ``parquet`` or ``hdf5``.
    dtype
        Stored type of a weight: ``float32`` keeps every bit, ``float64`` too at twice the size, ``float16``
        and ``bfloat16`` round to nearest, ties to even.
    compression
        ``none``, or without loss: ``zstd`` (Parquet: byte-stream-split, zstd), ``gzip`` (HDF5: shuffle, deflate).

    Raises
    ------
    InputError
        If a name is unknown, or the backend does not have the compression.

    Examples
    --------
    >>> Encoding("hdf5", compression="gzip").suffix, Encoding(dtype="bfloat16").itemsize
    ('h5', 2)
    """

    backend: str = "parquet"
    dtype: str = "float32"
    compression: str = "none"

    def __post_init__(self) -> None:
        if self.backend not in COMPRESSIONS:
            raise InputError(f"backend: unknown {self.backend!r}; expected {' or '.join(COMPRESSIONS)}.")
        if self.dtype not in DTYPES:
            raise InputError(f"dtype: unknown {self.dtype!r}; expected one of {', '.join(DTYPES)}.")
        if self.compression not in COMPRESSIONS[self.backend]:
            expected = " or ".join(COMPRESSIONS[self.backend])
            raise InputError(f"compression: {self.backend} has no {self.compression!r}; expected {expected}.")

    @property
    def suffix(self) -> str:
        """Ending of a shard's file name."""
        return SUFFIXES[self.backend]

    @property
    def stored(self) -> np.dtype[Any]:
        """NumPy type of a stored element; bfloat16 is its bit pattern, uint16."""
        return np.dtype(_STORED[self.dtype])

    @property
    def itemsize(self) -> int:
        """Bytes of a stored element before compression."""
        return self.stored.itemsize

    def to_json(self) -> dict[str, str]:
        """Plain values; `from_json` restores an equal value."""
        return {"backend": self.backend, "dtype": self.dtype, "compression": self.compression}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Encoding:
        """Restore from `to_json`; raises `InputError` if a name is unknown, KeyError if one is missing."""
        return cls(str(value["backend"]), str(value["dtype"]), str(value["compression"]))


PLAIN = Encoding()


def encode_floats(rows: Floats, dtype: str) -> Stored:
    """Convert rows to stored elements, C-contiguous and little-endian; without loss where the type allows.

    >>> encode_floats(np.float32([1.0, -2.5]), "bfloat16").tolist()
    [16256, 49184]
    """
    if dtype == "bfloat16":
        with np.errstate(over="ignore"):
            bits = np.ascontiguousarray(rows, np.float32).view(np.uint32)
        nearest = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        quiet = ((bits >> 16) | 0x40).astype(np.uint16)
        is_nan = (bits & 0x7FFFFFFF) > 0x7F800000
        return np.ascontiguousarray(np.where(is_nan, quiet, nearest), "<u2")
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        return np.ascontiguousarray(rows, _STORED[dtype])


def decode_floats(stored: Stored, dtype: str, out: Floats) -> None:
    """Convert stored elements to floats in ``out`` of the same shape; the inverse of `encode_floats`.

    >>> out = np.empty(2, np.float32)
    >>> decode_floats(np.uint16([16256, 49184]), "bfloat16", out)
    >>> out.tolist()
    [1.0, -2.5]
    """
    if dtype == "bfloat16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.copyto(out, stored, casting="same_kind")


def keeps_every_value(source: str, target: str) -> bool:
    """Whether every number of the first type is one of the second.

    >>> keeps_every_value("bfloat16", "float32"), keeps_every_value("float32", "float16")
    (True, False)
    """
    return all(have <= room for have, room in zip(_MANTISSA[source], _MANTISSA[target], strict=True))
