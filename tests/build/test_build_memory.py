"""The memory model against measured memory; cohorts and tiles that fit; running out of memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import zookeeper
from zookeeper import Plan, build_zoo
from zookeeper.build import fit, memory, prepare_zoo, tiles
from zookeeper.build.fit import largest_tile
from zookeeper.build.memory import predict_memory
from zookeeper.build.worker import build_cohort
from zookeeper.errors import BuildError
from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.registry import build_network
from zookeeper.population import Cohort, Population, TrainingData, train, train_cohort, triton_convolution
from zookeeper.population.train import CohortTrainer

MakePlan = Callable[..., Plan]
BATCHES = 3


@dataclass(frozen=True)
class Case:
    architecture: str
    shape: tuple[int, int, int]
    batch: int
    num_models: int
    optimizer: str = "adam"
    activation: str = "relu"
    dropout: float = 0.0
    one_seed: bool = False
    lowering: str = "grouped"
    precision: str = "float32"


SMALL, LARGE = (1, 28, 28), (3, 32, 32)
CASES = {
    "mlp": Case("mlp", (1, 4, 4), 64, 200, activation="tanh"),
    "cnn-small": Case("cnn-small", SMALL, 10, 32, activation="tanh"),
    "cnn-small shared": Case("cnn-small", SMALL, 10, 32, activation="tanh", one_seed=True),
    "cnn-small dropout": Case("cnn-small", SMALL, 10, 16, "sgd", "gelu", 0.3),
    "cnn-small unfolded": Case("cnn-small", SMALL, 10, 8, lowering="unfold"),
    "cnn-large": Case("cnn-large", LARGE, 32, 8),
    "cnn-large shared": Case("cnn-large", LARGE, 32, 8, one_seed=True),
    "bf16 large shared": Case("cnn-large", LARGE, 32, 8, one_seed=True, precision="bf16"),
    "lenet5": Case("lenet5", LARGE, 32, 8, "rmsprop", "silu"),
    "lenet5 relu": Case("lenet5", LARGE, 32, 8),
    "bf16": Case("cnn-large", LARGE, 32, 8, precision="bf16"),
    "bf16 dropout": Case("cnn-small", SMALL, 10, 16, "sgd", "gelu", 0.3, precision="bf16"),
    "bf16 shared": Case("cnn-small", SMALL, 10, 32, activation="tanh", one_seed=True, precision="bf16"),
    "bf16 unfolded": Case("cnn-large", LARGE, 32, 8, lowering="unfold", precision="bf16"),
    "fused": Case("cnn-large", LARGE, 32, 8, lowering="triton"),
    "fused shared": Case("cnn-small", SMALL, 10, 32, activation="gelu", one_seed=True, lowering="triton"),
    "fused dropout": Case("cnn-small", SMALL, 10, 16, "sgd", "silu", 0.3, lowering="triton"),
    "fused bf16": Case("cnn-large", LARGE, 32, 8, lowering="triton", precision="bf16"),
    "fused residual": Case("cnn-residual", SMALL, 10, 16, activation="tanh", lowering="triton"),
}


def make(name: str) -> tuple[Population, Cohort, TrainingData]:
    case = CASES[name]
    shape, batch, num = case.shape, case.batch, case.num_models
    network = build_network(
        case.architecture,
        in_channels=shape[0],
        image_size=shape[1:],
        num_classes=4,
        activation=case.activation,
        dropout=case.dropout,
    )
    population = Population(network, shape)
    convolutions = [op.layer for op in population.graph.ops if op.kind == "conv"]
    population = population.lowered(dict.fromkeys(convolutions, case.lowering))
    seeds = (0,) * num if case.one_seed else tuple(range(num))
    rates, zeros, drops = (1e-3,) * num, (0.0,) * num, (case.dropout,) * num
    cohort = Cohort(seeds, rates, rates, zeros, drops, case.optimizer, batch, precision=case.precision)
    num_images = BATCHES * batch + 64
    generator = torch.Generator().manual_seed(0)
    data = TrainingData(
        images=torch.randint(0, 256, (num_images, *shape), generator=generator).to(torch.uint8),
        labels=torch.randint(0, 4, (num_images,), generator=generator),
        indices={"train": torch.arange(BATCHES * batch), "test": torch.arange(BATCHES * batch, num_images)},
        mean=torch.full((shape[0],), 0.5),
        std=torch.full((shape[0],), 0.5),
    )
    return population, cohort, data


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def fused_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Launch nothing where a GPU would compute: what is allocated around the kernels is the same."""

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return lambda *arguments, **constants: None

    names = ("forward_kernel", "weight_gradient_kernel", "input_gradient_kernel")
    kernels = SimpleNamespace(**{name: Kernel() for name in names})
    monkeypatch.setitem(sys.modules, "zookeeper.population.triton_kernels", kernels)  # type: ignore[arg-type, unused-ignore]
    monkeypatch.setattr(triton_convolution, "is_usable", lambda device: True)


