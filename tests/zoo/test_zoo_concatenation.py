"""Zoos of different architectures, images and columns as one."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from zookeeper.errors import InputError
from zookeeper.zoo import Zoo, concatenate, write_rows


@pytest.fixture(scope="module")
def both(zoo: Zoo, other: Zoo) -> Zoo:
    return concatenate({"toy": zoo, "rings": other})


def test_one_frame_says_where_each_row_comes_from(both: Zoo, zoo: Zoo, other: Zoo) -> None:
    frame = both.frame
    assert len(both) == len(frame) == 28
    assert frame["zoo"].tolist() == ["toy"] * 24 + ["rings"] * 4
    assert frame["images"].tolist() == ["tetris"] * 24 + ["rings"] * 4
    assert set(both.factors) == {*zoo.factors, *other.factors, "images"}
    for name in zoo.frame.columns:
        if zoo.frame[name].notna().any():
            expected = zoo.frame[name].astype(frame[name].dtype)
            pd.testing.assert_series_equal(frame[name].iloc[:24], expected, check_names=False)
    assert frame["momentum"].isna().tolist() == [True] * 24 + [False] * 4
    assert frame["lr"].tolist()[-4:] == [1.0, 1.0, 2.0, 2.0]
    assert frame["epoch"].dtype == np.int64
    assert len(both.models) == 10
    assert both.epochs == (0, 1, 2, 3)
    for part in ("10 models, 28 checkpoints", "100 or", "'toy + rings' (concatenated)", "train 5, test 2, val 2"):
        assert part in repr(both)


def test_queries_splits_and_weights_by_layout(both: Zoo, zoo: Zoo, other: Zoo) -> None:
    found = both.query("test_acc >= .3 and lr >= .1 and (zoo == 'rings' or epoch == 3)")
    assert found.frame[["zoo", "model_id"]].to_numpy().tolist() == [
        *[["toy", model] for model in ("1111", "aaaa")],
        *[["rings", model] for model in ("x1", "x2")],
    ]
    with pytest.raises(InputError, match=r"mixes 2 layouts.*by_layout"):
        both.weights()
    parts = both[::-1].by_layout()
    assert list(parts) == [other.layout.digest, zoo.layout.digest]
    assert [part.layout for part in parts.values()] == [other.layout, zoo.layout]
    assert parts[zoo.layout.digest].weights().tobytes() == zoo[::-1].weights().tobytes()
    assert parts[other.layout.digest].weights_float64().tobytes() == other[::-1].weights_float64().tobytes()
    assert both.split("test").frame["model_id"].tolist() == ["ffff"] * 4 + ["x2"]
    assert [len(side.models) for side in both.splits] == [5, 2, 2]
    splits = both.divide(train=0.5, val=0.2, test=0.3, by="model", seed=1)
    assert sum(len(side) for side in splits) == 28
    assert not splits.leaks().shared("model")  # 1111 is in both zoos: it stays on one side
    assert len(both.divide(by="zoo", train=0.5, val=0, test=0.5).train.frame["zoo"].unique()) == 1
    leaks = both.divide(by="zoo", train=0.5, val=0, test=0.5).leaks()
    assert leaks.shared("model") == ("1111",)
    assert leaks.shared("seed") == ("seed=1", "seed=2", "seed=3")
    assert leaks.shared("initial draw") == ()


def test_rows_of_one_layout_from_several_zoos_interleave(zoo: Zoo) -> None:
    joint = concatenate({"a": zoo.query("epoch < 2"), "b": zoo.query("epoch >= 2")})
    assert joint.layout == zoo.layout
    order = np.random.default_rng(0).permutation(24)
    expected = np.concatenate([zoo.query("epoch < 2").weights(), zoo.query("epoch >= 2").weights()])[order]
    mixed = joint.take(order)
    assert mixed.weights().tobytes() == expected.tobytes()
    layer = zoo.layout.layers[-1]
    assert mixed.weights([layer]).tobytes() == np.ascontiguousarray(expected[:, zoo.layout.columns([layer])]).tobytes()
    assert np.array_equal(mixed.torch_dataset()[5].weights.numpy(), expected[5])
    rows = {
        int(row): w for batch in mixed.stream(5, buffer=10) for row, w in zip(batch.rows, batch.weights, strict=True)
    }
    assert all(np.array_equal(rows[place].numpy(), expected[place]) for place in range(24))
    again = pickle.loads(pickle.dumps(mixed))
    assert again.weights().tobytes() == expected.tobytes()


def test_trajectories_and_networks(both: Zoo, zoo: Zoo, other: Zoo) -> None:
    assert both.trajectory("cccc").tobytes() == zoo.trajectory("cccc").tobytes()
    images = torch.randn(3, 1, 6, 6)
    assert both.network("x1", 1)(images).equal(other.network("x1", 1)(images))
    assert both.network("2222", 3)(torch.ones(1, 1, 4, 4)).equal(zoo.network("2222", 3)(torch.ones(1, 1, 4, 4)))
    with pytest.raises(InputError, match=r"'1111' is in toy and rings. Query one of them first, such as zoo == 'toy'"):
        both.trajectory("1111")
    assert both.query("zoo == 'rings'").row("1111", 1).tobytes() == other.row("1111", 1).tobytes()
    assert both.query("zoo == 'rings'").image == other.image
    with pytest.raises(InputError, match="mixes the images of toy, rings"):
        _ = both.image
    with pytest.raises(InputError, match="no folder of its own"):
        _ = both.path


def test_concatenations_of_concatenations(both: Zoo, zoo: Zoo) -> None:
    more = concatenate({"ignored": both, "toy again": zoo.split("val")})
    assert list(dict.fromkeys(more.frame["zoo"])) == ["toy", "rings", "toy again"]
    assert more.query("zoo == 'toy again'").weights().tobytes() == zoo.split("val").weights().tobytes()
    assert more.header.provenance["zoos"]["toy"] == zoo.header.digest
    empty = concatenate([zoo[:0], both.query("zoo == 'rings'")])
    assert len(empty) == 4
    assert len(concatenate([zoo[:0]])) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda zoo, path: [], "at least one zoo"),
        (lambda zoo, path: [zoo, zoo], "two zoos are called 'toy'"),
        (
            lambda zoo, path: [zoo, write_rows(path, zoo[:1].weights(), {"zoo": ["x"]}, zoo.layout)],
            "column 'zoo' of its",
        ),
        (
            lambda zoo, path: [zoo, write_rows(path, zoo[:1].weights(), {"lr": ["fast"]}, zoo.layout)],
            "'lr' holds numbers here and text there",
        ),
    ],
)
def test_mistakes_in_concatenations(zoo: Zoo, tmp_path: Path, make: Callable[..., object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        concatenate(make(zoo, tmp_path / "new"))  # type: ignore[arg-type]
