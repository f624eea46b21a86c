"""Whole builds as a user starts them: one worker against two, and the time until training begins.

A build is the wall time of one `zookeeper build` command in a process of its own, from its start to its end:
interpreter, imports, the cut into cohorts, Ray, images, training, evaluation and shards are all in it. The time to the
first step ends where a worker enters its first optimiser step: an architecture of the benchmark's own, which every
worker imports, notes it. Builds that are compared run in turns.

How much two workers can win at all is measured in the same rounds: the same cohorts, trained and evaluated by the
engine alone, in one plain process and in two that know nothing of each other. No Ray, no store, no start-up: what two
of them lose is the machine's, what two workers lose beyond that is ours. Lines also have the seconds that all cores of
the machine were busy meanwhile, as Linux counts them: more of them for the same work is what cores lose to each other,
fewer than cores x seconds is waiting.

    python benchmarks/workers.py --out benchmarks/RESULTS.md
    python benchmarks/workers.py --out /tmp/RESULTS.md --quick
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
from zookeeper.build.fit import fit_plan, memory_budget

spec, out, workers, backend = sys.argv[1:]
who = Workers(num_workers=int(workers), backend=backend)
plan = make_plan(load_spec(Path(spec)))
plan = fit_plan(plan, budget=memory_budget("cpu", who.num_workers), num_workers=who.num_workers, strict=False)
build_zoo(plan, Path(out), who, show_progress=False)
"""

PLAIN = """
import sys
from pathlib import Path

import torch

from zookeeper import load_spec, make_plan
from zookeeper.build.fit import fit_plan
from zookeeper.build.job import CohortJob, image_json, load_spec_images, population_of
from zookeeper.build.lowerings import decide_lowerings
from zookeeper.build.worker import cohort_factors, initial_rows, training_data
from zookeeper.population import train_cohort
from zookeeper.population.process import prepare_process

spec, part, parts = load_spec(Path(sys.argv[1])), int(sys.argv[2]), int(sys.argv[3])
prepare_process(1)
plan = fit_plan(make_plan(spec), budget=1 << 40, num_workers=parts)
images = load_spec_images(image_json(spec))
cohorts = plan.cohorts[part::parts]
first = cohorts[0].models
population = population_of(first[0], images)
population = population.lowered(decide_lowerings(population, None, len(first), first[0].batch_size, "cpu"))
data = training_data(images, torch.device("cpu"))
print("ready", flush=True)
sys.stdin.readline()
for cohort in cohorts:
    factors = cohort_factors(CohortJob("", cohort, plan.epochs, "", "", ""))
    rows = torch.from_numpy(initial_rows(population.layout, cohort.models)).float()
    for result in train_cohort(population, factors, data, rows, last_epoch=plan.epochs[-1]):
        pass
"""


@dataclass(frozen=True)
class Build:
    """Seconds of one build, or of plain training.

    ``first_step`` is the time until the first optimiser step of any worker, if that was noted; ``busy`` the seconds
    that all cores of the machine worked meanwhile, for whomever.
    """

    name: str
    models: int
    epochs: int
    seconds: float
    first_step: float | None = None
    busy: float | None = None


