"""QuantizedCausalConv1d for studies of the scan's input: beside the int8 codes, the value that a scan gets.

`value` is the convolution's fp32 result, or what two scales and one flag bit leave of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import quantize_lines, silu_lines
from quamba_export.plugins.common.precise import silu
from quamba_export.plugins.common.quantization import quantize
from quamba_export.plugins.QuantizedCausalConv1d.op import convolve, convolve_lines

SPEC = OpSpec(
    name="ScanInputCausalConv1d",
    inputs=(
        Tensor("x", "int8", "B L C"),
        Tensor("state", "int8", "B C W-1"),
        Tensor("weight", "int8", "C W"),
        Tensor("x_scale", "float32", "C"),
        Tensor("weight_scale", "float32", "C"),
        Tensor("bias", "float32", "C"),
        Tensor("out_scale", "float32", "C"),
        Tensor("outlier_scale", "float32", "C"),
    ),
    outputs=(
        Tensor("y", "int8", "B L C"),
        Tensor("value", "float32", "B L C"),
        Tensor("state_out", "int8", "B C W-1", aliases="state"),
    ),
    attrs=(Attr("largest_code", "int", "count"),),
)


def reference(
    x: T,
    state: T,
    weight: T,
    x_scale: T,
    weight_scale: T,
    bias: T,
    out_scale: T,
    outlier_scale: T,
    *,
    largest_code: int,
) -> tuple[T, T, T]:
    """QuantizedCausalConv1d's y and state_out, and value: its fp32 result, on two scales unless 0 codes."""
    total, state_out = convolve(x, state, weight)
    result = silu(total * (x_scale * weight_scale) + bias)  # (B, L, C)
    value = dual_scale(result, out_scale, outlier_scale, largest_code) if largest_code else result.clone()
    return quantize(result, out_scale), value, state_out


def dual_scale(x: T, scale: T, outlier_scale: T, largest_code: int) -> T:
    """round(x / s) s where that code is in [-largest_code - 1, largest_code], else so on the other scale."""
    codes = torch.round(x / scale)
    inlier = (codes >= -largest_code - 1) & (codes <= largest_code)
    outlier_codes = torch.round(x / outlier_scale).clamp(-largest_code - 1, largest_code)
    return torch.where(inlier, codes * scale, outlier_codes * outlier_scale)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops; the codes' range is fixed in the body."""
    largest = int(attrs["largest_code"])
    return f"""
        {convolve_lines(int(sizes["W"]))}
        scale = Mul (x_scale, weight_scale)
        scaled = Mul (total, scale)
        shifted = Add (scaled, bias)
        {silu_lines("shifted", "result")}
        {quantize_lines("result", "y", "out_scale")}
        {_dual_scale_lines(largest) if largest else "value = Identity (result)"}
    """


def _dual_scale_lines(largest: int) -> str:
    """`value` = dual_scale of `result`."""
    return f"""
        low = Constant <value_float = {-largest - 1}.0> ()
        high = Constant <value_float = {largest}.0> ()
        quotients = Div (result, out_scale)
        inlier_codes = Round (quotients)
        inside = Clip (inlier_codes, low, high)
        inlier = Equal (inlier_codes, inside)
        inlier_value = Mul (inlier_codes, out_scale)
        outlier_quotients = Div (result, outlier_scale)
        outlier_rounded = Round (outlier_quotients)
        outlier_codes = Clip (outlier_rounded, low, high)
        outlier_value = Mul (outlier_codes, outlier_scale)
        value = Where (inlier, inlier_value, outlier_value)
    """
