"""The precision of training: float32, TF32 products on NVIDIA GPUs, or bfloat16 products with float32 weights.

Settings hold inside a ``with`` block and are put back at its end; nothing else in the process sees them. float32
means float32 on every device: a GPU does not round to TF32 behind its back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

from zookeeper.errors import InputError

FLOAT32, TF32, BF16 = "float32", "tf32", "bf16"
PRECISIONS = (FLOAT32, TF32, BF16)
_DOTS = {FLOAT32: "ieee", TF32: "tf32", BF16: "ieee"}

_dot_precision: ContextVar[str] = ContextVar("dot_precision", default="ieee")


def dot_precision() -> str:
    """How own kernels multiply float32 numbers here and now: ieee or tf32."""
    return _dot_precision.get()


def check_precision(precision: str, device: str) -> None:
    """Refuse what a kind of device cannot do.

    Raises
    ------
    InputError
        If the precision is unknown, or is tf32 away from a GPU: results would be those of another precision.

    Examples
    --------
    >>> check_precision("bf16", "cpu")
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision: unknown precision {precision!r}; expected {', '.join(PRECISIONS)}.")
    if precision == TF32 and not device.startswith("cuda"):
        raise InputError(
            f"precision tf32: the device is {device}; expected cuda, for only NVIDIA GPUs have TF32. "
            "Train on a GPU, or with precision float32 or bf16."
        )


def _float32_products() -> tuple[Any, ...]:
    """Return torch's settings of matrix products and convolutions of float32 on a GPU."""
    return torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]


@contextmanager
def training_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Carry out products in a precision while the block runs, on the device's type.

    bf16 is autocast: convolutions and linear layers take bfloat16 operands, weights, their update, norms and the
    loss stay float32. Weights are cast anew at every use, as a captured CUDA graph needs.

    Raises
    ------
    InputError
        As `check_precision`.

    Examples
    --------
    >>> with training_precision("bf16", torch.device("cpu")):
    ...     (torch.ones(1, 2, 3) @ torch.ones(1, 3, 2)).dtype
    torch.bfloat16
    """
    check_precision(precision, device.type)
    products = _float32_products() if device.type == "cuda" else ()
    before = [product.fp32_precision for product in products]
    token = _dot_precision.set(_DOTS[precision])
    for product in products:
        product.fp32_precision = _DOTS[precision]
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == BF16, cache_enabled=False):
            yield
    finally:
        for product, setting in zip(products, before, strict=True):
            product.fp32_precision = setting
        _dot_precision.reset(token)
