from __future__ import annotations

import sys
import types

import pytest
import torch
from torch import nn

from zookeeper.errors import InputError
from zookeeper.nets.activations import activation_names, build_activation
from zookeeper.nets.graph import trace
from zookeeper.nets.registry import architecture_names, build_network

WEIGHT_COUNTS = [
    ("cnn-digits", 1, 8, 10, 2118),
    ("cnn-digits-shallow", 1, 8, 10, 2134),
    ("cnn-small", 1, 28, 10, 2464),
    ("cnn-small", 3, 28, 10, 2864),
    ("cnn-medium", 1, 28, 10, 3047),
    ("cnn-medium", 3, 28, 10, 3347),
    ("cnn-large", 3, 32, 10, 10853),
    ("cnn-large", 1, 32, 10, 10565),
    ("lenet5", 3, 32, 10, 62006),
    ("mlp", 1, 4, 4, 100),
    ("smallcnn-google", 1, 28, 10, 4970),
    ("smallcnn-google", 3, 32, 10, 4970 + 2 * 9 * 16),
    ("resnet18-cifar", 3, 8, 10, 11_173_962),
    ("resnet18-cifar", 3, 16, 100, 11_173_962 + 90 * 513),
    ("resnet18-cifar", 1, 8, 10, 11_173_962 - 2 * 9 * 64),
    ("cnn-residual", 1, 28, 10, 2464 + 16 + 54 + 28),
    ("cnn-residual", 3, 28, 10, 2864 + 32 + 54 + 28),
    ("cnn-deep", 1, 28, 10, 2464),
    ("cnn-deep", 3, 28, 10, 2864),
    ("cnn-deep-residual", 1, 28, 10, 2464),
    ("cnn-deep-residual", 3, 28, 10, 2864),
]
POOL_FIRST = ["conv", "maxpool", "activation", "dropout"]
HEAD = ["flatten", "linear", "activation", "dropout", "linear"]
PLAIN_BLOCK = ["conv", "batchnorm", "activation", "conv", "batchnorm", "add", "activation"]
STRIDED_BLOCK = [*PLAIN_BLOCK[:5], "conv", "batchnorm", *PLAIN_BLOCK[5:]]
ORDERS = {
    "cnn-digits": [
        *(*POOL_FIRST, "conv", "activation", "dropout"),
        *("flatten", "linear", "activation", "dropout", "linear"),
    ],
    "cnn-digits-shallow": [*POOL_FIRST, "conv", "activation", "dropout", "flatten", "linear"],
    "cnn-small": [*POOL_FIRST * 2, "conv", "activation", "flatten", "linear", "activation", "dropout", "linear"],
    "cnn-medium": [*POOL_FIRST * 2, "conv", "activation", "flatten", "linear", "activation", "dropout", "linear"],
    "cnn-large": [*POOL_FIRST * 3, "flatten", "linear", "activation", "dropout", "linear"],
    "lenet5": [
        *["conv", "activation", "maxpool", "dropout"] * 2,
        *("flatten", "linear", "activation", "dropout", "linear", "activation", "dropout", "linear"),
    ],
    "mlp": ["flatten", "linear", "activation", "dropout", "linear"],
    "smallcnn-google": [*["conv", "activation", "dropout"] * 3, "mean", "linear"],
    "resnet18-cifar": [
        *("conv", "batchnorm", "activation"),
        *PLAIN_BLOCK * 2,
        *(STRIDED_BLOCK + PLAIN_BLOCK) * 3,
        *("mean", "dropout", "linear"),
    ],
    "cnn-residual": [
        *[*POOL_FIRST, "maxpool", "conv", "add"] * 2,
        *("conv", "activation", "maxpool", "conv", "add"),
        *HEAD,
    ],
    "cnn-deep": [*POOL_FIRST, *["conv", "activation", "dropout"] * 2, "conv", "activation", *HEAD],
    "cnn-deep-residual": [
        *(*POOL_FIRST, *["conv", "activation", "dropout"] * 2, "conv", "activation"),
        *("slice", "add"),
        *HEAD,
    ],
}
LAYERS = {
    "resnet18-cifar": ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc"],
    "cnn-residual": ["conv1", "conv2", "conv3", "fc1", "fc2", "skip1", "skip2", "skip3"],
}


def build(
    name: str, channels: int, side: int, classes: int, activation: str = "relu", dropout: float = 0.0
) -> nn.Module:
    size = (side, side)
    return build_network(
        name, in_channels=channels, image_size=size, num_classes=classes, activation=activation, dropout=dropout
    )


@pytest.mark.parametrize(("name", "channels", "side", "classes", "count"), WEIGHT_COUNTS)
def test_weight_counts_are_the_published_ones(name: str, channels: int, side: int, classes: int, count: int) -> None:
    net = build(name, channels, side, classes)
    assert sum(p.numel() for p in net.parameters()) == count
    assert net(torch.zeros(2, channels, side, side)).shape == (2, classes)


def test_every_architecture_has_a_count() -> None:
    assert {entry[0] for entry in WEIGHT_COUNTS} == set(architecture_names()) == set(ORDERS)


