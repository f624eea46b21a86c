"""Whole builds as a user starts them: one worker against two, and the time until training begins.

A build is the wall time of one `zookeeper build` command in a process of its own, from its start to its end:
interpreter, imports, Ray, images, training, evaluation and shards are all in it. The time to the first step ends where
a worker enters its first optimiser step: an architecture of the benchmark's own, which every worker imports, notes it.
Builds that are compared run in turns.

    python benchmarks/workers.py --out benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from training import machine, replace_section

SPEC = """\
version: 1
name: bench
images: {{name: digits, split: {{train: 0.7, val: 0.1, test: 0.2}}, seed: 0, normalise: none}}
model: {{architecture: "{architecture}", activation: tanh}}
training: {{optimizer: adam, batch_size: 32, epochs: {epochs}}}
grid:
  init: [kaiming_uniform, kaiming_normal]
  lr: [5e-4, 1e-3]
  seed: {{range: [0, {seeds}]}}
checkpoints: {{every: 1}}
"""
NOTING = """
import os
import time
from pathlib import Path

from zookeeper.nets.cnn import cnn_digits as factory
from zookeeper.population.optimise import Optimizer

real = Optimizer.update


def update(self, *rest):
    path = Path(__file__).with_name("first-step")
    if not path.exists():
        path.write_text(repr(time.time()))
    return real(self, *rest)


Optimizer.update = update
"""


PROGRAM = """
import sys
from pathlib import Path

from zookeeper import Workers, build_zoo, load_spec, make_plan

spec, out, workers, backend = sys.argv[1:]
who = Workers(num_workers=int(workers), backend=backend)
build_zoo(make_plan(load_spec(Path(spec))), Path(out), who, show_progress=False)
"""


@dataclass(frozen=True)
class Build:
    """Seconds of one build; ``first_step`` until the first optimiser step of any worker, if that was noted."""

    name: str
    models: int
    epochs: int
    seconds: float
    first_step: float | None = None


def build(name: str, workers: int, backend: str, seeds: int, epochs: int) -> Build:
    """Build 4 x ``seeds`` models in a process of its own; one Ray worker is what the command line never takes."""
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder, "bench.yaml")
        spec.write_text(SPEC.format(epochs=epochs, seeds=seeds, architecture="cnn-digits"))
        begin = time.perf_counter()
        command = [sys.executable, "-c", PROGRAM, str(spec), f"{folder}/zoo", str(workers), backend]
        subprocess.run(command, check=True, capture_output=True)
        return Build(name, 4 * seeds, epochs, time.perf_counter() - begin)


def start(name: str, *arguments: str) -> Build:
    """Run `zookeeper build` on four models and one epoch, and see when the first step comes."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "noting.py").write_text(NOTING)
        spec = Path(folder, "bench.yaml")
        spec.write_text(SPEC.format(epochs=1, seeds=1, architecture="noting:factory"))
        path = os.pathsep.join(filter(None, (folder, os.environ.get("PYTHONPATH"))))
        # nothing remembered: the trial of lowerings is part of a first build
        environment = {**os.environ, "PYTHONPATH": path, "XDG_CACHE_HOME": f"{folder}/cache"}
        program = Path(sys.executable).with_name("zookeeper")
        command = [str(program), "build", str(spec), "--out", f"{folder}/zoo", *arguments]
        started, begin = time.time(), time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment)
        seconds = time.perf_counter() - begin
        return Build(name, 4, 1, seconds, float(Path(folder, "first-step").read_text()) - started)


def middle(runs: list[Build]) -> Build:
    """The run of median time; of an even number the slower one of the two in the middle."""
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def ratio(slow: list[Build], fast: list[Build]) -> float:
    """Median over neighbouring pairs, so that a machine that slows down slows both."""
    return statistics.median(one.seconds / two.seconds for one, two in zip(slow, fast, strict=True))


def to_markdown(builds: dict[str, Build], ratios: dict[str, float], facts: dict[str, str], when: str) -> str:
    lines = [
        "## Builds: workers and start",
        "",
        f"`make bench` on {when}; {facts['cpu']} for each worker; torch {facts['torch']}, Python {facts['python']}.",
        "Wall time of whole processes, the median run of each; first step: from the start of the process to the first",
        "optimiser step in a worker, with no lowering remembered.",
        "",
        "| build | models | epochs | seconds | first step after |",
        "|---|---|---|---|---|",
        *(
            f"| {run.name} | {run.models} | {run.epochs} | {run.seconds:.1f} "
            f"| {'' if run.first_step is None else f'**{run.first_step:.1f} s** (asked for: 10)'} |"
            for run in builds.values()
        ),
        "",
        f"Two Ray workers are **{ratios['one']:.2f}x** as fast as one Ray worker (asked for: 1.8x), and "
        f"{ratios['local']:.2f}x as fast as one process without Ray; medians over neighbouring runs.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=120, help="4 models for each")
    parser.add_argument("--epochs", type=int, default=50)
    arguments = parser.parse_args()
    kinds = {
        "one": ("one Ray worker", 1, "ray"),
        "two": ("two Ray workers", 2, "ray"),
        "local": ("one process, no Ray", 1, "local"),
    }
    runs: dict[str, list[Build]] = {key: [] for key in kinds}
    for _ in range(arguments.rounds):
        for key, (name, workers, backend) in kinds.items():
            runs[key].append(build(name, workers, backend, arguments.seeds, arguments.epochs))
    ratios = {key: ratio(runs[key], runs["two"]) for key in ("one", "local")}
    starts = {"start, Ray": ("--workers", "2"), "start, local": ("--local",)}
    for key, options in starts.items():
        runs[key] = [start(f"`zookeeper build {' '.join(options)}`", *options) for _ in range(3)]
    builds = {key: middle(found) for key, found in runs.items()}
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    text = to_markdown(builds, ratios, machine(), when)
    print(text)
    replace_section(arguments.out, "workers", text)
    results = {"two_workers_over": ratios, "builds": {key: asdict(run) for key, run in builds.items()}}
    arguments.out.with_name("workers.json").write_text(
        json.dumps({"date": when, **machine(), **results}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
