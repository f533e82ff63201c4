"""Mamba-2's gated RMSNorm and the online Hadamard transform in fp32."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.GatedRMSNormHadamardQuantize.op import gated_norm, gated_norm_lines

SPEC = OpSpec(
    name="FloatGatedRMSNormHadamard",
    inputs=(
        Tensor("x", "float32", "B L E"),
        Tensor("z", "float32", "B L E"),
        Tensor("norm_weight", "float32", "E"),
    ),
    outputs=(Tensor("y", "float32", "B L E"),),
    attrs=(Attr("n_groups", "int"), Attr("hadamard", "int", "flag"), Attr("epsilon", "float")),
    multiples=(("E", "n_groups"),),
)


def reference(x: T, z: T, norm_weight: T, *, n_groups: int, hadamard: int, epsilon: float) -> T:
    """y = H (norm(x * silu(z)) * norm_weight); H is the identity when `hadamard` is 0."""
    return gated_norm(x, z, norm_weight, n_groups, hadamard, epsilon)  # (B, L, E)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops; the number of groups and the Hadamard size are fixed in the body."""
    return f"""
        gate = Identity (z)
        {gated_norm_lines(int(sizes["E"]), attrs)}
        y = Identity (rotated)
    """
