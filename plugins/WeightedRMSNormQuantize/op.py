"""RMSNorm with a weight, then int8 codes: for models whose channels are smoothed in front of in_proj."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import root_mean_square_lines
from quamba_export.plugins.common.precise import root_mean_square
from quamba_export.plugins.common.quantization import quantize

SPEC = OpSpec(
    name="WeightedRMSNormQuantize",
    inputs=(Tensor("x", "float32", "B L D"), Tensor("norm_weight", "float32", "D")),
    outputs=(Tensor("y", "int8", "B L D"),),
    attrs=(Attr("epsilon", "float"), Attr("out_scale", "float")),
)


def reference(x: T, norm_weight: T, *, epsilon: float, out_scale: float) -> T:
    """y = quantize(x / sqrt(mean(x^2) + epsilon) * norm_weight, out_scale) over the last axis; the root is
    rounded to fp32.
    """
    return quantize(x / root_mean_square(x, epsilon) * norm_weight, out_scale)  # (B, L, D)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops."""
    return f"""
        epsilon = Constant <value_float: float = @epsilon> ()
        out_scale = Constant <value_float: float = @out_scale> ()
        zero_point = Constant <value = int8 {{0}}> ()
        {root_mean_square_lines("x", "root", "epsilon")}
        normed = Div (x, root)
        weighted = Mul (normed, norm_weight)
        y = QuantizeLinear (weighted, out_scale, zero_point)
    """
