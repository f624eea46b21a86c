"""Read the IDX files of the MNIST family (LeCun, Cortes and Burges), compressed or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from zookeeper.errors import InputError

_UNSIGNED_BYTE = 0x08
_MAX_BYTES = 1 << 32


def read_idx(path: Path, *, num_axes: int) -> NDArray[np.uint8]:
    """Read one file of unsigned bytes; a name that ends in ``.gz`` is decompressed.

    Parameters
    ----------
    path
        File to read.
    num_axes
        Number of axes it must have: 1 for labels ``[n]``, 3 for images ``[n, H, W]``.

    Raises
    ------
    InputError
        If the file cannot be read, is not IDX, is too short or too long for its own header.
    """
    try:
        with path.open("rb") as plain:
            if path.suffix != ".gz":
                return _parse(plain, path, num_axes)
            with gzip.open(plain) as unpacked:
                return _parse(cast(BinaryIO, unpacked), path, num_axes)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}). Remove the file and download it again.") from error


def _parse(stream: BinaryIO, path: Path, num_axes: int) -> NDArray[np.uint8]:
    magic = struct.pack(">HBB", 0, _UNSIGNED_BYTE, num_axes)
    header = stream.read(4 + 4 * num_axes)
    if header[:4] != magic:
        raise InputError(
            f"{path}: not the expected IDX file; expected first bytes {magic.hex()} "
            f"(unsigned bytes, {num_axes} axes), got {header[:4].hex() or 'nothing'}."
        )
    if len(header) < 4 + 4 * num_axes:
        raise InputError(f"{path}: the header is cut off. Remove the file and download it again.")
    shape = struct.unpack(f">{num_axes}I", header[4:])
    size = math.prod(shape)
    if size > _MAX_BYTES:
        raise InputError(f"{path}: the header claims shape {shape}, more than {_MAX_BYTES} bytes. The file is damaged.")
    data = stream.read(size + 1)
    if len(data) != size:
        found = f"only {len(data)}" if len(data) < size else "more"
        raise InputError(
            f"{path}: expected {size} bytes of data for shape {shape}, got {found}. "
            "Remove the file and download it again."
        )
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)