def busy_seconds() -> float:
    """Seconds that all cores have worked since the machine started."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system = map(int, fields[:3])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def write_spec(folder: str, seeds: int, epochs: int) -> Path:
    """Write the spec of 4 x ``seeds`` models."""
    spec = Path(folder, "bench.yaml")
    spec.write_text(SPEC.format(epochs=epochs, seeds=seeds, architecture="cnn-digits"))
    return spec


def build(name: str, workers: int, backend: str, seeds: int, epochs: int) -> Build:
    """Build 4 x ``seeds`` models in a process of its own; one Ray worker is what the command line never takes."""
    with tempfile.TemporaryDirectory() as folder:
        spec = write_spec(folder, seeds, epochs)
        begin, busy = time.perf_counter(), busy_seconds()
        command = [sys.executable, "-c", PROGRAM, str(spec), f"{folder}/zoo", str(workers), backend]
        subprocess.run(command, check=True, capture_output=True)
        return Build(name, 4 * seeds, epochs, time.perf_counter() - begin, busy=busy_seconds() - busy)


def plain(name: str, processes: int, seeds: int, epochs: int) -> Build:
    """Train the cohorts of the same spec in plain processes, which start together when all of them are ready."""
    with tempfile.TemporaryDirectory() as folder:
        spec = write_spec(folder, seeds, epochs)
        command = [sys.executable, "-c", PLAIN, str(spec)]
        running = [
            subprocess.Popen(
                [*command, str(part), str(processes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for part in range(processes)
        ]
        for process in running:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a plain process of the benchmark ended before it was ready")
        begin, busy = time.perf_counter(), busy_seconds()
        for process in running:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        statuses = [process.wait() for process in running]
        seconds = time.perf_counter() - begin
        if any(statuses):
            raise RuntimeError("a plain process of the benchmark failed")
        for process in running:
            process.communicate()
        return Build(name, 4 * seeds, epochs, seconds, busy=busy_seconds() - busy)


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


def ratios_of(slow: list[Build], fast: list[Build]) -> list[float]:
    """Of neighbouring pairs, so that a machine that slows down slows both."""
    return [one.seconds / two.seconds for one, two in zip(slow, fast, strict=True)]


def line_of(run: Build) -> str:
    busy = "" if run.busy is None else f"{run.busy:.1f}"
    first = "" if run.first_step is None else f"**{run.first_step:.1f} s** (asked for: 10)"
    return f"| {run.name} | {run.models} | {run.epochs} | {run.seconds:.1f} | {busy} | {first} |"


def span(ratios: list[float]) -> str:
    return f"{min(ratios):.2f} to {max(ratios):.2f}"


def to_markdown(builds: dict[str, Build], rounds: dict[str, list[float]], facts: dict[str, str], when: str) -> str:
    ratios = {key: statistics.median(found) for key, found in rounds.items()}
    lines = [
        "## Builds: workers and start",
        "",
        f"`make bench` on {when}; {facts['cpu']} for each worker; torch {facts['torch']}, Python {facts['python']}.",
        "Wall time of whole processes, the median run of each; first step: from the start of the process to the first",
        "optimiser step in a worker, with no lowering remembered. Busy: seconds of all cores of the machine meanwhile.",
        "Plain processes train and evaluate the same cohorts without Ray, store and start-up.",
        "",
        "| build | models | epochs | seconds | busy | first step after |",
        "|---|---|---|---|---|---|",
        *map(line_of, builds.values()),
        "",
        f"Two Ray workers are **{ratios['one']:.2f}x** as fast as one Ray worker ({span(rounds['one'])}; asked for: "
        f"1.8x), and {ratios['local']:.2f}x as fast as one process without Ray; medians over {len(rounds['one'])} "
        "neighbouring runs.",
        f"Two plain processes are **{ratios['plain']:.2f}x** as fast as one ({span(rounds['plain'])}): what this "
        f"machine gives to two, whatever the software. Two Ray workers reach {ratios['one'] / ratios['plain']:.0%} of "
        "that.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1, help="of 25 minutes each on two cores of an AMD EPYC")
    parser.add_argument("--seeds", type=int, default=300, help="4 models for each: 1,200, the grid of the papers")
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="one short round, to see that all of it runs")
    arguments = parser.parse_args()
    rounds, seeds, epochs = arguments.rounds, arguments.seeds, arguments.epochs
    if arguments.quick:
        rounds, seeds, epochs = 1, 30, 5
    runs: dict[str, list[Build]] = {}
    for _ in range(rounds):
        for processes, key, name in ((1, "plain one", "one plain process"), (2, "plain two", "two plain processes")):
            runs.setdefault(key, []).append(plain(name, processes, seeds, epochs))
        for workers, backend, key, name in (
            (1, "ray", "one", "one Ray worker"),
            (2, "ray", "two", "two Ray workers"),
            (1, "local", "local", "one process, no Ray"),
        ):
            runs.setdefault(key, []).append(build(name, workers, backend, seeds, epochs))
    ratios = {key: ratios_of(runs[key], runs["two"]) for key in ("one", "local")}
    ratios["plain"] = ratios_of(runs["plain one"], runs["plain two"])
    starts = {"start, Ray": ("--workers", "2"), "start, local": ("--local",)}
    for key, options in starts.items():
        start("not counted", *options)  # files of libraries may be on the disk alone before it
        runs[key] = [start(f"`zookeeper build {' '.join(options)}`", *options) for _ in range(rounds)]
    builds = {key: middle(found) for key, found in runs.items()}
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    text = to_markdown(builds, ratios, machine(), when)
    print(text)
    replace_section(arguments.out, "workers", text)
    results = {"two_over_one": ratios, "builds": {key: list(map(asdict, found)) for key, found in runs.items()}}
    arguments.out.with_name("workers.json").write_text(
        json.dumps({"date": when, **machine(), **results}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
