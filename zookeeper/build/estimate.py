"""What a plan will cost: bytes from arithmetic, time from a short trial on this machine."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, replace

import torch

from zookeeper.build.job import CohortJob, image_json, load_spec_images, population_of
from zookeeper.build.worker import cohort_factors, training_data
from zookeeper.nets.initialise import initialise_rows
from zookeeper.population import Population, TrainingData, evaluate
from zookeeper.population.process import prepare_process
from zookeeper.population.train import CohortTrainer
from zookeeper.spec.plan import Cohort, Plan

_BYTES_PER_CHECKPOINT = 120
_BYTES_PER_COHORT = 40_000
_TRIAL_STEPS = 6
_TRIAL_IMAGES = 256


@dataclass(frozen=True)
class Estimate:
    """Size and cost of a plan. ``seconds`` is for ``num_workers`` workers like the one that was timed."""

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
    data = training_data(images, torch.device(device))
    kinds: dict[tuple[str, str, str, int], list[Cohort]] = defaultdict(list)
    for cohort in plan.cohorts:
        model = cohort.models[0]
        kinds[model.architecture, model.activation, model.optimizer, model.batch_size].append(cohort)
    num_bytes = model_steps = 0
    seconds = train_seconds = 0.0
    num_weights: dict[str, int] = {}
    for cohorts in kinds.values():
        population = population_of(cohorts[0].models[0], images)
        num_weights[cohorts[0].models[0].architecture] = population.layout.num_weights
        per_step, per_evaluation = _time_cohort(population, _job(plan, cohorts[0], images.fingerprint, device), data)
        for cohort in cohorts:
            num_models, epochs = len(cohort.models), plan.epochs[-1]
            steps = epochs * -(-len(data.indices["train"]) // cohort.models[0].batch_size)
            model_steps += num_models * steps
            train_seconds += num_models * steps * per_step
            seconds += num_models * (steps * per_step + (epochs + 1) * per_evaluation)
            num_bytes += num_models * len(plan.epochs) * (4 * population.layout.num_weights + _BYTES_PER_CHECKPOINT)
            num_bytes += _BYTES_PER_COHORT
    return Estimate(
        num_models=plan.num_models,
        num_cohorts=len(plan.cohorts),
        num_checkpoints=plan.num_checkpoints,
        num_weights=num_weights,
        num_bytes=num_bytes,
        model_steps=model_steps,
        seconds_per_model_step=train_seconds / max(1, model_steps),
        seconds=seconds / min(num_workers, len(plan.cohorts)),
        num_workers=num_workers,
        device=device,
    )


def _job(plan: Plan, cohort: Cohort, fingerprint: str, device: str) -> CohortJob:
    return CohortJob("", cohort, plan.epochs, image_json(plan.spec), fingerprint, "", device)


def _time_cohort(population: Population, job: CohortJob, data: TrainingData) -> tuple[float, float]:
    """Seconds per model and training step, and per model and evaluation of all splits."""
    models = job.cohort.models
    factors = cohort_factors(job)
    few = data.indices["train"][: _TRIAL_STEPS * factors.batch_size]
    trial = replace(data, indices={"train": few})
    start = initialise_rows(population.layout, [m.init for m in models], [m.seed for m in models])
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
