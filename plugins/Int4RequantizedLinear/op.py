"""W4A8 projection with int8 results, each output channel on a scale of its own: in_proj."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.int4 import grouped_matmul, grouped_matmul_lines
from quamba_export.plugins.common.onnx_text import quantize_lines
from quamba_export.plugins.common.quantization import as_scale, quantize

SPEC = OpSpec(
    name="Int4RequantizedLinear",
    inputs=(
        Tensor("x", "int8", "B L K"),
        Tensor("weight", "int8", "M K/2"),
        Tensor("weight_scale", "float16", "M K/128"),
        Tensor("bias", "float32", "M"),
        Tensor("out_scale", "float32", "M"),
    ),
    outputs=(Tensor("y", "int8", "B L M"),),
    attrs=(Attr("x_scale", "float"),),
    multiples=(("K", "32"),),
)


def reference(x: T, weight: T, weight_scale: T, bias: T, out_scale: T, *, x_scale: float) -> T:
    """y = quantize(sum * x_scale + bias, out_scale), sum of plugins/common/int4.py: grouped_matmul."""
    total = grouped_matmul(x, weight, weight_scale) * as_scale(x_scale, x) + bias
    return quantize(total, out_scale)  # (B, L, M)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops; the number of groups is fixed in the body."""
    return f"""
        x_scale = Constant <value_float: float = @x_scale> ()
        {grouped_matmul_lines("x", "weight", "weight_scale", "total", int(sizes["M"]), int(sizes["K"]))}
        scaled = Mul (total, x_scale)
        biased = Add (scaled, bias)
        {quantize_lines("biased", "y", "out_scale")}
    """
