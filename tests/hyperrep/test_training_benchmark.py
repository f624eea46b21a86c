"""The benchmark of a training step, at toy sizes: both codes are one mathematics, and every line is written."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_plain_code_computes_the_same_loss_and_the_table_has_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        step = importlib.import_module("hyperrep_step")
        memory = importlib.import_module("hyperrep_memory")
        times = step.measure_times(step.paper_config(tiny=True), 1, compiled=False, size=64)
    finally:
        torch.set_num_threads(before)
    assert times.loss_difference < 1e-5
    assert times.bf16_difference < 1e-2
    assert times.tflop > 0
    held = memory.Memory({name: {"raw": 1.0, "idle": 2.0, "peak": 5.0} for name in memory.CASES})
    text = step.to_markdown(times, held, {"cpu": "toy", "torch": "0"}, "today")
    for line in ("plain code", "`hyperrep`, float32", "without behaviour", "bf16", "`recompute: true`", "**2**"):
        assert line in text
