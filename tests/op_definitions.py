"""Every op a second time, from its formula: plain numpy, one token after the other, in extended precision.

Shares nothing with the references but the factors of the odd Hadamard transforms. Sums of integers are exact;
real arithmetic is numpy's longdouble (80 bits on x86), rounded to fp32 at the places the op's README names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from op_cases import Case
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


def rms_norm_quantize(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(rms_norm(i["x"], a["epsilon"]), a["out_scale"])]


def hadamard_quantize(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    matrix = dense_hadamard(i["x"].shape[-1]) if a["hadamard"] else np.eye(i["x"].shape[-1])
    return [quantize(i["x"].astype(wide) @ matrix.T.astype(wide), a["out_scale"])]


def gated_norm(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    gated = i["x"] * silu(dequantize(i["z"], a["z_scale"]))
    parts = np.split(gated, int(a["n_groups"]), axis=-1)
    normed = np.concatenate([rms_norm(part, a["epsilon"]) for part in parts], axis=-1) * i["norm_weight"]
    return hadamard_quantize({"x": normed}, a)


def product(i: Mapping[str, Array], a: Attrs) -> Array:
    total = np.einsum("blk,mk->blm", i["x"].astype(np.int64), i["weight"].astype(np.int64))
    return total.astype(f32) * (f32(a["x_scale"]) * i["weight_scale"]) + i["bias"]


def linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [i["residual"] + product(i, a)]


def requantized_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(product(i, a), i["out_scale"])]


def causal_conv(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    """numpy.convolve, a channel at a time; its kernel runs backwards."""
    window = np.concatenate([i["state"].swapaxes(1, 2), i["x"]], axis=1).astype(np.int64)  # (B, W-1+L, C)
    total = np.empty(i["x"].shape, np.int64)
    for b, c in np.ndindex(window.shape[0], window.shape[2]):
        total[b, :, c] = np.convolve(window[b, :, c], i["weight"][c, ::-1].astype(np.int64), mode="valid")
    value = total.astype(f32) * (i["x_scale"] * i["weight_scale"]) + i["bias"]
    past = window[:, i["x"].shape[1] :].swapaxes(1, 2).astype(np.int8)
    return [quantize(silu(value), i["out_scale"]), past]


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


def recurrence(
    state: Array, scale: Array | float, decay: Array, inputs: Array, rows: Array, read: Array
) -> tuple[Array, Array]:
    """One fp32 step a token, rounded to the state's dtype; all but the state lead with time -> y, last h."""
    outputs = []
    for t in range(len(decay)):
        h = widened(state, scale) * decay[t] + inputs[t][..., None] * rows[t]
        outputs.append(tree(h * read[t]))
        state = narrowed(h, state, scale)
    return np.stack(outputs, axis=1), state


def narrowed(h: Array, like: Array, scale: Array | float) -> Array:
    return quantize(h, scale) if like.dtype == np.int8 else h.astype(like.dtype)


def widened(state: Array, scale: Array | float) -> NDArray[np.float32]:
    return dequantize(state, scale) if state.dtype == np.int8 else state.astype(f32)


def selective_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    x, dt, A_log, rows, read, D, z, dt_bias = (
        dequantize(i[name], a[f"{name}_scale"])
        for name in ("x", "dt", "A_log", "B", "C", "D", "z", "dt_bias")
    )
    step = softplus(dt + dt_bias).swapaxes(0, 1)  # (L, B, E)
    decay = exp(step[..., None] * -exp(A_log))
    y, state = recurrence(
        i["state"],
        a["state_scale"],
        decay,
        step * x.swapaxes(0, 1),
        rows.swapaxes(0, 1)[:, :, None, :],
        read.swapaxes(0, 1)[:, :, None, :],
    )
    return [(y + D * x) * silu(z), state]


