"""The end of the network with an int8 head: RMSNorm without a weight, and codes with one scale a row.

fp32 activations. As in RMSNormLinear nothing is rounded to a code behind it: equal within a bound.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import FLOAT
from quamba_export.plugins.RMSNormLinear.op import normed, normed_lines

SPEC = OpSpec(
    name="RMSNormInt8Linear",
    inputs=(
        Tensor("x", "float32", "B L D"),
        Tensor("weight", "int8", "V D"),
        Tensor("weight_scale", "float32", "V"),
    ),
    outputs=(Tensor("logits", "float32", "B L V"),),
    attrs=(Attr("epsilon", "float"),),
    bound=2.0**-19,
)


def reference(x: T, weight: T, weight_scale: T, *, epsilon: float) -> T:
    """((x / sqrt(mean(x^2) + epsilon)) @ weight^T) * weight_scale, all fp32, sums in torch's order."""
    return (normed(x, epsilon) @ weight.T.float()) * weight_scale  # (B, L, V)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops."""
    return f"""
        {normed_lines("x", "normed")}
        columns = Transpose <perm = [1, 0]> (weight)
        widened = Cast <to = {FLOAT}> (columns)
        total = MatMul (normed, widened)
        logits = Mul (total, weight_scale)
    """