def allocated(work: Callable[[], Any]) -> int:
    """Most bytes that torch's CPU allocator had given out at one time during ``work``, beyond those before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(np.cumsum(changes).max())


def train_once(population: Population, cohort: Cohort, data: TrainingData, device: str, tile: int | None) -> None:
    rows = torch.from_numpy(initialise_rows(population.layout, ["normal"] * cohort.num_models, cohort.seeds))
    for _ in train_cohort(population, cohort, data, rows.float().to(device), tile=tile, last_epoch=1):
        pass


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("fused_anywhere")
def test_prediction_is_what_is_allocated(name: str) -> None:
    population, cohort, data = make(name)
    counts = {split: len(index) for split, index in data.indices.items()}
    rows = torch.from_numpy(initialise_rows(population.layout, ["normal"] * cohort.num_models, cohort.seeds)).float()
    trainers: list[CohortTrainer] = []

    def begin() -> None:
        trainers.append(CohortTrainer(population, cohort, data, rows))

    predicted = predict_memory(population, cohort, counts)
    kept = allocated(begin) + rows.nbytes + data.images.nbytes + 8 * len(data.labels)
    training, evaluation = (allocated(work) for work in (lambda: trainers[0].train_epoch(1), trainers[0].evaluate))
    assert predicted.training == pytest.approx(training, rel=0.1)
    assert predicted.evaluation == pytest.approx(evaluation, rel=0.1)
    tensors = predicted.peak - predicted.heap
    assert tensors == pytest.approx(kept + training + evaluation, rel=0.1)


@pytest.mark.parametrize("stays_bytes", [False, True])
def test_images_are_counted_in_the_forms_that_are_kept(stays_bytes: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if stays_bytes:
        monkeypatch.setattr(train, "_INPUT_BYTES", 0)
        monkeypatch.setattr(memory, "INPUT_BYTES", 0)
    population, cohort, data = make("cnn-large")
    counts = {split: len(index) for split, index in data.indices.items()}
    rows = torch.zeros(cohort.num_models, population.layout.num_weights)
    trainers: list[CohortTrainer] = []
    begun = allocated(lambda: trainers.append(CohortTrainer(population, cohort, data, rows)))
    predicted = predict_memory(population, cohort, counts)
    given = rows.nbytes + data.images.nbytes + 8 * len(data.labels)
    assert predicted.images + predicted.weights == pytest.approx(given + begun, rel=0.1)
    assert predicted.training == pytest.approx(allocated(lambda: trainers[0].train_epoch(1)), rel=0.1)
    assert predicted.evaluation == pytest.approx(allocated(trainers[0].evaluate), rel=0.1)
    on_gpu = predict_memory(population, cohort, counts, device="cuda")
    assert on_gpu.images - predicted.images == stays_bytes * data.images.nbytes


def test_prediction_of_the_orders_of_many_images() -> None:
    population, cohort, data = make("mlp")
    many = TrainingData(
        images=data.images[torch.zeros(20_000, dtype=torch.int64)],
        labels=data.labels[torch.zeros(20_000, dtype=torch.int64)],
        indices={"train": torch.arange(20_000)},
        mean=data.mean,
        std=data.std,
    )
    trainer = CohortTrainer(population, cohort, many, torch.zeros(cohort.num_models, 100))
    predicted = predict_memory(population, cohort, {"train": 20_000})
    assert predicted.orders > predicted.training > 4 * predicted.images
    trainer.steps_per_epoch = 2
    assert predicted.orders == pytest.approx(allocated(lambda: trainer.train_epoch(1)), rel=0.2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("name", ["cnn-small", "cnn-large", "lenet5"])
def test_prediction_is_within_20_percent_on_a_gpu(name: str) -> None:
    population, cohort, data = make(name)
    on_gpu = TrainingData(
        images=data.images.cuda(),
        labels=data.labels.cuda(),
        indices={split: index.cuda() for split, index in data.indices.items()},
        mean=data.mean.cuda(),
        std=data.std.cuda(),
    )
    train_once(population, cohort, on_gpu, "cuda", None)  # libraries take memory of their own at first use
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train_once(population, cohort, on_gpu, "cuda", None)
    counts = {split: len(index) for split, index in data.indices.items()}
    found = predict_memory(population, cohort, counts, device="cuda")
    at_once = found.images + found.weights + max(found.orders, found.training, found.evaluation)
    assert at_once == pytest.approx(torch.cuda.max_memory_allocated(), rel=0.2)


def test_smaller_tiles_train_the_same_models_in_less_memory() -> None:
    population, cohort, data = make("cnn-small")
    counts = {split: len(index) for split, index in data.indices.items()}
    rows = torch.from_numpy(initialise_rows(population.layout, ["xavier_normal"] * 32, cohort.seeds))
    results = {}
    for tile in (None, 5, 1):
        *_, last = train_cohort(population, cohort, data, rows.clone(), tile=tile, last_epoch=1)
        results[tile] = last
    for tile in (5, 1):
        torch.testing.assert_close(results[tile].rows, results[None].rows, rtol=1e-9, atol=1e-11)
        for split, found in results[tile].evaluations.items():
            torch.testing.assert_close(found.loss, results[None].evaluations[split].loss)
    peaks = [predict_memory(population, cohort, counts, tile=tile).peak for tile in (None, 5, 1)]
    measured = []
    for tile in (32, 5, 1):
        trainer = CohortTrainer(population, cohort, data, rows.float(), tile=tile)
        measured.append(allocated(lambda trainer=trainer: trainer.train_epoch(1)))  # type: ignore[misc]
    assert sorted(peaks, reverse=True) == peaks
    assert measured[0] > 2 * measured[1] > 2 * measured[2]


def test_the_largest_tile_that_fits_is_found() -> None:
    population, cohort, data = make("cnn-large")
    cohort = replace(cohort, batch_size=256)  # a step takes more than an evaluation
    counts = {split: len(index) for split, index in data.indices.items()}
    commit = fit.worker.COMMIT_BYTES
    sizes = [predict_memory(population, cohort, counts, tile=tile, commit_bytes=commit).peak for tile in (1, 2, 3, 4)]
    assert sizes[0] <= sizes[1] < sizes[2] < sizes[3]
    assert largest_tile(population, cohort, counts, 1 << 40, "cpu") is None
    assert largest_tile(population, cohort, counts, 1, "cpu") == 1
    assert largest_tile(population, cohort, counts, sizes[2], "cpu") == 3
    assert largest_tile(population, cohort, counts, sizes[2] - 1, "cpu") == 2


class Scarce:
    """Memory for ``room`` models in one pass, from the ``after``-th pass on; notes the models of every pass."""

    def __init__(
        self, patch: pytest.MonkeyPatch, room: int, error: Callable[[], BaseException], after: int = 0
    ) -> None:
        self.sizes: list[int] = []
        real = Population.forward_training

        def forward(population: Population, rows: torch.Tensor, images: torch.Tensor, dropout: Any) -> Any:
            self.sizes.append(len(rows))
            if len(rows) > room and len(self.sizes) > after:
                raise error()
            return real(population, rows, images, dropout)

        patch.setattr(Population, "forward_training", forward)


ERRORS: dict[str, Callable[[], BaseException]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "runtime": lambda: RuntimeError("CUDA error: out of memory"),
    "host": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
    "numpy": lambda: MemoryError(),
}


@pytest.mark.parametrize("error", ERRORS)
def test_out_of_memory_halves_the_tile_and_goes_on(
    error: str, plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of()  # two cohorts of six
    build_zoo(plan, tmp_path / "whole", show_progress=False)
    scarce = Scarce(monkeypatch, 2, ERRORS[error])
    summary = build_zoo(plan, tmp_path / "zoo", show_progress=False)
    assert (summary.complete, summary.failures) == (True, {})
    assert scarce.sizes[:3] == [6, 3, 1]
    assert set(scarce.sizes) == {6, 3, 1}
    whole, zoo = (zookeeper.open(tmp_path / name) for name in ("whole", "zoo"))
    np.testing.assert_allclose(zoo.weights(), whole.weights(), rtol=1e-4, atol=1e-5)
    assert (zoo.frame["model_id"] == whole.frame["model_id"]).all()


def test_out_of_memory_goes_on_after_the_last_commit(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit.worker, "COMMIT_BYTES", 1)
    plan = plan_of(build={"cohort_size": 12})
    jobs = prepare_zoo(plan, tmp_path / "zoo")
    beats: list[int] = []
    images = fit.load_spec_images(jobs[0].images)
    steps = -(-images.count("train") // 64)
    scarce = Scarce(monkeypatch, 6, ERRORS["cuda"], after=3 * steps + 1)
    build_cohort(jobs[0], lambda beat: beats.append(beat.epoch))
    assert beats == [0, 1, 2, 3, 4, 5, 6]  # no epoch twice
    assert scarce.sizes.count(12) == 3 * steps + 2


def test_one_model_that_does_not_fit_is_one_clear_error(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scarce = Scarce(monkeypatch, 0, ERRORS["cuda"])
    with pytest.raises(BuildError, match=r"cohort c00000-\w+: out of memory with one model at a time \(CUDA out"):
        build_zoo(plan_of(), tmp_path / "zoo", show_progress=False)
    assert scarce.sizes == [6, 3, 1]


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    plan_of: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scarce = Scarce(monkeypatch, 0, lambda: RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        build_zoo(plan_of(), tmp_path / "zoo", show_progress=False)
    assert scarce.sizes == [6]
    assert not tiles.is_out_of_memory(ValueError("out of memory"))
