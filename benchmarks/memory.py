"""The memory model against what a process takes: peak of resident memory of fresh processes on a CPU.

Each case is a process of its own. It trains a small cohort first, so that libraries are loaded, then a step of a whole
cohort and an evaluation of some images, all images of the set being there. Measured is the peak above what the process
held before; the checkpoints of a build are not in it.

    python benchmarks/memory.py --out benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from training import machine, replace_section

from zookeeper.build.memory import predict_memory
from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.registry import build_network
from zookeeper.population import Cohort, Population, TrainingData, evaluate
from zookeeper.population.process import prepare_process
from zookeeper.population.train import CohortTrainer

EVALUATED = 700


@dataclass(frozen=True)
class Case:
    architecture: str
    shape: tuple[int, int, int]
    batch_size: int
    num_models: int
    num_images: int
    lowering: str = "grouped"
    precision: str = "float32"
    dropout: float = 0.0


SMALL, LARGE = (1, 28, 28), (3, 32, 32)
CASES = (
    Case("cnn-small", SMALL, 10, 60, 2_000),
    Case("cnn-small", SMALL, 10, 60, 2_000, dropout=0.3),
    Case("cnn-small", SMALL, 10, 60, 2_000, lowering="unfold"),
    Case("cnn-large", LARGE, 32, 60, 2_000),
    Case("cnn-large", LARGE, 32, 60, 2_000, lowering="unfold"),
    Case("cnn-large", LARGE, 32, 60, 2_000, precision="bf16"),
    Case("cnn-large", LARGE, 32, 60, 16_000),
    Case("cnn-large", LARGE, 32, 60, 60_000),
    Case("lenet5", LARGE, 32, 60, 2_000),
    Case("lenet5", LARGE, 32, 60, 2_000, precision="bf16"),
    Case("resnet18-cifar", LARGE, 32, 2, 200),
    Case("resnet18-cifar", LARGE, 16, 4, 100),
    Case("cnn-small", SMALL, 10, 3_000, 2_000),
    Case("cnn-large", LARGE, 32, 1_200, 2_000),
    Case("lenet5", LARGE, 32, 400, 2_000),
    Case("cnn-medium", SMALL, 10, 60, 2_000),
    Case("smallcnn-google", SMALL, 16, 120, 2_000),
    Case("cnn-residual", SMALL, 10, 60, 2_000),
    Case("cnn-large", LARGE, 16, 200, 2_000, dropout=0.5),
    Case("cnn-medium", SMALL, 10, 60, 2_000, precision="bf16"),
)


def make(case: Case) -> tuple[Population, Cohort, TrainingData, torch.Tensor]:
    """Draw images and initial weights of a case; every model has its own seed."""
    channels, height, width = case.shape
    network = build_network(
        case.architecture,
        in_channels=channels,
        image_size=(height, width),
        num_classes=10,
        activation="tanh",
        dropout=case.dropout,
    )
    population = Population(network, case.shape)
    convolutions = [op.layer for op in population.graph.ops if op.kind == "conv"]
    population = population.lowered(dict.fromkeys(convolutions, case.lowering))
    num, seeds = case.num_models, tuple(range(case.num_models))
    rates, drops = (1e-3,) * num, (case.dropout,) * num
    cohort = Cohort(seeds, rates, rates, (0.0,) * num, drops, "adam", case.batch_size, precision=case.precision)
    generator = torch.Generator().manual_seed(0)
    cut = case.num_images * 4 // 5
    data = TrainingData(
        images=torch.randint(0, 256, (case.num_images, *case.shape), generator=generator, dtype=torch.uint8),
        labels=torch.randint(0, 10, (case.num_images,), generator=generator),
        indices={"train": torch.arange(cut), "test": torch.arange(cut, case.num_images)},
        mean=torch.full((channels,), 0.5),
        std=torch.full((channels,), 0.25),
    )
    rows = torch.empty(num, population.layout.num_weights)
    for number in seeds:
        rows[number] = torch.from_numpy(initialise_rows(population.layout, ["kaiming_uniform"], [number]))[0]
    return population, cohort, data, rows


def train(case: Case) -> tuple[Population, Cohort, TrainingData]:
    """Take two steps, the second with buffers of the first, and evaluate some images of every split."""
    population, cohort, data, rows = make(case)
    trainer = CohortTrainer(population, cohort, data, rows)
    trainer.steps_per_epoch = min(2, trainer.steps_per_epoch)
    trainer.train_epoch(1)
    for index in data.indices.values():
        part = index[:EVALUATED]
        evaluate(population, rows, data.normalise(data.images[part], torch.float32), data.labels[part])
    return population, cohort, data


def memory_of(name: str) -> int:
    """Bytes of this process as Linux counts them: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def measure(case: Case) -> dict[str, float]:
    """Peak above what the process held before, and the prediction, in bytes."""
    prepare_process(1)
    train(replace(case, num_models=1, batch_size=2, num_images=10))
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = memory_of("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    population, cohort, data = train(case)
    peak = memory_of("VmHWM") - before
    predicted = predict_memory(population, cohort, {split: len(index) for split, index in data.indices.items()})
    return {"measured": peak, "predicted": predicted.peak}


def to_markdown(results: list[tuple[Case, dict[str, float]]], when: str) -> str:
    facts = machine()
    lines = [
        "## Memory of training on a CPU: predicted against resident",
        "",
        f"`python benchmarks/memory.py` on {when}; {facts['cpu']}; torch {facts['torch']}; one thread, Adam, a "
        "seed for each model. Peak above the idle process, fresh processes.",
        "",
        "| network | batch | models | images | lowering | precision | predicted MB | measured MB | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for case, found in results:
        name = case.architecture + (", dropout" if case.dropout else "")
        lines.append(
            f"| {name} | {case.batch_size} | {case.num_models} | {case.num_images:,} | {case.lowering} "
            f"| {case.precision} | {found['predicted'] / 1e6:.0f} | {found['measured'] / 1e6:.0f} "
            f"| **{found['predicted'] / found['measured']:.2f}** |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        given = json.loads(arguments.case)
        print(json.dumps(measure(Case(**given | {"shape": tuple(given["shape"])}))))
        return
    results = []
    for case in CASES:
        command = [sys.executable, __file__, "--case", json.dumps(asdict(case))]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        results.append((case, json.loads(done.stdout)))
        print(case, results[-1][1], file=sys.stderr, flush=True)
    text = to_markdown(results, datetime.now(UTC).strftime("%Y-%m-%d"))
    print(text)
    if arguments.out is not None:
        replace_section(arguments.out, "memory", text)


if __name__ == "__main__":
    main()
