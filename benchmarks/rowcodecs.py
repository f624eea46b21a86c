"""Candidates for the lossless compression of rows: bytes in memory and back, one function pair each."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import h5py
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

Rows: TypeAlias = npt.NDArray[np.float32]
Encode: TypeAlias = Callable[[Rows, int], bytes]
Decode: TypeAlias = Callable[[bytes, Rows, int], None]
Pair: TypeAlias = tuple[Encode, Decode]


@dataclass(frozen=True)
class Codec:
    """Rows [N, P] to bytes, and back into an array; the number is rows per group."""

    name: str
    encode: Encode
    decode: Decode


def parquet(compression: str, *, split: bool) -> Pair:
    def encode(rows: Rows, group: int) -> bytes:
        field = pa.field(
            "w", pa.list_(pa.field("element", pa.float32(), nullable=False), rows.shape[1]), nullable=False
        )
        weights = pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), type=field.type)
        sink = io.BytesIO()
        pq.write_table(
            pa.table([weights], schema=pa.schema([field])),
            sink,
            compression=compression,
            compression_level=1 if compression == "zstd" else None,
            use_dictionary=False,
            use_byte_stream_split=split,
            write_statistics=False,
            write_page_checksum=True,
            data_page_size=1 << 30,
            row_group_size=group,
        )
        return sink.getvalue()

    def decode(data: bytes, out: Rows, group: int) -> None:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        for number in range(file.num_row_groups):
            column = file.read_row_group(number, columns=["w"], use_threads=False).column("w").combine_chunks()
            part = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, out.shape[1])
            out[number * group : number * group + len(part)] = part

    return encode, decode


def hdf5(**filters: Any) -> Pair:
    def encode(rows: Rows, group: int) -> bytes:
        with h5py.File("bench", "w", driver="core", backing_store=False, libver=("earliest", "v108")) as file:
            file.create_dataset("w", data=rows, chunks=(group, rows.shape[1]), fletcher32=True, **filters)
            file.flush()
            image: bytes = file.id.get_file_image()
        return image

    def decode(data: bytes, out: Rows, group: int) -> None:
        with h5py.File(io.BytesIO(data), "r", rdcc_nbytes=0) as file:
            for start in range(0, len(out), group):
                part = np.s_[start : start + group]
                file["w"].read_direct(out, part, part)

    return encode, decode


def by_difference(inner: Pair, *, xor: bool) -> Pair:
    """Store each epoch as its difference to the one before, of bit patterns: XOR, or integers with zigzag."""
    encode, decode = inner

    def forward(rows: Rows, group: int) -> bytes:
        bits = rows.reshape(-1, group, rows.shape[1]).view(np.uint32)
        coded = bits.copy()
        if xor:
            coded[:, 1:] ^= bits[:, :-1]
        else:
            step = (bits[:, 1:] - bits[:, :-1]).view(np.int32)
            coded[:, 1:] = ((step << 1) ^ (step >> 31)).view(np.uint32)
        return encode(coded.reshape(rows.shape).view(np.float32), group)

    def backward(data: bytes, out: Rows, group: int) -> None:
        decode(data, out, group)
        coded = out.reshape(-1, group, out.shape[1]).view(np.uint32)
        if xor:
            np.bitwise_xor.accumulate(coded, axis=1, out=coded)
        else:
            rest = coded[:, 1:]
            np.bitwise_xor(rest >> 1, np.uint32(0) - (rest & 1), out=rest)
            np.add.accumulate(coded, axis=1, out=coded)

    return forward, backward


def codecs() -> list[Codec]:
    best = parquet("zstd", split=True)
    pairs = {
        "Parquet, none": parquet("none", split=False),
        "Parquet, lz4": parquet("lz4", split=False),
        "Parquet, zstd": parquet("zstd", split=False),
        "Parquet, byte-stream-split + lz4": parquet("lz4", split=True),
        "**Parquet, byte-stream-split + zstd**": best,
        "Parquet, XOR of epochs, byte-stream-split + zstd": by_difference(best, xor=True),
        "Parquet, integer delta of epochs, byte-stream-split + zstd": by_difference(best, xor=False),
        "HDF5, none": hdf5(),
        "HDF5, shuffle + lzf": hdf5(compression="lzf", shuffle=True),
        "**HDF5, shuffle + gzip 1**": hdf5(compression="gzip", compression_opts=1, shuffle=True),
        "HDF5, shuffle + gzip 4": hdf5(compression="gzip", compression_opts=4, shuffle=True),
        "HDF5, szip": hdf5(compression="szip"),
        "HDF5, XOR of epochs, shuffle + gzip 1": by_difference(
            hdf5(compression="gzip", compression_opts=1, shuffle=True), xor=True
        ),
    }
    return [Codec(name, *pair) for name, pair in pairs.items()]
