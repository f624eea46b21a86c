"""The typed dataset API over a small real zoo."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zookeeper
from zookeeper.datasets import Checkpoint, CheckpointBatch
from zookeeper.errors import InputError, StoreError
from zookeeper.nets.registry import build_network
from zookeeper.store.header import ImageShape
from zookeeper.store.reader import RowReader
from zookeeper.store.records import read_commits
from zookeeper.zoo import Zoo, write_rows

ORDER = ["1111", "2222", "ffff", "aaaa", "3333", "cccc"]  # the header's cohort order
MODEL = {"aaaa": 0, "3333": 1, "cccc": 2, "1111": 3, "2222": 4, "ffff": 5}


def expected(zoo: Zoo, truth: np.ndarray) -> np.ndarray:
    rows = [truth[MODEL[line.model_id], line.epoch] for line in zoo.frame.itertuples()]
    return np.array(rows, np.float32).reshape(len(zoo), truth.shape[2])


def test_frame_and_weights_agree_in_stable_order(zoo: Zoo, truth: np.ndarray) -> None:
    assert len(zoo) == 24
    assert zoo.frame["model_id"].tolist() == [model for model in ORDER for _ in range(4)]
    assert zoo.frame["epoch"].tolist() == [0, 1, 2, 3] * 6
    assert "weights" not in zoo.frame
    assert zoo.weights().tobytes() == expected(zoo, truth).tobytes()
    assert zoo.factors == ("architecture", "activation", "dropout", "lr", "seed")
    assert zoo.properties == ("train_acc", "test_acc")
    assert zoo.epochs == (0, 1, 2, 3)
    assert zoo.layout.num_weights == truth.shape[2]


def test_caches_change_nothing(build_zoo: Callable[..., Path], tmp_path: Path, zoo: Zoo) -> None:
    plain = zookeeper.open(build_zoo(tmp_path / "plain", finalised=False))
    pd.testing.assert_frame_equal(plain.frame, zoo.frame)
    assert plain.weights().tobytes() == zoo.weights().tobytes()


def test_a_zoo_under_construction_opens(build_zoo: Callable[..., Path], tmp_path: Path, truth: np.ndarray) -> None:
    half = zookeeper.open(build_zoo(tmp_path / "half", finalised=False, last=2))
    assert len(half) == 12
    assert "stored so far: 12 of 24" in repr(half)
    assert half.weights().tobytes() == expected(half, truth).tobytes()
    empty = zookeeper.open(build_zoo(tmp_path / "empty", finalised=False, last=0))
    assert len(empty) == 0
    assert empty.weights().shape == (0, truth.shape[2])
    assert len(empty.models) == 0
    assert "0 checkpoints" in repr(empty)


def test_models_show_each_models_last_checkpoint(zoo: Zoo) -> None:
    assert zoo.models["model_id"].tolist() == ORDER
    assert set(zoo.models["epoch"]) == {3}
    early = zoo.query("epoch < 2").models
    assert set(early["epoch"]) == {1}
    assert early["test_acc"].tolist() == zoo.query("epoch == 1").frame["test_acc"].tolist()


def test_views_subset_everything(zoo: Zoo, truth: np.ndarray) -> None:
    views = [
        zoo.query("test_acc > .2 and epoch == 3"),
        zoo.query("model_id in ['1111', 'aaaa'] or lr < @top", top=0.01),
        zoo.query("model_id.isin(@wanted)", wanted=["ffff"]),
        zoo.split("train"),
        zoo.split("val").query("epoch == 0"),
        zoo[3:9],
        zoo[-1],
        zoo[[5, 1, 1, -2]],
        zoo[zoo.frame["epoch"].to_numpy() == 2],
        zoo.take(np.array([], np.int64)),
        zoo.query("epoch > 1000"),
    ]
    for view in views:
        assert list(view.frame.index) == list(range(len(view)))
        assert view.weights().tobytes() == expected(view, truth).tobytes()
    assert [len(view) for view in views[3:8]] == [16, 1, 6, 1, 4]
    assert zoo.split("test").frame["model_id"].unique().tolist() == ["ffff"]


def test_the_frame_of_a_zoo_cannot_be_spoilt(zoo: Zoo) -> None:
    frame = zoo.frame
    frame["lr"] = 0.0
    del frame["epoch"]
    assert zoo.frame["lr"].min() > 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        zoo.path = Path("elsewhere")  # type: ignore[misc]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-24, 23), max_size=40))
def test_taking_rows_equals_indexing_the_matrix(zoo: Zoo, truth: np.ndarray, numbers: list[int]) -> None:
    picked = zoo.take(numbers)
    whole = expected(zoo, truth)
    assert picked.weights().tobytes() == whole[np.array(numbers, np.int64)].tobytes()
    assert picked.frame["epoch"].tolist() == [zoo.frame["epoch"].iloc[number] for number in numbers]


def test_layers_out_and_batches(zoo: Zoo, truth: np.ndarray) -> None:
    whole = expected(zoo, truth)
    layer = zoo.layout.layers[-1]
    columns = zoo.layout.columns([layer])
    assert zoo.weights([layer]).tobytes() == np.ascontiguousarray(whole[:, columns]).tobytes()
    out = np.empty_like(whole)
    assert zoo.weights(out=out) is out
    assert out.tobytes() == whole.tobytes()
    assert zoo.tensor([layer]).equal(torch.from_numpy(whole[:, columns]))
    parts = list(zoo.batches(7))
    assert [len(part.frame) for part in parts] == [7, 7, 7, 3]
    assert np.concatenate([part.weights for part in parts]).tobytes() == whole.tobytes()
    with pytest.raises(InputError, match="unknown layer"):
        zoo.weights(["fc9"])
    with pytest.raises(InputError, match="C-contiguous"):
        zoo.weights(out=np.empty((24, 1), np.float32))
    with pytest.raises(InputError, match="at least 1"):
        next(zoo.batches(0))


def test_single_models_and_checkpoints(zoo: Zoo, truth: np.ndarray) -> None:
    assert zoo.trajectory("cccc").tobytes() == truth[2].tobytes()
    assert zoo.query("epoch > 1").trajectory("cccc").tobytes() == truth[2, 2:].tobytes()
    assert zoo[::-1].trajectory("cccc").tobytes() == truth[2].tobytes()
    assert zoo.row("ffff", 2).tobytes() == truth[5, 2].tobytes()


def test_networks_compute_what_the_originals_did(zoo: Zoo) -> None:
    torch.manual_seed(10 * 4 + 3)  # model 4, epoch 3 of the fixture
    original = build_network("mlp", in_channels=1, image_size=(4, 4), num_classes=4, activation="tanh").eval()
    network = zoo.network("2222", 3)
    images = torch.randn(5, 1, 4, 4)
    assert not network.training
    assert network(images).equal(original(images))
    state = zoo.state_dict("2222", 3)
    assert list(state) == [name for name, _ in original.named_parameters()]
    state[next(iter(state))].zero_()
    assert network(images).equal(zoo.network("2222", 3)(images))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda zoo: zoo.query("tst_acc > .5"), "unknown column 'tst_acc'. Did you mean test_acc"),
        (lambda zoo: zoo.query("epoch == @e"), r"@e has no value. Pass it: query\(..., e=...\)"),
        (lambda zoo: zoo.query("epoch = 3"), "'=' assigns"),
        (lambda zoo: zoo.query("epoch"), "epoch == 50"),
        (lambda zoo: zoo.query("1 == 1"), "expected a condition"),
        (lambda zoo: zoo.query(""), "is empty"),
        (lambda zoo: zoo.query("epoch >"), "cannot be evaluated"),
        (lambda zoo: zoo.query("(epoch > 1"), "Check brackets"),
        (lambda zoo: zoo.query("epoch > 1\nlr > 0"), "query"),
        (lambda zoo: zoo.query("lr < 'a'"), "cannot be evaluated"),
        (lambda zoo: zoo.query("lr.to_csv('x') == 1"), "'to_csv' is not available"),
        (lambda zoo: zoo.query("lr.__class__ == 1"), "'__class__' is not available"),
        (lambda zoo: zoo.query("@pd.DataFrame == 1"), "not available"),
        (lambda zoo: zoo.split("trian"), "unknown split 'trian'. Did you mean train"),
        (lambda zoo: zoo.trajectory("fff"), "unknown model 'fff'. Did you mean ffff"),
        (lambda zoo: zoo.row("ffff", 9), "no checkpoint at epoch 9; the nearest are 1, 2, 3"),
        (lambda zoo: zoo.take([24]), "0..23, got 24"),
        (lambda zoo: zoo.take([0.5]), "row numbers"),
        (lambda zoo: zoo[np.array([True])], "24 entries"),
        (lambda zoo: zoo.torch_dataset(["test_ac"]), "Did you mean test_acc"),
        (lambda zoo: zoo.torch_dataset(["split"]), "expected numbers"),
        (lambda zoo: zoo.dataloader(0), "at least 1"),
        (lambda zoo: zookeeper.open("no/such/zoo"), "no zoo here"),
    ],
)
def test_mistakes_get_a_sentence_that_helps(zoo: Zoo, call: Callable[[Zoo], object], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        call(zoo)
    assert "\n" not in str(caught.value).replace("epoch > 1\\nlr", "")


def test_repr_says_what_it_is(zoo: Zoo) -> None:
    text = repr(zoo)
    for part in (
        "'toy'",
        "6 models, 24 checkpoints",
        "100 weights",
        "train 4, test 1, val 1",
        "best test_acc: 0.5500 (ffff, epoch 3)",
    ):
        assert part in text
    assert "so far" not in repr(zoo.split("val"))


def test_torch_dataset_items_and_batches(zoo: Zoo, truth: np.ndarray) -> None:
    dataset = zoo.split("train").torch_dataset(("test_acc", "lr"))
    item = dataset[5]
    assert isinstance(item, Checkpoint)
    frame = zoo.split("train").frame
    assert (item.model_id, item.epoch) == (frame["model_id"][5], frame["epoch"][5])
    assert item.properties == {"test_acc": frame["test_acc"][5], "lr": frame["lr"][5]}
    assert item.weights.numpy().tobytes() == truth[MODEL[item.model_id], item.epoch].tobytes()
    assert dataset[-1].epoch == 3
    with pytest.raises(IndexError, match="out of range"):
        dataset[16]
    batch = dataset.__getitems__([3, 0, 3])
    assert isinstance(batch, CheckpointBatch)
    assert len(batch) == 3
    assert batch.epochs.tolist() == [3, 0, 3]
    assert batch.weights[0].equal(batch.weights[2])
    assert batch.to("cpu").properties["lr"].dtype == torch.float32
    layer = zoo.layout.layers[0]
    narrow = zoo.torch_dataset(layers=[layer])
    assert narrow[2].weights.equal(zoo.tensor([layer])[2])


def test_dataloader_order_follows_from_the_seed(zoo: Zoo) -> None:
    def order(seed: int) -> list[int]:
        return [row for batch in zoo.dataloader(5, shuffle=True, seed=seed) for row in batch.rows.tolist()]

    assert order(0) == order(0) != order(1)
    assert sorted(order(0)) == list(range(24))
    assert [len(batch) for batch in zoo.dataloader(5, drop_last=True)] == [5] * 4
    whole = torch.cat([batch.weights for batch in zoo.dataloader(7)])
    assert whole.equal(zoo.tensor())


def test_pickled_zoos_and_datasets_read_again(zoo: Zoo) -> None:
    zoo.weights()
    again = pickle.loads(pickle.dumps(zoo.split("train")))
    assert again.weights().tobytes() == zoo.split("train").weights().tobytes()
    dataset = pickle.loads(pickle.dumps(zoo.torch_dataset()))
    assert dataset[3].weights.equal(zoo.torch_dataset()[3].weights)


def test_loader_workers_read_the_same(zoo: Zoo) -> None:
    zoo.weights()  # files are open when the workers start
    batches = list(zoo.dataloader(10, num_workers=1))
    assert torch.cat([batch.weights for batch in batches]).equal(zoo.tensor())


def test_rows_of_any_origin_become_a_zoo(zoo: Zoo, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = generator.standard_normal((9, zoo.layout.num_weights))
    rows[4, 0] = np.nan
    columns = {"architecture": ["mlp"] * 9, "activation": ["tanh"] * 9, "temperature": np.arange(9) / 9}
    sampled = write_rows(
        tmp_path / "sampled", rows, columns, zoo.layout, image=zoo.image, provenance={"anchors": str(zoo.path)}
    )
    assert sampled.header.kind == "sampled"
    assert sampled.header.provenance == {"anchors": str(zoo.path)}
    assert sampled.weights().tobytes() == rows.astype(np.float32).tobytes()
    assert sampled.frame["temperature"].tolist() == columns["temperature"].tolist()
    assert sampled.query("status == 'diverged'").frame.index.tolist() == [0]
    model_id = sampled.frame["model_id"][2]
    sampled.network(model_id, 0)
    again = zookeeper.open(tmp_path / "sampled")
    assert again.frame["model_id"].is_unique
    assert again.image == zoo.image
    with pytest.raises(InputError, match="no split"):
        sampled.split("train")
    with pytest.raises(InputError, match="already exists"):
        write_rows(tmp_path / "sampled", rows, columns, zoo.layout)
    with pytest.raises(InputError, match=r"\[N, 100\]"):
        write_rows(tmp_path / "x", rows[:, 1:], None, zoo.layout)
    with pytest.raises(InputError, match="one per row"):
        write_rows(tmp_path / "x", rows, {"lr": [1.0]}, zoo.layout)
    with pytest.raises(InputError, match="given twice"):
        write_rows(tmp_path / "x", rows, {"model_id": ["m"] * 9}, zoo.layout)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sampled"]


def test_a_failed_write_leaves_nothing(zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zookeeper.store.collection.finalise", full)
    with pytest.raises(StoreError, match="No space left"):
        write_rows(tmp_path / "x", np.ones((2, zoo.layout.num_weights)), None, zoo.layout)
    assert list(tmp_path.iterdir()) == []


def test_networks_need_a_known_and_trusted_architecture(zoo: Zoo, tmp_path: Path) -> None:
    rows = np.zeros((1, zoo.layout.num_weights))
    bare = write_rows(tmp_path / "bare", rows, None, zoo.layout, image=zoo.image)
    with pytest.raises(InputError, match="'architecture'"):
        bare.network(bare.frame["model_id"][0], 0)
    columns = {"model_id": ["m"], "architecture": ["zookeeper.nets.mlp:mlp"], "activation": ["tanh"]}
    foreign = write_rows(tmp_path / "foreign", rows, columns, zoo.layout, image=zoo.image)
    with pytest.raises(InputError, match="allow_import"):
        foreign.network("m", 0)
    foreign.network("m", 0, allow_import=True)
    blind = write_rows(tmp_path / "blind", rows, {**columns, "architecture": ["mlp"]}, zoo.layout)
    with pytest.raises(InputError, match="what images"):
        blind.network("m", 0)
    other = {**columns, "architecture": ["mlp"]}
    wrong = write_rows(tmp_path / "wrong", rows, other, zoo.layout, image=ImageShape("x", 1, 4, 4, 7))
    with pytest.raises(InputError, match=r"do not fit .* stored \(4, 5\), expected \(7, 5\)"):
        wrong.network("m", 0)


def test_mixed_layouts_ask_for_a_query(zoo: Zoo) -> None:
    first, *others = read_commits(zoo.path)
    records = (dataclasses.replace(first, layout="other"), *others)
    mixed = dataclasses.replace(zoo, _reader=RowReader(zoo.path, records))
    with pytest.raises(InputError, match="mixes 2 layouts"):
        mixed.weights()
    assert mixed.query("cohort == 'late'").layout == zoo.layout


def test_opening_and_querying_import_no_torch(zoo: Zoo) -> None:
    code = (
        "import sys, zookeeper\n"
        "assert not {'torch', 'ray', 'pandas', 'numpy', 'pyarrow'} & set(sys.modules), 'import'\n"
        f"zoo = zookeeper.open({str(zoo.path)!r})\n"
        "assert len(zoo.query('epoch == 3').weights()) == 6\n"
        "repr(zoo), zoo.models, zoo.layout, zoo.trajectory('ffff'), list(zoo.batches(10))\n"
        "assert not {'torch', 'ray', 'h5py', 'yaml', 'fsspec', 'aiohttp'} & set(sys.modules), 'use'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_door_lists_what_is_public() -> None:
    assert dir(zookeeper) == sorted(zookeeper.__all__)
    assert zookeeper.Zoo is Zoo
    assert all(getattr(zookeeper, name) is not None for name in zookeeper.__all__)
    with pytest.raises(AttributeError, match="no attribute 'zoos'"):
        zookeeper.zoos  # noqa: B018


def test_a_zoo_held_to_the_end_of_a_script_leaves_in_silence(zoo: Zoo, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"import zookeeper\nzoo = zookeeper.open({str(zoo.path)!r})\nprint(zoo.weights().shape)\n")
    done = subprocess.run([sys.executable, str(script)], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout == f"({len(zoo)}, {zoo.layout.num_weights})\n"
    assert done.stderr == ""
