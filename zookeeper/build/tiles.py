"""When memory runs out: the same work again in smaller tiles, which change what runs at once, never the models."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from zookeeper.errors import BuildError

Result = TypeVar("Result")
_MESSAGES = ("out of memory", "not enough memory", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the host.

    >>> is_out_of_memory(RuntimeError("CUDA error: out of memory")), is_out_of_memory(RuntimeError("bad shape"))
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MESSAGES)


def with_smaller_tiles(work: Callable[[int | None], Result], tile: int | None, num_models: int, where: str) -> Result:
    """Do ``work(tile)``; each time memory runs out, again with tiles of half the size.

    Parameters
    ----------
    work
        Something that may be begun again, since it goes on from what is stored.
    tile
        The first size; None is the engine's choice for ``num_models``.

    Raises
    ------
    BuildError
        If memory runs out with one model at a time.
    """
    while True:
        try:
            return work(tile)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        size = num_models if tile is None else min(tile, num_models)
        if size == 1:
            raise BuildError(
                f"{where}: out of memory with one model at a time ({reason}). Take a device with more memory, fewer "
                "workers beside each other, or a smaller batch."
            )
        tile = size // 2
        gc.collect()  # what the failed attempt left behind
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
