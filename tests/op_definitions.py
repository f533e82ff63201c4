"""Every op a second time, from its formula: plain numpy, one token after the other, in extended precision.

Sums of integers are exact; everything else is made of tests/op_formulas.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from op_cases import Case
from op_cases.drawing import Array
from op_convolutions import causal_conv, float_conv, half_conv, scan_input_conv
from op_formulas import (
    Attrs,
    dense_hadamard,
    dequantize,
    f32,
    grouped_sum,
    half,
    int4_codes,
    quantize,
    rms_norm,
    silu,
    wide,
)
from op_scans import (
    dynamic_state_selective_scan,
    dynamic_state_ssd_scan,
    float_input_selective_scan,
    float_input_ssd_scan,
    half_selective_scan,
    half_ssd_scan,
    quantized_selective_scan,
    quantized_ssd_scan,
)


def rms_norm_quantize(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(rms_norm(i["x"], a["epsilon"]), a["out_scale"])]


def float_rms_norm(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [rms_norm(i["x"], a["epsilon"])]


def half_rms_norm(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [half(rms_norm(i["x"], a["epsilon"]))]


def rotated(x: Array, a: Attrs) -> NDArray[np.float32]:
    matrix = dense_hadamard(x.shape[-1]) if a["hadamard"] else np.eye(x.shape[-1])
    return (x.astype(wide) @ matrix.T.astype(wide)).astype(f32)


def hadamard_quantize(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(rotated(i["x"], a), a["out_scale"])]


def float_hadamard(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [rotated(i["x"], a)]


def half_hadamard(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [half(rotated(i["x"], a))]


def gated_norm(i: Mapping[str, Array], z: Array, a: Attrs) -> Array:
    parts = np.split(i["x"] * silu(z), int(a["n_groups"]), axis=-1)
    normed = np.concatenate([rms_norm(part, a["epsilon"]) for part in parts], axis=-1) * i["norm_weight"]
    return rotated(normed, a)


def gated_norm_quantize(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(gated_norm(i, dequantize(i["z"], a["z_scale"]), a), a["out_scale"])]


def float_gated_norm(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [gated_norm(i, i["z"], a)]


def half_gated_norm(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [half(gated_norm(i, i["z"].astype(f32), a))]


def product(i: Mapping[str, Array], a: Attrs) -> Array:
    total = np.einsum("blk,mk->blm", i["x"].astype(np.int64), i["weight"].astype(np.int64))
    return total.astype(f32) * (f32(a["x_scale"]) * i["weight_scale"]) + i["bias"]


def linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [i["residual"] + product(i, a)]


def requantized_linear(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return [quantize(product(i, a), i["out_scale"])]


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
    "FloatInputSSDScan": float_input_ssd_scan,
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
}


def run_definition(case: Case) -> list[Array]:
    """The case's outputs by the formula."""
    return DEFINITIONS[case.op](case.inputs, case.attrs)
