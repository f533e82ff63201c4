"""Online Hadamard transform, then int8 codes: what stands in front of a Mamba-1 out_proj (Quamba, section
4.3).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.hadamard import apply_hadamard
from quamba_export.plugins.common.onnx_text import hadamard_lines
from quamba_export.plugins.common.quantization import quantize

SPEC = OpSpec(
    name="HadamardQuantize",
    inputs=(Tensor("x", "float32", "B L E"),),
    outputs=(Tensor("y", "int8", "B L E"),),
    attrs=(Attr("hadamard", "int", "flag"), Attr("out_scale", "float")),
)


def reference(x: T, *, hadamard: int, out_scale: float) -> T:
    """y = quantize(H x, out_scale) over the last axis, H of plugins/common/hadamard.py or, when `hadamard`
    is 0, I.
    """
    return quantize(apply_hadamard(x.double()).float() if hadamard else x, out_scale)  # (B, L, E)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops."""
    rotate = (
        hadamard_lines("x", "rotated", int(sizes["E"])) if attrs["hadamard"] else "rotated = Identity (x)"
    )
    return f"""
        out_scale = Constant <value_float: float = @out_scale> ()
        zero_point = Constant <value = int8 {{0}}> ()
        {rotate}
        y = QuantizeLinear (rotated, out_scale, zero_point)
    """
