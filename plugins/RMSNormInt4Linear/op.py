"""The end of the network with an int4 head: RMSNorm without a weight, and codes in groups of 128 columns.

fp32 activations. As in RMSNormLinear nothing is rounded to a code behind it: equal within a bound.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.int4 import dequantize_int4, dequantize_int4_lines
from quamba_export.plugins.RMSNormLinear.op import normed, normed_lines

SPEC = OpSpec(
    name="RMSNormInt4Linear",
    inputs=(
        Tensor("x", "float32", "B L D"),
        Tensor("weight", "int8", "V D/2"),
        Tensor("weight_scale", "float16", "V D/128"),
    ),
    outputs=(Tensor("logits", "float32", "B L V"),),
    attrs=(Attr("epsilon", "float"),),
    multiples=(("D", "32"),),
    bound=2.0**-19,
)


def reference(x: T, weight: T, weight_scale: T, *, epsilon: float) -> T:
    """(x / sqrt(mean(x^2) + epsilon)) @ (codes * scale)^T with everything in fp32, sums in torch's order."""
    return normed(x, epsilon) @ dequantize_int4(weight, weight_scale).T  # (B, L, V)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops; vocabulary and columns are fixed in the body."""
    rows, columns = int(sizes["V"]), int(sizes["D"])
    return f"""
        {normed_lines("x", "normed")}
        {dequantize_int4_lines("weight", "weight_scale", "widened", rows, columns)}
        columns = Transpose <perm = [1, 0]> (widened)
        logits = MatMul (normed, columns)
    """
