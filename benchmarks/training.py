"""Training and evaluation throughput of the stacked engine against a plain per-model PyTorch loop.

Both run in this process, on one thread, in turns: every ratio is the median of neighbouring pairs, so a
machine that slows down slows both. The plain loop is one `nn.Module` after the other, contiguous NCHW,
`torch.optim.Adam`, images already normalised and in memory.

    python benchmarks/training.py --out benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch.nn import functional as F

from zookeeper.nets.graph import Graph
from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.parameters import load_row
from zookeeper.nets.registry import build_network
from zookeeper.population import Cohort, Population, TrainingData, evaluate
from zookeeper.population.process import prepare_process
from zookeeper.population.train import CohortTrainer

BATCHES = 6


@dataclass(frozen=True)
class Case:
    name: str
    architecture: str
    shape: tuple[int, int, int]
    num_classes: int
    activation: str
    batch_size: int
    num_models: int
    same_seed: bool
    target: float


CASES = (
    Case("Tetris MLP", "mlp", (1, 4, 4), 4, "tanh", 16, 1000, False, 50),
    Case("digits CNN", "cnn-digits", (1, 8, 8), 10, "relu", 32, 60, False, 10),
    Case("digits CNN, shared seed", "cnn-digits", (1, 8, 8), 10, "relu", 32, 60, True, 10),
    Case("cnn-small", "cnn-small", (1, 28, 28), 10, "tanh", 10, 32, False, 4),
    Case("cnn-large", "cnn-large", (3, 32, 32), 10, "relu", 32, 16, False, 2.5),
)


@dataclass(frozen=True)
class Result:
    name: str
    weights: int
    batch_size: int
    num_models: int
    plain_ms: float
    stacked_ms: float
    ratio: float
    target: float
    floor_ms: float
    plain_eval_ms: float
    stacked_eval_ms: float
    eval_ratio: float


def forward_flops(graph: Graph, population: Population) -> float:
    """Multiply-adds times two of one image through one network."""
    total = 0.0
    for op in graph.ops:
        if op.kind in ("conv", "linear"):
            block = population.layout.block(f"{op.layer}.weight")
            places = op.shape[1] * op.shape[2] if op.kind == "conv" else 1
            total += 2.0 * block.size * places
    return total


def gemm_rate() -> float:
    """Measure float32 FLOP per second of one square matrix product."""
    a = torch.randn(1024, 1024)
    a @ a
    times = [timed(lambda: a @ a) for _ in range(7)]
    return 2 * 1024**3 / min(times)


def timed(function: Callable[[], object], repeat: int = 1) -> float:
    begin = time.perf_counter()
    for _ in range(repeat):
        function()
    return time.perf_counter() - begin


def run_case(case: Case, rate: float, rounds: int) -> Result:
    channels, height, width = case.shape
    network = build_network(
        case.architecture,
        in_channels=channels,
        image_size=(height, width),
        num_classes=case.num_classes,
        activation=case.activation,
    )
    population = Population(network, case.shape)
    num_images = BATCHES * case.batch_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num_images, *case.shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, case.num_classes, (num_images,), generator=generator)
    everything = torch.arange(num_images)
    data = TrainingData(
        images, labels, {"train": everything}, torch.full((channels,), 0.5), torch.full((channels,), 0.25)
    )
    count = case.num_models
    seeds = (0,) * count if case.same_seed else tuple(range(count))
    rows = torch.from_numpy(initialise_rows(population.layout, ["kaiming_uniform"] * count, seeds)).float()
    cohort = Cohort(seeds, (1e-3,) * count, (1e-4,) * count, (0.0,) * count, (0.0,) * count, "adam", case.batch_size)
    trainer = CohortTrainer(population, cohort, data, rows)
    x, y = data.part("train", torch.float32)
    load_row(network, rows[0])
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)

    def plain_epoch() -> None:
        order = torch.randperm(num_images, generator=generator)
        for index in torch.split(order, case.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(network(x[index]), y[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    @torch.inference_mode()
    def plain_evaluation() -> None:
        for part, target in zip(torch.split(x, 256), torch.split(y, 256), strict=True):
            logits = network(part)
            F.cross_entropy(logits, target).item()
            (logits.argmax(1) == target).sum().item()

    epochs = iter(range(1, 10_000))
    repeat = max(1, round(0.15 / max(1e-4, timed(plain_epoch))))
    trainer.train_epoch(next(epochs))
    pairs, eval_pairs = [], []
    for _ in range(rounds):
        plain = timed(plain_epoch, repeat) / repeat / BATCHES
        stacked = timed(lambda: trainer.train_epoch(next(epochs))) / BATCHES / count
        pairs.append((plain * 1e3, stacked * 1e3))
        plain = timed(plain_evaluation, repeat) / repeat
        stacked = timed(lambda: evaluate(population, rows, x, y)) / count
        eval_pairs.append((plain * 1e3, stacked * 1e3))
    flops = 3 * forward_flops(population.graph, population) * case.batch_size
    return Result(
        name=case.name,
        weights=population.layout.num_weights,
        batch_size=case.batch_size,
        num_models=count,
        plain_ms=statistics.median(p for p, _ in pairs),
        stacked_ms=statistics.median(s for _, s in pairs),
        ratio=statistics.median(p / s for p, s in pairs),
        target=case.target,
        floor_ms=flops / rate * 1e3,
        plain_eval_ms=statistics.median(p for p, _ in eval_pairs),
        stacked_eval_ms=statistics.median(s for _, s in eval_pairs),
        eval_ratio=statistics.median(p / s for p, s in eval_pairs),
    )


def machine() -> dict[str, str]:
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        flags = "AVX-512" if "avx512f" in info.read_text() else "no AVX-512"
        model = f"{names[0]} ({flags}), one core of {len(names)}" if names else model
    return {"cpu": model, "torch": torch.__version__, "python": platform.python_version()}


def to_markdown(results: list[Result], facts: dict[str, str], rate: float, when: str) -> str:
    lines = [
        "## Training on a CPU: stacked against a plain per-model loop",
        "",
        f"`make bench` on {when}; {facts['cpu']}; torch {facts['torch']}, Python {facts['python']}; "
        f"one thread, float32, Adam with weight decay; measured matrix product {rate / 1e9:.0f} GFLOP/s.",
        "Milliseconds per model and optimiser step (forward, backward, update); ratio: median over neighbouring",
        "pairs of runs in one process. Floor: counted FLOPs (three times forward) over the measured rate.",
        "",
        "| network | weights | batch | models stacked | plain ms | stacked ms | ratio | asked for "
        "| model-steps/s | floor ms |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        lines.append(
            f"| {r.name} | {r.weights:,} | {r.batch_size} | {r.num_models} | {r.plain_ms:.3f} | {r.stacked_ms:.4f} "
            f"| **{r.ratio:.1f}x** | {r.target:g}x | {1e3 / r.stacked_ms:,.0f} | {r.floor_ms:.4f} |"
        )
    lines += [
        "",
        f"Evaluation of {BATCHES} training batches of images, milliseconds per model (plain: batches of 256, NCHW):",
        "",
        "| network | plain ms | stacked ms | ratio |",
        "|---|---|---|---|",
    ]
    lines += [f"| {r.name} | {r.plain_eval_ms:.3f} | {r.stacked_eval_ms:.4f} | {r.eval_ratio:.1f}x |" for r in results]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, help="Markdown file whose training section is replaced")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    prepare_process(1)
    rate = gemm_rate()
    results = [run_case(case, rate, arguments.rounds) for case in CASES]
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    text = to_markdown(results, machine(), rate, when)
    print(text)
    if arguments.out is not None:
        replace_section(arguments.out, "training", text)
        record = {"date": when, **machine(), "gemm_flops": rate, "results": [asdict(r) for r in results]}
        arguments.out.with_name("training.json").write_text(json.dumps(record, indent=2) + "\n")


def replace_section(path: Path, name: str, text: str) -> None:
    """Replace what stands between the markers of a section; append the section if it is new."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    block = f"{begin}\n{text}{end}\n"
    old = path.read_text() if path.exists() else "# Measured results\n\nEvery line says how to repeat it.\n\n"
    if begin in old and end in old:
        head, _, rest = old.partition(begin)
        tail = rest.partition(end)[2].lstrip("\n")
        path.write_text(head + block + tail)
    else:
        path.write_text(old.rstrip("\n") + "\n\n" + block)


if __name__ == "__main__":
    main()
