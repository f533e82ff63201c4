"""W8A8 projection with int8 results, each output channel on a scale of its own.

A Mamba-2 in_proj writes z, x, B, C and dt in one product; their five scales arrive here as one vector over
the rows.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import int8_matmul_lines, quantize_lines
from quamba_export.plugins.common.quantization import as_scale, int8_matmul, quantize

SPEC = OpSpec(
    name="RequantizedLinear",
    inputs=(
        Tensor("x", "int8", "B L K"),
        Tensor("weight", "int8", "M K"),
        Tensor("weight_scale", "float32", "M"),
        Tensor("bias", "float32", "M"),
        Tensor("out_scale", "float32", "M"),
    ),
    outputs=(Tensor("y", "int8", "B L M"),),
    attrs=(Attr("x_scale", "float"),),
)


def reference(x: T, weight: T, weight_scale: T, bias: T, out_scale: T, *, x_scale: float) -> T:
    """y = quantize((x @ weight.T) * (x_scale * weight_scale) + bias, out_scale); exact integer sum, then
    fp32.
    """
    total = int8_matmul(x, weight) * (as_scale(x_scale, x) * weight_scale) + bias
    return quantize(total, out_scale)  # (B, L, M)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops; MatMulInteger keeps the sum exact whatever is optimized around it."""
    return f"""
        x_scale = Constant <value_float: float = @x_scale> ()
        {int8_matmul_lines("x", "weight", "total")}
        scale = Mul (x_scale, weight_scale)
        scaled = Mul (total, scale)
        biased = Add (scaled, bias)
        {quantize_lines("biased", "y", "out_scale")}
    """
