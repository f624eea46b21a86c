"""Which lowering of a convolution is fastest here: measured once, remembered, and pinned where wanted.

The answer depends on the shapes, the device, the dtype, the number of threads and the release of torch, so it is
measured in a short trial (forward and backward of one tile, of fewer images where one pass is long) and kept in a
small JSON file per machine. What is tried is the convolution with the pooling and the activation behind it, on images
as a neighbour of the same lowering leaves them: so the trial has what a fused kernel saves and nothing that it would
not pay in a network. A choice changes rounding, never mathematics; a build pins what it chose in its zoo.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from zookeeper.nets.activations import build_activation
from zookeeper.nets.graph import Op
from zookeeper.population.convolution import GROUPED, TRITON, device_lowerings, interleave
from zookeeper.population.fusion import Fusion, find_fusions
from zookeeper.population.lower import Population

_ROUNDS = 3
_LONG_SECONDS = 0.05  # a trial this long is not repeated
_MARGIN = (
    0.9  # another lowering must need less than this share of the grouped convolution's time: noise decides nothing
)
_PATCH_BYTES = {"cpu": 16_000_000, "cuda": 1_000_000_000}


@dataclass(frozen=True)
class ConvolutionCase:
    """Everything that decides how fast a stacked convolution is; ``pool`` and ``activation`` as of a `Fusion`."""

    num_models: int
    num_images: int
    in_shape: tuple[int, ...]
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    pool: int
    activation: str
    is_first: bool
    dtype: str
    device: str
    num_threads: int
    torch: str

    @property
    def key(self) -> str:
        """One line of text, the same for the same case."""
        return json.dumps(asdict(self), sort_keys=True)


def convolution_cases(
    population: Population, num_models: int, num_images: int, *, device: torch.device, dtype: torch.dtype
) -> dict[str, ConvolutionCase]:
    """List the convolutions of a population that see other images for each network, by layer."""
    graph = population.graph
    fusions = find_fusions(graph)
    alone = Fusion(())
    return {
        op.layer: ConvolutionCase(
            num_models=num_models,
            num_images=num_images,
            in_shape=graph.ops[op.inputs[0]].shape,
            out_channels=op.shape[0],
            kernel=_kernel(population, op),
            stride=tuple(op.options["stride"]),
            padding=tuple(op.options["padding"]),
            dilation=tuple(op.options["dilation"]),
            groups=int(op.options["groups"]),
            pool=fusions.get(number, alone).pool,
            activation=fusions.get(number, alone).activation,
            is_first=op.inputs[0] == 0,
            dtype=str(dtype).removeprefix("torch."),
            device=_device_name(device),
            num_threads=torch.get_num_threads() if device.type == "cpu" else 0,
            torch=torch.__version__,
        )
        for number, op in enumerate(graph.ops)
        if op.kind == "conv"
    }


def choose_lowerings(
    population: Population,
    num_models: int,
    num_images: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    cache: Path | None = None,
    measure: Callable[[ConvolutionCase, str], float] | None = None,
) -> dict[str, str]:
    """Choose the fastest lowering of every convolution for a tile of ``num_models`` networks.

    Parameters
    ----------
    num_models, num_images
        Networks in a tile, and images of each in a batch.
    cache
        JSON file that remembers measurements; default `default_cache`. A damaged file is measured anew.
    measure
        Milliseconds of a case with a lowering; default `measure_case` on the device.

    Returns
    -------
    Lowering by layer, for `Population.lowered`: a grouped convolution unless another is faster by a tenth.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    >>> population = Population(net, (1, 4, 4))
    >>> fake = {"grouped": 2.0, "unfold": 1.0}
    >>> choose_lowerings(population, 4, 8, cache=Path(os.devnull), measure=lambda case, name: fake[name])
    {'0': 'unfold'}
    """
    device = torch.device(device)
    path = default_cache() if cache is None else cache
    known = _read(path)
    chosen, is_new = {}, False
    for layer, case in convolution_cases(population, num_models, num_images, device=device, dtype=dtype).items():
        times = known.get(case.key)
        if times is None or set(times) != set(_candidates(case, device)):
            times = {
                name: measure_case(case, name, device, dtype) if measure is None else measure(case, name)
                for name in _candidates(case, device)
            }
            known[case.key], is_new = times, True
        fastest = min(times, key=times.__getitem__)
        chosen[layer] = fastest if times[fastest] < _MARGIN * times[GROUPED] else GROUPED
    if is_new and path != Path(os.devnull):
        with suppress(OSError):  # a home that cannot be written: measured again next time
            _write(path, _read(path) | known)
    return chosen


def measure_case(case: ConvolutionCase, lowering: str, device: torch.device, dtype: torch.dtype) -> float:
    """Milliseconds of one forward and backward pass, the smallest of three after a first one that is not counted.

    Of a case whose patches are large, as many images are taken as need little memory: what is compared takes part
    in the comparison alike.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device, dtype)

    population = trial_population(case, lowering)
    images = interleave(draw(case.num_models, _trial_images(case, device), *case.in_shape))
    if lowering == TRITON:
        images = images.movedim(2, -1).contiguous().movedim(-1, 2)
    rows = draw(case.num_models, population.layout.num_weights).requires_grad_()
    leaves = (rows,) if case.is_first else (rows, images.requires_grad_())
    # one thread's own time, where all work is in it: what else runs on the machine then decides nothing
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    times: list[float] = []
    while len(times) < 1 + _ROUNDS and (len(times) < 2 or sum(times) < _LONG_SECONDS):
        _wait(device)
        begin = clock()
        out, _ = population.forward_training(rows, images, None)
        torch.autograd.grad(out.sum(), leaves)
        _wait(device)
        times.append(clock() - begin)
    return 1e3 * min(times[1:])


def trial_population(case: ConvolutionCase, lowering: str) -> Population:
    """Return the convolution of a case with what follows it, as a population of its own."""
    channels, out_channels = case.in_shape[0], case.out_channels
    convolution = nn.Conv2d(channels, out_channels, case.kernel, case.stride, case.padding, case.dilation, case.groups)
    pooling = [nn.MaxPool2d(case.pool)] if case.pool > 1 else []
    activation = [build_activation(case.activation)] if case.activation else []
    network = nn.Sequential(convolution, *pooling, *activation, nn.Flatten())
    return Population(network, case.in_shape, lowerings={"0": lowering})


def _trial_images(case: ConvolutionCase, device: torch.device) -> int:
    channels, height, width = case.in_shape
    per_image = 4 * case.num_models * channels * height * width * case.kernel[0] * case.kernel[1]
    return max(1, min(case.num_images, _PATCH_BYTES[device.type] // per_image))


def default_cache() -> Path:
    """``lowerings.json`` in the user's cache folder (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "weight-zookeeper" / "lowerings.json"


def _candidates(case: ConvolutionCase, device: torch.device) -> tuple[str, ...]:
    return device_lowerings(device) if case.groups == 1 else (GROUPED,)


def _kernel(population: Population, op: Op) -> tuple[int, int]:
    height, width = population.layout.block(f"{op.layer}.weight").shape[-2:]
    return int(height), int(width)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _read(path: Path) -> dict[str, dict[str, float]]:
    """Read measurements; what is missing or damaged only means that they are taken again."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {key: times for key, times in value.items() if _are_times(times)}


def _are_times(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(time, int | float) for time in value.values())


def _write(path: Path, known: Mapping[str, Mapping[str, float]]) -> None:
    """Replace the file as a whole, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(known, indent=1, sort_keys=True))
    partial.replace(path)
