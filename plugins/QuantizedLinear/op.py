"""W8A8 projection added to the residual stream: int8 x int8 -> int32 -> one scale a row of the weight."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import int8_matmul_lines
from quamba_export.plugins.common.quantization import as_scale, int8_matmul

SPEC = OpSpec(
    name="QuantizedLinear",
    inputs=(
        Tensor("x", "int8", "B L K"),
        Tensor("weight", "int8", "M K"),
        Tensor("weight_scale", "float32", "M"),
        Tensor("bias", "float32", "M"),
        Tensor("residual", "float32", "B L M"),
    ),
    outputs=(Tensor("y", "float32", "B L M"),),
    attrs=(Attr("x_scale", "float"),),
)


def reference(x: T, weight: T, weight_scale: T, bias: T, residual: T, *, x_scale: float) -> T:
    """y = residual + ((x @ weight.T) * (x_scale * weight_scale) + bias); the integer sum is exact, then fp32
    in this order.
    """
    return residual + (int8_matmul(x, weight) * (as_scale(x_scale, x) * weight_scale) + bias)  # (B, L, M)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops; MatMulInteger keeps the sum exact whatever is optimized around it."""
    return f"""
        x_scale = Constant <value_float: float = @x_scale> ()
        {int8_matmul_lines("x", "weight", "total")}
        scale = Mul (x_scale, weight_scale)
        scaled = Mul (total, scale)
        projected = Add (scaled, bias)
        y = Add (residual, projected)
    """
