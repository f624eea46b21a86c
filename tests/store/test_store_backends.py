"""One suite of promises; every backend, stored type and compression inherits it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from zookeeper.compare import assert_equal, compare_zoos
from zookeeper.errors import InputError, StoreError
from zookeeper.nets.layout import WeightLayout
from zookeeper.spec.storage import COMPRESSIONS as SPEC_COMPRESSIONS
from zookeeper.spec.storage import DTYPES as SPEC_DTYPES
from zookeeper.store.caches import finalise
from zookeeper.store.encoding import COMPRESSIONS, DTYPES, Encoding, decode_floats, encode_floats, keeps_every_value
from zookeeper.store.reader import RowReader
from zookeeper.store.records import read_commits
from zookeeper.store.shards import open_shard
from zookeeper.zoo import Zoo, write_rows
from zookeeper.zoo import open as open_zoo

LAYOUT = WeightLayout.from_shapes({"fc.weight": ((5, 7), "weight"), "fc.bias": ((5,), "bias")})
MODELS, EPOCHS = 9, 6
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 1e-40, 3.4e38, 65519.0, 65520.0], np.float32)


def make_rows() -> np.ndarray:
    rows = np.random.default_rng(3).standard_normal((MODELS * EPOCHS, LAYOUT.num_weights)).astype(np.float32)
    rows[4, : len(SPECIAL)] = SPECIAL
    return rows


def make_frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model_id": [f"model-{number // EPOCHS:02d}" for number in range(MODELS * EPOCHS)],
            "epoch": [number % EPOCHS for number in range(MODELS * EPOCHS)],
            "test_acc": np.linspace(0.0, 1.0, MODELS * EPOCHS),
            "seed": np.arange(MODELS * EPOCHS) // EPOCHS,
            "nesterov": [number % 2 == 0 for number in range(MODELS * EPOCHS)],
            "init": [None if number % 5 == 0 else f"größe {number}" for number in range(MODELS * EPOCHS)],
            "note": [None] * (MODELS * EPOCHS),
            "maybe": [None, True] * (MODELS * EPOCHS // 2),
        }
    )


class StoreSuite:
    """What every encoding promises; a subclass names one."""

    encoding: ClassVar[Encoding]

    @pytest.fixture
    def zoo(self, tmp_path: Path) -> Zoo:
        return write_rows(tmp_path / "zoo", make_rows(), make_frame(), LAYOUT, name="toy", store=self.encoding)

    def truth(self) -> np.ndarray:
        """What the rows must read as: rounded to the stored type, and back, by torch."""
        rows = torch.from_numpy(make_rows())
        return rows.to(getattr(torch, self.encoding.dtype)).to(torch.float32).numpy()

    def test_rows_read_back_to_the_bit_in_any_order(self, zoo: Zoo) -> None:
        truth = self.truth()
        finite = ~np.isnan(truth)
        read = zoo.weights()
        assert np.array_equal(np.isnan(read), ~finite)
        assert read[finite].tobytes() == truth[finite].tobytes()
        order = np.random.default_rng(0).integers(0, len(zoo), 64)
        for picked in (order, np.arange(len(zoo))[::-1], np.arange(7, 30), np.array([4]), np.arange(0, 50, 6)):
            assert zoo.take(picked).weights().tobytes() == read[picked].tobytes()
        assert zoo.trajectory("model-03").tobytes() == read[18:24].tobytes()
        assert np.concatenate([batch.weights for batch in zoo.batches(5)]).tobytes() == read.tobytes()
        assert zoo.weights(["fc.bias"]).tobytes() == np.ascontiguousarray(read[:, 35:]).tobytes()

    def test_double_precision_reads_the_same_numbers(self, zoo: Zoo) -> None:
        np.testing.assert_array_equal(zoo.weights_float64(), zoo.weights().astype(np.float64))

    def test_the_table_is_that_of_any_other_encoding(self, zoo: Zoo, tmp_path: Path) -> None:
        plain = write_rows(tmp_path / "plain", make_rows(), make_frame(), LAYOUT, name="toy")
        pd.testing.assert_frame_equal(zoo.frame, plain.frame)
        lossless = keeps_every_value("float32", self.encoding.dtype)
        assert (compare_zoos(zoo, plain) == ()) == lossless
        if lossless:
            assert_equal(zoo, plain)

    def test_a_shard_is_self_contained_and_its_groups_are_its_rows(self, zoo: Zoo) -> None:
        (record,) = read_commits(zoo.path)
        assert record.encoding == self.encoding
        shard = open_shard(zoo.path / record.shard.file, LAYOUT.num_weights, self.encoding)
        parts = [shard.read_group(number) for number in range(len(shard.group_rows))]
        assert [len(part) for part in parts] == list(shard.group_rows)
        assert np.concatenate(parts).tobytes() == encode_floats(make_rows(), self.encoding.dtype).tobytes()
        assert shard.layout == LAYOUT.digest
        own = shard.read_table().to_pandas()
        pd.testing.assert_frame_equal(own[list(zoo.frame.columns)], zoo.frame)
        shard.close()

    def test_a_reader_survives_pickling_and_closing(self, zoo: Zoo) -> None:
        reader = RowReader(zoo.path, read_commits(zoo.path))
        numbers = np.array([50, 3, 4, 5, 3])
        first, second = (np.empty((5, LAYOUT.num_weights), np.float32) for _ in range(2))
        reader.read(numbers, first)
        reader.close()
        pickle.loads(pickle.dumps(reader)).read(numbers, second)
        assert first.tobytes() == second.tobytes()
        reader.read(numbers, second)
        assert first.tobytes() == second.tobytes() == zoo.take(numbers).weights().tobytes()

    def test_worker_processes_load_the_same_batches(self, zoo: Zoo) -> None:
        zoo.weights()  # files are open when the workers are forked
        loaded = [batch.weights for batch in zoo.dataloader(11, num_workers=2)]  # type: ignore[attr-defined]
        assert torch.cat(loaded).numpy().tobytes() == zoo.weights().tobytes()

    def test_damage_to_the_shard_is_never_read(self, zoo: Zoo) -> None:
        (record,) = read_commits(zoo.path)
        path = zoo.path / record.shard.file
        data = path.read_bytes()
        place = len(data) // 2
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with pytest.raises(StoreError, match=f"{path.name}: damaged; expected xxh3 {record.shard.xxh3}"):
            open_zoo(zoo.path).weights()

    def test_checksums_inside_the_file_find_a_flipped_weight(self, zoo: Zoo) -> None:
        """The hash of the file is not the only guard: others, who read it without a record, are told too."""
        (record,) = read_commits(zoo.path)
        path = zoo.path / record.shard.file
        data = bytearray(path.read_bytes())
        needle = encode_floats(make_rows(), self.encoding.dtype)[20].tobytes()
        place = data.find(needle)
        assert (place > 0) == (self.encoding.compression == "none")
        if place < 0:
            place = self._middle_of_the_weights(path)
        data[place + 1] ^= 1
        path.write_bytes(data)
        with pytest.raises(StoreError, match="cannot be decoded"):
            self._decode(path)

    def _middle_of_the_weights(self, path: Path) -> int:
        if self.encoding.backend == "parquet":
            group = pq.ParquetFile(path).metadata.row_group(0)
            chunk = group.column(group.num_columns - 1)
            return int(chunk.data_page_offset + chunk.total_compressed_size * 3 // 4)
        with h5py.File(path) as file:
            chunk = file["weights"].id.get_chunk_info(0)
            return int(chunk.byte_offset + chunk.size // 2)

    def _decode(self, path: Path) -> None:
        shard = open_shard(path, LAYOUT.num_weights, self.encoding)
        for number in range(len(shard.group_rows)):
            shard.read_group(number)
        shard.read_table()

    def test_another_width_or_type_is_refused(self, zoo: Zoo) -> None:
        (record,) = read_commits(zoo.path)
        path = zoo.path / record.shard.file
        other = "float16" if self.encoding.dtype != "float16" else "bfloat16"
        for width, dtype in ((LAYOUT.num_weights + 1, self.encoding.dtype), (LAYOUT.num_weights, other)):
            wrong = Encoding(self.encoding.backend, dtype, self.encoding.compression)
            with pytest.raises(StoreError, match="expected rows of"):
                open_shard(path, width, wrong).read_group(0)

    def test_truncated_and_empty_shards_are_named(self, zoo: Zoo) -> None:
        (record,) = read_commits(zoo.path)
        path = zoo.path / record.shard.file
        data = path.read_bytes()
        for length in (0, 3, len(data) // 2, len(data) - 1):
            path.write_bytes(data[:length])
            with pytest.raises(StoreError, match=f"{path.name}: cannot be decoded"):
                self._decode(path)


class TestParquet(StoreSuite):
    encoding = Encoding()


class TestParquetZstd(StoreSuite):
    encoding = Encoding(compression="zstd")


class TestParquetFloat16(StoreSuite):
    encoding = Encoding(dtype="float16")


class TestParquetBfloat16Zstd(StoreSuite):
    encoding = Encoding(dtype="bfloat16", compression="zstd")


class TestParquetFloat64(StoreSuite):
    encoding = Encoding(dtype="float64")


class TestHdf5(StoreSuite):
    encoding = Encoding("hdf5")


class TestHdf5Gzip(StoreSuite):
    encoding = Encoding("hdf5", compression="gzip")


class TestHdf5Bfloat16(StoreSuite):
    encoding = Encoding("hdf5", "bfloat16")


class TestHdf5Float16Gzip(StoreSuite):
    encoding = Encoding("hdf5", "float16", "gzip")


class TestHdf5Float64(StoreSuite):
    encoding = Encoding("hdf5", "float64")


def test_every_backend_dtype_and_compression_is_in_the_suite() -> None:
    seen = {suite.encoding for suite in StoreSuite.__subclasses__()}
    assert {(one.backend, one.compression) for one in seen} == {
        (backend, name) for backend, names in COMPRESSIONS.items() for name in names
    }
    assert {(one.backend, one.dtype) for one in seen} == {(b, d) for b in COMPRESSIONS for d in DTYPES}


def test_the_spec_knows_the_encodings_that_are_implemented() -> None:
    assert SPEC_COMPRESSIONS == COMPRESSIONS
    assert SPEC_DTYPES == DTYPES


@given(arrays.arrays(np.uint32, st.integers(1, 40), elements=st.integers(0, 2**32 - 1)))
def test_stored_types_round_as_torch_does(bits: np.ndarray) -> None:
    rows = bits.view(np.float32)
    for dtype in DTYPES:
        expected = torch.from_numpy(rows).to(getattr(torch, dtype)).to(torch.float32).numpy()
        out = np.empty_like(rows)
        decode_floats(encode_floats(rows, dtype), dtype, out)
        np.testing.assert_array_equal(out, expected)


def test_float64_rows_survive_only_in_float64(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((4, LAYOUT.num_weights))
    for backend in COMPRESSIONS:
        kept = write_rows(tmp_path / backend, rows, None, LAYOUT, store=Encoding(backend, "float64"))
        assert kept.weights_float64().tobytes() == rows.tobytes()
        assert kept.weights().tobytes() == rows.astype(np.float32).tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("zarr",), "unknown 'zarr'; expected parquet or hdf5"),
        (("hdf5", "float32", "zstd"), "hdf5 has no 'zstd'; expected none or gzip"),
        (("parquet", "int8"), "unknown 'int8'; expected one of float32"),
    ],
)
def test_unknown_encodings_are_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Encoding(*arguments)


def test_the_same_build_in_both_backends_is_equal_to_the_bit(make_toy: Callable[..., Any]) -> None:
    zoos = []
    for number, encoding in enumerate((Encoding(), Encoding("hdf5"), Encoding("hdf5", compression="gzip"))):
        toy = make_toy(f"zoo{number}", encoding=encoding).fill()
        finalise(toy.root)
        zoos.append(toy)
    records = [read_commits(toy.root) for toy in zoos]
    for others in records[1:]:
        assert [one.weights_xxh3 for one in others] == [one.weights_xxh3 for one in records[0]]
        assert [one.state and one.state.xxh3 for one in others] == [one.state and one.state.xxh3 for one in records[0]]
        assert [one.meta.xxh3 for one in others] == [one.meta.xxh3 for one in records[0]]
