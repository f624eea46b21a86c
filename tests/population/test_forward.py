"""The stacked forward pass equals the forward pass of every single network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from zookeeper.errors import InputError
from zookeeper.nets.parameters import load_row, state_dict_of
from zookeeper.nets.registry import architecture_names, build_network
from zookeeper.population import Population
from zookeeper.population.convolution import interleave, stack_images

M, B = 5, 7
REGISTERED_SHAPES = {
    "cnn-digits": (1, 8, 8),
    "cnn-digits-shallow": (1, 8, 8),
    "cnn-large": (3, 32, 32),
    "cnn-medium": (3, 28, 28),
    "cnn-small": (1, 28, 28),
    "lenet5": (3, 32, 32),
    "mlp": (1, 4, 4),
    "smallcnn-google": (1, 17, 20),
    "cnn-residual": (3, 20, 23),
    "cnn-deep": (1, 24, 26),
    "cnn-deep-residual": (3, 28, 28),
}
LARGE = {"resnet18-cifar"}  # in test_architectures, with fewer models
SHAPE = (4, 9, 10)


class Written(nn.Module):
    """Layers beside a forward pass given as a function of (layers, images)."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], torch.Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.written = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.written(self, images)


def headed(*body: nn.Module) -> nn.Module:
    """Put a flatten and a linear layer behind some layers."""
    with torch.no_grad():
        num = nn.Sequential(*body)(torch.zeros(2, *SHAPE)).flatten(1).shape[1]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(num, 3))


def conv(out: int = 6, kernel: Any = 3, **options: Any) -> nn.Module:
    return nn.Conv2d(4, out, kernel, **options)


def residual(net: Any, x: torch.Tensor) -> torch.Tensor:
    y = F.relu(net.norm(net.stem(x)))
    y = torch.relu(torch.add(net.body(y), y))
    z = net.skip(y)
    z += y
    return net.head(z.mean((2, 3)))


def shared_residual(net: Any, x: torch.Tensor) -> torch.Tensor:
    """Add two values that all networks share, then one that they share to one of their own."""
    y = net.pool(x) + F.avg_pool2d(x, 3, 1, 1)
    return net.head((y + net.body(y)).flatten(1))


