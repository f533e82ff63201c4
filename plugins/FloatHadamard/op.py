"""Online Hadamard transform in fp32: what stands in front of a Mamba-1 out_proj."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.hadamard import apply_hadamard
from quamba_export.plugins.common.onnx_text import hadamard_lines

SPEC = OpSpec(
    name="FloatHadamard",
    inputs=(Tensor("x", "float32", "B L E"),),
    outputs=(Tensor("y", "float32", "B L E"),),
    attrs=(Attr("hadamard", "int", "flag"),),
)


def reference(x: T, *, hadamard: int) -> T:
    """y = H x over the last axis, H of plugins/common/hadamard.py or, when `hadamard` is 0, I."""
    return apply_hadamard(x.double()).float() if hadamard else x.clone()  # (B, L, E)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops."""
    rotate = hadamard_lines("x", "y", int(sizes["E"])) if attrs["hadamard"] else "y = Identity (x)"
    return f"""
        {rotate}
    """
