"""One training step of paper 000's hyper-representation on one core: share of the matrix products' rate, plain code.

A step is contrast, structure and behaviour on 64 networks of 10,853 weights (cnn-large), two views each, 256 queries,
forward, backward, clipping and AdamW. Beside it stands the same mathematics written plainly: `nn.TransformerEncoder`,
one decoded network after the other in the behavioural part. Both begin at the same weights and the benchmark checks
that they compute the same loss. Everything runs in one process on one thread, in turns, and is timed in seconds of the
processor, so that neighbours on the machine matter little; FLOPs are those of the plain code, counted by
`torch.utils.flop_counter`. Two rates of products stand beside them, for torch has two libraries: MKL, which does its
products of float32 matrices, and oneDNN, which does its convolutions (here of one pixel, which is a product) and is the
faster one on AMD's processors.

    python benchmarks/hyperrep_step.py --out benchmarks/RESULTS.md
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from hyperrep_memory import Memory, measure_memory
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from training import machine, replace_section

from hyperrep.config import TrainConfig, load_config, packaged_config
from hyperrep.models.sane import Sane
from hyperrep.training.data import FitData
from hyperrep.training.queries import draw_queries
from hyperrep.training.ranks import SINGLE
from hyperrep.training.streams import batch_of_step, keyed_generator
from hyperrep.training.trainer import Trainer
from hyperrep.weights.views import draw_views
from zookeeper.nets.initialise import initialise_rows
from zookeeper.nets.registry import build_network
from zookeeper.nets.symmetry import Symmetry
from zookeeper.population import Population
from zookeeper.population.process import prepare_process

ASKED_SHARE, ASKED_RATIO, ASKED_MEMORY_GB = 0.7, 1.5, 2.0
TINY: dict[str, Any] = {"d_model": 32, "num_heads": 4, "num_layers": 1, "latent": 8}


@dataclass(frozen=True)
class Times:
    """Processor seconds of every kind of step, medians; ratios are medians over neighbouring runs."""

    gemm_flops: float
    onednn_flops: float
    tflop: float
    seconds: dict[str, float]
    first_seconds: dict[str, float]
    ratios: dict[str, float]
    loss_difference: float
    bf16_difference: float

    @property
    def share(self) -> float:
        """Achieved share of the rate of matrix products."""
        return self.tflop * 1e12 / self.seconds["stacked"] / self.gemm_flops

    @property
    def onednn_share(self) -> float:
        """Achieved share of the rate of products as convolutions."""
        return self.tflop * 1e12 / self.seconds["stacked"] / self.onednn_flops


class PlainAutoencoder(nn.Module):
    """SANE of stock modules, with the weights of ours."""

    def __init__(self, ours: Sane, config: TrainConfig) -> None:
        super().__init__()
        sizes = config.model
        assert sizes.d_model is not None
        assert sizes.num_heads is not None
        layer = nn.TransformerEncoderLayer(
            sizes.d_model, sizes.num_heads, 4 * sizes.d_model, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.ours = ours = copy.deepcopy(ours)  # entry and exit maps, tables and projection head are plain already
        halves = []
        for stack in (ours.encoder, ours.decoder):
            half = nn.TransformerEncoder(layer, sizes.num_layers, nn.LayerNorm(sizes.d_model), False)
            half.load_state_dict(dict(_renamed(stack.state_dict())))
            halves.append(half)
        self.halves = nn.ModuleList(halves)

    def run(self, half: int, tokens: torch.Tensor) -> torch.Tensor:
        """Encode (0) or decode (1)."""
        stack = self.ours.encoder if half == 0 else self.ours.decoder
        out: torch.Tensor = stack.exit(self.halves[half](stack.entry(tokens) + stack.embeddings(self.ours.positions)))
        return out


NAMES = {
    "norm_attention": "norm1", "norm_mlp": "norm2", "qkv.weight": "self_attn.in_proj_weight",
    "qkv.bias": "self_attn.in_proj_bias", "merge": "self_attn.out_proj", "widen": "linear1", "narrow": "linear2",
}  # fmt: skip


def _renamed(state: dict[str, torch.Tensor]) -> list[tuple[str, torch.Tensor]]:
    renamed = []
    for name, value in state.items():
        if name.startswith("blocks."):
            _, number, rest = name.split(".", 2)
            ours = next(key for key in NAMES if rest.startswith(key))
            renamed.append((f"layers.{number}.{rest.replace(ours, NAMES[ours])}", value.clone()))
        elif name.startswith("norm."):
            renamed.append((name, value.clone()))
    return renamed


class PlainTraining:
    """The same step as `Trainer.step`, written as one would at first."""

    def __init__(self, config: TrainConfig, trainer: Trainer, network: nn.Module) -> None:
        self.config, self.data, self.network = config, trainer.objective.data, network
        self.tokeniser = trainer.objective.hyper.tokeniser
        model = trainer.objective.hyper.model
        assert isinstance(model, Sane)
        self.model = PlainAutoencoder(model, config)
        replaced = ("ours.encoder.blocks", "ours.encoder.norm", "ours.decoder.blocks", "ours.decoder.norm")
        self.used = [p for name, p in self.model.named_parameters() if not name.startswith(replaced)]
        self.optimizer = torch.optim.AdamW(self.used, lr=config.training.lr, weight_decay=config.training.weight_decay)
        self.shapes = [(block.name, block.shape, block.columns) for block in self.data.layout.blocks]

    def outputs(self, row: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Logits of one network."""
        weights = {name: row[columns].view(shape) for name, shape, columns in self.shapes}
        out: torch.Tensor = functional_call(self.network, weights, (images,))
        return out

    def loss(self, step: int, *, behaviour: bool = True) -> torch.Tensor:
        """Equation 1 of paper 000 on the batch, the views and the queries of a step."""
        settings, loss = self.config.training, self.config.loss
        numbers = batch_of_step(step, len(self.data.rows), settings.batch_size, settings.seed)
        rows = self.data.rows[numbers]
        views = draw_views(rows, self.data.permutations, keyed_generator(settings.seed, "views", step))
        latents = self.model.run(0, self.tokeniser.tokenise(views))
        decoded = self.tokeniser.detokenise(self.model.run(1, latents))
        unit = F.normalize(self.model.ours.project(latents), dim=1)
        similarity = (unit @ unit.T / loss.temperature).fill_diagonal_(-torch.inf)
        contrast = F.cross_entropy(similarity, torch.arange(len(views)).roll(len(rows)))
        structure = F.mse_loss(decoded, views)
        assert self.data.queries is not None
        images = draw_queries(loss, self.data.queries, {}, seed=settings.seed, step=step)
        distances = []
        for number, row in enumerate(rows):
            with torch.no_grad():
                target = self.outputs(row, images).softmax(-1)
            for view in (number, len(rows) + number):
                distances.append((self.outputs(decoded[view], images).softmax(-1) - target).square().sum(-1).mean() / 2)
        gamma, beta = loss.gamma, loss.beta
        mixed = beta * structure + (1 - beta) * torch.stack(distances).mean()
        return gamma * contrast + (1 - gamma) * mixed

    def step(self, number: int = 0) -> float:
        """Forward, backward, clip, update."""
        self.optimizer.zero_grad()
        total = self.loss(number)
        total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.used, self.config.training.clip)
        self.optimizer.step()
        return float(total.detach())


