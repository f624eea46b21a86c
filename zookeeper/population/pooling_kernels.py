"""Max pooling of 2 x 2 on a CPU with bias and ReLU, forward and backward, as wide as the processor's vectors.

The only module that imports llvmlite, and itself imported only when such a pooling runs. torch's own pooling keeps an
index of 8 bytes a value and fills the gradient with zeros before it scatters into it; here the place of the maximum is
one byte, 0 to 3 by rows, or `NOWHERE` where ReLU gave 0, and the gradient is written once.

Images are ``[B, H, W, C]``, channels next to each other: a vector holds 16 neighbouring channels of one place, and
what is left over goes by 4, then one by one. The functions are written in LLVM's own terms, as no compiler finds these
vectors by itself (numbers of four and of one byte, arrays that might overlap); that takes 60 ms, once in a process.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

LANES = (16, 4, 1)
NOWHERE = 4
_FLOAT, _BYTE, _BIT, _INDEX, _INT = ir.FloatType(), ir.IntType(8), ir.IntType(1), ir.IntType(64), ir.IntType(32)
_POOL = ("images", "bias", "pooled", "choice"), ("num_images", "height", "width", "channels", "relu")
_SPREAD = ("gradient", "choice", "images", "bias"), ("num_images", "height", "width", "channels")
_BYTES = ("choice",)


@dataclass(frozen=True)
class Kernels:
    """The compiled functions; they take addresses and sizes, check nothing and let other threads run.

    Parameters
    ----------
    pool
        ``images, bias, pooled, choice, B, H, W, C, relu``: writes the maxima of 2 x 2 windows plus bias, through ReLU
        or not, and the place of each; a last odd row or column is left out. ``images`` is float32 ``[B, H, W, C]``,
        ``bias`` float32 ``[C]``, ``pooled`` and ``choice`` are float32 and uint8 ``[B, H // 2, W // 2, C]``.
    spread
        ``gradient, choice, images, bias, B, H, W, C``: writes the gradient of the images, but for a last odd row or
        column, and adds that of the bias, for each image, to ``bias [B, C]``.
    engine
        Holds the memory of their code.
    """

    pool: Callable[..., None]
    spread: Callable[..., None]
    engine: Any


@cache
def compiled() -> Kernels:
    """Compile for this processor, once in a process."""
    module = ir.Module("pooling")
    _define(module, "pool", *_POOL, _pool_window)
    _define(module, "spread", *_SPREAD, _spread_window)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(str(module)), machine)
    engine.finalize_object()

    def function(name: str, arrays: tuple[str, ...], sizes: tuple[str, ...]) -> Callable[..., None]:
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(arrays), *[ctypes.c_int64] * len(sizes))
        found: Callable[..., None] = kind(engine.get_function_address(name))
        return found

    return Kernels(function("pool", *_POOL), function("spread", *_SPREAD), engine)


class _Values:
    """The arguments of a function by name, and how ``lanes`` neighbouring numbers of an array are read and written."""

    def __init__(self, builder: Any, named: dict[str, Any], lanes: int = 1) -> None:
        self.builder, self.named, self.lanes = builder, named, lanes

    def __getitem__(self, name: str) -> Any:
        return self.named[name]

    def wide(self, lanes: int) -> _Values:
        return _Values(self.builder, self.named, lanes)

    def constant(self, element: Any, value: float) -> Any:
        return ir.Constant(ir.VectorType(element, self.lanes), [value] * self.lanes)

    def add(self, *terms: Any) -> Any:
        total, *others = terms
        for other in others:
            total = self.builder.add(total, other)
        return total

    def times(self, *factors: Any) -> Any:
        product, *others = factors
        for other in others:
            product = self.builder.mul(product, other)
        return product

    def load(self, name: str, at: Any) -> Any:
        return self.builder.load(self._address(name, at), align=1 if name in _BYTES else 4)

    def store(self, value: Any, name: str, at: Any) -> None:
        self.builder.store(value, self._address(name, at), align=1 if name in _BYTES else 4)

    def _address(self, name: str, at: Any) -> Any:
        vector = ir.VectorType(_BYTE if name in _BYTES else _FLOAT, self.lanes)
        return self.builder.bitcast(self.builder.gep(self[name], [at]), vector.as_pointer())


@dataclass(frozen=True)
class _Place:
    """Where a window is, in numbers from the start of an array: its four corners, its pooled value, its channels."""

    corners: tuple[Any, Any, Any, Any]
    pooled: Any
    channel: Any
    of_image: Any


def _define(
    module: Any,
    name: str,
    arrays: tuple[str, ...],
    sizes: tuple[str, ...],
    work: Callable[[_Values, _Place], None],
) -> None:
    """Define a function that does some work for every window of every image, and for all channels of each."""
    kinds = [(_BYTE if array in _BYTES else _FLOAT).as_pointer() for array in arrays] + [_INDEX] * len(sizes)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    v = _Values(builder, dict(zip((*arrays, *sizes), function.args, strict=True)))
    two, channels, row = _index(2), v["channels"], v.times(v["width"], v["channels"])
    half_height, half_width = builder.udiv(v["height"], two), builder.udiv(v["width"], two)
    ends = [builder.sub(channels, builder.urem(channels, _index(lanes))) for lanes in LANES]
    with _loop(builder, _index(0), v["num_images"], 1) as image:
        of_image = v.times(image, channels)
        with _loop(builder, _index(0), half_height, 1) as i, _loop(builder, _index(0), half_width, 1) as j:
            top = v.add(v.times(image, v["height"], row), v.times(two, i, row), v.times(two, j, channels))
            to = v.times(v.add(v.times(v.add(v.times(image, half_height), i), half_width), j), channels)
            for lanes, (start, stop) in zip(LANES, pairwise((_index(0), *ends)), strict=True):
                with _loop(builder, start, stop, lanes) as c:
                    at = v.add(top, c)
                    below = v.add(at, row)
                    corners = (at, v.add(at, channels), below, v.add(below, channels))
                    work(v.wide(lanes), _Place(corners, v.add(to, c), c, v.add(of_image, c)))
    builder.ret_void()


def _pool_window(v: _Values, place: _Place) -> None:
    builder = v.builder
    best, choice = v.load("images", place.corners[0]), v.constant(_BYTE, 0)
    for number, corner in enumerate(place.corners[1:], 1):
        value = v.load("images", corner)
        # as in torch: the first of equals, and NaN above all
        is_better = builder.or_(builder.fcmp_ordered(">", value, best), builder.fcmp_unordered("uno", value, value))
        best = builder.select(is_better, value, best)
        choice = builder.select(is_better, v.constant(_BYTE, number), choice)
    best = builder.fadd(best, v.load("bias", place.channel))
    relu = builder.trunc(v["relu"], _BIT)
    undefined = ir.Constant(ir.VectorType(_BIT, v.lanes), ir.Undefined)
    first = builder.insert_element(undefined, relu, ir.Constant(_INT, 0))
    cuts = builder.shuffle_vector(first, first, v.constant(_INT, 0))
    is_cut = builder.and_(cuts, builder.fcmp_ordered("<=", best, v.constant(_FLOAT, 0.0)))
    v.store(builder.select(is_cut, v.constant(_FLOAT, 0.0), best), "pooled", place.pooled)
    v.store(builder.select(is_cut, v.constant(_BYTE, NOWHERE), choice), "choice", place.pooled)


def _spread_window(v: _Values, place: _Place) -> None:
    builder = v.builder
    value, choice = v.load("gradient", place.pooled), v.load("choice", place.pooled)
    zero = v.constant(_FLOAT, 0.0)
    for number, corner in enumerate(place.corners):
        is_here = builder.icmp_unsigned("==", choice, v.constant(_BYTE, number))
        v.store(builder.select(is_here, value, zero), "images", corner)
    lives = builder.icmp_unsigned("!=", choice, v.constant(_BYTE, NOWHERE))
    total = v.load("bias", place.of_image)
    v.store(builder.fadd(total, builder.select(lives, value, zero)), "bias", place.of_image)


@contextmanager
def _loop(builder: Any, start: Any, stop: Any, step: int) -> Iterator[Any]:
    """Repeat what is built inside for ``start, start + step, ...`` below ``stop``."""
    before = builder.block
    head, body, after = (builder.append_basic_block() for _ in range(3))
    builder.branch(head)
    builder.position_at_end(head)
    number = builder.phi(_INDEX)
    number.add_incoming(start, before)
    builder.cbranch(builder.icmp_unsigned("<", number, stop), body, after)
    builder.position_at_end(body)
    yield number
    number.add_incoming(builder.add(number, _index(step)), builder.block)
    builder.branch(head)
    builder.position_at_end(after)


def _index(value: int) -> Any:
    return ir.Constant(_INDEX, value)
