"""Tests of the GPU kernels in triton's interpreter, which must be chosen before triton is imported.

`tests/population/test_triton.py` runs this folder in a process of its own; elsewhere there is nothing to collect.
"""

from __future__ import annotations

import os

collect_ignore_glob = [] if os.environ.get("TRITON_INTERPRET") == "1" else ["test_*.py"]
