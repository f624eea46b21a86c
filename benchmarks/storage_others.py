"""A zoo against what researchers use for the same data: a file per checkpoint, and one pickled list of state dicts.

The file is what ``torch.save`` makes of a dict with a checkpoint's table line and its state dict, in a folder per model
with the lines once more as ``result.json``, as Ray Tune leaves them. The list holds the same dicts and is one
``torch.save``. Everything is read into the same torch tensor [N, P]. In each round every store does the same, one after
the other: a ratio is the median over rounds, so that other work on the machine hits both. Each does it twice in a row
and the second time counts, since virtual machines take pages of files back between rounds: files are in memory for
all. Only the list, which takes seconds to load whatever is wanted of it, is read once.

    zookeeper build zoo_specs/digits_cnn.yaml
    python benchmarks/storage_others.py --zoo data/zoos/digits_cnn --out benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from storage import seconds
from training import machine, replace_section

import zookeeper
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.parameters import named_blocks
from zookeeper.nets.registry import build_network
from zookeeper.store.caches import finalise
from zookeeper.store.convert import convert_zoo
from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.header import CohortEntry, ZooHeader, create_zoo
from zookeeper.store.writer import Block, commit_block

TASKS = ("open", "sequential", "random", "trajectory")
SPOKEN = {"open": "open", "sequential": "all in sequence", "random": "64 random rows", "trajectory": "one trajectory"}
ENCODINGS = (PLAIN, Encoding("hdf5"), Encoding(compression="zstd"), Encoding("hdf5", compression="gzip"))
OURS = tuple(" ".join(encoding.to_json().values()) for encoding in ENCODINGS)
FILES, JSON_FILES, LIST = "a torch.save per checkpoint", "the same, tables in result.json", "one pickled list"
THEIRS = (FILES, JSON_FILES, LIST)
WANTED = 50


class Candidate(Protocol):
    """One way to store a zoo: its four tasks; rows are numbers in the order of the zoo."""

    def open(self) -> pd.DataFrame: ...
    def read(self, rows: np.ndarray[Any, Any], out: torch.Tensor) -> None: ...


class Ours:
    """A stored zoo; opening it reads the table, reading goes through a view."""

    def __init__(self, root: Path) -> None:
        self._root, self._zoo = root, zookeeper.open(root)

    def open(self) -> pd.DataFrame:
        return zookeeper.open(self._root).frame

    def read(self, rows: np.ndarray[Any, Any], out: torch.Tensor) -> None:
        view = self._zoo if len(rows) == len(self._zoo) else self._zoo.take(rows)
        view.weights(out=out.numpy())


class Files:
    """A file per checkpoint: the table must be gathered from all of them, or from a JSON file per model."""

    def __init__(self, paths: list[Path], *, json_tables: bool) -> None:
        self._paths, self._json = paths, json_tables

    def open(self) -> pd.DataFrame:
        if self._json:
            tables = dict.fromkeys(path.parent / "result.json" for path in self._paths)
            return pd.DataFrame([json.loads(line) for path in tables for line in path.read_text().splitlines()])
        return pd.DataFrame([table_line(torch.load(path)) for path in self._paths])

    def read(self, rows: np.ndarray[Any, Any], out: torch.Tensor) -> None:
        for place, row in enumerate(rows.tolist()):
            flatten(torch.load(self._paths[row]), out[place])


class PickledList:
    """One file with everything: whatever is wanted, all of it is loaded first."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self) -> pd.DataFrame:
        return pd.DataFrame([table_line(one) for one in self.load()])

    def read(self, rows: np.ndarray[Any, Any], out: torch.Tensor) -> None:
        everything = self.load()
        for place, row in enumerate(rows.tolist()):
            flatten(everything[row], out[place])

    def load(self) -> list[dict[str, Any]]:
        loaded: list[dict[str, Any]] = torch.load(self._path)
        return loaded


def flatten(checkpoint: dict[str, Any], out: torch.Tensor) -> None:
    torch.cat([tensor.flatten() for tensor in checkpoint["state_dict"].values()], out=out)


