"""Build in this process, one cohort after the other; needs no Ray."""

from __future__ import annotations

from collections.abc import Sequence

from zookeeper.build.job import CohortJob
from zookeeper.build.progress import BuildProgress
from zookeeper.build.worker import build_cohort


def run_local(jobs: Sequence[CohortJob], progress: BuildProgress) -> dict[str, str]:
    """Build all jobs; an error stops the build, what was committed stays.

    Returns
    -------
    dict
        Failures by cohort: empty, as a failure raises here.
    """
    for job in jobs:
        progress.beat(build_cohort(job, progress.beat))
    return {}
