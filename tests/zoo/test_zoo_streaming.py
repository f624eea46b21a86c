"""Streams: every row once, the same with workers and ranks, bounded memory, positions that can be resumed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from zookeeper.datasets import CheckpointBatch
from zookeeper.errors import InputError
from zookeeper.nets.layout import WeightLayout
from zookeeper.store.encoding import Encoding
from zookeeper.store.header import CohortEntry, ZooHeader, create_zoo
from zookeeper.store.writer import Block, commit_block
from zookeeper.streaming import StreamOrder
from zookeeper.zoo import Zoo
from zookeeper.zoo import open as open_zoo

LAYOUT = WeightLayout.from_shapes({"a.weight": ((1, 3), "weight"), "b.weight": ((2, 1), "weight")})


def store(root: Path, encoding: Encoding) -> Zoo:
    """12 shards of 21 rows; a row's first weight is its stored number."""
    cohorts = {f"c{n:02d}": CohortEntry(tuple(f"m{n:02d}{m}" for m in range(7)), (0, 1, 2)) for n in range(12)}
    create_zoo(root, ZooHeader("many", cohorts, {LAYOUT.digest: LAYOUT.to_json()}, store=encoding))
    for number, name in enumerate(cohorts):
        rows = np.zeros((7, 3, LAYOUT.num_weights), np.float32)
        rows[:, :, 0] = np.arange(21).reshape(7, 3) + 21 * number
        rows[:, :, 4] = -1
        table = {"test_acc": rows[:, :, 0].reshape(-1) / 1000}
        commit_block(root, Block(name, (0, 1, 2), rows, table, LAYOUT.digest))
    return open_zoo(root)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return store(tmp_path_factory.mktemp("stream") / "many", Encoding())


def numbers(batches: Iterable[CheckpointBatch]) -> list[int]:
    return [int(number) for batch in batches for number in batch.weights[:, 0]]


def same(one: CheckpointBatch, other: CheckpointBatch) -> bool:
    return (
        one.weights.equal(other.weights)
        and one.rows.equal(other.rows)
        and one.epochs.equal(other.epochs)
        and one.model_ids == other.model_ids
        and one.properties["test_acc"].equal(other.properties["test_acc"])
    )


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_batches_hold_what_the_zoo_holds(tmp_path: Path, compression: str) -> None:
    many = store(tmp_path / "many", Encoding(compression=compression))
    view = many.query("epoch > 0")[::-1]
    whole, frame = view.tensor(), view.frame
    for batch in view.stream(10, buffer=50):
        rows = batch.rows.numpy()
        assert batch.weights.equal(whole[rows])
        assert list(batch.model_ids) == frame["model_id"].iloc[rows].tolist()
        assert batch.epochs.tolist() == frame["epoch"].iloc[rows].tolist()
        assert np.array_equal(batch.properties["test_acc"].numpy(), frame["test_acc"].to_numpy(np.float32)[rows])
    narrow = torch.cat([batch.weights for batch in many.stream(10, layers=["b"], shuffle=False)])
    assert narrow.equal(many.tensor(["b"]))


@settings(max_examples=40, deadline=None)
@given(
    num_rows=st.integers(0, 90),
    num_blocks=st.integers(1, 9),
    batch=st.integers(1, 12),
    factor=st.integers(1, 6),
    shards=st.integers(1, 4),
    ranks=st.integers(1, 4),
    epoch=st.integers(0, 2),
)
def test_every_row_comes_once_over_all_ranks(
    many: Zoo, num_rows: int, num_blocks: int, batch: int, factor: int, shards: int, ranks: int, epoch: int
) -> None:
    view = many.take(np.random.default_rng([num_rows, num_blocks]).permutation(21 * num_blocks)[:num_rows])
    streams = [
        view.stream(batch, buffer=batch * factor + 1, shards=shards, rank=rank, num_ranks=ranks)
        for rank in range(ranks)
    ]
    for stream in streams:
        stream.set_epoch(epoch)
    parts = [[batch.rows.tolist() for batch in stream] for stream in streams]
    assert sorted(row for part in parts for rows in part for row in rows) == list(range(len(view)))
    counts = [sum(map(len, part)) for part in parts]
    assert max(counts) - min(counts) <= 1
    assert [len(stream) for stream in streams] == [len(part) for part in parts]
    assert all(len(rows) == batch for part in parts for rows in part[:-1])


