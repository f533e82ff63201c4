"""Depthwise causal convolution and SiLU in fp32, with the last W-1 inputs as carried state."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import silu_lines
from quamba_export.plugins.common.precise import silu
from quamba_export.plugins.QuantizedCausalConv1d.op import convolve, convolve_lines

SPEC = OpSpec(
    name="FloatCausalConv1d",
    inputs=(
        Tensor("x", "float32", "B L C"),
        Tensor("state", "float32", "B C W-1"),
        Tensor("weight", "float32", "C W"),
        Tensor("bias", "float32", "C"),
    ),
    outputs=(Tensor("y", "float32", "B L C"), Tensor("state_out", "float32", "B C W-1", aliases="state")),
    attrs=(),
)


def reference(x: T, state: T, weight: T, bias: T) -> tuple[T, T]:
    """y = silu(conv + bias); the products are fp32, added from the oldest input to the newest."""
    total, state_out = convolve(x, state, weight)
    return silu(total + bias), state_out  # (B, L, C)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops, one Slice and Mul a tap."""
    return f"""
        {convolve_lines(int(sizes["W"]))}
        value = Add (total, bias)
        {silu_lines("value", "y")}
    """
