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


def softplus(x: Array) -> NDArray[np.longdouble]:
    return np.log1p(np.exp(-np.abs(x.astype(wide)))) + np.maximum(x.astype(wide), 0)


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


def linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    total = np.einsum("blk,mk->blm", i["x"].astype(np.int64), i["weight"].astype(np.int64))
    return [total.astype(f32) * (f32(a["x_scale"]) * i["weight_scale"]) + i["bias"]]


def requantized_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(linear(i, a)[0], i["out_scale"])]


def causal_conv(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    """numpy.convolve, a channel at a time; its kernel runs backwards."""
    window = np.concatenate([i["state"].swapaxes(1, 2), i["x"]], axis=1).astype(np.int64)  # (B, W-1+L, C)
    total = np.empty(i["x"].shape, np.int64)
    for b, c in np.ndindex(window.shape[0], window.shape[2]):
        total[b, :, c] = np.convolve(window[b, :, c], i["weight"][c, ::-1].astype(np.int64), mode="valid")
    value = total.astype(f32) * (i["x_scale"] * i["weight_scale"]) + i["bias"]
    past = window[:, i["x"].shape[1] :].swapaxes(1, 2).astype(np.int8)
    return [quantize(silu(value), i["out_scale"]), past]


def recurrence(h: Array, decay: Array, added: Array, read: Array, subscripts: str) -> tuple[Array, Array]:
    """h[t] = decay[t] h[t-1] + added[t], y[t] = einsum(h[t], read[t]), time leading -> y, last h."""
    outputs = []
    for t in range(len(decay)):
        h = decay[t] * h + added[t]
        outputs.append(np.einsum(subscripts, h, read[t]))
    return np.stack(outputs, axis=1), h


def narrowed(h: Array, like: Array, scale: Array | float) -> Array:
    return quantize(h.astype(f32), scale) if like.dtype == np.int8 else h.astype(f32).astype(like.dtype)


def widened(state: Array, scale: Array | float) -> NDArray[np.longdouble]:
    return (dequantize(state, scale) if state.dtype == np.int8 else state).astype(wide)


def selective_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    u, dt, A_log, rows, read, D, z, dt_bias = (
        dequantize(i[name], a[f"{name}_scale"])
        for name in ("u", "dt", "A_log", "B", "C", "D", "z", "dt_bias")
    )
    step = softplus(dt + dt_bias).swapaxes(0, 1)[..., None]  # (L, B, E, 1)
    added = step * u.swapaxes(0, 1)[..., None] * rows.swapaxes(0, 1)[:, :, None, :]
    decay = np.exp(step * -np.exp(A_log.astype(wide)))
    h = widened(i["state"], a["state_scale"])
    y, h = recurrence(h, decay, added, read.swapaxes(0, 1).astype(wide), "ben,bn->be")
    y = (y + D.astype(wide) * u).astype(f32) * silu(z)
    return [y, narrowed(h, i["state"], a["state_scale"])]


def ssd_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    heads, groups = i["x"].shape[2], i["B"].shape[2]
    x = dequantize(i["x"], i["x_scale"][i["scale_index"]]).astype(wide)  # (B, L, H, P)
    rows, read = (  # (L, B, H, N): the group's, for each of its heads
        dequantize(i[name], i[f"{name}_scale"][:, None]).repeat(heads // groups, axis=2).swapaxes(0, 1)
        for name in ("B", "C")
    )
    step = softplus(dequantize(i["dt"], a["dt_scale"]) + i["dt_bias"])
    step = np.clip(step, f32(a["dt_min"]), f32(a["dt_max"])).swapaxes(0, 1)[
        ..., None, None
    ]  # (L, B, H, 1, 1)
    decay = np.exp(step * -np.exp(i["A_log"].astype(wide))[:, None, None])
    added = step * x.swapaxes(0, 1)[..., None] * rows[..., None, :]
    scale = i["state_scale"][i["scale_index"]]
    h = widened(i["state"], scale)
    y, h = recurrence(h, decay, added, read.astype(wide), "bhpn,bhn->bhp")
    y = (y + i["D"].astype(wide)[:, None] * x).astype(f32)
    return [y, narrowed(h, i["state"], scale)]


DEFINITIONS: dict[str, Callable[[Mapping[str, Array], Attrs], list[Array]]] = {
    "GatedRMSNormHadamardQuantize": gated_norm,
    "HadamardQuantize": hadamard_quantize,
    "QuantizedCausalConv1d": causal_conv,
    "QuantizedLinear": linear,
    "QuantizedSSDScan": ssd_scan,
    "QuantizedSelectiveScan": selective_scan,
    "RMSNormQuantize": rms_norm_quantize,
    "RequantizedLinear": requantized_linear,
}


def run_definition(case: Case) -> list[Array]:
    """The case's outputs by the formula."""
    return DEFINITIONS[case.op](case.inputs, case.attrs)
