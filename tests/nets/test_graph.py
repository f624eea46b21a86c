from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from zookeeper.errors import StackError
from zookeeper.nets.graph import trace
from zookeeper.population import Population

SHAPE = (4, 6, 8)


class Written(nn.Module):
    """Layers beside a forward pass given as a function of (layers, images), with a head behind it."""

    def __init__(self, forward: Callable[[Any, torch.Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.written = forward
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.head = nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> Any:
        return self.written(self, images)


def conv(out: int = 4, kernel: int = 1, **options: Any) -> nn.Module:
    return nn.Conv2d(4, out, kernel, **options)


def before_head(change: Callable[[Any, torch.Tensor], torch.Tensor], **layers: nn.Module) -> nn.Module:
    return Written(lambda net, x: net.head(change(net, x).mean((2, 3))), **layers)


def kinds(net: nn.Module) -> list[str]:
    return [op.kind for op in trace(net, SHAPE).ops]


def test_operations_of_a_network() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 5, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1), bias=False),
        nn.Sequential(nn.BatchNorm2d(5, eps=1e-3, momentum=0.2), nn.Identity(), nn.LeakyReLU(0.2)),
        nn.MaxPool2d(2),
        nn.Dropout(0.3),
        nn.Flatten(),
        nn.Linear(20, 3),
    )
    graph = trace(net, SHAPE)
    assert [(op.kind, op.inputs, op.layer, op.shape) for op in graph.ops] == [
        ("input", (), "input_1", (4, 6, 8)),
        ("conv", (0,), "0", (5, 4, 4)),
        ("batchnorm", (1,), "1.0", (5, 4, 4)),
        ("activation", (2,), "1.2", (5, 4, 4)),
        ("maxpool", (3,), "2", (5, 2, 2)),
        ("dropout", (4,), "3", (5, 2, 2)),
        ("flatten", (5,), "4", (20,)),
        ("linear", (6,), "5", (3,)),
        ("output", (7,), "output", (3,)),
    ]
    expected = {"kernel_size": (3, 2), "stride": (1, 2), "padding": (1, 0), "dilation": (2, 1), "groups": 1}
    expected["bias"] = False
    assert dict(graph.ops[1].options) == expected
    assert dict(graph.ops[2].options) == {"eps": 1e-3, "momentum": 0.2, "affine": True}
    assert graph.ops[5].options["p"] == 0.3
    assert graph.ops[7].options["bias"] is True
    assert (graph.image_shape, graph.num_classes) == (SHAPE, 3)


def test_options_are_read_only() -> None:
    op = trace(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), SHAPE).ops[2]
    with pytest.raises(TypeError):
        op.options["bias"] = False  # type: ignore[index]


