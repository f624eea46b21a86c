from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from zookeeper.errors import InputError
from zookeeper.nets.initialise import BIAS_FILL, init_names, initialise_rows, seeded_generator
from zookeeper.nets.layout import WeightLayout

NET = nn.Sequential(
    nn.Conv2d(3, 24, 5),
    nn.BatchNorm2d(24),
    nn.Conv2d(24, 30, 3, groups=2),
    nn.Flatten(),
    nn.Linear(120, 50),
    nn.Linear(50, 20, bias=False),
)
LAYOUT = WeightLayout.of(NET)
WEIGHTS = [block for block in LAYOUT.blocks if block.kind == "weight"]
TORCH_INITS = {
    "uniform": nn.init.uniform_,
    "normal": nn.init.normal_,
    "kaiming_uniform": nn.init.kaiming_uniform_,
    "kaiming_normal": nn.init.kaiming_normal_,
    "xavier_uniform": nn.init.xavier_uniform_,
    "xavier_normal": nn.init.xavier_normal_,
    "torch_default": lambda w: nn.init.kaiming_uniform_(w, a=math.sqrt(5)),
    "truncated_normal": nn.init.trunc_normal_,
    "orthogonal": nn.init.orthogonal_,
}


def draw(init: str, num: int = 40) -> dict[str, np.ndarray]:
    return LAYOUT.unflatten(initialise_rows(LAYOUT, [init] * num, range(num)))


def test_every_init_has_a_reference() -> None:
    assert set(TORCH_INITS) == set(init_names())


@pytest.mark.parametrize("init", init_names())
def test_moments_and_bounds_are_those_of_torch(init: str) -> None:
    parts = draw(init)
    torch.manual_seed(0)
    for block in WEIGHTS:
        mine = parts[block.name]
        reference = torch.stack([TORCH_INITS[init](torch.empty(block.shape)) for _ in range(40)]).double().numpy()  # type: ignore[no-untyped-call]
        std, num = reference.std(), reference.size
        assert mine.mean() == pytest.approx(reference.mean(), abs=5 * std * math.sqrt(2 / num))
        assert mine.std() == pytest.approx(std, rel=5 / math.sqrt(num))
        kurtosis = [float((((x - x.mean()) / x.std()) ** 4).mean()) for x in (mine, reference)]
        assert kurtosis[0] == pytest.approx(kurtosis[1], abs=40 / math.sqrt(num))


@pytest.mark.parametrize(
    ("init", "bound"),
    [
        ("kaiming_uniform", lambda fan_in, fan_out: math.sqrt(6 / fan_in)),
        ("xavier_uniform", lambda fan_in, fan_out: math.sqrt(6 / (fan_in + fan_out))),
        ("torch_default", lambda fan_in, fan_out: 1 / math.sqrt(fan_in)),
    ],
)
def test_bounds_of_uniform_draws(init: str, bound: object) -> None:
    parts = draw(init)
    fans = {"0.weight": (75, 600), "2.weight": (108, 270), "4.weight": (120, 50), "5.weight": (50, 20)}
    for name, fan in fans.items():
        limit = bound(*fan)  # type: ignore[operator]
        assert np.abs(parts[name]).max() <= limit
        assert parts[name].max() > 0.999 * limit
        assert parts[name].min() < -0.999 * limit


def test_published_inits_are_unscaled() -> None:
    uniform, normal = draw("uniform")["4.weight"], draw("normal")["4.weight"]
    assert uniform.min() >= 0
    assert 0.999 < uniform.max() < 1
    assert np.abs(normal).max() > 4


@pytest.mark.parametrize("init", init_names())
def test_biases_and_norms(init: str) -> None:
    parts = draw(init, 30)
    assert (parts["1.weight"] == 1).all()
    assert (parts["1.running_var"] == 1).all()
    assert (parts["1.bias"] == 0).all()
    assert (parts["1.running_mean"] == 0).all()
    assert BIAS_FILL == 0.01
    for name, fan_in in (("0.bias", 75), ("2.bias", 108), ("4.bias", 120)):
        if init == "torch_default":
            limit = 1 / math.sqrt(fan_in)
            assert np.abs(parts[name]).max() <= limit
            assert np.abs(parts[name]).max() > 0.95 * limit
            assert parts[name].min() < 0 < parts[name].max()
        else:
            assert (parts[name] == 0.01).all()


def test_a_shared_seed_shares_the_draw() -> None:
    uniforms, normals = ["uniform", "kaiming_uniform", "xavier_uniform", "torch_default"], ["normal", "kaiming_normal"]
    names = [*uniforms, *normals, "xavier_normal"]
    rows = initialise_rows(LAYOUT, names, [8] * 7)
    parts = dict(zip(names, (LAYOUT.unflatten(row) for row in rows), strict=True))
    for block in WEIGHTS:
        base = parts["uniform"][block.name]
        for name in uniforms[1:]:
            spread = parts[name][block.name]
            limit = np.abs(spread).max() / np.abs(2 * base - 1).max()
            np.testing.assert_allclose(spread, limit * (2 * base - 1), rtol=1e-9, atol=1e-12)
        for name in ("kaiming_normal", "xavier_normal"):
            ratio = parts[name][block.name] / parts["normal"][block.name]
            np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-12)


def test_a_model_does_not_depend_on_its_neighbours() -> None:
    inits = ["normal", "uniform", "kaiming_normal", "normal", "torch_default", "normal", "normal"]
    seeds = [3, 1, 4, 3, 1, 0, 3]
    rows = initialise_rows(LAYOUT, inits, seeds)
    assert rows.shape == (7, LAYOUT.num_weights)
    assert rows.dtype == np.float64
    for number, (init, seed) in enumerate(zip(inits, seeds, strict=True)):
        assert np.array_equal(initialise_rows(LAYOUT, [init], [seed])[0], rows[number])
    order = [4, 2, 6, 0, 5, 1, 3]
    permuted = initialise_rows(LAYOUT, [inits[m] for m in order], [seeds[m] for m in order])
    assert np.array_equal(permuted, rows[order])
    assert np.array_equal(rows[0], rows[3])
    assert not np.array_equal(rows[0], initialise_rows(LAYOUT, ["normal"], [5])[0])
    rows[0] = 0
    assert rows[3].any()


KNOWN = [
    [0.635956699153702, 0.08172170306060456, 0.6883843507143753, 0.20859644116465703],
    [0.09802276561008641, -0.6663696961941713, -0.6070485324161774, 0.7179623943847662],
]


def test_known_draws() -> None:
    """Stored zoos can be built again only while these numbers stay."""
    layout = WeightLayout.from_shapes({"fc.weight": ((2, 2), "weight")})
    rows = initialise_rows(layout, ["uniform", "normal"], [0, 0])
    np.testing.assert_allclose(rows, KNOWN, rtol=1e-12)


def test_streams_are_keyed_by_purpose_and_seed() -> None:
    first = seeded_generator("init", 1).random(5)
    assert np.array_equal(first, seeded_generator("init", 1).random(5))
    for purpose, seed in (("init", 2), ("other", 1), ("init", -1), ("init", 2**70)):
        assert not np.array_equal(first, seeded_generator(purpose, seed).random(5))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="unknown init 'kaiming'; expected kaiming_normal, kaiming_uniform, normal"):
        initialise_rows(LAYOUT, ["kaiming"], [0])
    with pytest.raises(InputError, match="2 initialisations for 1 seeds; expected as many"):
        initialise_rows(LAYOUT, ["normal", "normal"], [0])
