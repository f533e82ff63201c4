"""fp16 projection with fp16 results: in_proj, x_proj and dt_proj of an fp16 export."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import OpSpec, Size, Tensor
from quamba_export.plugins.common.half import half_lines, half_matmul, half_matmul_lines, to_half

SPEC = OpSpec(
    name="HalfProjection",
    inputs=(
        Tensor("x", "float16", "B L K"),
        Tensor("weight", "float16", "M K"),
        Tensor("bias", "float32", "M"),
    ),
    outputs=(Tensor("y", "float16", "B L M"),),
    attrs=(),
)


def reference(x: T, weight: T, bias: T) -> T:
    """y = half(x @ weight.T + bias); the sum is rounded to fp32 once."""
    return to_half(half_matmul(x, weight) + bias)  # (B, L, M)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops."""
    return f"""
        {half_matmul_lines("x", "weight", "total")}
        biased = Add (total, bias)
        {half_lines("biased", "y")}
    """
