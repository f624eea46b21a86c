"""Fused kernels for NVIDIA GPUs: convolution, pooling and activation of every network of a stack, forward and backward.

The only module that imports triton, and itself imported only when a fused kernel runs. Each program works on one
network and a block of places in its images, so that nothing of one network reaches another, and every sum is taken
in an order that depends on the shapes of one network alone: no atomics, equal bits in any cohort.

A convolution is a matrix product whose left side, the patches, is gathered on the way into registers. Its inner axis
runs over (row, column, channel) of the kernel, channel fastest: with channels last in memory, neighbouring threads
read neighbouring numbers. Kernels come as ``[M, k * k * C, O]`` in that order. The products of the positions in one
pooling window follow each other; only their running maximum and its place (int8) are kept, so the full convolution
never exists in memory, nor does its gradient: the backward kernels put the gradient of a pooled value where the
maximum was.

Shapes of one network are compile-time constants; the number of networks and the strides of the images are not.
Images may have any strides: a stride of 0 along the networks is a batch that they share.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tanh(x):
    # near zero the odd polynomial of Cephes' tanhf (Moshier), for 1 - 2 / (e^2x + 1) cancels there
    z = x * x
    poly = -5.70498872745e-3 * z + 2.06390887954e-2
    poly = poly * z - 5.37397155531e-2
    poly = poly * z + 1.33314422036e-1
    poly = poly * z - 3.33332819422e-1
    return tl.where(tl.abs(x) < 0.625, x + x * z * poly, 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0))


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _activate(x, ACTIVATION: tl.constexpr):
    """The activation of float32 values; NaN stays NaN."""
    if ACTIVATION == "relu":
        x = tl.where(x < 0, 0.0, x)
    if ACTIVATION == "leaky_relu":
        x = tl.where(x > 0, x, 0.01 * x)
    if ACTIVATION == "tanh":
        x = _tanh(x)
    if ACTIVATION == "sigmoid":
        x = _sigmoid(x)
    if ACTIVATION == "silu":
        x = x * _sigmoid(x)
    if ACTIVATION == "gelu":
        x = 0.5 * x * (1.0 + tl.math.erf(x * 0.7071067811865476))
    return x


@triton.jit
def _through_activation(grad, kept, ACTIVATION: tl.constexpr):
    """Gradient before the activation; ``kept`` is its input for silu and gelu, else its output."""
    if ACTIVATION == "relu":
        grad = tl.where(kept <= 0, 0.0, grad)
    if ACTIVATION == "leaky_relu":
        grad = tl.where(kept > 0, grad, 0.01 * grad)
    if ACTIVATION == "tanh":
        grad = grad * (1.0 - kept * kept)
    if ACTIVATION == "sigmoid":
        grad = grad * kept * (1.0 - kept)
    if ACTIVATION == "silu":
        s = _sigmoid(kept)
        grad = grad * s * (1.0 + kept * (1.0 - s))
    if ACTIVATION == "gelu":
        cdf = 0.5 * (1.0 + tl.math.erf(kept * 0.7071067811865476))
        grad = grad * (cdf + kept * 0.3989422804014327 * tl.exp(-0.5 * kept * kept))
    return grad


@triton.jit
def forward_kernel(
    x, kernels, bias, out, before, choice,
    x_m, x_b, x_c, x_y, x_x, bias_m, num_places, num_blocks,
    C: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, OUT_C: tl.constexpr,
    OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    SIDE: tl.constexpr, PADDING: tl.constexpr, POOL: tl.constexpr, ACTIVATION: tl.constexpr,
    HAS_BIAS: tl.constexpr, KEEP_BEFORE: tl.constexpr, KEEP_CHOICE: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """Write ``out [M, B, H', W', O]``, and if asked what is before the activation and where each maximum was."""
    program = tl.program_id(0)
    member = (program // num_blocks).to(tl.int64)
    place = (program % num_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    image, rest = place // (OUT_H * OUT_W), place % (OUT_H * OUT_W)
    channel = tl.arange(0, BLOCK_O)
    depth: tl.constexpr = SIDE * SIDE * C
    x += member * x_m
    kernels += member * (depth * OUT_C)
    out += member * OUT_C * num_places
    before += member * OUT_C * num_places
    choice += member * OUT_C * num_places
    start = tl.zeros((BLOCK_P, BLOCK_O), tl.float32)
    if HAS_BIAS:
        shift = tl.load(bias + member * bias_m + channel, mask=channel < OUT_C, other=0.0).to(tl.float32)
        start += shift[None, :]
    best = tl.full((BLOCK_P, BLOCK_O), float("-inf"), tl.float32)
    chosen = tl.zeros((BLOCK_P, BLOCK_O), tl.int8)
    for window in range(POOL * POOL):
        top = rest // OUT_W * POOL + window // POOL - PADDING
        left = rest % OUT_W * POOL + window % POOL - PADDING
        corner = image * x_b + top * x_y + left * x_x
        total = start
        for first in range(0, depth, BLOCK_K):
            k = first + tl.arange(0, BLOCK_K)
            tap = k // C
            if C % BLOCK_K == 0:  # one tap for the whole block: arithmetic with rows alone, and wide loads
                tap = tl.full((1,), first // C, tl.int32)
            inside = (place < num_places)[:, None]
            if depth % BLOCK_K != 0:  # masks that are alike along a row let loads be wide
                inside &= (k < depth)[None, :]
            if PADDING > 0:
                row, column = top[:, None] + (tap // SIDE)[None, :], left[:, None] + (tap % SIDE)[None, :]
                inside &= (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
            step = tap // SIDE * x_y + tap % SIDE * x_x + (k - tap * C) * x_c
            patches = tl.load(x + (corner[:, None] + step[None, :]), mask=inside, other=0.0)
            known = (k < depth)[:, None] & (channel < OUT_C)[None, :]
            weights = tl.load(kernels + k[:, None] * OUT_C + channel[None, :], mask=known, other=0.0)
            total = tl.dot(patches, weights, total, input_precision=PRECISION)
        wins = (total > best) | (total != total)  # as torch: the first of equal values, and NaN wins
        best = tl.where(wins, total, best)
        chosen = tl.where(wins, window, chosen).to(tl.int8)
    target = place[:, None] * OUT_C + channel[None, :]
    real = (place < num_places)[:, None] & (channel < OUT_C)[None, :]
    if KEEP_BEFORE:
        tl.store(before + target, best, mask=real)
    if KEEP_CHOICE:
        tl.store(choice + target, chosen, mask=real)
    tl.store(out + target, _activate(best, ACTIVATION), mask=real)


@triton.jit
def weight_gradient_kernel(
    x, grad, kept, choice, grad_before, grad_kernels, grad_bias,
    x_m, x_b, x_c, x_y, x_x, g_m, g_b, g_c, g_y, g_x, num_places, num_parts,
    C: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, OUT_C: tl.constexpr,
    OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    SIDE: tl.constexpr, PADDING: tl.constexpr, POOL: tl.constexpr, ACTIVATION: tl.constexpr,
    KEEP_BEFORE: tl.constexpr, PRECISION: tl.constexpr,
    NUM_TILES: tl.constexpr, PART: tl.constexpr, BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    """Write partial gradients ``[M, parts, k * k * C, O]`` and ``[M, parts, O]``, each over a part of the places.

    On the way the gradient goes back through the activation; the input's gradient reads the result.
    """
    program = tl.program_id(0)
    tile = program % NUM_TILES
    part = program // NUM_TILES % num_parts
    member = (program // (NUM_TILES * num_parts)).to(tl.int64)
    channel = tl.arange(0, BLOCK_O)
    depth: tl.constexpr = SIDE * SIDE * C
    k = tile * BLOCK_K + tl.arange(0, BLOCK_K)
    step = k // (C * SIDE) * x_y + k // C % SIDE * x_x + k % C * x_c
    x += member * x_m
    grad += member * g_m
    kept += member * OUT_C * num_places
    choice += member * OUT_C * num_places
    grad_before += member * OUT_C * num_places
    total = tl.zeros((BLOCK_K, BLOCK_O), tl.float32)
    total_bias = tl.zeros((BLOCK_O,), tl.float32)
    end = tl.minimum((part + 1) * PART, num_places)
    for passed in range(0, PART, BLOCK_P):
        place = part * PART + passed + tl.arange(0, BLOCK_P)
        image, rest = place // (OUT_H * OUT_W), place % (OUT_H * OUT_W)
        y, column_out = rest // OUT_W, rest % OUT_W
        real = (place < end)[:, None] & (channel < OUT_C)[None, :]
        where = (image * g_b + y * g_y + column_out * g_x)[:, None] + channel[None, :] * g_c
        value = tl.load(grad + where, mask=real, other=0.0).to(tl.float32)
        own = place[:, None] * OUT_C + channel[None, :]
        if ACTIVATION != "":
            value = _through_activation(value, tl.load(kept + own, mask=real, other=0.0).to(tl.float32), ACTIVATION)
        if KEEP_BEFORE:
            tl.store(grad_before + own, value, mask=real & (tile == 0))
        total_bias += tl.sum(value, 0)
        if POOL > 1:
            chosen = tl.load(choice + own, mask=real, other=0)
        for window in range(POOL * POOL):
            top = y * POOL + window // POOL - PADDING
            left = column_out * POOL + window % POOL - PADDING
            corner = image * x_b + top * x_y + left * x_x
            inside = (k < depth)[:, None] & (place < end)[None, :]
            if PADDING > 0:
                row = (k // (C * SIDE))[:, None] + top[None, :]
                column = (k // C % SIDE)[:, None] + left[None, :]
                inside &= (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
            patches = tl.load(x + (step[:, None] + corner[None, :]), mask=inside, other=0.0)
            here = value
            if POOL > 1:
                here = tl.where(chosen == window, value, 0.0)
            total = tl.dot(patches, here.to(patches.dtype), total, input_precision=PRECISION)
    slot = member * num_parts + part
    known = (k < depth)[:, None] & (channel < OUT_C)[None, :]
    tl.store(grad_kernels + slot * (depth * OUT_C) + k[:, None] * OUT_C + channel[None, :], total, mask=known)
    tl.store(grad_bias + slot * OUT_C + channel, total_bias, mask=(channel < OUT_C) & (tile == 0))


@triton.jit
def input_gradient_kernel(
    grad_before, choice, kernels, grad_x, num_places, num_pixels, num_blocks,
    C: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, OUT_C: tl.constexpr,
    OUT_H: tl.constexpr, OUT_W: tl.constexpr,
    SIDE: tl.constexpr, PADDING: tl.constexpr, POOL: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """Write ``grad_x [M, B, HEIGHT, WIDTH, C]``: what every pixel gave to the kept maxima around it."""
    program = tl.program_id(0)
    member = (program // num_blocks).to(tl.int64)
    pixel = (program % num_blocks) * BLOCK_P + tl.arange(0, BLOCK_P)
    image, rest = pixel // (HEIGHT * WIDTH), pixel % (HEIGHT * WIDTH)
    channel = tl.arange(0, BLOCK_C)
    padded: tl.constexpr = (OUT_C + BLOCK_K - 1) // BLOCK_K * BLOCK_K  # a block never leaves its tap
    grad_before += member * OUT_C * num_places
    choice += member * OUT_C * num_places
    kernels += member * (SIDE * SIDE * C * OUT_C)
    total = tl.zeros((BLOCK_P, BLOCK_C), tl.float32)
    for first in range(0, SIDE * SIDE * padded, BLOCK_K):
        tap = first // padded
        out_channel = first - tap * padded + tl.arange(0, BLOCK_K)
        row = rest // WIDTH + PADDING - tap // SIDE  # of the convolution's output
        column = rest % WIDTH + PADDING - tap % SIDE
        y, x = row // POOL, column // POOL
        inside = (row >= 0) & (column >= 0) & (y < OUT_H) & (x < OUT_W) & (pixel < num_pixels)
        inside = inside[:, None]
        if OUT_C % BLOCK_K != 0:
            inside &= (out_channel < OUT_C)[None, :]
        own = (((image * OUT_H + y) * OUT_W + x) * OUT_C)[:, None] + out_channel[None, :]
        value = tl.load(grad_before + own, mask=inside, other=0.0)
        if POOL > 1:
            chosen = tl.load(choice + own, mask=inside, other=0)
            value = tl.where(chosen == (row % POOL * POOL + column % POOL)[:, None], value, 0.0)
        known = (out_channel < OUT_C)[:, None] & (channel < C)[None, :]
        source = (tap * C + channel)[None, :] * OUT_C + out_channel[:, None]
        weights = tl.load(kernels + source, mask=known, other=0.0)
        total = tl.dot(value.to(weights.dtype), weights, total, input_precision=PRECISION)
    grad_x += member * C * num_pixels
    target = pixel[:, None] * C + channel[None, :]
    tl.store(grad_x + target, total, mask=(pixel < num_pixels)[:, None] & (channel < C)[None, :])
