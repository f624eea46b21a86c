"""How the rows of a real zoo are best stored: every candidate, its size, its speed of writing and of reading.

Two tables. *Codecs*: the weights of some shards go through every candidate, shipped or not; what is read back is
compared to the bit. *Zoos*: the whole zoo is converted to what the store ships, then read through
`zookeeper.open`: in sequence into one array, 64 random rows, one model's trajectory; files are in the page cache
and their hashes checked.

    zookeeper build zoo_specs/digits_cnn.yaml
    python benchmarks/storage.py --zoo data/zoos/digits_cnn --out benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
from rowcodecs import Rows, codecs
from training import machine, replace_section

import zookeeper
from zookeeper.store.convert import convert_zoo
from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.records import read_commits

STORES = (
    PLAIN,
    Encoding("hdf5"),
    Encoding(compression="zstd"),
    Encoding("hdf5", compression="gzip"),
    Encoding(dtype="bfloat16"),
    Encoding(dtype="float16"),
)


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def measure_codecs(parts: list[Rows], group: int, rounds: int) -> list[tuple[str, float, float, float]]:
    """Name, size as a share of the rows, MB/s of encoding and of decoding; medians over interleaved rounds."""
    known = codecs()
    writes: dict[str, list[float]] = {codec.name: [] for codec in known}
    reads: dict[str, list[float]] = {codec.name: [] for codec in known}
    sizes: dict[str, int] = dict.fromkeys(writes, 0)
    total = sum(part.nbytes for part in parts)
    for turn in range(rounds):
        for codec in known:
            spent_writing = spent_reading = 0.0
            for part in parts:
                begin = time.perf_counter()
                data = codec.encode(part, group)
                spent_writing += time.perf_counter() - begin
                out = np.empty_like(part)
                begin = time.perf_counter()
                codec.decode(data, out, group)
                spent_reading += time.perf_counter() - begin
                assert out.tobytes() == part.tobytes(), codec.name
                sizes[codec.name] += len(data) if turn == 0 else 0
            writes[codec.name].append(total / 1e6 / spent_writing)
            reads[codec.name].append(total / 1e6 / spent_reading)
    return [
        (name, sizes[name] / total, statistics.median(writes[name]), statistics.median(reads[name])) for name in writes
    ]


@dataclass(frozen=True)
class Store:
    encoding: Encoding
    share: float
    write: float
    sequential: float
    random: float
    trajectory: float


def measure_store(source: Path, encoding: Encoding, folder: Path, rounds: int) -> Store:
    root = folder / "zoo"
    writing = seconds(lambda: convert_zoo(source, root, encoding))
    zoo = zookeeper.open(root)
    out = np.empty((len(zoo), zoo.layout.num_weights), np.float32)
    zoo.weights(out=out)  # hashes are checked, files are open and in the page cache
    draw = np.random.default_rng(0)
    names = list(zoo.models["model_id"])
    sequential = [seconds(lambda: zoo.weights(out=out)) for _ in range(rounds)]
    views = [zoo.take(draw.integers(0, len(zoo), 64)) for _ in range(5 * rounds)]
    models = [zoo.model(str(draw.choice(names))) for _ in range(5 * rounds)]
    random_rows = [seconds(view.weights) for view in views]
    paths = [seconds(view.weights) for view in models]
    size = sum(record.shard.size for record in read_commits(root))
    return Store(
        encoding,
        size / out.nbytes,
        out.nbytes / 1e6 / writing,
        out.nbytes / 1e9 / statistics.median(sequential),
        1e3 * statistics.median(random_rows),
        1e3 * statistics.median(paths),
    )


def copy_rate(num_bytes: int, rounds: int) -> float:
    source, target = np.ones(num_bytes, np.uint8), np.empty(num_bytes, np.uint8)
    return num_bytes / 1e9 / statistics.median(seconds(lambda: np.copyto(target, source)) for _ in range(rounds))


def to_markdown(
    lines: list[tuple[str, float, float, float]], stores: list[Store], copy: float, when: str, what: str
) -> str:
    facts = machine()
    return (
        "\n".join(
            [
                "## Storage: compression, backends, types",
                "",
                f"`make bench-store` on {when}; {facts['cpu']}; pyarrow {pa.__version__}, h5py {h5py.__version__} "
                f"(HDF5 {h5py.version.hdf5_version}).",
                f"Rows of {what}. Medians over interleaved rounds; size 1 is the float32 matrix.",
                "",
                "Codecs, in memory, one trajectory in a row group or chunk, checksums verified; bold is shipped:",
                "",
                "| codec | size | write MB/s | read MB/s |",
                "|---|---|---|---|",
                *(f"| {name} | {share:.3f} | {write:,.0f} | {read:,.0f} |" for name, share, write, read in lines),
                "",
                "Whole zoos, warm; write is `zookeeper convert` (reading, hashing, fsync included); "
                f"a memory copy here runs at {copy:.1f} GB/s:",
                "",
                "| store | size | write MB/s | in sequence GB/s | 64 random rows ms | one trajectory ms |",
                "|---|---|---|---|---|---|",
                *(
                    f"| {' '.join(one.encoding.to_json().values())} | {one.share:.3f} | {one.write:,.0f} | "
                    f"{one.sequential:.2f} | {one.random:.2f} | {one.trajectory:.2f} |"
                    for one in stores
                ),
            ]
        )
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("data/zoos/digits_cnn"))
    parser.add_argument("--out", type=Path, help="Markdown file whose section `storage` is replaced.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=int, default=3, help="Shards that the codecs are measured on.")
    options = parser.parse_args()
    zoo = zookeeper.open(options.zoo)
    group = len(zoo.epochs)
    names = zoo.models["cohort"].unique()
    chosen = names[np.linspace(0, len(names) - 1, options.shards).round().astype(int)]
    parts = [zoo.query("cohort == @name", name=str(name)).weights() for name in chosen]
    lines = measure_codecs(parts, group, options.rounds)
    stores = []
    for encoding in STORES:
        with tempfile.TemporaryDirectory() as folder:
            stores.append(measure_store(options.zoo, encoding, Path(folder), options.rounds))
    copy = copy_rate(sum(part.nbytes for part in parts), 3 * options.rounds)
    size = f"{len(zoo):,} checkpoints of {zoo.layout.num_weights:,} weights"
    what = f"{zoo.header.name}: {size}; codecs on {len(parts)} shards"
    text = to_markdown(lines, stores, copy, datetime.now(UTC).strftime("%Y-%m-%d"), what)
    print(text)
    if options.out is not None:
        replace_section(options.out, "storage", text)


if __name__ == "__main__":
    main()
