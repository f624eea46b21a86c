"""The trust checks of a spec on the fused kernels; as few images as there can be, for the interpreter is slow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from zookeeper import load_spec, make_plan
from zookeeper.build.check import check_spec
from zookeeper.population import operations

SPEC = """\
version: 1
name: tiny
images: {name: npz, path: tiny.npz, split: {train: 0.7, val: 0.15, test: 0.15}, seed: 0, normalise: none}
model: {architecture: "tiny_network:tiny_network", activation: tanh}
training: {optimizer: adam, batch_size: 2, epochs: 2}
grid: {lr: [1e-3], init: [kaiming_uniform], seed: [0, 1]}
build: {lowering: triton}
"""
NETWORK = """\
from torch import nn


def tiny_network(*, in_channels, image_size, num_classes, activation, dropout):
    return nn.Sequential(
        nn.Conv2d(in_channels, 2, 2), nn.MaxPool2d(2), nn.Tanh(), nn.Flatten(), nn.Linear(2, num_classes)
    )
"""


def test_every_check_holds_on_the_fused_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    np.savez(tmp_path / "tiny.npz", images=draw.integers(0, 256, (14, 3, 3), np.uint8), labels=np.arange(14) % 2)
    (tmp_path / "tiny_network.py").write_text(NETWORK)
    (tmp_path / "spec.yaml").write_text(SPEC)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ZOO_DATA_ROOT", str(tmp_path))
    launched = 0
    real = operations.convolve_fused

    def counted(*arguments: Any, **named: Any) -> torch.Tensor:
        nonlocal launched
        launched += 1
        return real(*arguments, **named)

    monkeypatch.setattr(operations, "convolve_fused", counted)
    report = check_spec(make_plan(load_spec(tmp_path / "spec.yaml")), num_models=2, num_steps=2)
    assert [check for check in report.checks if not check.holds] == []
    assert len(report.checks) == 8
    assert launched >= 4 * 2 * 4  # four cohorts of float32: two steps, and more for evaluations
