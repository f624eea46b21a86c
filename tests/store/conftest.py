from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.header import CohortEntry, ImageShape, ZooHeader, create_zoo
from zookeeper.store.writer import Block, commit_block

LAYOUT = {"version": 1, "blocks": [{"name": "fc.weight", "shape": [7], "kind": "weight", "offset": 0}]}


@dataclass(frozen=True)
class Toy:
    """A zoo of two cohorts whose every value follows from (cohort, model, epoch)."""

    root: Path
    num_models: int = 3
    num_epochs: int = 6
    num_weights: int = 7
    encoding: Encoding = PLAIN

    @property
    def header(self) -> ZooHeader:
        cohorts = {
            name: CohortEntry(
                tuple(f"{name}{number:03d}" for number in range(self.num_models)), tuple(range(self.num_epochs))
            )
            for name in ("b", "a")
        }
        image, spec = ImageShape("none", 1, 2, 2, 2), {"grid": {"lr": [0.1, 0.2]}}
        return ZooHeader("toy", cohorts, {"lay": LAYOUT}, image, spec, store=self.encoding)

    def rows(self, cohort: str, epochs: tuple[int, ...]) -> np.ndarray:
        seeds = [
            np.random.default_rng([ord(cohort), model, epoch]).standard_normal(self.num_weights)
            for model in range(self.num_models)
            for epoch in epochs
        ]
        return np.array(seeds, np.float32).reshape(self.num_models, len(epochs), self.num_weights)

    def block(self, cohort: str, epochs: tuple[int, ...], **changes: object) -> Block:
        count = self.num_models * len(epochs)
        values: dict[str, object] = {
            "cohort": cohort,
            "epochs": epochs,
            "rows": self.rows(cohort, epochs),
            "table": {"lr": [0.1] * count, "test_acc": np.arange(count) / count, "split": ["train"] * count},
            "layout": "lay",
            "state": {"moment": np.full(4, epochs[-1], np.float32), "step": np.array(epochs[-1])},
        }
        return Block(**{**values, **changes})  # type: ignore[arg-type]

    def create(self) -> Toy:
        create_zoo(self.root, self.header)
        return self

    def fill(self, blocks: tuple[tuple[int, ...], ...] = ((0, 1), (2, 3), (4, 5))) -> Toy:
        for epochs in blocks:
            for cohort in ("a", "b"):
                commit_block(self.root, self.block(cohort, epochs))
        return self

    def expected(self, cohort: str, model: int, epoch: int) -> np.ndarray:
        return self.rows(cohort, (epoch,))[model, 0]


@pytest.fixture(scope="session")
def toy_type() -> type[Toy]:
    """The class itself, for toys that outlive a test."""
    return Toy


@pytest.fixture(params=["parquet", "hdf5"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def make_toy(tmp_path: Path, backend: str) -> Callable[..., Toy]:
    encoding = Encoding(backend)
    return lambda name="zoo", **options: Toy(tmp_path / name, **{"encoding": encoding, **options}).create()
