"""Mamba-2's SSD scan on fp16 values: one fp32 recurrence, the same bits in prefill and in decode."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.half import widened_lines
from quamba_export.plugins.QuantizedSSDScan.op import ssd_scan
from quamba_export.plugins.QuantizedSSDScan.token_onnx import ssd_scan_lines

SPEC = OpSpec(
    name="HalfSSDScan",
    inputs=(
        Tensor("x", "float16", "B L H P"),
        Tensor("dt", "float16", "B L H"),
        Tensor("A_log", "float32", "H"),
        Tensor("B", "float16", "B L G N"),
        Tensor("C", "float16", "B L G N"),
        Tensor("D", "float32", "H"),
        Tensor("dt_bias", "float32", "H"),
        Tensor("state", ("float16", "float32"), "B H P N"),
    ),
    outputs=(
        Tensor("y", "float32", "B L H P"),
        Tensor("state_out", ("float16", "float32"), "B H P N", aliases="state"),
    ),
    attrs=(Attr("dt_min", "float", "any"), Attr("dt_max", "float", "any")),
    multiples=(("H", "G"),),
)


def reference(
    x: T, dt: T, A_log: T, B: T, C: T, D: T, dt_bias: T, state: T, *, dt_min: float, dt_max: float
) -> tuple[T, T]:
    """QuantizedSSDScan behind its dequantization: h = exp(dt A) h + dt x B^T;  y = h C + D x."""
    x, dt, B, C = (tensor.float() for tensor in (x, dt, B, C))
    unread = state.new_ones(state.shape[1:])
    return ssd_scan(x, dt, A_log, B, C, D, dt_bias, unread, state, (dt_min, dt_max))


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops: a Scan over the length. Groups, heads and N are fixed in the body."""
    return f"""
        {widened_lines("x", "dt", "B", "C")}
        {ssd_scan_lines(sizes, dtypes["state"])}
    """