def table_line(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in checkpoint.items() if name != "state_dict"}


def checkpoints_of(zoo: zookeeper.Zoo) -> Iterator[dict[str, Any]]:
    """Every checkpoint as its line and a state dict whose tensors are their own."""
    layout = zoo.layout
    for batch in zoo.batches(512):
        lines = batch.frame.to_dict("records")
        for line, row in zip(lines, torch.from_numpy(batch.weights), strict=True):
            named = {str(name): value for name, value in line.items()}
            yield {**named, "state_dict": {name: part.clone() for name, part in layout.unflatten(row).items()}}


def write_files(zoo: zookeeper.Zoo, folder: Path) -> list[Path]:
    paths = []
    for one in checkpoints_of(zoo):
        path = folder / str(one["model_id"]) / f"checkpoint_{one['epoch']:06d}.pt"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(one, path)
        with (path.parent / "result.json").open("a") as table:
            table.write(json.dumps(table_line(one)) + "\n")
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Measured:
    """Seconds of a task by candidate, round after round."""

    task: str
    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def ratio(self, theirs: str, ours: str) -> float:
        pairs = zip(self.seconds[theirs], self.seconds[ours], strict=False)  # a slow store has fewer rounds
        return statistics.median(slow / fast for slow, fast in pairs)


@contextmanager
def candidates(source: Path, encodings: tuple[Encoding, ...]) -> Iterator[dict[str, Candidate]]:
    """The same zoo in every store, in a folder that is gone afterwards."""
    zoo = zookeeper.open(source)
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), dict[str, Candidate]()
        for number, encoding in enumerate(encodings):
            convert_zoo(source, folder / str(number), encoding)
            found[" ".join(encoding.to_json().values())] = Ours(folder / str(number))
        paths = write_files(zoo, folder / "files")
        torch.save(list(checkpoints_of(zoo)), folder / "list.pt")
        found[FILES] = Files(paths, json_tables=False)
        found[JSON_FILES] = Files(paths, json_tables=True)
        found[LIST] = PickledList(folder / "list.pt")
        yield found


def measure(source: Path, rounds: int, slow_rounds: int) -> list[Measured]:
    """Time every task; first every store must give the same weights to the bit."""
    zoo = zookeeper.open(source)
    draw, truth = np.random.default_rng(0), torch.from_numpy(zoo.weights())
    everything, names = np.arange(len(zoo)), zoo.frame["model_id"].to_numpy(dtype=object)
    out = torch.empty(max(64, len(truth)), truth.shape[1])
    measured = []
    with candidates(source, ENCODINGS) as found:
        for name in (*OURS, FILES, LIST):
            out.fill_(float("nan"))
            found[name].read(everything, out[: len(truth)])  # the hash of every shard is checked here, once
            assert out[: len(truth)].numpy().tobytes() == truth.numpy().tobytes(), name
        for task in TASKS:
            times: dict[str, list[float]] = {name: [] for name in found}
            for turn in range(slow_rounds if task in ("open", "sequential") else rounds):
                picked = {
                    "random": draw.integers(0, len(zoo), 64),
                    "trajectory": np.flatnonzero(names == draw.choice(names)),
                }.get(task, everything)
                for name, one in found.items():
                    if (name == LIST and turn >= slow_rounds) or (name == JSON_FILES and task != "open"):
                        continue
                    do = one.open if task == "open" else reading(one, picked, out[: len(picked)])
                    if name != LIST:
                        do()
                    times[name].append(seconds(do))
            measured.append(Measured(task, {name: spent for name, spent in times.items() if spent}))
    return measured


def reading(one: Candidate, rows: np.ndarray[Any, Any], out: torch.Tensor) -> Callable[[], object]:
    return lambda: one.read(rows, out)