MODULES: dict[str, Callable[[], nn.Module]] = {
    "conv stride padding": lambda: headed(conv(stride=(2, 1), padding=(1, 2))),
    "conv dilation": lambda: headed(conv(dilation=(2, 3), padding=2, bias=False)),
    "conv rectangular": lambda: headed(conv(kernel=(2, 5), stride=(3, 2), padding=(0, 1), dilation=(1, 2))),
    "conv groups first": lambda: headed(conv(groups=2, padding=1)),
    "conv groups second": lambda: headed(conv(), nn.ReLU(), nn.Conv2d(6, 9, 3, groups=3)),
    "conv depthwise": lambda: headed(conv(out=4), nn.Tanh(), nn.Conv2d(4, 8, 3, stride=2, groups=4)),
    "conv 1x1": lambda: headed(conv(kernel=1), nn.GELU(approximate="tanh"), nn.Conv2d(6, 2, 1, stride=2)),
    "conv chain": lambda: headed(conv(), nn.ELU(0.7), nn.Conv2d(6, 5, 2, dilation=2), nn.Conv2d(5, 4, 3, padding=1)),
    "batchnorm of images": lambda: headed(nn.BatchNorm2d(4), conv(), nn.BatchNorm2d(6, affine=False)),
    "batchnorm of vectors": lambda: nn.Sequential(
        nn.Flatten(), nn.BatchNorm1d(360, eps=1e-2), nn.Linear(360, 4), nn.BatchNorm1d(4), nn.Linear(4, 3, bias=False)
    ),
    "max pool": lambda: headed(nn.MaxPool2d(3, 2, 1), conv(), nn.MaxPool2d((2, 3), ceil_mode=True)),
    "max pool dilated": lambda: headed(conv(), nn.MaxPool2d(2, stride=1, dilation=2)),
    "average pool": lambda: headed(
        nn.AvgPool2d(2), conv(), nn.AvgPool2d((2, 3), 1, padding=1, count_include_pad=False)
    ),
    "average pool ceil": lambda: headed(conv(), nn.AvgPool2d(3, 2, ceil_mode=True)),
    "adaptive average pool": lambda: headed(conv(), nn.AdaptiveAvgPool2d(1)),
    "adaptive average pool of images": lambda: headed(nn.AdaptiveAvgPool2d(1)),
    "adaptive average pool to 2 x 3": lambda: headed(conv(), nn.AdaptiveAvgPool2d((2, 3))),
    "activations": lambda: headed(
        nn.LeakyReLU(0.3), conv(), nn.SiLU(), nn.Softplus(2.0), nn.Mish(), nn.Hardswish(), nn.Sigmoid(), nn.ReLU6()
    ),
    "in place": lambda: headed(conv(), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 2), nn.ELU(inplace=True)),
    "dropout": lambda: headed(nn.Dropout(0.5), conv(), nn.Dropout(0.2, inplace=True)),
    "nested": lambda: headed(nn.Sequential(nn.Identity(), nn.Sequential(conv(), nn.Identity()), nn.Tanh())),
    "linear twice": lambda: nn.Sequential(nn.Flatten(), nn.Linear(360, 5), nn.Flatten(), nn.Tanh(), nn.Linear(5, 3)),
    "residual": lambda: Written(
        residual,
        stem=nn.Conv2d(4, 6, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(6),
        body=nn.Conv2d(6, 6, 3, padding=1),
        skip=nn.Conv2d(6, 6, 1),
        head=nn.Linear(6, 3),
    ),
    "shared residual": lambda: Written(
        shared_residual,
        pool=nn.MaxPool2d(3, 1, 1),
        body=nn.Conv2d(4, 4, 3, padding=1),
        head=nn.Linear(360, 3),
    ),
    "functions": lambda: Written(
        lambda net, x: net.head(
            torch.flatten(F.avg_pool2d(F.softplus(F.leaky_relu(net.stem(F.max_pool2d(x, 2)), 0.2), 2.0), 2, 1, 1), 1)
        ),
        stem=nn.Conv2d(4, 5, 2),
        head=nn.Linear(5 * 4 * 5, 3),
    ),
    "more functions": lambda: Written(
        lambda net, x: net.head(
            net.hidden(F.adaptive_avg_pool2d(F.elu(net.stem(x), 0.5).sigmoid(), (2, 2)).flatten(start_dim=1)).tanh()
        ),
        stem=nn.Conv2d(4, 5, 3),
        hidden=nn.Linear(20, 6),
        head=nn.Linear(6, 3),
    ),
    "gelu and mean": lambda: Written(
        lambda net, x: net.head(torch.mean(F.gelu(F.relu(net.stem(x), True), approximate="tanh"), [-1, -2])),
        stem=nn.Conv2d(4, 5, 3),
        head=nn.Linear(5, 3),
    ),
    "slices": lambda: Written(
        lambda net, x: net.head((net.body(y := net.stem(x[:, :, ::2, 1:-1]))[..., ::2] + y[:, :, 1:, ::3]).flatten(1)),
        stem=nn.Conv2d(4, 5, 2),
        body=nn.Conv2d(5, 5, 2),
        head=nn.Linear(5 * 3 * 3, 3),
    ),
    "slice of images": lambda: Written(lambda net, x: net.head(x[:, :, 2:, :-1].flatten(1)), head=nn.Linear(252, 3)),
    "mean of images": lambda: Written(lambda net, x: net.head(x.mean(dim=(3, 2))), head=nn.Linear(4, 3)),
    "layer with two names": lambda: Written(
        lambda net, x: net.head((net.again(F.relu(net.body(x))) + x).flatten(1)),
        body=(layer := conv(out=4, padding=1)),
        again=layer,
        head=nn.Linear(360, 3),
    ),
    "layer used twice": lambda: Written(
        lambda net, x: net.head((net.norm(net.body(F.relu(net.norm(net.body(x))))) + x).flatten(1)),
        body=nn.Conv2d(4, 4, 3, padding=1),
        norm=nn.BatchNorm2d(4),
        head=nn.Linear(360, 3),
    ),
}  # fmt: skip


