"""The end of the network: RMSNorm without a weight (it is folded into the head), and the unquantized head.

fp32 activations on a weight stored in fp16. Nothing is rounded to a code behind it, so it is the one op whose
outputs are equal within a bound and not bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import FLOAT

SPEC = OpSpec(
    name="RMSNormLinear",
    inputs=(Tensor("x", "float32", "B L D"), Tensor("weight", "float16", "V D")),
    outputs=(Tensor("logits", "float32", "B L V"),),
    attrs=(Attr("epsilon", "float"),),
    bound=2.0**-19,
)


def reference(x: T, weight: T, *, epsilon: float) -> T:
    """(x / sqrt(mean(x^2) + epsilon)) @ weight^T with everything in fp32, sums in torch's order."""
    return normed(x, epsilon) @ weight.T.float()  # (B, L, V)


def normed(x: T, epsilon: float) -> T:
    """RMSNorm without a weight in fp32, its sum in torch's order."""
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + epsilon)


def normed_lines(source: str, target: str) -> str:
    """`target` = normed(`source`) with the attribute epsilon."""
    return f"""
        epsilon = Constant <value_float: float = @epsilon> ()
        last_axis = Constant <value_ints = [-1]> ()
        square = Mul ({source}, {source})
        mean = ReduceMean <keepdims = 1> (square, last_axis)
        shifted = Add (mean, epsilon)
        root = Sqrt (shifted)
        {target} = Div ({source}, root)
    """


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The standard ops that an export holds in its place (exporter/graph/onnx_backend.py, norm_linear)."""
    return f"""
        {normed_lines("x", "normed")}
        columns = Transpose <perm = [1, 0]> (weight)
        widened = Cast <to = {FLOAT}> (columns)
        logits = MatMul (normed, widened)
    """
