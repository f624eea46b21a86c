"""Random bits keyed by a seed and a purpose, the same in every NumPy version.

NumPy promises the stream of a bit generator for ever but may change how permutations or normal numbers are
made of it. A split that is part of a zoo's identity therefore uses the raw stream and integer arithmetic.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def draw_bits(seed: int, purpose: str, num: int) -> NDArray[np.uint64]:
    """Draw ``num`` independent 64-bit numbers; different purposes give unrelated numbers.

    >>> first, again, other = draw_bits(0, "a", 3), draw_bits(0, "a", 3), draw_bits(0, "b", 3)
    >>> bool((first == again).all()), bool((first == other).any())
    (True, False)
    """
    key = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()[:16]
    return np.asarray(np.random.Philox(key=int.from_bytes(key, "little")).random_raw(num), dtype=np.uint64)


def draw_permutation(seed: int, purpose: str, num: int) -> NDArray[np.int64]:
    """Draw a permutation of ``0 .. num - 1``.

    >>> draw_permutation(0, "split", 5).tolist() == sorted(range(5))
    False
    """
    return np.argsort(draw_bits(seed, purpose, num), kind="stable").astype(np.int64)
