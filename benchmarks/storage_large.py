"""Opening and querying in a fresh process, for a built zoo and for one of millions of checkpoints; memory of reading.

The large zoo's networks have one weight; everything else about it is real: header, commit records, shards, tables and
caches are written by the store, and the table has the columns of a built zoo. Metrics are random numbers, which no
compression helps. So it measures what grows with the number of checkpoints.

    zookeeper build zoo_specs/digits_cnn.yaml
    python benchmarks/storage_large.py --zoo data/zoos/digits_cnn --out benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from storage_process import BATCH, QUERY, run
from training import machine, replace_section

from zookeeper.nets.layout import WeightLayout
from zookeeper.store.caches import finalise
from zookeeper.store.convert import convert_zoo
from zookeeper.store.encoding import PLAIN, Encoding
from zookeeper.store.header import CohortEntry, ImageShape, ZooHeader, create_zoo
from zookeeper.store.writer import commit_rows

ENCODINGS = (
    PLAIN,
    Encoding("hdf5"),
    Encoding(compression="zstd"),
    Encoding("hdf5", compression="gzip"),
    Encoding(dtype="bfloat16"),
)
STEPS = {
    "open": "open",
    "query": "query",
    "text": "query for text",
    "models": "`models`",
    "split": "`split`",
    "model": "one trajectory",
    "frame": "`frame`",
}
COHORT, BLOCKS, SIDES = 50, 2, ("train",) * 7 + ("val",) * 2 + ("test",)
CHOICES: dict[str, tuple[Any, ...]] = {
    "architecture": ("cnn-small",),
    "activation": ("relu", "gelu", "tanh", "sigmoid"),
    "init": ("kaiming-normal", "kaiming-uniform", "normal", "uniform"),
    "bias_init": ("zeros",),
    "dropout": (0.0, 0.1, 0.5),
    "optimizer": ("adam", "sgd"),
    "lr": (0.0001, 0.0003, 0.001, 0.003, 0.01),
    "weight_decay": (0.0, 0.001),
    "schedule": ("constant", "cosine"),
    "precision": ("float32",),
    "batch_size": (32,),
    "train_fraction": (0.5, 1.0),
}
METRICS = ("train_loss", "train_acc", "val_loss", "val_acc", "test_loss", "test_acc", "generalization_gap", "wall_time")


def make_large_zoo(root: Path, num_models: int, num_epochs: int) -> None:
    """Store ``num_models`` trajectories of ``num_epochs`` epochs, in cohorts of 50 and two blocks each."""
    layout = WeightLayout.from_shapes({"fc.weight": ((1, 1), "weight")})
    names = [hashlib.sha256(str(number).encode()).hexdigest()[:16] for number in range(num_models)]
    starts = range(0, num_models, COHORT)
    epochs = tuple(range(num_epochs))
    cohorts = {f"c{start // COHORT:05d}": CohortEntry(tuple(names[start : start + COHORT]), epochs) for start in starts}
    image = ImageShape("digits", 1, 8, 8, 10)
    create_zoo(root, ZooHeader("large", cohorts, {layout.digest: layout.to_json()}, image))
    draw = np.random.default_rng(0)
    for name, cohort in cohorts.items():
        factors = {column: draw.choice(values, len(cohort.models)) for column, values in CHOICES.items()}
        factors["split"] = draw.choice(SIDES, len(cohort.models))
        factors["seed"] = draw.integers(0, 1 << 31, len(cohort.models))
        for part in _blocks(epochs):
            count = len(cohort.models) * len(part)
            columns = {column: np.repeat(values, len(part)) for column, values in factors.items()}
            columns |= {column: draw.random(count) for column in METRICS}
            columns |= {"model_id": np.repeat(cohort.models, len(part)), "epoch": np.tile(part, len(cohort.models))}
            commit_rows(
                root,
                cohort=name,
                first_epoch=part[0],
                last_epoch=part[-1],
                rows=draw.standard_normal((count, 1)).astype(np.float32),
                table=columns,
                layout=layout.digest,
                trajectory=len(part),
                state=None,
                final=part[-1] == epochs[-1],
            )
    finalise(root)


def _blocks(epochs: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    size = -(-len(epochs) // BLOCKS)
    return (epochs[start : start + size] for start in range(0, len(epochs), size))


def measure_memory(source: Path) -> dict[str, dict[str, float]]:
    """Memory above the idle process while all of a zoo is read in batches, by encoding."""
    found = {}
    for encoding in ENCODINGS:
        with tempfile.TemporaryDirectory() as folder:
            convert_zoo(source, Path(folder) / "zoo", encoding)
            found[" ".join(encoding.to_json().values())] = run("read", Path(folder) / "zoo")
    return found


def to_markdown(opened: dict[str, list[dict[str, float]]], read: dict[str, dict[str, float]], when: str) -> str:
    facts = machine()
    lines = [
        "## Storage: opening, querying, memory",
        "",
        f"`make bench-store` on {when}; {facts['cpu']}. Milliseconds in a fresh process after imports, each step for",
        f"the first time, medians over interleaved processes; files are in the page cache. The query is `{QUERY}`,",
        "the one for text `init == 'uniform' and test_acc > .5`, both with the frame of what they find. Second lines",
        "are processor time, which other work on the machine changes less. Memory: the most the whole process",
        "held, before and after `frame` spells out the text of all rows.",
        "",
        f"| zoo | rows | {' | '.join(STEPS.values())} | open + query | asked for | memory MB | with `frame` MB |",
        "|---|---|" + "---|" * (len(STEPS) + 4),
    ]
    for name, runs in opened.items():
        middle = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        asked = "2,000 + 2,000, 4,000 MB" if middle["rows"] > 1_000_000 else "150"
        memory = f"{middle['peak_mb']:,.0f} | {middle['peak_with_frame_mb']:,.0f}"
        for kind, wanted, held in (("", asked, memory), ("_cpu", "", " | ")):
            steps = " | ".join(f"{1e3 * middle[step + kind]:,.0f}" for step in STEPS)
            both = 1e3 * statistics.median(one[f"open{kind}"] + one[f"query{kind}"] for one in runs)
            title = f"{name}, processor" if kind else name
            lines.append(f"| {title} | {int(middle['rows']):,} | {steps} | **{both:,.0f}** | {wanted} | {held} |")
    lines += [
        "",
        f"Memory above the idle process while a zoo is read through `batches({BATCH:,})`:",
        "",
        "| store | batch MB | zoo MB | above idle MB |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {one['batch_mb']:,.1f} | {one['zoo_mb']:,.0f} | **{one['above_mb']:,.1f}** |"
        for name, one in read.items()
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=Path("data/zoos/digits_cnn"))
    parser.add_argument("--out", type=Path, help="Markdown file whose section `storage-large` is replaced.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", type=int, default=50_000, help="Models of the large zoo.")
    parser.add_argument("--epochs", type=int, default=60, help="Epochs of each.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        large = Path(folder) / "large"
        make_large_zoo(large, options.models, options.epochs)
        roots = {options.zoo.name: options.zoo, "synthetic": large}
        opened: dict[str, list[dict[str, float]]] = {name: [] for name in roots}
        for _ in range(options.rounds):
            for name, root in roots.items():
                opened[name].append(run("open", root))
    read = measure_memory(options.zoo)
    text = to_markdown(opened, read, datetime.now(UTC).strftime("%Y-%m-%d"))
    print(text)
    if options.out is not None:
        replace_section(options.out, "storage-large", text)
        plain = {"opened": opened, "read": read}
        options.out.with_name("storage_large.json").write_text(json.dumps(plain, indent=1) + "\n")


if __name__ == "__main__":
    main()
