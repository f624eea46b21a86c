"""The names a spec may use. Plain data without torch; a test checks that each one is implemented."""

from __future__ import annotations

ARCHITECTURES: tuple[str, ...] = (
    "cnn-digits",
    "cnn-digits-shallow",
    "cnn-small",
    "cnn-medium",
    "cnn-large",
    "lenet5",
    "mlp",
    "smallcnn-google",
    "resnet18-cifar",
    "cnn-residual",
    "cnn-deep",
    "cnn-deep-residual",
)
ACTIVATIONS: tuple[str, ...] = ("gelu", "leaky_relu", "relu", "sigmoid", "silu", "tanh")
INITS: tuple[str, ...] = (
    "kaiming_normal",
    "kaiming_uniform",
    "normal",
    "orthogonal",
    "torch_default",
    "truncated_normal",
    "uniform",
    "xavier_normal",
    "xavier_uniform",
)
BIAS_INITS: tuple[str, ...] = ("default", "normal", "ones", "zeros")
OPTIMIZERS: tuple[str, ...] = ("adam", "adamw", "rmsprop", "sgd")
PRECISIONS: tuple[str, ...] = ("float32", "tf32", "bf16")
SCHEDULES: tuple[str, ...] = ("cosine", "none", "onecycle")
LOWERINGS: tuple[str, ...] = ("auto", "grouped", "unfold", "triton")
IMAGE_SETS: tuple[str, ...] = (
    "cifar10",
    "cifar100",
    "digits",
    "eurosat",
    "fashion-mnist",
    "folder",
    "mnist",
    "npz",
    "stl10",
    "svhn",
    "tetris",
    "tiny-imagenet",
    "usps",
)
IMAGE_SETS_WITH_PATH: tuple[str, ...] = ("folder", "npz")
