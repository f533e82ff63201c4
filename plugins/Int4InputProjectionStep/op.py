"""RMSNorm, W4A8 in_proj and causal conv of one token: what is in front of a layer's scan, in one kernel.

InputProjectionStep with Int4RequantizedLinear's weight.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import OpSpec, Size, Tensor
from quamba_export.plugins.common.int4 import grouped_matmul_lines
from quamba_export.plugins.common.onnx_text import quantize_lines
from quamba_export.plugins.InputProjectionStep import op as step
from quamba_export.plugins.Int4RequantizedLinear import op as linear
from quamba_export.plugins.RMSNormQuantize import op as norm

SPEC = OpSpec(
    name="Int4InputProjectionStep",
    inputs=(
        Tensor("x", "float32", "B L D"),
        Tensor("weight", "int8", "M D/2"),
        Tensor("weight_scale", "float16", "M D/128"),
        *step.BEHIND_THE_WEIGHT,
    ),
    outputs=step.OUTPUTS,
    attrs=step.ATTRS,
    multiples=(("D", "32"),),
)


def reference(
    x: T,
    weight: T,
    weight_scale: T,
    bias: T,
    out_scale: T,
    conv_state: T,
    conv_weight: T,
    conv_x_scale: T,
    conv_weight_scale: T,
    conv_bias: T,
    conv_out_scale: T,
    *,
    epsilon: float,
    norm_scale: float,
    conv_begin: int,
) -> tuple[T, T]:
    """Channels conv_begin .. conv_begin + C of y went through the convolution, the others did not."""
    normed = norm.reference(x, epsilon=epsilon, out_scale=norm_scale)
    y = linear.reference(normed, weight, weight_scale, bias, out_scale, x_scale=norm_scale)  # (B, L, M)
    operands = (conv_state, conv_weight, conv_x_scale, conv_weight_scale, conv_bias, conv_out_scale)
    return step.convolved(y, conv_begin, *operands)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The three bodies in a row."""
    rows, columns = int(sizes["M"]), int(sizes["D"])
    return f"""
        {step.normed_lines()}
        {grouped_matmul_lines("codes", "weight", "weight_scale", "total", rows, columns)}
        scaled = Mul (total, norm_scale)
        biased = Add (scaled, bias)
        {quantize_lines("biased", "projected", "out_scale")}
        {step.convolved_lines(sizes, attrs)}
    """
