"""fp32 projection: in_proj, x_proj and dt_proj of an fp32 export."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import OpSpec, Size, Tensor
from quamba_export.plugins.common.half import half_matmul, half_matmul_lines

SPEC = OpSpec(
    name="FloatProjection",
    inputs=(
        Tensor("x", "float32", "B L K"),
        Tensor("weight", "float32", "M K"),
        Tensor("bias", "float32", "M"),
    ),
    outputs=(Tensor("y", "float32", "B L M"),),
    attrs=(),
)


def reference(x: T, weight: T, bias: T) -> T:
    """y = x @ weight.T + bias; the sum is rounded to fp32 once."""
    return half_matmul(x, weight) + bias  # (B, L, M)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops."""
    return f"""
        {half_matmul_lines("x", "weight", "total")}
        y = Add (total, bias)
    """
