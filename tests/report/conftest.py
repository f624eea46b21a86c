"""Zoos of every shape that a page has to survive."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from zookeeper import Encoding, WeightLayout, Zoo, build_zoo, load_spec, make_plan, write_rows
from zookeeper import open as open_zoo

SPEC = """
version: 1
name: tiny
images: {name: tetris, split: {train: 0.5, val: 0.25, test: 0.25}, seed: 0}
model: {architecture: mlp, activation: tanh}
training: {optimizer: adam, batch_size: 64, epochs: 3}
grid:
  init: [uniform, normal]
  lr: [1e-3, 3e-3]
  seed: {range: [0, 3]}
checkpoints: {every: 1}
"""
LAYOUT = WeightLayout.from_shapes({"fc.weight": ((2, 3), "weight"), "fc.bias": ((2,), "bias")})


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """A built zoo: 12 models, 48 checkpoints, a spec."""
    root = tmp_path_factory.mktemp("trained")
    (root / "spec.yaml").write_text(SPEC)
    build_zoo(make_plan(load_spec(root / "spec.yaml")), root / "zoo", show_progress=False)
    return open_zoo(root / "zoo")


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Rows of weights without a spec, a split or a metric."""
    rows = np.random.default_rng(0).normal(size=(5, 8))
    return write_rows(tmp_path_factory.mktemp("bare") / "zoo", rows, None, LAYOUT, name="bare & <b>")


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """2,300 models with 20 factors, hostile names among their values, 40 of them diverged, half precision."""
    draw = np.random.default_rng(1)
    count = 2300
    table = pd.DataFrame({f"factor_{n:02d}": draw.integers(0, 2 + n * 3, count) for n in range(18)})
    table["a_factor_with_a_long_name_that_goes_on"] = [f"<script>alert({n % 30})</script>" for n in range(count)]
    table["switch"] = draw.random(count) < 0.5
    table["val_acc"] = np.where(table["factor_00"] == 1, 0.8, 0.4) + 0.1 * draw.random(count)
    rows = draw.normal(size=(count, 8))
    rows[:40, 3] = np.nan
    table.loc[:39, "val_acc"] = np.nan
    return write_rows(
        tmp_path_factory.mktemp("crowd") / "zoo", rows, table, LAYOUT, name="crowd", store=Encoding(dtype="float16")
    )