def make_cnn_large(root: Path, num_cohorts: int, num_epochs: int) -> None:
    """A zoo of 16 networks of 10,853 weights in each cohort, whose weights walk at random."""
    network = build_network(
        "cnn-large", in_channels=3, image_size=(32, 32), num_classes=10, activation="relu", dropout=0.0
    )
    layout, draw, epochs = (
        WeightLayout.from_shapes(named_blocks(network)),
        np.random.default_rng(0),
        tuple(range(num_epochs)),
    )
    names = [[f"{16 * number + member:08x}" for member in range(16)] for number in range(num_cohorts)]
    cohorts = {f"c{number:03d}": CohortEntry(tuple(models), epochs) for number, models in enumerate(names)}
    create_zoo(root, ZooHeader("cnn-large", cohorts, {layout.digest: layout.to_json()}))
    for number, name in enumerate(cohorts):
        steps = draw.standard_normal((16, num_epochs, layout.num_weights), np.float32)
        walk: npt.NDArray[np.float32] = np.cumsum(np.float32(0.02) * steps, axis=1, dtype=np.float32)
        count = 16 * num_epochs
        table = {
            "lr": [0.001] * count,
            "init": ["uniform"] * count,
            "seed": [number] * count,
            "test_loss": draw.random(count),
            "test_acc": draw.random(count),
        }
        commit_block(root, Block(name, epochs, walk, table, layout.digest))
    finalise(root)


def to_markdown(parts: dict[str, list[Measured]], when: str) -> str:
    facts = machine()
    lines = [
        "## Storage: a zoo against files and lists",
        "",
        f"`make bench-store` on {when}; {facts['cpu']}; torch {facts['torch']}. The same data, warm, into one",
        "torch tensor, the second of two runs in a row; milliseconds, medians. Ratios (medians over neighbouring runs)",
        f"are to the first two lines: Parquet and HDF5 without compression; bold is below {WANTED}. Files and lists",
        "are read by `torch.load` as it is; no part of a list can be read without all of it.",
    ]
    for title, measured in parts.items():
        lines += ["", f"{title}:", "", f"| store | {' | '.join(SPOKEN[m.task] for m in measured)} |"]
        lines.append("|---|" + "---|" * len(measured))
        for name in (*OURS, *THEIRS):
            lines.append(f"| {name} | " + " | ".join(_cell(one, name) for one in measured) + " |")
    return "\n".join(lines) + "\n"


def _cell(one: Measured, name: str) -> str:
    if name not in one.seconds:
        return ""
    spent = 1e3 * one.median(name)
    text = f"{spent:,.0f}" if spent >= 100 else f"{spent:.2f}"
    if name in OURS:
        return text
    ratios = [one.ratio(name, ours) for ours in OURS[:2]]
    shown = ", ".join(f"{ratio:,.0f}x" if ratio >= WANTED else f"**{ratio:,.0f}x**" for ratio in ratios)
    return f"{text} ({shown})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("data/zoos/digits_cnn"))
    parser.add_argument("--out", type=Path, help="Markdown file whose section `storage-others` is replaced.")
    parser.add_argument("--rounds", type=int, default=15, help="Rounds of random rows and trajectories.")
    parser.add_argument("--slow-rounds", type=int, default=3, help="Rounds of what reads everything.")
    parser.add_argument("--cohorts", type=int, default=5, help="Cohorts of 16 models of 10,853 weights.")
    parser.add_argument("--epochs", type=int, default=50, help="Epochs of those.")
    options = parser.parse_args()
    parts = {}
    with tempfile.TemporaryDirectory() as folder:
        make_cnn_large(Path(folder) / "zoo", options.cohorts, options.epochs)
        for source in (Path(folder) / "zoo", options.zoo):
            zoo = zookeeper.open(source)
            title = f"{zoo.header.name}, {len(zoo):,} x {zoo.layout.num_weights:,}"
            parts[title] = measure(source, options.rounds, options.slow_rounds)
    text = to_markdown(parts, datetime.now(UTC).strftime("%Y-%m-%d"))
    print(text)
    if options.out is not None:
        replace_section(options.out, "storage-others", text)
        plain = {title: {one.task: one.seconds for one in measured} for title, measured in parts.items()}
        options.out.with_name("storage_others.json").write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
