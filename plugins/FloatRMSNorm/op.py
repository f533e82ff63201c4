"""RMSNorm without a weight (it is folded into the projection behind it), in fp32."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import root_mean_square_lines
from quamba_export.plugins.common.precise import root_mean_square

SPEC = OpSpec(
    name="FloatRMSNorm",
    inputs=(Tensor("x", "float32", "B L D"),),
    outputs=(Tensor("y", "float32", "B L D"),),
    attrs=(Attr("epsilon", "float"),),
)


def reference(x: T, *, epsilon: float) -> T:
    """y = x / sqrt(mean(x^2) + epsilon) over the last axis; the root is rounded to fp32."""
    return x / root_mean_square(x, epsilon)  # (B, L, D)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops."""
    return f"""
        epsilon = Constant <value_float: float = @epsilon> ()
        {root_mean_square_lines("x", "root", "epsilon")}
        y = Div (x, root)
    """
