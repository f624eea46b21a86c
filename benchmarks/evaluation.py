"""Generative tasks on one core: networks evaluated and fine-tuned as one stack, against a plain loop over networks.

Both run in this process, on one thread, in turns: every ratio is the median of neighbouring pairs. Seconds are those of
the processor, which other work on the machine does not lengthen as it does wall time. The plain loop is one
`nn.Module` after the other, contiguous NCHW, images normalised and in memory, in batches of 256 (evaluation) or of
the zoo (fine-tuning). Fewer networks and images are timed than the task has; times of the whole task are scaled by
counts and marked so.

    python benchmarks/evaluation.py --out benchmarks/RESULTS.md
    python benchmarks/evaluation.py --passes --rounds 7    # other sizes of a pass than the engine's, printed only
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from training import machine, replace_section

from hyperrep.tasks.finetune import FineTuneSettings, fine_tune
from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.parameters import load_row
from zookeeper.nets.registry import build_network
from zookeeper.population import Population, TrainingData, evaluate
from zookeeper.population.process import prepare_process

NETWORKS, IMAGES = 1_000, 10_000  # the task: sampled networks on the test images of MNIST
TUNED, EPOCHS = 200, 5
PASSES = (
    ("cnn-digits-shallow", (1, 8, 8), 64, 512),
    ("cnn-small", (1, 28, 28), 64, 256),
    ("cnn-large", (3, 32, 32), 64, 64),
)


def busy(function: Callable[[], object]) -> float:
    """Seconds of the processor that a call takes."""
    begin = time.process_time()
    function()
    return time.process_time() - begin


def build(
    architecture: str, shape: tuple[int, int, int], activation: str, num: int
) -> tuple[nn.Module, Population, torch.Tensor]:
    network = build_network(
        architecture, in_channels=shape[0], image_size=shape[1:], num_classes=10, activation=activation
    )
    population = Population(network, shape)
    rows = initialise_rows(population.layout, ["kaiming_uniform"] * num, range(num))
    return network.eval(), population, torch.from_numpy(rows).float()


def time_evaluation(num_networks: int, num_images: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds of (plain, stacked) for all networks on all images."""
    network, population, rows = build("cnn-small", (1, 28, 28), "tanh", num_networks)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(num_images, 1, 28, 28, generator=generator)
    labels = torch.randint(0, 10, (num_images,), generator=generator)

    @torch.inference_mode()
    def plain() -> torch.Tensor:
        correct = torch.zeros(num_networks, dtype=torch.int64)
        for number in range(num_networks):
            load_row(network, rows[number])
            for part, target in zip(torch.split(images, 256), torch.split(labels, 256), strict=True):
                correct[number] += (network(part).argmax(1) == target).sum()
        return correct / num_images

    difference = (plain() - evaluate(population, rows, images, labels).accuracy).abs().max().item()
    assert difference <= 2 / num_images, f"the two ways differ by {difference}"
    return [(busy(plain), busy(lambda: evaluate(population, rows, images, labels))) for _ in range(rounds)]


def time_passes(rounds: int) -> str:
    """How much faster than the plain loop passes of several sizes are, for three networks, as a table."""
    lines = ["| network | models x images | MB of activations | ratio | single pairs |", "|---|---|---|---|---|"]
    for architecture, shape, num, num_images in PASSES:
        network, population, rows = build(architecture, shape, "tanh", num)
        images = torch.randn(num_images, *shape, generator=torch.Generator().manual_seed(0))
        pairs = 4 * population.activation_floats

        @torch.inference_mode()
        def plain(network: nn.Module = network, rows: torch.Tensor = rows, images: torch.Tensor = images) -> None:
            load_row(network, rows[0])
            for part in torch.split(images, 256):
                network(part).argmax(1)

        @torch.inference_mode()
        def stacked(
            models: int, most: int, population: Population = population, rows: torch.Tensor = rows,
            images: torch.Tensor = images,
        ) -> None:  # fmt: skip
            for some in torch.split(rows, models):
                for part in torch.split(images, most):
                    population.forward(some, part).argmax(2)

        sizes = [
            (m, b) for m in (8, 16, 32, 64) for b in (8, 16, 32, 64, 128) if 8e6 < pairs * m * b < 1e8 and m <= num
        ]
        found: dict[tuple[int, int], list[float]] = {size: [] for size in sizes}
        for _ in range(rounds):
            for size, ratios in found.items():
                ratios.append(num * busy(plain) / busy(lambda size=size: stacked(*size)))  # type: ignore[misc]
        for (models, most), ratios in found.items():
            lines.append(
                f"| {architecture} | {models} x {most} | {pairs * models * most / 1e6:.0f} "
                f"| {statistics.median(ratios):.2f}x | {min(ratios):.2f} to {max(ratios):.2f} |"
            )
    return "\n".join(lines)


