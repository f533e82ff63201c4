"""Online Hadamard transform in fp16: what stands in front of a Mamba-1 out_proj of W4A16."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.hadamard import apply_hadamard
from quamba_export.plugins.common.half import half_lines, to_half
from quamba_export.plugins.common.onnx_text import hadamard_lines

SPEC = OpSpec(
    name="HalfHadamard",
    inputs=(Tensor("x", "float32", "B L E"),),
    outputs=(Tensor("y", "float16", "B L E"),),
    attrs=(Attr("hadamard", "int", "flag"),),
)


def reference(x: T, *, hadamard: int) -> T:
    """y = fp16(H x) over the last axis, H of plugins/common/hadamard.py or, when `hadamard` is 0, I."""
    return to_half(apply_hadamard(x.double()).float() if hadamard else x)  # (B, L, E)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops."""
    rotate = (
        hadamard_lines("x", "rotated", int(sizes["E"])) if attrs["hadamard"] else "rotated = Identity (x)"
    )
    return f"""
        {rotate}
        {half_lines("rotated", "y")}
    """
