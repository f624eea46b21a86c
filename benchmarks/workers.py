"""Whole builds as a user starts them: one worker against two, and the time until training begins.

Every number is the wall time of one `zookeeper build` command in a process of its own, from its start to its end:
interpreter, imports, Ray, images, training, evaluation and shards are all in it. A build of one epoch of four models
bounds the time from the start to the first step from above.

    python benchmarks/workers.py --out benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import json
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
model: {{architecture: cnn-digits, activation: tanh}}
training: {{optimizer: adam, batch_size: 32, epochs: {epochs}}}
grid:
  init: [kaiming_uniform, kaiming_normal]
  lr: [5e-4, 1e-3]
  seed: {{range: [0, {seeds}]}}
checkpoints: {{every: 1}}
"""


@dataclass(frozen=True)
class Build:
    name: str
    models: int
    epochs: int
    arguments: tuple[str, ...]
    seconds: float


def build(name: str, seeds: int, epochs: int, *arguments: str) -> Build:
    with tempfile.TemporaryDirectory() as folder:
        spec = Path(folder) / "bench.yaml"
        spec.write_text(SPEC.format(epochs=epochs, seeds=seeds))
        program = Path(sys.executable).with_name("zookeeper")
        command = [str(program), "build", str(spec), "--out", f"{folder}/zoo", *arguments]
        begin = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        return Build(name, 4 * seeds, epochs, arguments, time.perf_counter() - begin)


def median_build(name: str, seeds: int, epochs: int, *arguments: str, rounds: int) -> Build:
    runs = [build(name, seeds, epochs, *arguments) for _ in range(rounds)]
    return sorted(runs, key=lambda run: run.seconds)[len(runs) // 2]


def to_markdown(builds: dict[str, Build], ratio: float, facts: dict[str, str], when: str) -> str:
    lines = [
        "## Builds: workers and start",
        "",
        f"`make bench` on {when}; {facts['cpu']} for each worker; torch {facts['torch']}, Python {facts['python']}.",
        "Wall time of whole commands; two workers against one: median over neighbouring pairs of runs.",
        "",
        "| build | models | epochs | options | seconds |",
        "|---|---|---|---|---|",
        *(
            f"| {run.name} | {run.models} | {run.epochs} | `{' '.join(run.arguments)}` | {run.seconds:.1f} |"
            for run in builds.values()
        ),
        "",
        f"Two Ray workers are **{ratio:.2f}x** as fast as one process without Ray (asked for: 1.8x).",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=120, help="4 models for each")
    arguments = parser.parse_args()
    pairs = [
        [
            build(
                "one process, no Ray" if workers == 1 else "two Ray workers",
                arguments.seeds,
                50,
                "--workers",
                str(workers),
            )
            for workers in (1, 2)
        ]
        for _ in range(arguments.rounds)
    ]
    ratio = statistics.median(one.seconds / two.seconds for one, two in pairs)
    builds = {
        "one": sorted((one for one, _ in pairs), key=lambda run: run.seconds)[len(pairs) // 2],
        "two": sorted((two for _, two in pairs), key=lambda run: run.seconds)[len(pairs) // 2],
        "first step, Ray": median_build("to the first step, Ray", 1, 1, "--workers", "2", rounds=3),
        "first step, local": median_build("to the first step, in process", 1, 1, "--local", rounds=3),
    }
    when = datetime.now(UTC).strftime("%Y-%m-%d")
    text = to_markdown(builds, ratio, machine(), when)
    print(text)
    replace_section(arguments.out, "workers", text)
    results = {"two_workers_over_one": ratio, "builds": {name: asdict(run) for name, run in builds.items()}}
    arguments.out.with_name("workers.json").write_text(
        json.dumps({"date": when, **machine(), **results}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
