"""Memory of encoding and decoding one network in windows of tokens, from ten thousand weights to eleven million.

Every network is measured in a process of its own: its resident memory once the row, its scaling and the autoencoder are
there, the peak while one network is encoded and decoded, and whether another batch of windows gives the same bits.

    python benchmarks/windows.py --out benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch
from training import machine, replace_section

from hyperrep.config import TrainConfig
from hyperrep.training.passes import encode_windows
from hyperrep.training.saved import HyperRepresentation
from hyperrep.weights.scaling import Scaling, scaling_groups
from zookeeper.nets.layout import WeightLayout
from zookeeper.nets.registry import build_network

NETWORKS = ("cnn-large", "lenet5", "resnet18-cifar")
CONFIG = {
    "name": "windows",
    "tokens": {"width": 288},
    "model": {"d_model": 256, "num_heads": 8, "num_layers": 4, "latent": 64, "positions": "sinusoidal"},
    "windows": {"size": 256, "halo": 32},
    "loss": {"gamma": 0.05, "beta": 1.0},
    "training": {"steps": 1},
}


def measure(name: str) -> dict[str, float | int | bool]:
    """Measure one network in this process."""
    torch.set_num_threads(1)
    network = build_network(name, in_channels=3, image_size=(32, 32), num_classes=10)
    layout = WeightLayout.of(network)
    del network
    config = TrainConfig.model_validate_json(json.dumps(CONFIG))
    row = torch.randn(1, layout.num_weights, generator=torch.Generator().manual_seed(0))
    groups = len(scaling_groups(layout))
    hyper = HyperRepresentation.initialise(config, layout, Scaling(layout, (0.1,) * groups, (0.9,) * groups), seed=0)
    idle = psutil.Process().memory_info().rss
    started = time.monotonic()
    latents = hyper.encode(row)
    encoded = time.monotonic()
    decoded = hyper.decode(latents)
    done = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    plan = hyper.windows
    assert plan is not None
    backwards = encode_windows(hyper.model, hyper.tokeniser, hyper.input_scaling, row, plan[::-1])
    return {
        "weights": layout.num_weights,
        "tokens": hyper.tokeniser.num_tokens,
        "windows": len(plan),
        "idle_mib": idle / 2**20,
        "peak_mib": peak / 2**20,
        "encode_s": encoded - started,
        "decode_s": done - encoded,
        "same_bits": bool(torch.equal(backwards, latents)) and bool(torch.isfinite(decoded).all()),
    }


def to_markdown(results: dict[str, dict[str, float]], facts: dict[str, str], when: str) -> str:
    lines = [
        "## Networks in windows of tokens: memory of encoding and decoding one",
        "",
        f"`python benchmarks/windows.py` on {when}; {facts['cpu']}; torch {facts['torch']}; one thread, float32; "
        "windows of 256 tokens of 288 weights, halo 32, d_model 256, 4 layers each way, latent 64.",
        "Row: the network itself. Idle: process with row and autoencoder. Above idle: the most while the network is "
        "encoded and decoded, latents and reconstruction included. Same bits: in another batch of windows.",
        "",
        "| network | weights | tokens | windows | row MiB | idle MiB | above idle MiB | encode s | decode s | same |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, r in results.items():
        lines.append(
            f"| {name} | {r['weights']:,} | {r['tokens']:,} | {r['windows']} | {r['weights'] * 4 / 2**20:.1f} "
            f"| {r['idle_mib']:.0f} | **{r['peak_mib'] - r['idle_mib']:.0f}** "
            f"| {r['encode_s']:.1f} | {r['decode_s']:.1f} | {'yes' if r['same_bits'] else 'NO'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file whose section `windows` is replaced.")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--one", help="Measure this network in this process.")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    results = {}
    for name in options.networks:
        command = [sys.executable, __file__, "--one", name]
        results[name] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(json.dumps(results, indent=1))
    if options.out is not None:
        text = to_markdown(results, machine(), datetime.now(UTC).date().isoformat())
        replace_section(options.out, "windows", text)


if __name__ == "__main__":
    main()
