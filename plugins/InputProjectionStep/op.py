"""RMSNorm, in_proj and causal conv of one token: what `step` does in front of a layer's scan, in one kernel.

The three ops one after the other, with the convolved channels written over the projection's. A prompt runs
them one by one; an engine for single tokens has this op in their place.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import int8_matmul_lines, quantize_lines, root_mean_square_lines
from quamba_export.plugins.QuantizedCausalConv1d import op as conv
from quamba_export.plugins.RequantizedLinear import op as linear
from quamba_export.plugins.RMSNormQuantize import op as norm

BEHIND_THE_WEIGHT = (  # this and what follows: of a step with any weight
    Tensor("bias", "float32", "M"),
    Tensor("out_scale", "float32", "M"),
    Tensor("conv_state", "int8", "B C W-1"),
    Tensor("conv_weight", "int8", "C W"),
    Tensor("conv_x_scale", "float32", "C"),
    Tensor("conv_weight_scale", "float32", "C"),
    Tensor("conv_bias", "float32", "C"),
    Tensor("conv_out_scale", "float32", "C"),
)
OUTPUTS = (Tensor("y", "int8", "B L M"), Tensor("conv_state_out", "int8", "B C W-1", aliases="conv_state"))
ATTRS = (Attr("epsilon", "float"), Attr("norm_scale", "float"), Attr("conv_begin", "int", "count"))
SPEC = OpSpec(
    name="InputProjectionStep",
    inputs=(
        Tensor("x", "float32", "B L D"),
        Tensor("weight", "int8", "M D"),
        Tensor("weight_scale", "float32", "M"),
        *BEHIND_THE_WEIGHT,
    ),
    outputs=OUTPUTS,
    attrs=ATTRS,
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
    return convolved(y, conv_begin, *operands)


def convolved(y: T, begin: int, state: T, weight: T, *scales_and_bias: T) -> tuple[T, T]:
    """Codes y (B, L, M) with channels begin .. begin + C put through the convolution, and its next state.

    scales_and_bias: the other operands of QuantizedCausalConv1d, in its order.
    """
    end = begin + weight.shape[0]
    channels, state_out = conv.reference(y[..., begin:end], state, weight, *scales_and_bias)
    return torch.cat([y[..., :begin], channels, y[..., end:]], dim=-1), state_out


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The three bodies in a row."""
    return f"""
        {normed_lines()}
        {int8_matmul_lines("codes", "weight", "total")}
        scale = Mul (norm_scale, weight_scale)
        scaled = Mul (total, scale)
        biased = Add (scaled, bias)
        {quantize_lines("biased", "projected", "out_scale")}
        {convolved_lines(sizes, attrs)}
    """


def normed_lines() -> str:
    """`codes` = RMSNormQuantize of `x`; `norm_scale` is their scale."""
    return f"""
        epsilon = Constant <value_float: float = @epsilon> ()
        norm_scale = Constant <value_float: float = @norm_scale> ()
        norm_zero_point = Constant <value = int8 {{0}}> ()
        {root_mean_square_lines("x", "root", "epsilon")}
        normed = Div (x, root)
        codes = QuantizeLinear (normed, norm_scale, norm_zero_point)
    """


def convolved_lines(sizes: Mapping[str, Size], attrs: Mapping[str, float | int]) -> str:
    """`y` = `projected` with the convolved channels sliced out and put back."""
    begin, channels, rows = int(attrs["conv_begin"]), int(sizes["C"]), int(sizes["M"])
    return f"""
        parts = Constant <value_ints = [{begin}, {channels}, {rows - begin - channels}]> ()
        front, conv_x, back = Split <axis = 2> (projected, parts)
        {conv.onnx_lines(int(sizes["W"]), "conv_")}
        y = Concat <axis = 2> (front, conv_y, back)
    """