def ssd_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    heads, groups = i["x"].shape[2], i["B"].shape[2]
    x = dequantize(i["x"], i["x_scale"][i["scale_index"]])  # (B, L, H, P)
    rows, read = (  # (L, B, H, 1, N): the group's, for each of its heads
        dequantize(i[name], i[f"{name}_scale"][:, None])
        .repeat(heads // groups, axis=2)
        .swapaxes(0, 1)[..., None, :]
        for name in ("B", "C")
    )
    step = softplus(dequantize(i["dt"], a["dt_scale"]) + i["dt_bias"])
    step = np.clip(step, f32(a["dt_min"]), f32(a["dt_max"])).swapaxes(0, 1)  # (L, B, H)
    y, state = recurrence(
        i["state"],
        i["state_scale"][i["scale_index"]],
        exp(step * -exp(i["A_log"]))[..., None, None],
        step[..., None] * x.swapaxes(0, 1),
        rows,
        read,
    )
    return [y + i["D"][:, None] * x, state]


def input_projection_step(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    normed = quantize(rms_norm(i["x"], a["epsilon"]), a["norm_scale"])
    (y,) = requantized_linear({**i, "x": normed}, {"x_scale": a["norm_scale"]})
    channels = slice(int(a["conv_begin"]), int(a["conv_begin"]) + i["conv_weight"].shape[0])
    own = {name.removeprefix("conv_"): array for name, array in i.items() if name.startswith("conv_")}
    y[..., channels], state = causal_conv({**own, "x": y[..., channels].copy()}, {})
    return [y, state]


def rms_norm_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    normed = i["x"] / np.sqrt((i["x"].astype(wide) ** 2).mean(-1, keepdims=True) + f32(a["epsilon"]))
    return [(normed @ i["weight"].astype(wide).T).astype(f32)]


def int4_codes(packed: Array) -> NDArray[np.int64]:
    """(M, K/2) -> (M, K): nibble after nibble, where plugins/Int4RequantizedLinear/README.md puts it."""
    codes = np.empty((packed.shape[0], 2 * packed.shape[1]), np.int64)
    for j in range(packed.shape[1]):
        column = j // 16 * 32 + j % 16
        for shift, place in ((0, column), (4, column + 16)):
            nibble = packed[:, j].astype(np.uint8) >> shift & 15
            codes[:, place] = np.where(nibble > 7, nibble.astype(np.int64) - 16, nibble)
    return codes


def grouped_product(i: Mapping[str, Array], a: Attrs) -> Array:
    weight, x, scale = int4_codes(i["weight"]), i["x"].astype(np.int64), i["weight_scale"].astype(f32)
    total = np.zeros((*x.shape[:2], len(weight)), f32)
    for g in range(scale.shape[1]):
        columns = slice(128 * g, 128 * g + 128)
        total = total + (x[..., columns] @ weight[:, columns].T).astype(f32) * scale[:, g]
    return total * f32(a["x_scale"]) + i["bias"]


def int4_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [i["residual"] + grouped_product(i, a)]


def int4_requantized_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(grouped_product(i, a), i["out_scale"])]


DEFINITIONS: dict[str, Callable[[Mapping[str, Array], Attrs], list[Array]]] = {
    "GatedRMSNormHadamardQuantize": gated_norm,
    "HadamardQuantize": hadamard_quantize,
    "InputProjectionStep": input_projection_step,
    "Int4Linear": int4_linear,
    "Int4RequantizedLinear": int4_requantized_linear,
    "QuantizedCausalConv1d": causal_conv,
    "QuantizedLinear": linear,
    "QuantizedSSDScan": ssd_scan,
    "QuantizedSelectiveScan": selective_scan,
    "RMSNormLinear": rms_norm_linear,
    "RMSNormQuantize": rms_norm_quantize,
    "RequantizedLinear": requantized_linear,
}


def run_definition(case: Case) -> list[Array]:
    """The case's outputs by the formula."""
    return DEFINITIONS[case.op](case.inputs, case.attrs)
