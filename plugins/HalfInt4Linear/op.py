"""W4A16 projection added to the residual stream: fp16 activations, int4 weight: out_proj."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import OpSpec, Size, Tensor
from quamba_export.plugins.common.int4 import grouped_matmul, grouped_matmul_lines

SPEC = OpSpec(
    name="HalfInt4Linear",
    inputs=(
        Tensor("x", "float16", "B L K"),
        Tensor("weight", "int8", "M K/2"),
        Tensor("weight_scale", "float16", "M K/128"),
        Tensor("bias", "float32", "M"),
        Tensor("residual", "float32", "B L M"),
    ),
    outputs=(Tensor("y", "float32", "B L M"),),
    attrs=(),
    multiples=(("K", "32"),),
)


def reference(x: T, weight: T, weight_scale: T, bias: T, residual: T) -> T:
    """y = residual + (sum + bias), sum of plugins/common/int4.py: grouped_matmul."""
    return residual + (grouped_matmul(x, weight, weight_scale) + bias)  # (B, L, M)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops; the number of groups is fixed in the body."""
    rows, columns = int(sizes["M"]), int(sizes["K"])
    return f"""
        {grouped_matmul_lines("x", "weight", "weight_scale", "total", rows, columns, half=True)}
        projected = Add (total, bias)
        y = Add (residual, projected)
    """