@pytest.mark.parametrize("name", architecture_names())
def test_order_of_operations(name: str) -> None:
    _, channels, side, classes, _ = next(entry for entry in WEIGHT_COUNTS if entry[0] == name)
    ops = trace(build(name, channels, side, classes, dropout=0.3), (channels, side, side)).ops
    assert [op.kind for op in ops] == ["input", *ORDERS[name], "output"]
    assert [op.options["p"] for op in ops if op.kind == "dropout"] == [0.3] * ORDERS[name].count("dropout")


@pytest.mark.parametrize("name", architecture_names())
def test_parameter_names_depend_on_neither_activation_nor_dropout(name: str) -> None:
    _, channels, side, classes, _ = next(entry for entry in WEIGHT_COUNTS if entry[0] == name)
    with torch.device("meta"):
        keys = [
            list(build(name, channels, side, classes, activation, dropout).state_dict())
            for activation in activation_names()
            for dropout in (0.0, 0.5)
        ]
    assert all(key == keys[0] for key in keys)
    layers = list(dict.fromkeys(key.partition(".")[0] for key in keys[0]))
    convs = sum(layer.startswith("conv") for layer in layers)
    assert layers == LAYERS.get(name) or layers == [
        *(f"conv{number}" for number in range(1, convs + 1)),
        *(f"fc{number}" for number in range(1, len(layers) - convs + 1)),
    ]


@pytest.mark.parametrize(
    ("name", "at_one"),
    [
        ("gelu", 0.8413447),
        ("leaky_relu", 1.0),
        ("relu", 1.0),
        ("sigmoid", 0.7310586),
        ("silu", 0.7310586),
        ("tanh", 0.7615942),
    ],
)
def test_activations_are_torch_defaults(name: str, at_one: float) -> None:
    function = build_activation(name)
    assert function(torch.tensor(1.0)).item() == pytest.approx(at_one, abs=1e-6)
    at_minus_one = {"gelu": -0.1586553, "leaky_relu": -0.01, "relu": 0.0, "sigmoid": 0.2689414, "silu": -0.2689414}
    assert function(torch.tensor(-1.0)).item() == pytest.approx(at_minus_one.get(name, -at_one), abs=1e-6)


def test_activation_is_used() -> None:
    _, channels, side, classes, _ = WEIGHT_COUNTS[0]
    outputs = []
    for activation in activation_names():
        torch.manual_seed(0)
        outputs.append(build("cnn-digits", channels, side, classes, activation)(torch.ones(1, 1, 8, 8)))
    assert len(torch.unique(torch.cat(outputs), dim=0)) == len(activation_names())


@pytest.fixture
def user_module(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("user_networks")
    monkeypatch.setitem(sys.modules, "user_networks", module)
    return module


def test_a_factory_of_the_user(user_module: types.ModuleType) -> None:
    seen: dict[str, object] = {}

    def tiny(**options: object) -> nn.Module:
        seen.update(options)
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3))

    user_module.tiny = tiny  # type: ignore[attr-defined]
    build_network("user_networks:tiny", in_channels=1, image_size=(2, 2), num_classes=3, activation="gelu", dropout=0.2)
    assert seen == {
        "in_channels": 1,
        "image_size": (2, 2),
        "num_classes": 3,
        "activation": "gelu",
        "dropout": 0.2,
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "cnn-smal",
            r"unknown architecture 'cnn-smal'; expected cnn-deep, .*python.path:factory. Did you mean cnn-small\?",
        ),
        ("zzz", r"unknown architecture 'zzz'; expected .*python.path:factory\.$"),
        ("no_such_module_here:net", "cannot import 'no_such_module_here'"),
        ("user_networks:missing", "user_networks has no callable 'missing'"),
        ("user_networks:value", "user_networks has no callable 'value'"),
        ("user_networks:number", "factory returned int; expected torch.nn.Module"),
    ],
)
def test_wrong_names_are_refused(name: str, message: str, user_module: types.ModuleType) -> None:
    user_module.value = 3  # type: ignore[attr-defined]
    user_module.number = lambda **options: 4  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=message):
        build_network(name, in_channels=1, image_size=(8, 8), num_classes=10)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(InputError, match="unknown activation 'reul'; expected gelu, leaky_relu, relu"):
        build("mlp", 1, 4, 4, "reul")


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [
        ("cnn-digits", 4, "images of 4x4 are too small: nothing is left after conv2"),
        ("cnn-small", 11, "images of 11x11 are too small: nothing is left after conv2"),
        ("cnn-large", 16, "images of 16x16 are too small: nothing is left after conv3"),
        ("lenet5", 15, "images of 15x15 are too small"),
        ("smallcnn-google", 14, "smallcnn-google: images of 14x14 are too small; expected 15x15 or more"),
        ("cnn-residual", 19, "cnn-residual: images of 19x19 are too small; expected 20x20 or more"),
        ("cnn-deep", 23, "cnn-deep: images of 23x23 are too small; expected 24x24 or more"),
        ("cnn-deep-residual", 23, "cnn-deep-residual: images of 23x23 are too small; expected 24x24"),
    ],
)
def test_small_images_are_refused(name: str, side: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(name, 1, side, 10)


@pytest.mark.parametrize(
    ("name", "side"), [("smallcnn-google", 15), ("cnn-residual", 20), ("cnn-deep", 24), ("resnet18-cifar", 1)]
)
def test_the_smallest_images_are_accepted(name: str, side: int) -> None:
    assert build(name, 1, side, 10).eval()(torch.zeros(1, 1, side, side)).shape == (1, 10)
