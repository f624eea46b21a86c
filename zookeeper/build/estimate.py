"""What a plan will cost: bytes from arithmetic, time from a short trial on this machine."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from zookeeper.build import worker
from zookeeper.build.job import CohortJob, image_json, load_spec_images, population_of, store_encoding
from zookeeper.build.lowerings import decide_lowerings
from zookeeper.population import Population, TrainingData, evaluate
from zookeeper.population.precision import FLOAT32, TF32
from zookeeper.population.process import prepare_process
from zookeeper.population.train import CohortTrainer
from zookeeper.spec.plan import Cohort, Plan

# Fitted to the files of nine zoos of 12 to 160 models, 3 to 21 checkpoints and 1 to 20 commits; all within 1 %.
_ZOO_BYTES = 22_700  # header with one layout, caches
_COMMIT_BYTES = 13_000  # footers, record
_GROUP_BYTES = 5_340  # a model's rows in one shard: pages and their entries in the footer
_MODEL_BYTES = 120  # header, caches
_ROW_BYTES = 213  # metadata beside the weights, and again in its own file and the caches
_TRIAL_STEPS = 6
_TRIAL_IMAGES = 256


@dataclass(frozen=True)
class Estimate:
    """Size and cost of a plan.

    Parameters
    ----------
    num_models, num_cohorts, num_checkpoints
        Counts of the plan.
    num_weights
        Weights of one model by architecture.
    num_bytes
        Size of the finished zoo.
    model_steps
        Steps of training, summed over the models.
    seconds_per_model_step
        Time of one of them, evaluation left out.
    seconds
        Time of the whole build with ``num_workers`` workers, each as fast as the one that was timed.
    num_workers
        Workers at a time.
    device
        ``cpu`` or ``cuda``.
    """

    num_models: int
    num_cohorts: int
    num_checkpoints: int
    num_weights: dict[str, int]
    num_bytes: int
    model_steps: int
    seconds_per_model_step: float
    seconds: float
    num_workers: int
    device: str


def estimate_build(plan: Plan, *, num_workers: int = 1, device: str = "cpu", num_threads: int = 1) -> Estimate:
    """Count models and bytes and time a few steps of one cohort of every kind; writes nothing.

    The time leaves out start-up (Ray: some seconds) and assumes that workers do not slow each other down.

    Raises
    ------
    InputError
        If the images are missing or an architecture does not fit them.
    """
    prepare_process(num_threads)
    images = load_spec_images(image_json(plan.spec))
    data = worker.training_data(images, torch.device(device))
    num_epochs = plan.epochs[-1]
    num_bytes, model_steps, train_seconds = _ZOO_BYTES, 0, 0.0
    itemsize = store_encoding(plan.spec).itemsize
    num_weights: dict[str, int] = {}
    cohort_seconds: list[float] = []
    timings: dict[tuple[str, str, str, int], tuple[float, float]] = {}
    for cohort in plan.cohorts:
        model = cohort.models[0]
        population = population_of(model, images)
        num_weights[model.architecture] = population.layout.num_weights
        kind = (model.architecture, model.activation, model.optimizer, model.batch_size)
        if kind not in timings:
            job = CohortJob("", cohort, plan.epochs, image_json(plan.spec), images.fingerprint, "", device)
            wanted, num_models = plan.spec.build.lowering, len(cohort.models)
            lowerings = decide_lowerings(population, wanted, num_models, model.batch_size, device)
            timings[kind] = _time_cohort(population.lowered(lowerings), job, data)
        per_step, per_evaluation = timings[kind]
        num_models = len(cohort.models)
        steps = num_epochs * -(-len(data.indices["train"]) // model.batch_size)
        model_steps += num_models * steps
        train_seconds += num_models * steps * per_step
        cohort_seconds.append(num_models * (steps * per_step + (num_epochs + 1) * per_evaluation))
        weights, seconds = population.layout.num_weights, cohort_seconds[-1]
        num_bytes += _cohort_bytes(cohort, plan.epochs, weights, seconds, itemsize)
    return Estimate(
        num_models=plan.num_models,
        num_cohorts=len(plan.cohorts),
        num_checkpoints=plan.num_checkpoints,
        num_weights=num_weights,
        num_bytes=num_bytes,
        model_steps=model_steps,
        seconds_per_model_step=train_seconds / max(1, model_steps),
        seconds=makespan(cohort_seconds, num_workers),
        num_workers=num_workers,
        device=device,
    )


def makespan(durations: Iterable[float], num_workers: int) -> float:
    """Time until all jobs are done, each going in order to the first worker that is free.

    >>> makespan([1.0, 1.0, 1.0], 2)
    2.0
    """
    free = [0.0] * num_workers
    for duration in durations:
        heapq.heappushpop(free, free[0] + duration)
    return max(free)


def _cohort_bytes(cohort: Cohort, epochs: tuple[int, ...], num_weights: int, seconds: float, itemsize: int = 4) -> int:
    num_models = len(cohort.models)
    num_rows = num_models * len(epochs)
    pieces = max(4 * num_rows * num_weights / worker.COMMIT_BYTES, seconds / worker.COMMIT_SECONDS)
    num_commits = min(len(epochs), max(1, math.ceil(pieces)))
    return (
        num_rows * (itemsize * num_weights + _ROW_BYTES)
        + num_models * _MODEL_BYTES
        + num_commits * (_COMMIT_BYTES + num_models * _GROUP_BYTES)
    )


def _time_cohort(population: Population, job: CohortJob, data: TrainingData) -> tuple[float, float]:
    """Seconds per model and training step, and per model and evaluation of all splits."""
    models = job.cohort.models
    factors = worker.cohort_factors(job)
    if factors.precision == TF32 and data.images.device.type != "cuda":
        factors = replace(factors, precision=FLOAT32)  # planned here, to be trained elsewhere
    few = data.indices["train"][: _TRIAL_STEPS * factors.batch_size]
    trial = replace(data, indices={"train": few})
    start = worker.initial_rows(population.layout, models)
    rows = torch.from_numpy(start).to(data.images.device, torch.float32)
    trainer = CohortTrainer(population, factors, trial, rows)
    index = torch.cat(list(data.indices.values()))
    pictures = data.normalise(data.images[index[:_TRIAL_IMAGES]], torch.float32)
    labels = data.labels[index[:_TRIAL_IMAGES]]
    step_times, evaluation_times = [], []
    for epoch in (1, 2, 3):
        begin = time.perf_counter()
        trainer.train_epoch(epoch).sum().item()
        step_times.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        evaluate(population, rows, pictures, labels).loss.sum().item()
        evaluation_times.append(time.perf_counter() - begin)
    per_step = min(step_times) / trainer.steps_per_epoch / len(models)
    per_evaluation = min(evaluation_times) / len(pictures) * len(index) / len(models)
    return per_step, per_evaluation
