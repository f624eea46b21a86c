"""Measurements of `gpu.py`: one network after another, the stacked engine, the device, and whether results agree."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch.nn import functional as F
from training import Case, forward_flops

from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.parameters import load_row
from zookeeper.nets.registry import build_network
from zookeeper.population import Cohort, Population, TrainingData, evaluate
from zookeeper.population.fusion import find_fusions
from zookeeper.population.precision import BF16, FLOAT32, TF32, training_precision
from zookeeper.population.train import CohortTrainer

_CHECK_MODELS, _CHECK_IMAGES, _CHECK_EPOCHS = 4, 16, 2
TOLERANCES = {FLOAT32: 1e-3, TF32: 5e-2, BF16: 2e-1}
"""Largest distance from float64 on the CPU, as a share of the way the weights of a model went."""


@dataclass(frozen=True)
class GpuCase(Case):
    """A case with so many seeds (each a data order of its own), 0 for as many as models."""

    num_seeds: int = 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the models; those that share one are neighbours."""
        seeds = min(self.num_seeds or self.num_models, self.num_models)
        return tuple(number * seeds // self.num_models for number in range(self.num_models))


@dataclass(frozen=True)
class Setup:
    """Where and how much is measured."""

    device: torch.device
    num_steps: int
    rounds: int
    gemm_size: int
    copy_bytes: int


@dataclass(frozen=True)
class Speed:
    """One way of training a case; NaN where memory ran out, ``note`` says so."""

    lowering: str
    precision: str
    tile: int
    step_ms: float
    evaluation_us: float
    peak_gb: float
    note: str = ""


@dataclass(frozen=True)
class Agreement:
    """How far training on the device is from the CPU."""

    case: str
    lowering: str
    precision: str
    distance: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether it is near enough; NaN is not."""
        return self.distance <= self.tolerance


def build(case: GpuCase) -> tuple[torch.nn.Module, Population]:
    network = build_network(
        case.architecture,
        in_channels=case.shape[0],
        image_size=case.shape[1:],
        num_classes=case.num_classes,
        activation=case.activation,
    )
    return network, Population(network, case.shape)


def make_data(case: GpuCase, num_images: int, device: torch.device) -> TrainingData:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num_images, *case.shape), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, case.num_classes, (num_images,), generator=generator)
    channels = case.shape[0]
    return TrainingData(
        images.to(device),
        labels.to(device),
        {"train": torch.arange(num_images, device=device)},
        torch.full((channels,), 0.5, device=device),
        torch.full((channels,), 0.25, device=device),
    )


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    wait(device)
    begin = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - begin


def plain_step_ms(case: GpuCase, setup: Setup, precision: str) -> float:
    """Milliseconds of one optimizer step of one `nn.Module`, images normalised and on the device."""
    network, population = build(case)
    data = make_data(case, setup.num_steps * case.batch_size, setup.device)
    start = initialise_rows(population.layout, ["kaiming_uniform"], [0])
    load_row(network, torch.from_numpy(start[0]).float())
    network.to(setup.device)
    x, y = data.part("train", torch.float32)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, weight_decay=1e-4)

    def epoch() -> None:
        order = torch.randperm(len(x), device=setup.device)
        for index in torch.split(order, case.batch_size):
            optimizer.zero_grad()
            F.cross_entropy(network(x[index]).float(), y[index]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    with training_precision(precision, setup.device):
        epoch()
        times = [seconds(epoch, setup.device) for _ in range(setup.rounds)]
    return 1e3 * min(times) / setup.num_steps


def stacked_speed(case: GpuCase, setup: Setup, lowering: str, precision: str, tile: int | None = None) -> Speed:
    """Train and evaluate a whole cohort of models with seeds of their own, at most ``tile`` in one pass."""
    try:
        return _stacked_speed(case, setup, lowering, precision, tile)
    except torch.OutOfMemoryError:
        nan = float("nan")
        return Speed(lowering, precision, tile or case.num_models, nan, nan, nan, "out of memory")
    finally:
        if setup.device.type == "cuda":
            torch.cuda.empty_cache()


def _stacked_speed(case: GpuCase, setup: Setup, lowering: str, precision: str, tile: int | None) -> Speed:
    _, population = build(case)
    population = lowered(population, lowering)
    count = case.num_models
    data = make_data(case, setup.num_steps * case.batch_size, setup.device)
    seeds = case.seeds
    start = initialise_rows(population.layout, ["kaiming_uniform"] * count, seeds)
    rows = torch.from_numpy(start).float().to(setup.device)
    factors = ((1e-3,) * count, (1e-4,) * count, (0.0,) * count, (0.0,) * count)
    cohort = Cohort(seeds, *factors, "adam", case.batch_size, precision=precision)
    if setup.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    trainer = CohortTrainer(population, cohort, data, rows, tile=tile)
    trainer.train_epoch(1)  # compiles, warms up, captures
    times = [seconds(lambda: trainer.train_epoch(2), setup.device) for _ in range(setup.rounds)]
    x, y = data.part("train", torch.float32)
    evaluate(population, rows, x, y)
    evaluation = min(seconds(lambda: evaluate(population, rows, x, y), setup.device) for _ in range(setup.rounds))
    peak = torch.cuda.max_memory_allocated() / 1e9 if setup.device.type == "cuda" else float("nan")
    return Speed(
        lowering,
        precision,
        count if tile is None else tile,
        1e3 * min(times) / setup.num_steps,
        1e6 * evaluation / len(x) / count,
        peak,
    )


def lowered(population: Population, lowering: str) -> Population:
    return population.lowered({op.layer: lowering for op in population.graph.ops if op.kind == "conv"})


def has_convolutions(case: GpuCase) -> bool:
    return any(op.kind == "conv" for op in build(case)[1].graph.ops)


def step_flops(case: GpuCase) -> float:
    """FLOP of one model-step: three times forward."""
    _, population = build(case)
    return 3 * forward_flops(population.graph, population) * case.batch_size


def step_bytes(case: GpuCase) -> float:
    """Bytes that a model-step moves at least if only fusions keep values off memory, all in float32.

    Every value between fusions is written and read once forwards, read once and its gradient written and read once
    backwards; images are gathered (read, written) and read twice; weights and Adam's state are read and written.
    """
    _, population = build(case)
    ops, fusions = population.graph.ops, find_fusions(population.graph)
    inside = {number for fusion in fusions.values() for number in fusion.numbers[:-1]}
    idle = {"input", "output", "dropout", "flatten"}
    values = sum(torch.Size(op.shape).numel() for n, op in enumerate(ops) if n not in inside and op.kind not in idle)
    images = torch.Size(case.shape).numel()
    return 4.0 * (case.batch_size * (5 * values + 4 * images) + 8 * population.layout.num_weights)


def gemm_rate(setup: Setup, precision: str) -> float:
    """FLOP per second of one large square product in a precision."""
    size = setup.gemm_size
    a, b = (torch.randn(size, size, device=setup.device) for _ in range(2))
    if precision == BF16:
        a, b = a.bfloat16(), b.bfloat16()
    with training_precision(FLOAT32 if precision == BF16 else precision, setup.device):
        a @ b
        fastest = min(seconds(lambda: a @ b, setup.device) for _ in range(5))
    return 2.0 * size**3 / fastest


def copy_rate(setup: Setup) -> float:
    """Bytes per second of a large copy, read and written."""
    source = torch.empty(setup.copy_bytes, dtype=torch.uint8, device=setup.device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2.0 * setup.copy_bytes / min(seconds(lambda: target.copy_(source), setup.device) for _ in range(5))


def agreement(case: GpuCase, setup: Setup, lowering: str, precision: str) -> Agreement:
    """Train a few models for a few steps of SGD on the device and, in float64, on the CPU."""
    _, population = build(case)
    count = _CHECK_MODELS
    start = torch.from_numpy(initialise_rows(population.layout, ["kaiming_uniform"] * count, range(count)))
    factors = ((0.01,) * count, (1e-4,) * count, (0.9,) * count, (0.0,) * count)
    ends = []
    for device, dtype, name, rounding in (
        (torch.device("cpu"), torch.float64, "grouped", FLOAT32),
        (setup.device, torch.float32, lowering, precision),
    ):
        rows = start.to(device, dtype, copy=True)
        batch = min(case.batch_size, _CHECK_IMAGES // 2)
        cohort = Cohort(tuple(range(count)), *factors, "sgd", batch, precision=rounding)
        trainer = CohortTrainer(lowered(population, name), cohort, make_data(case, _CHECK_IMAGES + 1, device), rows)
        for epoch in range(1, 1 + _CHECK_EPOCHS):
            trainer.train_epoch(epoch)
        ends.append(rows.double().cpu())
    distance = float(((ends[0] - ends[1]).norm(dim=1) / (ends[0] - start).norm(dim=1)).max())
    return Agreement(case.name, lowering, precision, distance, TOLERANCES[precision])


def hardware(device: torch.device) -> dict[str, str]:
    facts = {"torch": torch.__version__, "python": platform.python_version(), "cuda": str(torch.version.cuda)}
    try:
        facts["triton"] = version("triton")
    except PackageNotFoundError:
        facts["triton"] = "none"
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["device"] = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB"
        facts["capability"] = f"{properties.major}.{properties.minor}"
        facts["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    else:
        facts["device"] = f"CPU ({torch.backends.cpu.get_cpu_capability()}), a trial of the code"
    return facts
