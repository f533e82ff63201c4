"""W4A8 projection added to the residual stream: out_proj."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.int4 import grouped_matmul, grouped_matmul_lines
from quamba_export.plugins.common.quantization import as_scale

SPEC = OpSpec(
    name="Int4Linear",
    inputs=(
        Tensor("x", "int8", "B L K"),
        Tensor("weight", "int8", "M K/2"),
        Tensor("weight_scale", "float16", "M K/128"),
        Tensor("bias", "float32", "M"),
        Tensor("residual", "float32", "B L M"),
    ),
    outputs=(Tensor("y", "float32", "B L M"),),
    attrs=(Attr("x_scale", "float"),),
    multiples=(("K", "32"),),
)


def reference(x: T, weight: T, weight_scale: T, bias: T, residual: T, *, x_scale: float) -> T:
    """y = residual + (sum * x_scale + bias), sum of plugins/common/int4.py: grouped_matmul."""
    return residual + (grouped_matmul(x, weight, weight_scale) * as_scale(x_scale, x) + bias)  # (B, L, M)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops; the number of groups is fixed in the body."""
    return f"""
        x_scale = Constant <value_float: float = @x_scale> ()
        {grouped_matmul_lines("x", "weight", "weight_scale", "total", int(sizes["M"]), int(sizes["K"]))}
        scaled = Mul (total, x_scale)
        projected = Add (scaled, bias)
        y = Add (residual, projected)
    """