def time_fine_tuning(num_plain: int, num_stacked: int, rounds: int) -> list[tuple[float, float]]:
    """Seconds per network of (plain, stacked) for all epochs on images of the size of the digits."""
    network, population, rows = build("cnn-digits-shallow", (1, 8, 8), "tanh", num_stacked)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (1797, 1, 8, 8), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (1797,), generator=generator)
    parts = {"train": torch.arange(0, 1258), "val": torch.arange(1258, 1438), "test": torch.arange(1438, 1797)}
    data = TrainingData(images, labels, parts, torch.zeros(1), torch.ones(1))
    settings = FineTuneSettings(lr=1e-3, weight_decay=1e-4, epochs=(0, 1, EPOCHS))
    inputs = data.normalise(images, torch.float32)

    def plain() -> None:
        for number in range(num_plain):
            load_row(network, rows[number])
            optimizer = torch.optim.Adam(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
            for _ in range(EPOCHS):
                for batch in torch.split(torch.randperm(1258), settings.batch_size):
                    optimizer.zero_grad()
                    F.cross_entropy(network(inputs[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()

    def stacked() -> None:
        fine_tune(population, data, {"sampled": rows.numpy()}, settings)

    network.train()
    return [(busy(plain) / num_plain, busy(stacked) / num_stacked) for _ in range(rounds)]


def to_markdown(arguments: argparse.Namespace, found: dict[str, list[tuple[float, float]]], when: str) -> str:
    facts = machine()
    share = NETWORKS * IMAGES / (arguments.networks * arguments.images)
    plain, stacked = (statistics.median(pair[side] for pair in found["evaluation"]) for side in (0, 1))
    ratio = statistics.median(a / b for a, b in found["evaluation"])
    tune_plain, tune_stacked = (statistics.median(pair[side] for pair in found["tuning"]) for side in (0, 1))
    tune_ratio = statistics.median(a / b for a, b in found["tuning"])
    lowest, highest = (np.quantile([a / b for a, b in found["evaluation"]], q) for q in (0, 1))
    lines = [
        "## Sampled networks on a CPU: evaluated and fine-tuned as one stack",
        "",
        f"`make bench-tasks` on {when}; {facts['cpu']}; torch {facts['torch']}, Python {facts['python']}; one thread, "
        f"float32; seconds of the processor, medians over {arguments.rounds} neighbouring pairs in one process; "
        f"load average at the end {os.getloadavg()[0]:.1f} (above 1 others share the caches).",
        f"Evaluation: {arguments.networks} cnn-small on {arguments.images:,} images of 28 x 28 were timed; the plain "
        f"loop in batches of 256. Ratios of single pairs lie between {lowest:.1f}x and {highest:.1f}x.",
        f"Fine-tuning: cnn-digits-shallow, 1,258 images, batches of 32, Adam; {arguments.tuned} networks stacked "
        f"(with evaluation at epochs 0, 1, {EPOCHS}), {arguments.plain_tuned} in the plain loop (without).",
        "",
        "| task | plain CPU s | stacked CPU s | ratio | asked for |",
        "|---|---|---|---|---|",
        f"| {arguments.networks:,} networks on {arguments.images:,} images | {plain:.2f} | {stacked:.2f} "
        f"| **{ratio:.1f}x** | 3x |",
        f"| {NETWORKS:,} networks on {IMAGES:,} images, scaled by counts | {plain * share:.0f} "
        f"| {stacked * share:.0f} | | |",
        f"| {TUNED} networks fine-tuned for {EPOCHS} epochs, scaled by counts | {tune_plain * TUNED:.0f} "
        f"| {tune_stacked * TUNED:.0f} | **{tune_ratio:.1f}x** | |",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, help="Markdown file whose section on tasks is replaced")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--networks", type=int, default=64)
    parser.add_argument("--images", type=int, default=1_000)
    parser.add_argument("--tuned", type=int, default=TUNED, help="networks fine-tuned as one stack")
    parser.add_argument("--plain-tuned", type=int, default=4, help="networks fine-tuned one by one")
    parser.add_argument("--passes", action="store_true", help="compare sizes of a pass, and nothing else")
    arguments = parser.parse_args()
    prepare_process(1)
    if arguments.passes:
        print(time_passes(arguments.rounds))
        return
    found = {
        "evaluation": time_evaluation(arguments.networks, arguments.images, arguments.rounds),
        "tuning": time_fine_tuning(arguments.plain_tuned, arguments.tuned, max(1, arguments.rounds // 2)),
    }
    text = to_markdown(arguments, found, datetime.now(UTC).strftime("%Y-%m-%d"))
    print(text)
    if arguments.out is not None:
        replace_section(arguments.out, "tasks", text)


if __name__ == "__main__":
    main()