def changed(config: TrainConfig, **training: Any) -> TrainConfig:
    return config.model_copy(update={"training": config.training.model_copy(update=training)})


def paper_config(*, tiny: bool) -> TrainConfig:
    """The packaged configuration of paper 000, or a toy of it."""
    config = load_config(packaged_config("000"))
    if not tiny:
        return config
    small = changed(config, batch_size=4)
    loss, model = small.loss.model_copy(update={"queries": 8}), small.model.model_copy(update=TINY)
    return small.model_copy(update={"loss": loss, "model": model})


def make_data(num_rows: int) -> tuple[FitData, nn.Module]:
    """Freshly initialised networks of paper 000 and noise as images: time does not depend on either."""
    network = build_network("cnn-large", in_channels=3, image_size=(32, 32), num_classes=10, activation="relu")
    population = Population(network, (3, 32, 32))
    seeds = tuple(range(num_rows))
    rows = torch.from_numpy(initialise_rows(population.layout, ["kaiming_uniform"] * num_rows, seeds)).float()
    images = torch.randn(512, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return FitData(rows, population.layout, population, Symmetry.of(network, (3, 32, 32)), images), network


def gemm_seconds(size: int = 1024) -> float:
    """Processor seconds of one square float32 product, the best of five."""
    a = torch.randn(size, size)
    return min(timed(lambda: a @ a) for _ in range(5))


def onednn_seconds(size: int = 1024) -> float:
    """Processor seconds of the same product as a convolution of one pixel, the best of five."""
    x = torch.randn(32, size, size // 32, 1).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(size, size, 1, 1)
    return min(timed(lambda: F.conv2d(x, weight)) for _ in range(5))


def timed(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


def measure_times(config: TrainConfig, rounds: int, *, compiled: bool, size: int = 1024) -> Times:
    """Time all kinds of steps in turns."""
    data, network = make_data(config.training.batch_size)
    kinds = {
        "stacked": config,
        "stacked, no behaviour": config.model_copy(update={"loss": config.loss.model_copy(update={"beta": 1.0})}),
        "bf16": changed(config, precision="bf16"),
    }
    if compiled:
        kinds["compiled"] = changed(config, compile=True)
    with tempfile.TemporaryDirectory() as place:
        trainers = {
            kind: Trainer.open(part, data, Path(place) / kind, resume=False, ranks=SINGLE)
            for kind, part in kinds.items()
        }
        plain = PlainTraining(config, trainers["stacked"], network)
        with FlopCounterMode(display=False) as counter:
            expected = plain.step()
        first, first_seconds = {}, {}
        for kind, trainer in trainers.items():
            begin = time.perf_counter()
            first[kind] = trainer.step()
            first_seconds[kind] = time.perf_counter() - begin
        runs: dict[str, list[float]] = {kind: [] for kind in ("plain", *kinds)}
        products, convolutions = [], []
        for _ in range(rounds):
            products.append(gemm_seconds(size))
            convolutions.append(onednn_seconds(size))
            runs["plain"].append(timed(plain.step))
            for kind, trainer in trainers.items():
                runs[kind].append(timed(trainer.step))
    ratios = {kind: statistics.median(a / b for a, b in zip(runs[kind], runs["stacked"], strict=True)) for kind in runs}
    return Times(
        2 * size**3 / statistics.median(products),
        2 * size**3 / statistics.median(convolutions),
        counter.get_total_flops() / 1e12,
        {kind: statistics.median(seconds) for kind, seconds in runs.items()},
        first_seconds,
        ratios,
        abs(first["stacked"]["total"] / expected - 1),
        abs(first["bf16"]["total"] / first["stacked"]["total"] - 1),
    )


LABELS = {
    "plain": "plain code",
    "stacked": "`hyperrep`, float32",
    "stacked, no behaviour": "`hyperrep`, without behaviour",
    "bf16": "`hyperrep`, `precision: bf16`",
    "compiled": "`hyperrep`, `compile: true`",
}


def to_markdown(times: Times, memory: Memory, facts: dict[str, str], when: str) -> str:
    lines = [
        "## Hyper-representations: one training step of paper 000 on one core",
        "",
        f"`make bench-hyperrep` on {when}; {facts['cpu']}; torch {facts['torch']}; one thread; `configs/000.yaml`: 64 "
        "networks of 10,853 weights, two views, contrast + structure + behaviour on 256 images, AdamW.",
        f"Processor seconds, medians of runs in turns. {times.tflop:.2f} TFLOP a step, counted on the plain code; "
        f"measured float32 product {times.gemm_flops / 1e9:.0f} GFLOP/s (MKL, torch's own), as a convolution "
        f"{times.onednn_flops / 1e9:.0f} (oneDNN). Both codes' first losses differ by "
        f"{times.loss_difference:.0e}, bf16's from float32's by {times.bf16_difference:.0e} (relative).",
        "",
        "| step | seconds | of the stacked step |",
        "|---|---|---|",
    ]
    for kind, seconds in times.seconds.items():
        lines.append(f"| {LABELS[kind]} | {seconds:.2f} | {times.ratios[kind]:.2f} |")
    lines += [
        "",
        f"**{times.share:.0%}** of the rate of matrix products (asked for: {ASKED_SHARE:.0%}, or {ASKED_RATIO}x the "
        f"plain code: **{times.ratios['plain']:.2f}x**); {times.onednn_share:.0%} of oneDNN's. Behaviour makes a step "
        f"{1 / times.ratios['stacked, no behaviour']:.2f}x as long.",
        *(
            [f"The first compiled step took {times.first_seconds['compiled']:.0f} s on the clock."]
            if "compiled" in times.first_seconds
            else []
        ),
        "",
        *memory.lines(ASKED_MEMORY_GB),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="Markdown file whose section `hyperrep` is replaced.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="Toy sizes, to see that it runs.")
    parser.add_argument("--no-compile", action="store_true", help="Leave torch.compile out; it needs a C++ compiler.")
    options = parser.parse_args()
    prepare_process(1)
    config = paper_config(tiny=options.tiny)
    memory = measure_memory(tiny=options.tiny)
    times = measure_times(config, options.rounds, compiled=not options.no_compile, size=128 if options.tiny else 1024)
    when = datetime.now(UTC).date().isoformat()
    text = to_markdown(times, memory, machine(), when)
    print(text)
    if options.out is not None:
        replace_section(options.out, "hyperrep", text)
        record = {"date": when, **machine(), "times": asdict(times), "memory": asdict(memory)}
        options.out.with_name("hyperrep.json").write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