class NormFormula(nn.Module):
    """Batch norm in evaluation mode as arithmetic: torch's own has no gradient for running statistics."""

    def __init__(self, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        super().__init__()
        self.eps = norm.eps
        for name in ("weight", "bias", "running_mean", "running_var"):
            setattr(self, name, getattr(norm, name))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def column(v: torch.Tensor) -> torch.Tensor:
            return v.view(-1, *(1,) * (x.ndim - 2))

        y = (x - column(self.running_mean)) / column(self.running_var + self.eps).sqrt()
        return y if self.weight is None else y * column(self.weight) + column(self.bias)


def with_norm_formulas(net: nn.Module) -> nn.Module:
    for parent in list(net.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                setattr(parent, name, NormFormula(layer))
    return net


def build(name: str) -> tuple[nn.Module, tuple[int, int, int]]:
    torch.manual_seed(0)
    if name in MODULES:
        return MODULES[name]().double(), SHAPE
    shape = REGISTERED_SHAPES[name]
    num = 4 if name == "mlp" else 10
    net = build_network(
        name, in_channels=shape[0], image_size=shape[1:], num_classes=num, activation="silu", dropout=0.3
    )
    return net.double(), shape


def draw_rows(population: Population, num: int = M) -> torch.Tensor:
    """Rows of moderate size; running variances positive."""
    rows = torch.randn(num, population.layout.num_weights, dtype=torch.float64) * 0.3
    for block in population.layout.blocks:
        if block.kind in ("scale", "running_var"):
            rows[:, block.columns] = rows[:, block.columns].abs() + 0.5
    return rows


def draw_images(shape: tuple[int, int, int], *, shared: bool) -> torch.Tensor:
    return torch.randn(*(() if shared else (M,)), B, *shape, dtype=torch.float64)


REGISTERED = tuple(name for name in architecture_names() if name not in LARGE)
ALL = (*REGISTERED, *MODULES)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("name", ALL)
def test_stack_equals_module(name: str, shared: bool) -> None:
    """Logits in evaluation mode and gradients with respect to the rows."""
    net, shape = build(name)
    net.eval()
    population = Population(net, shape)
    rows = draw_rows(population).requires_grad_()
    images = draw_images(shape, shared=shared)

    def one_by_one() -> torch.Tensor:
        parts = [dict(population.layout.unflatten(row)) for row in rows]
        batches = [images if shared else images[m].clone() for m in range(M)]
        return torch.stack([functional_call(net, p, b) for p, b in zip(parts, batches, strict=True)])

    logits = population.forward(rows, images)
    with torch.no_grad():
        expected = one_by_one()
        torch.testing.assert_close(population.forward(rows, images), expected, rtol=1e-10, atol=1e-12)
    assert expected.std() > 1e-3
    net = with_norm_formulas(net)
    expected = one_by_one()
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn_like(expected)
    (grads,) = torch.autograd.grad(logits, rows, direction)
    (expected_grads,) = torch.autograd.grad(expected, rows, direction)
    assert grads.abs().amax(1).min() > 0
    torch.testing.assert_close(grads, expected_grads, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("name", [*REGISTERED, *(n for n in MODULES if n != "dropout")])
def test_training_pass_equals_module(name: str, shared: bool) -> None:
    """Logits, gradients and running statistics in training mode, without dropout."""
    net, shape = build(name)
    population = Population(net, shape)
    rows = draw_rows(population).requires_grad_()
    images = draw_images(shape, shared=shared)
    logits, statistics = population.forward_training(rows, images, None)
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    net.train()
    direction = torch.randn_like(logits)
    (grads,) = torch.autograd.grad(logits, rows, direction)
    buffers = {b.name for b in population.layout.blocks if b.kind in ("running_mean", "running_var")}
    assert set(statistics) == buffers
    for m in range(M):
        load_row(net, rows[m].detach())
        alone = net(images if shared else images[m])
        torch.testing.assert_close(logits[m], alone, rtol=1e-9, atol=1e-11)
        net.zero_grad()
        alone.backward(direction[m])
        for key, parameter in net.named_parameters():
            mine = grads[m, population.layout.block(key).columns].view_as(parameter)
            torch.testing.assert_close(mine, parameter.grad, rtol=1e-8, atol=1e-10)
        state = net.state_dict()
        for key in buffers:
            assert not statistics[key].requires_grad
            torch.testing.assert_close(statistics[key][m], state[key], rtol=1e-10, atol=1e-12)
            assert not torch.allclose(state[key], population.layout.unflatten(rows)[key][m])


def test_gradient_reaches_the_images() -> None:
    """Shared images that need a gradient take another path to the same numbers."""
    net, shape = build("cnn-digits")
    net.eval()
    population = Population(net, shape)
    rows, images = draw_rows(population), draw_images(shape, shared=True).requires_grad_()
    logits = population.forward(rows, images)
    expected = torch.stack([functional_call(net, state_dict_of(row, population.layout), images) for row in rows])
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    direction = torch.randn_like(expected)
    (grad,) = torch.autograd.grad(logits, images, direction)
    (expected_grad,) = torch.autograd.grad(expected, images, direction)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", ["cnn-digits", "batchnorm of vectors", "residual"])
def test_one_model_and_one_image(name: str) -> None:
    net, shape = build(name)
    population = Population(net.eval(), shape)
    row, images = draw_rows(population, 1), draw_images(shape, shared=True)[:1]
    alone = functional_call(net, state_dict_of(row[0], population.layout), images)
    torch.testing.assert_close(population.forward(row, images)[0], alone)
    torch.testing.assert_close(population.forward(row, images[None])[0], alone)


def test_the_module_is_not_changed() -> None:
    net, shape = build("residual")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    population = Population(net, shape)
    rows, images = draw_rows(population), draw_images(shape, shared=False)
    kept_rows, kept_images = rows.clone(), images.clone()
    population.forward_training(rows, images, None)
    population.forward(rows, images)
    assert net.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(rows, kept_rows)
    assert torch.equal(images, kept_images)


def test_images_stay_as_they_are_in_place() -> None:
    """An in-place activation on the input changes neither shared nor own images."""
    net = Written(lambda net, x: net.head(F.relu(x, inplace=True).flatten(1)), head=nn.Linear(360, 3)).double()
    population = Population(net, SHAPE)
    for shared in (True, False):
        images = draw_images(SHAPE, shared=shared)
        kept = images.clone()
        population.forward(draw_rows(population), images)
        assert torch.equal(images, kept)


def test_sizes_of_a_population() -> None:
    net, shape = build("mlp")
    population = Population(net, shape)
    assert (population.image_shape, population.num_classes) == ((1, 4, 4), 4)
    assert population.activation_floats == sum([16, 16, 5, 5, 5, 4, 4])


@pytest.mark.parametrize(
    ("rows", "images", "message"),
    [
        ((3, 99), (2, 1, 4, 4), r"rows have shape \(3, 99\); expected \[M, 100\]"),
        ((100,), (2, 1, 4, 4), r"rows have shape \(100,\); expected \[M, 100\]"),
        ((3, 100), (2, 1, 4, 5), r"images have shape \(2, 1, 4, 5\); expected \[B, 1, 4, 4\]"),
        ((3, 100), (1, 4, 4), r"images have shape \(1, 4, 4\)"),
        ((3, 100), (4, 2, 1, 4, 4), r"images have shape \(4, 2, 1, 4, 4\)"),
    ],
)
def test_wrong_shapes_are_refused(rows: tuple[int, ...], images: tuple[int, ...], message: str) -> None:
    net, shape = build("mlp")
    with pytest.raises(InputError, match=message):
        Population(net, shape).forward(torch.zeros(rows), torch.zeros(images))


def test_interleaved_images_stack_without_a_copy() -> None:
    images = torch.randn(3, 5, 2, 4, 6)
    ready = interleave(images)
    assert torch.equal(ready, images)
    stacked = stack_images(ready)
    assert stacked.data_ptr() == ready.data_ptr()
    assert stacked.is_contiguous(memory_format=torch.channels_last)
    for m in range(3):
        assert torch.equal(stacked[:, 2 * m : 2 * m + 2], images[m])
    assert torch.equal(stack_images(images), stacked)


@pytest.mark.parametrize(
    "settings", [{}, {"stride": 1}, {"padding": 1}, {"ceil_mode": True}, {"kernel_size": 3}], ids=str
)
def test_pooling_without_gradients_is_pooling(settings: dict[str, Any]) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.MaxPool2d(**{"kernel_size": 2, **settings}), nn.Flatten(), nn.LazyLinear(2)
    )
    net(torch.zeros(1, 1, 8, 10))
    population = Population(net, (1, 8, 10))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, population.layout.num_weights, generator=generator)
    rows[1, 0] = torch.nan
    images = torch.randint(-2, 3, (5, 1, 8, 10), generator=generator).float()  # ties
    for batch in (images, images.expand(4, *images.shape)):
        with_gradient = population.forward(rows.clone().requires_grad_(), batch)
        with torch.no_grad():
            without = population.forward(rows, batch)
        torch.testing.assert_close(without, with_gradient, rtol=0, atol=0, equal_nan=True)
        assert without[1].isnan().all()
        assert not without[[0, 2, 3]].isnan().any()
