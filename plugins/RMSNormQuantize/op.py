"""RMSNorm without a weight (it is folded into the projection behind it), then int8 codes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.quantization import quantize

SPEC = OpSpec(
    name="RMSNormQuantize",
    inputs=(Tensor("x", "float32", "B L D"),),
    outputs=(Tensor("y", "int8", "B L D"),),
    attrs=(Attr("epsilon", "float"), Attr("out_scale", "float")),
)


def reference(x: T, *, epsilon: float, out_scale: float) -> T:
    """y = quantize(x / sqrt(mean(x^2) + epsilon), out_scale) over the last axis, in fp32."""
    root = torch.sqrt(x.square().mean(-1, keepdim=True) + epsilon)  # (B, L, 1)
    return quantize(x / root, out_scale)  # (B, L, D)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops."""
    return """
        epsilon = Constant <value_float: float = @epsilon> ()
        out_scale = Constant <value_float: float = @out_scale> ()
        zero_point = Constant <value = int8 {0}> ()
        last = Constant <value_ints = [-1]> ()
        square = Mul (x, x)
        mean = ReduceMean <keepdims = 1> (square, last)
        shifted = Add (mean, epsilon)
        root = Sqrt (shifted)
        normed = Div (x, root)
        y = QuantizeLinear (normed, out_scale, zero_point)
    """
