"""W8A16 projection added to the residual stream: fp16 activations, int8 weight, a scale a row: out_proj."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import OpSpec, Size, Tensor
from quamba_export.plugins.common.half import half_matmul, half_matmul_lines

SPEC = OpSpec(
    name="HalfInt8Linear",
    inputs=(
        Tensor("x", "float16", "B L K"),
        Tensor("weight", "int8", "M K"),
        Tensor("weight_scale", "float32", "M"),
        Tensor("bias", "float32", "M"),
        Tensor("residual", "float32", "B L M"),
    ),
    outputs=(Tensor("y", "float32", "B L M"),),
    attrs=(),
)


def reference(x: T, weight: T, weight_scale: T, bias: T, residual: T) -> T:
    """y = residual + ((x @ weight.T) * weight_scale + bias); the sum is rounded to fp32 once."""
    return residual + (half_matmul(x, weight) * weight_scale + bias)  # (B, L, M)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops."""
    return f"""
        {half_matmul_lines("x", "weight", "total")}
        scaled = Mul (total, weight_scale)
        projected = Add (scaled, bias)
        y = Add (residual, projected)
    """
