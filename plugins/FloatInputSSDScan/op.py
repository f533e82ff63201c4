"""QuantizedSSDScan with an fp32 x, for studies of what its int8 codes cost: a recurrence for any length."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import FLOAT
from quamba_export.plugins.common.quantization import dequantize
from quamba_export.plugins.QuantizedSSDScan.op import ssd_scan
from quamba_export.plugins.QuantizedSSDScan.token_onnx import ssd_scan_lines

SPEC = OpSpec(
    name="FloatInputSSDScan",
    inputs=(
        Tensor("x", "float32", "B L H P"),
        Tensor("dt", "int8", "B L H"),
        Tensor("A_log", "float32", "H"),
        Tensor("B", "int8", "B L G N"),
        Tensor("C", "int8", "B L G N"),
        Tensor("D", "float32", "H"),
        Tensor("dt_bias", "float32", "H"),
        Tensor("B_scale", "float32", "G"),
        Tensor("C_scale", "float32", "G"),
        Tensor("state_scale", "float32", "S N"),
        Tensor("scale_index", "int32", "H P"),
        Tensor("state", ("float16", "float32", "int8"), "B H P N"),
    ),
    outputs=(
        Tensor("y", "float32", "B L H P"),
        Tensor("state_out", ("float16", "float32", "int8"), "B H P N", aliases="state"),
    ),
    attrs=(Attr("dt_scale", "float"), Attr("dt_min", "float", "any"), Attr("dt_max", "float", "any")),
    multiples=(("H", "G"),),
)


def reference(
    x: T,
    dt: T,
    A_log: T,
    B: T,
    C: T,
    D: T,
    dt_bias: T,
    B_scale: T,
    C_scale: T,
    state_scale: T,
    scale_index: T,
    state: T,
    *,
    dt_scale: float,
    dt_min: float,
    dt_max: float,
) -> tuple[T, T]:
    """QuantizedSSDScan's recurrence with x as it stands; dt, B and C are codes on their scales."""
    step, rows, read = (
        dequantize(dt, dt_scale),
        dequantize(B, B_scale[:, None]),
        dequantize(C, C_scale[:, None]),
    )
    limits = dt_min, dt_max
    return ssd_scan(x, step, A_log, rows, read, D, dt_bias, state_scale[scale_index], state, limits)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops: a Scan over the length. Groups, heads and N are fixed in the body."""
    return f"""
        scale_axis = Constant <value_ints = [-1]> ()
        dt_scale = Constant <value_float: float = @dt_scale> ()
        dt_f = DequantizeLinear (dt, dt_scale)
        x_f = Identity (x)
        B_codes = Cast <to = {FLOAT}> (B)
        B_column = Unsqueeze (B_scale, scale_axis)
        B_f = Mul (B_codes, B_column)
        C_codes = Cast <to = {FLOAT}> (C)
        C_column = Unsqueeze (C_scale, scale_axis)
        C_f = Mul (C_codes, C_column)
        h_scales = Gather <axis = 0> (state_scale, scale_index)
        {ssd_scan_lines(sizes, dtypes["state"])}
    """
