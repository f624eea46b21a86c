"""Rows of a zoo larger than memory: in a file of their own, mapped, so that only the rows of a batch are read."""

from __future__ import annotations

import tempfile

import numpy as np

from zookeeper.errors import InputError
from zookeeper.zoo import Zoo

CHUNK = 1024  # rows read at once


def rows_on_disk(part: Zoo) -> tuple[np.ndarray, np.ndarray]:
    """Copy the finite rows of a view to a file, and say which they are.

    The file lies in the folder for temporary files (``TMPDIR``), has no name and is gone with the process, however
    that ends. Memory is that of a thousand rows; what the system keeps of the file it gives up when others need memory.

    Returns
    -------
    tuple
        Rows float32 ``[n, P]``, mapped, and bool ``[N]``: True at those of the view that are there.

    Raises
    ------
    InputError
        If there is no room for the file.
    """
    width = part.layout.num_weights
    usable = np.zeros(len(part), dtype=bool)
    with tempfile.TemporaryFile() as file:
        try:
            for start in range(0, len(part), CHUNK):
                rows = part[start : start + CHUNK].weights()
                finite = np.isfinite(rows).all(axis=1)
                usable[start : start + CHUNK] = finite
                file.write(rows[finite].tobytes())
            file.flush()
        except OSError as error:
            raise InputError(
                f"training.rows: streamed needs {len(part) * width * 4:,} bytes in {tempfile.gettempdir()} ({error}). "
                "Set TMPDIR to a folder with room."
            ) from error
        if not usable.any():
            return np.empty((0, width), np.float32), usable
        return np.memmap(file, np.float32, "r+", shape=(int(usable.sum()), width)), usable
