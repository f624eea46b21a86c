"""Training throughput on an NVIDIA GPU: a plain per-model loop, and the stacked engine by lowering and precision.

All in one run on one device: the loop, the engine for every lowering that runs there, what the device itself can do
(matrix products, copies), and first of all whether a few steps of every lowering agree with float64 on the CPU. Needs
torch and numpy, nothing else of the project's libraries:

    PYTHONPATH=. python benchmarks/gpu.py --out benchmarks/RESULTS.md

Without a GPU it says so and exits with 2; ``--smoke --device cpu`` runs the whole of it on toys.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from gpu_measure import (
    Agreement,
    GpuCase,
    Setup,
    Speed,
    agreement,
    copy_rate,
    gemm_rate,
    hardware,
    has_convolutions,
    plain_step_ms,
    stacked_speed,
    step_bytes,
    step_flops,
)
from training import replace_section

from zookeeper.population.convolution import GROUPED, device_lowerings
from zookeeper.population.precision import FLOAT32, PRECISIONS, TF32

ZOO = {"models": 1200, "epochs": 50, "train images": 45_000, "evaluated images": 60_000}
"""The CIFAR-10 zoo whose time is projected, evaluated at every epoch and before the first."""

CASES = (
    GpuCase("cnn-large", "cnn-large", (3, 32, 32), 10, "relu", 32, 1200, False, 60, num_seeds=20),
    GpuCase("cnn-large, 1,200 seeds", "cnn-large", (3, 32, 32), 10, "relu", 32, 1200, False, 60),
    GpuCase("cnn-small", "cnn-small", (1, 28, 28), 10, "tanh", 10, 1200, False, math.nan),
    GpuCase("digits CNN", "cnn-digits", (1, 8, 8), 10, "relu", 32, 1200, False, math.nan),
    GpuCase("Tetris MLP", "mlp", (1, 4, 4), 4, "tanh", 16, 1200, False, math.nan),
)
FULL = {"num_steps": 24, "rounds": 3, "gemm_size": 8192, "copy_bytes": 1 << 30}
SMOKE = {"num_steps": 2, "rounds": 1, "gemm_size": 128, "copy_bytes": 1 << 20}
SMOKE_CASES = (
    GpuCase("digits CNN", "cnn-digits", (1, 8, 8), 10, "relu", 4, 3, False, 60),
    GpuCase("Tetris MLP", "mlp", (1, 4, 4), 4, "tanh", 4, 3, False, math.nan),
)


@dataclass(frozen=True)
class Result:
    """A case: the loop, every way of stacking, and the floor of a model-step in microseconds."""

    case: GpuCase
    plain_ms: dict[str, float]
    speeds: list[Speed]
    floor_us: dict[str, float]

    def best(self, precision: str) -> Speed:
        """The fastest way in a precision; NaN never is."""
        return min(
            (s for s in self.speeds if s.precision == precision), key=lambda s: (math.isnan(s.step_ms), s.step_ms)
        )

    def ratio(self, speed: Speed) -> float:
        """How many times faster than the loop in float32."""
        return self.plain_ms[FLOAT32] * self.case.num_models / speed.step_ms


def run_case(case: GpuCase, setup: Setup, precisions: tuple[str, ...], rates: dict[str, float]) -> Result:
    plain = {precision: plain_step_ms(case, setup, precision) for precision in precisions}
    lowerings = device_lowerings(setup.device) if has_convolutions(case) else (GROUPED,)
    speeds = []
    for precision in precisions:
        for lowering in lowerings:
            speeds.append(stacked_speed(case, setup, lowering, precision))
            say(case, speeds[-1])
    result = Result(case, plain, speeds, {})
    fastest = result.best(FLOAT32)
    for parts in (2, 4, 8):
        if case.num_models >= parts:
            tile = -(-case.num_models // parts)
            speeds.append(stacked_speed(case, setup, fastest.lowering, FLOAT32, tile))
            say(case, speeds[-1])
    floors = {precision: 1e6 * step_flops(case) / rates[precision] for precision in precisions}
    return replace(result, floor_us=floors | {"memory": 1e6 * step_bytes(case) / rates["copy"]})


def say(case: GpuCase, speed: Speed) -> None:
    print(
        f"{case.name}: {speed.lowering} {speed.precision}, tiles of {speed.tile}: "
        f"{speed.note or f'{speed.step_ms:.3f} ms a step of {case.num_models} models, {speed.peak_gb:.1f} GB'}",
        file=sys.stderr,
        flush=True,
    )


def zoo_minutes(case: GpuCase, speed: Speed) -> float:
    """Minutes of the whole zoo: all training steps, and the evaluation of every image at every epoch."""
    steps = ZOO["epochs"] * -(-ZOO["train images"] // case.batch_size)
    training = steps * speed.step_ms / 1e3 * ZOO["models"] / case.num_models
    evaluation = (ZOO["epochs"] + 1) * ZOO["evaluated images"] * ZOO["models"] * speed.evaluation_us / 1e6
    return (training + evaluation) / 60


def to_markdown(
    results: list[Result], agreements: list[Agreement], facts: dict[str, str], rates: dict[str, float], when: str
) -> str:
    versions = ", ".join(f"{name} {facts[name]}" for name in ("torch", "cuda", "triton", "python"))
    products = ", ".join(f"{rate / 1e12:.3g} TFLOP/s {name}" for name, rate in rates.items() if name != "copy")
    lines = [
        "## Training on a GPU: stacked against a plain per-model loop",
        "",
        f"`make bench-gpu` on {when}; {facts['device']}; {versions}. Measured: matrix product {products}; "
        f"copy {rates['copy'] / 1e12:.3g} TB/s.",
        "Adam with weight decay; a data order for each seed: 20 in cnn-large as in the zoo, elsewhere one for each",
        "model; steps replayed as CUDA graphs. Ratio: against the loop in float32, model-step for model-step.",
        "",
        "| network | weights of | batch | models | tile | lowering | precision | loop ms | stacked us | model-steps/s "
        "| ratio | evaluation us per image | peak GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        case = result.case
        for speed in result.speeds:
            is_best = speed is result.best(speed.precision)
            ratio = speed.note or f"{result.ratio(speed):,.0f}x"
            lines.append(
                f"| {case.name} | {case.architecture} | {case.batch_size} | {case.num_models} | {speed.tile} "
                f"| {speed.lowering} | {speed.precision} | {result.plain_ms[speed.precision]:.3f} "
                f"| {1e3 * speed.step_ms / case.num_models:.3f} | {case.num_models / speed.step_ms * 1e3:,.0f} "
                f"| {f'**{ratio}**' if is_best else ratio} | {speed.evaluation_us:.4f} | {speed.peak_gb:.1f} |"
            )
    lines += ["", "The fastest of each network in float32 against its floors (microseconds of a model-step):", ""]
    lines += ["| network | stacked | products | memory, fused | asked for | reached |", "|---|---|---|---|---|---|"]
    for result in results:
        best, case = result.best(FLOAT32), result.case
        asked = "-" if math.isnan(case.target) else f"{case.target:g}x"
        lines.append(
            f"| {case.name} | {1e3 * best.step_ms / case.num_models:.3f} | {result.floor_us[FLOAT32]:.3f} "
            f"| {result.floor_us['memory']:.3f} | {asked} | {result.ratio(best):,.0f}x |"
        )
    first = results[0]
    lines += ["", projection(first), ""]
    lines += [
        "A few steps of SGD against float64 on the CPU: distance as a share of the way that a model's weights went.",
        "",
        "| network | lowering | precision | difference | allowed | holds |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {a.case} | {a.lowering} | {a.precision} | {a.distance:.1e} | {a.tolerance:.0e} "
        f"| {'yes' if a.holds else '**NO**'} |"
        for a in agreements
    ]
    return "\n".join(lines) + "\n"


def projection(result: Result) -> str:
    precisions = list(dict.fromkeys(speed.precision for speed in result.speeds))
    best = [result.best(precision) for precision in precisions]
    minutes = ", ".join(
        f"{zoo_minutes(result.case, one):.1f} minutes in {one.precision} ({one.lowering})" for one in best
    )
    zoo = (
        f"{ZOO['models']:,} {result.case.architecture}, {ZOO['epochs']} epochs of {ZOO['train images']:,} images in "
        f"batches of {result.case.batch_size}, all {ZOO['evaluated images']:,} images evaluated at every epoch"
    )
    return f"The whole zoo, projected from these times ({zoo}): {minutes}. Asked for: 30 minutes or less, then 10."


def checks(cases: tuple[GpuCase, ...], setup: Setup, precisions: tuple[str, ...]) -> Iterator[Agreement]:
    seen = set()
    for case in cases:
        if case.architecture in seen:
            continue
        seen.add(case.architecture)
        for lowering in device_lowerings(setup.device) if has_convolutions(case) else (GROUPED,):
            for precision in precisions:
                yield agreement(case, setup, lowering, precision)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--out", type=Path, help="Markdown file whose GPU section is replaced; gpu.json goes beside it")
    parser.add_argument("--smoke", action="store_true", help="toys instead of the cases, to try the code")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only with --smoke")
    parser.add_argument("--models", type=int, help="other number of models in every case")
    parser.add_argument("--only", help="cases whose name contains this")
    parser.add_argument(
        "--precision", choices=PRECISIONS, action="append", help="only these; float32 is always measured"
    )
    arguments = parser.parse_args()
    if arguments.device == "cpu" and not arguments.smoke:
        print("error: --device cpu: expected --smoke beside it; `make bench` measures CPUs.", file=sys.stderr)
        return 2
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print(
            "error: no NVIDIA GPU is visible to torch; expected one. Run this where there is one, or try its code with "
            "--smoke --device cpu.",
            file=sys.stderr,
        )
        return 2
    setup = Setup(torch.device(arguments.device), **(SMOKE if arguments.smoke else FULL))
    cases = tuple(
        replace(case, num_models=arguments.models or case.num_models)
        for case in (SMOKE_CASES if arguments.smoke else CASES)
        if arguments.only is None or arguments.only in case.name
    )
    if not cases:
        print(f"error: --only {arguments.only}: no case has such a name.", file=sys.stderr)
        return 2
    wanted = (FLOAT32, *(arguments.precision or PRECISIONS))
    precisions = tuple(p for p in PRECISIONS if p in wanted and (p != TF32 or setup.device.type == "cuda"))
    agreements = list(checks(cases, setup, precisions))
    rates = {precision: gemm_rate(setup, precision) for precision in precisions} | {"copy": copy_rate(setup)}
    results = [run_case(case, setup, precisions, rates) for case in cases]
    facts, when = hardware(setup.device), datetime.now(UTC).strftime("%Y-%m-%d")
    text = to_markdown(results, agreements, facts, rates, when)
    print(text)
    if arguments.out is not None:
        replace_section(arguments.out, "gpu", text)
        record = {
            "date": when,
            **facts,
            "rates": rates,
            "zoo": ZOO,
            "zoo_minutes": {p: zoo_minutes(results[0].case, results[0].best(p)) for p in precisions},
            "results": [asdict(result) for result in results],
            "agreements": [asdict(one) | {"holds": one.holds} for one in agreements],
        }
        arguments.out.with_name("gpu.json").write_text(json.dumps(record, indent=2) + "\n")
    wrong = [one for one in agreements if not one.holds]
    for one in wrong:
        print(f"error: {one.case}, {one.lowering}, {one.precision}: differs by {one.distance:.1e}.", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
