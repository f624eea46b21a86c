"""Write the golden zoos. They are committed and never made again: a new version of the format gets new ones.

    python tests/store/golden/make.py tests/store/golden

`before-check` is what the release before headers had a check wrote; its maker was this program, up to `Encoding`.
`parquet-copy` is what this program writes since headers have a copy, `zoo.json.copy`; the others have none.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from zookeeper.store.caches import finalise
from zookeeper.store.encoding import Encoding
from zookeeper.store.header import CohortEntry, ImageShape, ZooHeader, create_zoo
from zookeeper.store.writer import Block, commit_block

LAYOUT: dict[str, Any] = {
    "version": 1,
    "blocks": [
        {"name": "fc.weight", "shape": [2, 3], "kind": "weight", "offset": 0},
        {"name": "fc.bias", "shape": [2], "kind": "bias", "offset": 6},
    ],
}
DIGEST = "3293ad5eb6c0c87e"
COHORTS = {"first": CohortEntry(("aa", "bb"), (0, 1, 5)), "second": CohortEntry(("cc",), (0, 1))}
ENCODINGS = {
    "parquet": Encoding(),
    "parquet-copy": Encoding(),
    "parquet-zstd": Encoding(compression="zstd"),
    "parquet-float16": Encoding(dtype="float16"),
    "parquet-bfloat16-zstd": Encoding(dtype="bfloat16", compression="zstd"),
    "hdf5": Encoding("hdf5"),
    "hdf5-bfloat16-gzip": Encoding("hdf5", dtype="bfloat16", compression="gzip"),
}


def make(root: Path, **options: Any) -> None:
    image = ImageShape("tiny", 1, 1, 3, 2, {"seed": 0})
    header = ZooHeader(
        "golden",
        COHORTS,
        {DIGEST: LAYOUT},
        image,
        {"name": "golden"},
        provenance={"by": "tests/store/golden/make.py"},
        created="2026-11-21T00:00:00+00:00",
        packages={"weight-zookeeper": "0.1.0"},
        **options,
    )
    create_zoo(root, header)
    for cohort, epochs in (("first", (0, 1)), ("first", (5,)), ("second", (0,))):
        models = COHORTS[cohort].models
        pairs = [(model, epoch) for model in models for epoch in epochs]
        rows = [[row(model, epoch) for epoch in epochs] for model in models]
        table = {
            "lr": [0.1 if model == "aa" else None for model, _ in pairs],
            "init": ["größe" if model == "aa" else None for model, _ in pairs],
            "seed": [ord(model[0]) for model, _ in pairs],
            "test_acc": [float("nan") if epoch == 0 else epoch / 8 for _, epoch in pairs],
            "split": ["train"] * len(pairs),
        }
        state = {"step": np.array(epochs[-1]), "moment": np.float32([0.5, epochs[-1]])}
        commit_block(root, Block(cohort, epochs, np.array(rows), table, DIGEST, state))
    if options["store"].compression == "none":
        finalise(root)


def row(model: str, epoch: int) -> np.ndarray:
    """Weights of one checkpoint: multiples of 1/8 that every stored type keeps, and a third that they round."""
    values = [(ord(model[0]) % 7 + 3 * epoch + 5 * column) % 17 / 8 - 1 for column in range(7)]
    return np.array([*values, (1 + epoch) / 3], np.float32)


if __name__ == "__main__":
    for name, encoding in ENCODINGS.items():
        make(Path(sys.argv[1]) / name, store=encoding)
