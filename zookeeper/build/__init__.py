"""Carry out a plan: cohorts in, committed blocks out; locally or in Ray workers, resumable at any moment."""

from __future__ import annotations

from zookeeper.build.claim import Shard
from zookeeper.build.estimate import Estimate, estimate_build
from zookeeper.build.job import CohortJob, prepare_zoo
from zookeeper.build.run import BuildSummary, build_zoo
from zookeeper.build.workers import Workers

__all__ = ["BuildSummary", "CohortJob", "Estimate", "Shard", "Workers", "build_zoo", "estimate_build", "prepare_zoo"]
