"""Many networks as one matrix: stacked forward, per-model optimisers and random streams, training."""

from __future__ import annotations

from zookeeper.population.evaluate import Evaluation, evaluate, predict
from zookeeper.population.lower import Population
from zookeeper.population.train import Cohort, EpochResult, TrainingData, train_cohort

__all__ = [
    "Cohort",
    "EpochResult",
    "Evaluation",
    "Population",
    "TrainingData",
    "evaluate",
    "predict",
    "train_cohort",
]
