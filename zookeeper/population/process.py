"""What a process that computes has to know of its machine: threads, an allocator that keeps its pages, fast products.

With glibc's defaults every large activation is returned to the system when freed and faulted in again
at the next step; on small stacked networks that costs more than the arithmetic.

torch hands products of float32 matrices to MKL, but convolutions to oneDNN. On AMD's processors MKL keeps to vectors of
256 bits where oneDNN uses the 512 there are, so a product takes half the time as a convolution of one pixel.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch

_FEWEST = 16  # torch leaves convolutions of one pixel to MKL for fewer images than this
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def prepare_process(num_threads: int = 1) -> None:
    """Set torch's threads and, on Linux with glibc, keep freed memory inside the process.

    Changes speed and, with the number of threads, the last bits of trainings. Call once at the start of a worker.
    """
    torch.set_num_threads(num_threads)
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        mallopt(_M_TRIM_THRESHOLD, 1 << 30)
        mallopt(_M_TOP_PAD, 64 << 20)


def _mkl_is_narrow() -> bool:
    """Whether products run on narrower vectors than convolutions do."""
    has_both = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if not has_both or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


_MKL_IS_NARROW = _mkl_is_narrow()


def prefers_convolution(x: torch.Tensor) -> bool:
    """Whether the product of ``x`` ``[N, T, F]`` with a matrix is faster as a convolution of one pixel."""
    return (
        _MKL_IS_NARROW
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 3
        and len(x) >= _FEWEST
        and not torch.is_autocast_enabled("cpu")
    )
