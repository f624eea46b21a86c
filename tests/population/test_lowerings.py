"""Every lowering of a convolution computes the same; the fastest is measured once and remembered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from zookeeper.errors import InputError
from zookeeper.nets.registry import build_network
from zookeeper.population import Population, process
from zookeeper.population.choice import (
    ConvolutionCase,
    choose_lowerings,
    convolution_cases,
    default_cache,
    measure_case,
    trial_population,
)
from zookeeper.population.convolution import LOWERINGS, convolve, stack_images

M, B = 3, 4
OPTIONS: list[dict[str, Any]] = [
    {},
    {"stride": (2, 1)},
    {"padding": (1, 2)},
    {"dilation": (2, 1), "padding": (1, 0)},
    {"stride": (2, 2), "padding": (1, 1)},
]


def _options(given: dict[str, Any]) -> dict[str, Any]:
    return {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1} | given


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("given", OPTIONS, ids=str)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (2, 3)], ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_values_and_gradients_are_those_of_each_network_alone(
    lowering: str, given: dict[str, Any], kernel: tuple[int, int], biased: bool
) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()

    images, weight = draw(M, B, 2, 7, 8), draw(M, 5, 2, *kernel)
    bias = draw(M, 5) if biased else None
    leaves = [leaf for leaf in (images, weight, bias) if leaf is not None]
    options = _options(given)
    out = convolve(stack_images(images), weight, bias, options, shared=False, lowering=lowering)
    alone = torch.cat(
        [nn.functional.conv2d(images[m], weight[m], None if bias is None else bias[m], **options) for m in range(M)], 1
    )
    torch.testing.assert_close(out, alone)
    assert out.is_contiguous(memory_format=torch.channels_last)
    cotangent = torch.randn(alone.shape, dtype=torch.float64, generator=generator)
    grads, expected = (torch.autograd.grad(value, leaves, cotangent) for value in (out, alone))
    torch.testing.assert_close(grads, expected)


@pytest.mark.parametrize("is_narrow", [True, False], ids=["one pixel", "product"])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("given", OPTIONS, ids=str)
@pytest.mark.parametrize("biased", [True, False])
def test_images_that_all_share_give_the_same_on_every_way(
    is_narrow: bool, channels: int, given: dict[str, Any], biased: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_MKL_IS_NARROW", is_narrow)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, channels, 7, 8, generator=generator)
    weight = torch.randn(M, 5, channels, 3, 2, generator=generator, requires_grad=True)
    bias = torch.randn(M, 5, generator=generator, requires_grad=True) if biased else None
    leaves = [leaf for leaf in (weight, bias) if leaf is not None]
    options = _options(given)
    out = convolve(images, weight, bias, options, shared=True)
    alone = torch.cat(
        [nn.functional.conv2d(images, weight[m], None if bias is None else bias[m], **options) for m in range(M)], 1
    )
    torch.testing.assert_close(out, alone, rtol=1e-5, atol=1e-4)
    assert out.is_contiguous(memory_format=torch.channels_last)
    cotangent = torch.randn(alone.shape, generator=generator)
    grads, expected = (torch.autograd.grad(value, leaves, cotangent) for value in (out, alone))
    torch.testing.assert_close(grads, expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("name", ["cnn-small", "cnn-residual", "smallcnn-google"])
def test_populations_agree_and_neighbours_do_no_harm(name: str, lowering: str) -> None:
    network = build_network(name, in_channels=1, image_size=(28, 28), num_classes=10, activation="tanh")
    population = Population(network, (1, 28, 28))
    lowered = population.lowered({op.layer: lowering for op in population.graph.ops if op.kind == "conv"})
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(M, population.layout.num_weights, generator=generator, dtype=torch.float64) * 0.2
    images = torch.randn(M, B, 1, 28, 28, generator=generator, dtype=torch.float64)
    logits = lowered.forward(rows, images)
    torch.testing.assert_close(logits, population.forward(rows, images))
    poisoned = rows.clone()
    poisoned[1] = torch.nan
    after = lowered.forward(poisoned, images)
    assert torch.equal(after[[0, 2]], logits[[0, 2]])
    assert after[1].isnan().all()
    assert population.lowerings == {}


def test_unknown_names_are_clear_errors() -> None:
    population = _toy()
    with pytest.raises(InputError, match="'conv9' is no convolution; expected 0, 2"):
        population.lowered({"conv9": "unfold"})
    with pytest.raises(InputError, match="unknown lowering 'winograd'; expected grouped, unfold"):
        population.lowered({"0": "winograd"})


def test_the_fastest_is_chosen_layer_by_layer_and_remembered(tmp_path: Path) -> None:
    population, calls = _toy(), []

    def measure(case: ConvolutionCase, lowering: str) -> float:
        calls.append((case.in_shape, lowering))
        return {"grouped": 1.0, "unfold": 2.0 if case.in_shape[0] == 1 else 0.5}[lowering]

    path = tmp_path / "deep" / "lowerings.json"
    chosen = choose_lowerings(population, 4, 8, cache=path, measure=measure)
    assert chosen == {"0": "grouped", "2": "unfold"}
    assert population.lowered(chosen).lowerings == chosen
    assert len(calls) == 4
    assert choose_lowerings(population, 4, 8, cache=path, measure=measure) == chosen
    assert len(calls) == 4  # remembered
    choose_lowerings(population, 5, 8, cache=path, measure=measure)
    assert len(calls) == 8  # another tile is another case
    assert [entry.name for entry in path.parent.iterdir()] == ["lowerings.json"]


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": 3}', '{"a": {"grouped": "fast"}}'])
def test_a_damaged_memory_is_measured_anew(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lowerings.json"
    path.write_text(content)
    chosen = choose_lowerings(_toy(), 4, 8, cache=path, measure=lambda case, name: float(name == "grouped"))
    assert chosen == {"0": "unfold", "2": "unfold"}
    assert len(json.loads(path.read_text())) == 2


def test_the_default_trial_measures_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    chosen = choose_lowerings(_toy(), 2, 2)
    assert set(chosen) == {"0", "2"}
    times = json.loads(default_cache().read_text())
    assert default_cache().is_relative_to(tmp_path)
    assert all(set(entry) == set(LOWERINGS) and min(entry.values()) > 0 for entry in times.values())


def test_grouped_convolutions_of_a_network_have_one_lowering(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 4, 3))
    population = Population(network, (4, 4, 4))
    chosen = choose_lowerings(population, 2, 2, cache=tmp_path / "c.json", measure=lambda case, name: 1.0)
    assert chosen == {"0": "grouped"}


def test_a_case_names_everything_that_matters() -> None:
    cases = convolution_cases(_toy(), 4, 8, device=torch.device("cpu"), dtype=torch.float32)
    case = cases["2"]
    assert (case.num_models, case.num_images, case.in_shape, case.out_channels) == (4, 8, (2, 6, 6), 3)
    assert (case.kernel, case.stride, case.padding, case.dtype) == ((3, 3), (2, 2), (1, 1), "float32")
    assert case.torch == torch.__version__
    assert case.num_threads == torch.get_num_threads()


@pytest.mark.parametrize("lowering", LOWERINGS)
def test_what_is_tried_is_the_convolution_with_what_follows_it(lowering: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Tanh(), nn.Conv2d(3, 4, 2, stride=2), nn.ReLU(), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip
    population = Population(network, (2, 8, 8))
    cases = convolution_cases(population, M, B, device=torch.device("cpu"), dtype=torch.float64)
    assert [(case.pool, case.activation) for case in cases.values()] == [(2, "tanh"), (1, "")]  # a stride is not fused
    trial = trial_population(cases["0"], lowering)
    assert trial.lowerings == {"0": lowering}
    rows = torch.randn(M, population.layout.num_weights, generator=torch.Generator().manual_seed(0))
    images = torch.randn(M, B, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    first = rows[:, : trial.layout.num_weights]
    alone = [
        torch.func.functional_call(
            network[:3], {"0.weight": row[:54].view(3, 2, 3, 3), "0.bias": row[54:57]}, (batch,)
        ).flatten(1)
        for row, batch in zip(first, images, strict=True)
    ]
    torch.testing.assert_close(trial.forward(first, images), torch.stack(alone))
    assert 0 < measure_case(cases["0"], lowering, torch.device("cpu"), torch.float32) < 1e4


def _toy() -> Population:
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(27, 3)
    )
    return Population(network, (1, 8, 8))
