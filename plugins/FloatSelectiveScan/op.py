"""Mamba-1's selective scan on fp32 values: softplus, recurrence, skip and gate in fp32."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import OpSpec, Size, Tensor
from quamba_export.plugins.common.half import widened_lines
from quamba_export.plugins.QuantizedSelectiveScan.op import selective_scan, selective_scan_lines

SPEC = OpSpec(
    name="FloatSelectiveScan",
    inputs=(
        Tensor("x", "float32", "B L E"),
        Tensor("dt", "float32", "B L E"),
        Tensor("A_log", "float32", "E N"),
        Tensor("B", "float32", "B L N"),
        Tensor("C", "float32", "B L N"),
        Tensor("D", "float32", "E"),
        Tensor("z", "float32", "B L E"),
        Tensor("dt_bias", "float32", "E"),
        Tensor("state", ("float16", "float32"), "B E N"),
    ),
    outputs=(
        Tensor("y", "float32", "B L E"),
        Tensor("state_out", ("float16", "float32"), "B E N", aliases="state"),
    ),
    attrs=(),
)


def reference(x: T, dt: T, A_log: T, B: T, C: T, D: T, z: T, dt_bias: T, state: T) -> tuple[T, T]:
    """QuantizedSelectiveScan behind its dequantization: h = exp(dt A) h + dt x B; y = (h C + D x) silu(z)."""
    return selective_scan(x, dt, A_log, B, C, D, z, dt_bias, state, 1.0)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops: a Scan over the length. N and the state's dtype are fixed."""
    return f"""
        {widened_lines("x", "dt", "A_log", "B", "C", "D", "z", "dt_bias")}
        {selective_scan_lines(dtypes["state"], int(sizes["N"]))}
    """
