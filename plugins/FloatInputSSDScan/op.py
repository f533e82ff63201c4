"""QuantizedSSDScan with an fp32 x, for studies of what its int8 codes cost.

x has scales all the same: in whole chunks it counts in them (QuantizedSSDScan/chunk.py), so that an x of
codes times their scales gives QuantizedSSDScan's bits at every length.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.quantization import dequantize
from quamba_export.plugins.QuantizedSSDScan.op import chunked_body, chunked_scan

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
        Tensor("x_scale", "float32", "S"),
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
    x_scale: T,
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
    """QuantizedSSDScan with x as it stands; dt, B and C are codes on their scales."""
    scales = x_scale[scale_index], B_scale, C_scale, state_scale[scale_index]
    wide = x, dequantize(dt, dt_scale)
    return chunked_scan(x, wide, A_log, B, C, D, dt_bias, scales, state, (dt_min, dt_max))


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops. Groups, heads, P and N are fixed in the body."""
    return chunked_body(sizes, dtypes["x"], dtypes["state"])
