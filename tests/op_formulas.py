"""What the definitions of several ops are made of: plain numpy, sums and functions in extended precision.

Shares nothing with the references but the factors of the odd Hadamard transforms. Real arithmetic is numpy's
longdouble (80 bits on x86), rounded to fp32 at the places the ops' READMEs name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from op_cases.drawing import Array

from quamba_export.plugins.common.hadamard import hadamard_factors

f32, wide = np.float32, np.longdouble
Attrs = Mapping[str, float]


def quantize(x: Array, scale: Array | float) -> NDArray[np.int8]:
    """clamp(round_half_even(x / s), -128, 127), one fp32 division."""
    with np.errstate(over="ignore"):
        return np.clip(np.rint(x.astype(f32) / f32(scale)), -128, 127).astype(np.int8)


def dequantize(codes: Array, scale: Array | float) -> NDArray[np.float32]:
    return codes.astype(f32) * f32(scale)


def half(x: Array) -> NDArray[np.float16]:
    return np.clip(x, -65504, 65504).astype(np.float16)


def floats(i: Mapping[str, Array], *names: str) -> dict[str, Array]:
    return {name: i[name].astype(f32) for name in names}


def silu(x: Array) -> NDArray[np.float32]:
    return (x.astype(wide) / (1 + np.exp(-x.astype(wide)))).astype(f32)


def softplus(x: Array) -> NDArray[np.float32]:
    return (np.log1p(np.exp(-np.abs(x.astype(wide)))) + np.maximum(x.astype(wide), 0)).astype(f32)


def exp(x: Array) -> NDArray[np.float32]:
    return np.exp(x.astype(wide)).astype(f32)


def dense_hadamard(size: int) -> NDArray[np.float64]:
    """H (size, size); Sylvester's by parity of the common bits where the size is a power of two."""
    if size & (size - 1) == 0:
        index = np.arange(size)
        common = index[:, None] & index[None, :]
        return np.vectorize(lambda bits: -1.0 if bin(bits).count("1") % 2 else 1.0)(common) / np.sqrt(size)
    factors = hadamard_factors(size)
    return np.kron(np.eye(factors.blocks), np.kron(factors.left.numpy(), factors.right.numpy()))


def rms_norm(x: Array, epsilon: float) -> NDArray[np.float32]:
    mean = (x.astype(wide) ** 2).mean(-1, keepdims=True)
    return x / np.sqrt(mean + f32(epsilon)).astype(f32)


def tree(x: Array) -> Array:
    """fp32 sum over the last axis by halving; zeros stand in for what is missing to the next power of two."""
    width = 1
    while width < x.shape[-1]:
        width *= 2
    x = np.concatenate([x, np.zeros((*x.shape[:-1], width - x.shape[-1]), f32)], axis=-1)
    while width > 1:
        width //= 2
        x = x[..., :width] + x[..., width:]
    return x[..., 0]


class Rows(NamedTuple):
    """int8 codes (..., N) and a scale (...) found when they were written, rounded to the nearest or up by
    chance.
    """

    codes: Array
    scale: Array
    stochastic: int = 0


def recurrence(
    state: Array | Rows, scale: Array | float, decay: Array, inputs: Array, rows: Array, read: Array
) -> tuple[Array, Array | Rows]:
    """One fp32 step a token, rounded to the state's dtype; all but the state lead with time -> y, last h."""
    outputs = []
    for t in range(len(decay)):
        h = widened(state, scale) * decay[t] + inputs[t][..., None] * rows[t]
        outputs.append(tree(h * read[t]))
        state = narrowed(h, state, scale)
    return np.stack(outputs, axis=1), state


def narrowed(h: Array, like: Array | Rows, scale: Array | float) -> Array | Rows:
    if isinstance(like, Rows):
        peak = np.maximum(np.abs(h).max(-1, keepdims=True), f32(2.0**-100))
        steps = h * (f32(127) / peak)
        codes = by_chance(steps) if like.stochastic else np.rint(steps)
        return Rows(codes.astype(np.int8), (peak / f32(127))[..., 0], like.stochastic)
    return quantize(h, scale) if like.dtype == np.int8 else h.astype(like.dtype)


def by_chance(steps: Array) -> Array:
    """The code below, or the one above where the bits below a 512th of a step, as a share of it, and the
    fraction make a whole.
    """
    exact = steps.astype(np.float64)
    chance = exact * 512 - np.floor(exact * 512)
    return np.floor((exact + chance).astype(f32))


def widened(state: Array | Rows, scale: Array | float) -> NDArray[np.float32]:
    if isinstance(state, Rows):
        return dequantize(state.codes, state.scale[..., None])
    return dequantize(state, scale) if state.dtype == np.int8 else state.astype(f32)


def int4_codes(packed: Array) -> NDArray[np.int64]:
    """(M, K/2) -> (M, K): nibble after nibble, where plugins/Int4RequantizedLinear/README.md puts it."""
    codes = np.empty((packed.shape[0], 2 * packed.shape[1]), np.int64)
    for j in range(packed.shape[1]):
        column = j // 16 * 32 + j % 16
        for shift, place in ((0, column), (4, column + 16)):
            nibble = packed[:, j].astype(np.uint8) >> shift & 15
            codes[:, place] = np.where(nibble > 7, nibble.astype(np.int64) - 16, nibble)
    return codes


def grouped_sum(i: Mapping[str, Array]) -> Array:
    """Integers and fp16 numbers alike: 64 bits of a longdouble hold every sum of a group."""
    weight, x, scale = (part.astype(wide) for part in (int4_codes(i["weight"]), i["x"], i["weight_scale"]))
    total = np.zeros((*x.shape[:2], len(weight)), f32)
    for g in range(scale.shape[1]):
        columns = slice(128 * g, 128 * g + 128)
        total = total + (x[..., columns] @ weight[:, columns].T).astype(f32) * scale[:, g].astype(f32)
    return total