def test_order_follows_from_seed_and_epoch(many: Zoo) -> None:
    stream = many.stream(8, buffer=64, seed=1)
    first, second = numbers(stream), numbers(stream)
    assert stream.epoch == 2
    assert first != second
    again = many.stream(8, buffer=64, seed=1)
    assert [numbers(again), numbers(again)] == [first, second]
    again.set_epoch(0)
    assert numbers(again) == first
    assert numbers(many.stream(8, buffer=64, seed=2)) != first
    assert numbers(many.stream(8, shuffle=False)) == [int(row) for row in many.tensor()[:, 0]]


def test_buffers_mix_shards_and_touch_few_at_a_time(many: Zoo) -> None:
    stream = many.stream(8, buffer=64, shards=3)
    shards = np.array(numbers(stream)) // 21
    assert len(set(shards[:8].tolist())) > 1
    for start in range(0, 252, 63):  # three shards are gone through before the next are opened; a buffer may see both
        assert len(set(shards[start : start + 63].tolist())) <= 6
    # what lies near in a file is spread over a buffer: successors are rarely neighbours
    near = np.abs(np.diff(np.array(numbers(many.stream(8, buffer=64, shards=12))))) == 1
    assert near.mean() < 0.1


def test_a_buffer_is_all_that_is_read_at_once(many: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    stream = many.stream(8, buffer=50)
    read = stream._dataset.__getitems__
    monkeypatch.setattr(type(stream._dataset), "__getitems__", lambda _, rows: (asked.append(len(rows)), read(rows))[1])
    assert len(numbers(stream)) == 252
    assert max(asked) == 48
    assert len(asked) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing(many: Zoo, workers: int) -> None:
    alone = list(many.stream(8, buffer=40, rank=1, num_ranks=2))
    stream = many.stream(8, buffer=40, rank=1, num_ranks=2)
    together = list(stream.loader(num_workers=workers))
    assert len(alone) == len(together) == len(stream)
    assert all(map(same, alone, together))
    assert stream.epoch == 1
    if workers == 2:
        plain = DataLoader(many.stream(8, buffer=40, rank=1, num_ranks=2), batch_size=None, num_workers=2)
        assert all(map(same, alone, plain))


@pytest.mark.parametrize(
    ("done", "before", "after"), [(0, 0, 0), (1, 0, 0), (7, 0, 0), (32, 0, 0), (7, 2, 0), (7, 0, 2)]
)
def test_a_position_goes_on_with_what_was_left(many: Zoo, done: int, before: int, after: int) -> None:
    whole = many.stream(8, buffer=40, seed=4)
    whole.set_epoch(1)
    expected = [list(whole), list(whole)]
    stream = many.stream(8, buffer=40, seed=4)
    stream.set_epoch(1)
    loader = stream.loader(num_workers=before)
    batches = iter(loader)
    for _ in range(done):
        next(batches)
    state = json.loads(json.dumps(loader.state_dict()))
    del batches
    resumed = many.stream(8, buffer=40, seed=4).loader(num_workers=after)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    rest = list(resumed)
    assert len(rest) == 32 - done
    assert all(map(same, expected[0][done:], rest))
    assert resumed.state_dict() == {**state, "epoch": 2, "batch": 0}
    assert all(map(same, expected[1], resumed))


def test_an_iterator_begins_anew_and_a_stream_can_be_pickled(many: Zoo) -> None:
    stream = many.stream(8, buffer=40)
    assert same(next(iter(stream)), next(iter(stream)))
    assert numbers(pickle.loads(pickle.dumps(stream))) == numbers(stream)


def test_mistakes_in_streams(many: Zoo, tmp_path: Path) -> None:
    for call, message in (
        (lambda: many.stream(0), "batch_size: expected at least 1"),
        (lambda: many.stream(8, shards=0), "shards: expected at least 1"),
        (lambda: many.stream(8, buffer=7), "at least a batch of 8 rows, got 7"),
        (lambda: many.stream(8, rank=2, num_ranks=2), r"expected 0\.\.1, got 2"),
        (lambda: many.stream(8, properties=["tset_acc"]), "Did you mean test_acc"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    state = many.stream(8).state_dict()
    for other in (many.stream(9), many.stream(8, seed=1), many[1:].stream(8), many.stream(8, rank=1, num_ranks=2)):
        with pytest.raises(InputError, match="one of another order"):
            other.load_state_dict(state)
    with pytest.raises(InputError, match="one of another order"):
        many.stream(8).load_state_dict({**state, "batch": 99})


def test_a_sequence_of_nothing() -> None:
    empty = np.empty(0, np.int64)
    assert StreamOrder(empty, empty, 4, 1, shuffle=True, seed=0).sequence(0).tolist() == []