@pytest.mark.parametrize("write", [
    lambda net, x: x.flatten(1),
    lambda net, x: x.flatten(start_dim=1, end_dim=-1),
    lambda net, x: torch.flatten(x, 1),
    lambda net, x: torch.flatten(x, start_dim=1),
    lambda net, x: x.flatten(1).flatten(1),
    lambda net, x: torch.flatten(x.contiguous().clone(), 1, -1),
])  # fmt: skip
def test_ways_to_flatten(write: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    graph = trace(Written(lambda net, x: net.wide(write(net, x)), wide=nn.Linear(192, 2)), SHAPE)
    assert [op.kind for op in graph.ops] == ["input", "flatten", "linear", "output"]
    assert graph.ops[1].shape == (192,)


@pytest.mark.parametrize("write", [
    lambda net, x: x.mean((2, 3)),
    lambda net, x: x.mean(dim=[-1, -2]),
    lambda net, x: x.mean((3, 2), keepdim=False),
    lambda net, x: torch.mean(x, (2, 3)),
    lambda net, x: torch.mean(x, dim=(2, -1)),
])  # fmt: skip
def test_ways_to_average(write: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    assert kinds(Written(lambda net, x: net.head(write(net, x)))) == ["input", "mean", "linear", "output"]


@pytest.mark.parametrize(("write", "rows", "columns", "shape"), [
    (lambda net, x: x[:, :, 1:-1, ::2], slice(1, -1), slice(None, None, 2), (4, 4, 4)),
    (lambda net, x: x[..., 2:], slice(None), slice(2, None), (4, 6, 6)),
    (lambda net, x: x[..., 1:4, :], slice(1, 4), slice(None), (4, 3, 8)),
    (lambda net, x: x[:, :, 3:], slice(3, None), slice(None), (4, 3, 8)),
    (lambda net, x: x[:, ..., 3:, :], slice(3, None), slice(None), (4, 3, 8)),
    (lambda net, x: x[:], slice(None), slice(None), SHAPE),
])  # fmt: skip
def test_ways_to_slice(
    write: Callable[[Any, torch.Tensor], torch.Tensor], rows: slice, columns: slice, shape: tuple[int, ...]
) -> None:
    op = trace(before_head(write), SHAPE).ops[1]
    assert (op.kind, op.inputs, op.shape) == ("slice", (0,), shape)
    assert dict(op.options) == {"rows": rows, "columns": columns}


def test_a_residual_add_keeps_both_inputs() -> None:
    net = before_head(lambda net, x: torch.add(net.body(x), x) + net.skip(x), body=conv(), skip=conv())
    ops = trace(net, SHAPE).ops
    assert [(op.kind, op.inputs) for op in ops[1:5]] == [
        *(("conv", (0,)), ("add", (1, 0)), ("conv", (0,)), ("add", (2, 3)))
    ]


def test_the_module_keeps_mode_device_and_weights() -> None:
    net = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(192, 2)).double()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    trace(net, SHAPE)
    assert net.training
    assert net[1].inplace
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


class TwoInputs(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x + y).flatten(1)


class Optional(nn.Module):
    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return x.flatten(1)


class Star(nn.Module):
    def forward(self, *x: torch.Tensor) -> torch.Tensor:
        return x[0].flatten(1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(48, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(2)
        return self.attention(x, x, x)[0].mean(1)  # type: ignore[no-any-return]


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.register_buffer("scale", torch.ones(4, 6, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.conv.weight).flatten(1)


class Buffered(Weighted):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + self.scale).flatten(1)  # type: ignore[operator]


def branch(net: Any, x: torch.Tensor) -> torch.Tensor:
    return x + x if x.sum() > 0 else x


def loop(net: Any, x: torch.Tensor) -> torch.Tensor:
    for _ in range(x.shape[0]):
        x = x + x
    return x


def half(net: Any, x: torch.Tensor) -> torch.Tensor:
    return x + x if len(x) > 1 else x


def hooked(layer: nn.Module) -> nn.Module:
    layer.register_forward_hook(lambda layer, args, result: 2 * result)
    return layer


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "lstm": (
        lambda: nn.Sequential(nn.Conv2d(4, 1, 1), nn.Flatten(2), nn.LSTM(48, 3)),
        r"Sequential\.2: LSTM\(48, 3\) c",
    ),
    "lstm layer": (lambda: Written(lambda n, x: n.rnn(x)[0], rnn=nn.LSTM(8, 3)), r"Written\.rnn: LSTM\(8, 3\) cannot"),
    "layer norm": (lambda: nn.Sequential(nn.Flatten(), nn.LayerNorm(192)), r"Sequential\.1: LayerNorm\(\(192,\)"),
    "group norm": (lambda: before_head(lambda n, x: n.norm(x), norm=nn.GroupNorm(2, 4)), r"norm: GroupNorm\(2, 4"),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 3)), r"Sequential\.0: ConvTranspose2d\(4, 3"),
    "attention": (Attention, r"Attention\.attention: MultiheadAttention\( \(out_proj\)"),
    "softmax layer": (lambda: before_head(lambda n, x: n.soft(x), soft=nn.Softmax(1)), r"soft: Softmax\(dim=1\)"),
    "dropout2d": (lambda: before_head(lambda n, x: n.drop(x), drop=nn.Dropout2d(0.1)), r"drop: Dropout2d"),
    "reflect": (
        lambda: before_head(lambda n, x: n.c(x), c=conv(kernel=3, padding=1, padding_mode="reflect")),
        r"Written\.c: Conv2d\(.* padding_mode='reflect'\) cannot be stacked; expected one of Conv2d",
    ),
    "same": (lambda: before_head(lambda n, x: n.c(x), c=conv(padding="same")), r"c: Conv2d\(padding='same'"),
    "cumulative norm": (
        lambda: before_head(lambda n, x: n.norm(x), norm=nn.BatchNorm2d(4, momentum=None)),
        "norm: BatchN",
    ),
    "no statistics": (
        lambda: before_head(lambda n, x: n.norm(x), norm=nn.BatchNorm2d(4, track_running_stats=False)),
        "norm: BatchNorm without fixed momentum or running statistics",
    ),
    "indices": (
        lambda: before_head(lambda n, x: n.pool(x)[0], pool=nn.MaxPool2d(2, return_indices=True)),
        "pool: MaxPool2d",
    ),
    "divisor": (
        lambda: before_head(lambda n, x: n.pool(x), pool=nn.AvgPool2d(2, divisor_override=3)),
        "pool: AvgPool2d",
    ),
    "divisor of function": (
        lambda: before_head(lambda n, x: F.avg_pool2d(x, 2, divisor_override=3)),
        "divisor_override",
    ),
    "linear on images": (
        lambda: Written(lambda n, x: n.wide(x).flatten(1), wide=nn.Linear(8, 2)),
        r"wide: Linear\(in_f",
    ),
    "hook": (
        lambda: before_head(lambda n, x: n.c(x), c=hooked(conv())),
        r"Written\.c: Conv2d with a forward hook cannot be stacked; expected one of Conv2d, Linear",
    ),
    "subclass": (
        lambda: nn.Sequential(nn.Flatten(), NonDynamicallyQuantizableLinear(192, 2)),
        r"Sequential\.1: NonDynamicallyQuantizableLinear\(in_features=192.* cannot be stacked",
    ),
    "branch": (lambda: before_head(branch), "Written: the forward pass cannot be traced .* control flow"),
    "loop": (lambda: before_head(loop), "Written: the forward pass cannot be traced"),
    "branch inside": (
        lambda: nn.Sequential(nn.Sequential(conv(), before_head(branch))),
        r"Sequential\.0\.1 \(Written\): the forward pass cannot be traced .*stacked is a fixed sequence of Conv2d",
    ),
    "mode": (
        lambda: before_head(lambda n, x: x + x if n.training else x),
        "Written: forward takes other steps in training than in evaluation; .* Use nn.Dropout",
    ),
    "dropout function": (lambda: before_head(lambda n, x: F.dropout(x, 0.5, n.training)), "other steps in training"),
    "length": (lambda: before_head(half), "Written: the forward pass cannot be traced .*'len' is not supported"),
    "item": (lambda: before_head(lambda n, x: x * x.sum().item()), r"sum.*: method \.sum\(\)"),
    "product": (lambda: before_head(lambda n, x: x * 2), "mul: function mul"),
    "constant": (lambda: before_head(lambda n, x: x + 1), "add: adding a constant"),
    "scaled add": (lambda: before_head(lambda n, x: torch.add(x, n.c(x), alpha=2), c=conv()), "add: function add"),
    "broadcast": (
        lambda: before_head(lambda n, x: n.c(x) + x, c=conv(out=1)),
        r"add: adding shapes \(1, 6, 8\) and \(4, 6, 8\)",
    ),
    "mean over channels": (lambda: before_head(lambda n, x: x.mean(1)), "mean: mean over 1|forward pass fails"),
    "kept mean": (lambda: Written(lambda n, x: x.mean((2, 3), keepdim=True).flatten(1)), r"mean over \(2, 3\)"),
    "slice of channels": (lambda: Written(lambda n, x: x[:, 1:].mean((2, 3))), r"getitem: indexing with \[:, 1:\]"),
    "slice of images": (lambda: before_head(lambda n, x: x[:1]), r"getitem: indexing with \[:1\]"),
    "one row": (lambda: Written(lambda n, x: x[:, :, 0].flatten(1)), r"getitem: indexing with \[:, :, 0\] cannot"),
    "new axis": (lambda: Written(lambda n, x: x[..., None].flatten(1)), r"indexing with \[\.\.\., None\]"),
    "slice of vectors": (lambda: Written(lambda n, x: x.flatten(1)[:, ::2]), r"indexing with \[:, ::2\]"),
    "computed slice": (lambda: before_head(lambda n, x: x[:, :, : x.shape[2] - 1]), "getattr"),
    "keyword": (
        lambda: before_head(lambda n, x: n.c(input=x), c=conv()),
        "Written.c: Conv2d with other than one positional",
    ),
    "keyword function": (
        lambda: before_head(lambda n, x: F.softplus(input=x)),
        "softplus: a call whose first positional",
    ),
    "two inputs": (TwoInputs, r"TwoInputs: forward takes \(x: .*, y: .*\).*; expected one batch of images"),
    "optional input": (Optional, "Optional: forward takes .*scale.*; expected one batch"),
    "star": (Star, r"Star: forward takes \(\*x"),
    "weight": (Weighted, r"Weighted: conv\.weight is read outside a layer; put it inside a layer"),
    "buffer": (Buffered, "Buffered: scale is read outside a layer"),
    "layer made on the way": (
        lambda: before_head(lambda n, x: nn.ReLU()(x)),
        "cannot be traced .*not installed as a sub",
    ),
    "no logits": (
        lambda: nn.Sequential(conv()),
        r"Sequential: output has shape \[B, \(4, 6, 8\)\]; expected logits \[B, K\]",
    ),
    "pair": (lambda: Written(lambda n, x: (x.flatten(1), x)), "Written: forward returns tuple; expected one tensor"),
    "wrong shape": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(191, 2)),
        r"fails on images of shape \(4, 6, 8\) \(mat1 and mat2 .*2x192 and 191x2\)\)\. Check the image set",
    ),
    "wrong channels": (
        lambda: nn.Sequential(nn.Conv2d(3, 2, 1)),
        r"to have 3 channels, but got 4 channels instead\)\. Check",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_stacked_is_refused(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    build, message = REFUSED[name]
    with pytest.raises(StackError, match=message) as caught:
        trace(build(), SHAPE)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def tied() -> nn.Module:
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192))
    net[2].weight = net[1].weight
    return net


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (tied, "2.weight: shares its tensor with 1.weight"),
        (lambda: Written(lambda net, x: net.head(x.mean((2, 3))), unused=nn.PReLU()), "unused.weight: .* PReLU"),
        (lambda: nn.Sequential(nn.LSTM(8, 3)), "LSTM"),
    ],
)
def test_populations_refuse_too(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(StackError, match=message):
        Population(build(), SHAPE)


def add_in_place(net: Any, x: torch.Tensor) -> torch.Tensor:
    first = net.c(x)
    second = net.d(first)
    first += second
    return first + second


def add_in_place_and_read(net: Any, x: torch.Tensor) -> torch.Tensor:
    first, second = net.c(x), net.d(x)
    both = first
    both += second
    return net.e(both) + first


def stale_view(net: Any, x: torch.Tensor) -> torch.Tensor:
    x = net.c(x)
    flat = x.flatten(1)
    y = net.relu(x)
    return net.wide(flat) + net.wide(y.flatten(1))  # type: ignore[no-any-return]


def stale_slice(net: Any, x: torch.Tensor) -> torch.Tensor:
    x = net.c(x)
    y = net.relu(x[:, :, 1:])
    return net.head((x[:, :, :-1] + y).mean((2, 3)))  # type: ignore[no-any-return]


OVERWRITTEN: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "layer": (lambda: before_head(lambda n, x: n.relu(x) + x, relu=nn.ReLU(inplace=True)), r"Written\.relu"),
    "function": (lambda: before_head(lambda n, x: F.elu(x, inplace=True) + x), r"Written\.elu"),
    "dropout": (lambda: before_head(lambda n, x: n.drop(x) + x, drop=nn.Dropout(0.1, inplace=True)), r"Written\.drop"),
    "view": (
        lambda: Written(stale_view, c=conv(), relu=nn.ReLU(inplace=True), wide=nn.Linear(192, 2)),
        r"Written\.relu",
    ),
    "slice": (lambda: Written(stale_slice, c=conv(), relu=nn.ReLU(inplace=True)), r"Written\.relu"),
}


@pytest.mark.parametrize("name", list(OVERWRITTEN))
def test_overwritten_values_are_refused(name: str) -> None:
    build, message = OVERWRITTEN[name]
    with pytest.raises(StackError, match=message + ": overwrites a value that is read again later"):
        trace(build(), SHAPE)


@pytest.mark.parametrize("write", [add_in_place, lambda net, x: net.relu(net.c(x)) + x, lambda net, x: net.relu(x)])
def test_overwriting_what_nobody_reads_is_fine(write: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    torch.manual_seed(0)
    net = before_head(write, c=conv(), d=conv(), relu=nn.ReLU(inplace=True)).double()
    population = Population(net, SHAPE)
    images = torch.randn(3, *SHAPE, dtype=torch.float64)
    row = population.layout.flatten({k: v.detach() for k, v in net.state_dict().items()})[None]
    torch.testing.assert_close(population.forward(row, images)[0], net(images.clone()).detach())
