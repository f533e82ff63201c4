"""Every op a second time, from its formula: plain numpy, one token after the other, in extended precision.

Sums of integers are exact; everything else is made of tests/op_formulas.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from op_cases import Case
from op_cases.drawing import Array
from op_chunks import CHUNK, scan_chunks
from op_convolutions import causal_conv, float_conv, half_conv, scan_input_conv
from op_formulas import (
    Attrs,
    Rows,
    dequantize,
    exp,
    f32,
    floats,
    grouped_sum,
    half,
    int4_codes,
    quantize,
    recurrence,
    rms_norm,
    silu,
    softplus,
    wide,
)
from op_norms import (
    float_gated_norm,
    float_hadamard,
    float_rms_norm,
    gated_norm_quantize,
    hadamard_quantize,
    half_gated_norm,
    half_hadamard,
    half_rms_norm,
    rms_norm_quantize,
    weighted_rms_norm_quantize,
)


def product(i: Mapping[str, Array], a: Attrs) -> Array:
    total = np.einsum("blk,mk->blm", i["x"].astype(np.int64), i["weight"].astype(np.int64))
    return total.astype(f32) * (f32(a["x_scale"]) * i["weight_scale"]) + i["bias"]


def linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [i["residual"] + product(i, a)]


def requantized_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(product(i, a), i["out_scale"])]


SELECTIVE_OPERANDS = ("x", "dt", "A_log", "B", "C", "D", "z", "dt_bias")


def quantized_selective_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    widened = {name: dequantize(i[name], a[f"{name}_scale"]) for name in SELECTIVE_OPERANDS}
    return selective_scan({**widened, "state": i["state"]}, a["state_scale"])


def dynamic_state_selective_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    y, state = quantized_selective_scan({**i, "state": rows(i, a)}, {**a, "state_scale": 1.0})
    return [y, *state[:2]]


def dynamic_state_ssd_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    size = i["state"].shape[-1] & -i["state"].shape[-1]
    widened = {
        "x": dequantize(i["x"], i["x_scale"][i["scale_index"]]),
        "B": dequantize(in_blocks(i["B"], size), i["B_scale"][:, None]),
        "C": dequantize(in_blocks(i["C"], size), i["C_scale"][:, None] / f32(size)),
        "dt": dequantize(i["dt"], a["dt_scale"]),
    }
    y, state = ssd_scan({**i, **widened, "state": rows(i, a)}, a, 1.0)
    return [y, *state[:2]]


def in_blocks(codes: Array, size: int) -> Array:
    """Each block of `size` codes by the matrix of signs: -1 where the bits of row and column meet oddly."""
    places = range(size)
    signs = np.array([[1 - 2 * ((i & j).bit_count() % 2) for j in places] for i in places])
    return (codes.reshape(*codes.shape[:-1], -1, size).astype(np.int64) @ signs).reshape(codes.shape)


def rows(i: Mapping[str, Array], a: Attrs) -> Any:
    return Rows(i["state"], i["row_scale"], int(a["stochastic"]))


def float_input_selective_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    widened = {name: dequantize(i[name], a[f"{name}_scale"]) for name in SELECTIVE_OPERANDS[1:]}
    return selective_scan({**i, **widened}, a["state_scale"])


def half_selective_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return selective_scan({**floats(i, *SELECTIVE_OPERANDS), "state": i["state"]}, 1.0)


def selective_scan(i: Mapping[str, Array], state_scale: float) -> list[Array]:
    x, dt, A_log, rows, read, D, z, dt_bias = (i[name] for name in SELECTIVE_OPERANDS)
    step = softplus(dt + dt_bias).swapaxes(0, 1)  # (L, B, E)
    decay = exp(step[..., None] * -exp(A_log))
    y, state = recurrence(
        i["state"],
        state_scale,
        decay,
        step * x.swapaxes(0, 1),
        rows.swapaxes(0, 1)[:, :, None, :],
        read.swapaxes(0, 1)[:, :, None, :],
    )
    return [(y + D * x) * silu(z), state]


def quantized_ssd_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    """Whole chunks, then one token after the other, of either x."""
    state_scale, x_scale = i["state_scale"][i["scale_index"]], i["x_scale"][i["scale_index"]]
    x = dequantize(i["x"], x_scale) if i["x"].dtype == np.int8 else i["x"]
    whole = x.shape[1] // CHUNK * CHUNK
    step, decay = steps({**i, "dt": dequantize(i["dt"], a["dt_scale"])}, a)
    y, state = scan_chunks({**i, "x": i["x"][:, :whole]}, step, decay, state_scale)
    y = y + i["D"][:, None] * x[:, :whole]
    if whole == x.shape[1]:
        return [y, state]
    rest = {name: i[name][:, whole:] for name in ("dt", "B", "C")}
    y_rest, state = ssd_scan_by_token({**i, **rest, "x": x[:, whole:], "state": state}, a)
    return [np.concatenate([y, y_rest], axis=1), state]


def ssd_scan_by_token(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    widened = {
        "B": dequantize(i["B"], i["B_scale"][:, None]),
        "C": dequantize(i["C"], i["C_scale"][:, None]),
        "dt": dequantize(i["dt"], a["dt_scale"]),
    }
    return ssd_scan({**i, **widened}, a, i["state_scale"][i["scale_index"]])


def half_ssd_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return ssd_scan({**i, **floats(i, "x", "B", "C", "dt")}, a, 1.0)


def ssd_scan(i: Mapping[str, Array], a: Attrs, state_scale: Array | float) -> list[Array]:
    x, heads, groups = i["x"], i["x"].shape[2], i["B"].shape[2]
    rows, read = (  # (L, B, H, 1, N): the group's, for each of its heads
        i[name].repeat(heads // groups, axis=2).swapaxes(0, 1)[..., None, :] for name in ("B", "C")
    )
    step, decay = (array.swapaxes(0, 1) for array in steps(i, a))  # (L, B, H)
    y, state = recurrence(
        i["state"],
        state_scale,
        decay[..., None, None],
        step[..., None] * x.swapaxes(0, 1),
        rows,
        read,
    )
    return [y + i["D"][:, None] * x, state]


def steps(i: Mapping[str, Array], a: Attrs) -> tuple[Array, Array]:
    """Step and decay (B, L, H)."""
    step = np.clip(softplus(i["dt"] + i["dt_bias"]), f32(a["dt_min"]), f32(a["dt_max"]))
    return step, exp(step * -exp(i["A_log"]))


def input_projection_step(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return step(requantized_linear, i, a)


def int4_input_projection_step(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return step(int4_requantized_linear, i, a)


def step(projection: Callable[..., list[Array]], i: Mapping[str, Array], a: Attrs) -> list[Array]:
    normed = quantize(rms_norm(i["x"], a["epsilon"]), a["norm_scale"])
    (y,) = projection({**i, "x": normed}, {"x_scale": a["norm_scale"]})
    channels = slice(int(a["conv_begin"]), int(a["conv_begin"]) + i["conv_weight"].shape[0])
    own = {name.removeprefix("conv_"): array for name, array in i.items() if name.startswith("conv_")}
    y[..., channels], state = causal_conv({**own, "x": y[..., channels].copy()}, {})
    return [y, state]


def rms_norm_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    normed = i["x"] / np.sqrt((i["x"].astype(wide) ** 2).mean(-1, keepdims=True) + f32(a["epsilon"]))
    return [(normed @ i["weight"].astype(wide).T).astype(f32)]


def rms_norm_int8_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return rms_norm_linear({**i, "weight": i["weight"].astype(wide) * i["weight_scale"][:, None]}, a)


def rms_norm_int4_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    codes = int4_codes(i["weight"])
    scale = np.repeat(i["weight_scale"].astype(wide), 128, axis=1)[:, : codes.shape[1]]
    return rms_norm_linear({**i, "weight": codes * scale}, a)


def grouped_product(i: Mapping[str, Array], a: Attrs) -> Array:
    return grouped_sum(i) * f32(a["x_scale"]) + i["bias"]


def int4_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [i["residual"] + grouped_product(i, a)]


def int4_requantized_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(grouped_product(i, a), i["out_scale"])]


def half_int4_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [i["residual"] + (grouped_sum(i) + i["bias"])]


def half_int4_projection(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [half(grouped_sum(i) + i["bias"])]


def float_projection(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    total = (i["x"].astype(wide) @ i["weight"].astype(wide).T).astype(f32)
    return [total * i.get("weight_scale", f32(1)) + i["bias"]]


def half_projection(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [half(y) for y in float_projection(i, a)]


def float_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [i["residual"] + y for y in float_projection(i, a)]


DEFINITIONS: dict[str, Callable[[Mapping[str, Array], Attrs], list[Array]]] = {
    "DynamicStateSSDScan": dynamic_state_ssd_scan,
    "DynamicStateSelectiveScan": dynamic_state_selective_scan,
    "FloatCausalConv1d": float_conv,
    "FloatGatedRMSNormHadamard": float_gated_norm,
    "FloatHadamard": float_hadamard,
    "FloatLinear": float_linear,
    "FloatProjection": float_projection,
    "FloatRMSNorm": float_rms_norm,
    "FloatSSDScan": half_ssd_scan,
    "FloatSelectiveScan": half_selective_scan,
    "FloatInputSSDScan": quantized_ssd_scan,
    "FloatInputSelectiveScan": float_input_selective_scan,
    "GatedRMSNormHadamardQuantize": gated_norm_quantize,
    "HadamardQuantize": hadamard_quantize,
    "HalfCausalConv1d": half_conv,
    "HalfGatedRMSNormHadamard": half_gated_norm,
    "HalfHadamard": half_hadamard,
    "HalfInt4Linear": half_int4_linear,
    "HalfInt4Projection": half_int4_projection,
    "HalfInt8Linear": float_linear,
    "HalfInt8Projection": half_projection,
    "HalfLinear": float_linear,
    "HalfProjection": half_projection,
    "HalfRMSNorm": half_rms_norm,
    "HalfSSDScan": half_ssd_scan,
    "HalfSelectiveScan": half_selective_scan,
    "InputProjectionStep": input_projection_step,
    "Int4InputProjectionStep": int4_input_projection_step,
    "Int4Linear": int4_linear,
    "Int4RequantizedLinear": int4_requantized_linear,
    "QuantizedCausalConv1d": causal_conv,
    "QuantizedLinear": linear,
    "QuantizedSSDScan": quantized_ssd_scan,
    "QuantizedSelectiveScan": quantized_selective_scan,
    "RMSNormInt4Linear": rms_norm_int4_linear,
    "RMSNormInt8Linear": rms_norm_int8_linear,
    "RMSNormLinear": rms_norm_linear,
    "RMSNormQuantize": rms_norm_quantize,
    "RequantizedLinear": requantized_linear,
    "ScanInputCausalConv1d": scan_input_conv,
    "WeightedRMSNormQuantize": weighted_rms_norm_quantize,
}


def run_definition(case: Case) -> list[Array]:
    """The case's outputs by the formula."""
    return DEFINITIONS[case.op](case.inputs, case.attrs)
