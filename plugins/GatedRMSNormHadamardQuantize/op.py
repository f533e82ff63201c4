"""Mamba-2's gated RMSNorm, the online Hadamard transform and int8 codes, in front of out_proj.

The norm runs over groups of E / n_groups channels, as the tensor-parallel training of grouped checkpoints
left it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.hadamard import apply_hadamard
from quamba_export.plugins.common.onnx_text import hadamard_lines, root_mean_square_lines, silu_lines
from quamba_export.plugins.common.precise import root_mean_square, silu
from quamba_export.plugins.common.quantization import dequantize, quantize

SPEC = OpSpec(
    name="GatedRMSNormHadamardQuantize",
    inputs=(
        Tensor("x", "float32", "B L E"),
        Tensor("z", "int8", "B L E"),
        Tensor("norm_weight", "float32", "E"),
    ),
    outputs=(Tensor("y", "int8", "B L E"),),
    attrs=(
        Attr("z_scale", "float"),
        Attr("n_groups", "int"),
        Attr("hadamard", "int", "flag"),
        Attr("epsilon", "float"),
        Attr("out_scale", "float"),
    ),
    multiples=(("E", "n_groups"),),
)


def reference(
    x: T,
    z: T,
    norm_weight: T,
    *,
    z_scale: float,
    n_groups: int,
    hadamard: int,
    epsilon: float,
    out_scale: float,
) -> T:
    """y = quantize(H (norm(x * silu(z)) * norm_weight), out_scale); H is the identity when `hadamard` is 0.

    Source: Mamba-2's RMSNormGated with norm_before_gate=False; Quamba2 (arXiv 2503.22879), section 4.
    """
    return quantize(
        gated_norm(x, dequantize(z, z_scale), norm_weight, n_groups, hadamard, epsilon), out_scale
    )


def gated_norm(x: T, z: T, norm_weight: T, n_groups: int, hadamard: int, epsilon: float) -> T:
    """H (norm(x * silu(z)) * norm_weight), everything fp32, (B, L, E)."""
    gated = x * silu(z)  # (B, L, E)
    grouped = gated.unflatten(-1, (n_groups, -1))  # (B, L, n_groups, E / n_groups)
    normed = (grouped / root_mean_square(grouped, epsilon)).flatten(-2) * norm_weight  # (B, L, E)
    return apply_hadamard(normed.double()).float() if hadamard else normed


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops; the number of groups and the Hadamard size are fixed in the body."""
    return f"""
        z_scale = Constant <value_float: float = @z_scale> ()
        out_scale = Constant <value_float: float = @out_scale> ()
        zero_point = Constant <value = int8 {{0}}> ()
        gate = DequantizeLinear (z, z_scale, zero_point)
        {gated_norm_lines(int(sizes["E"]), attrs)}
        y = QuantizeLinear (rotated, out_scale, zero_point)
    """


def gated_norm_lines(channels: int, attrs: Mapping[str, float | int]) -> str:
    """`rotated` = gated_norm of x, `gate` and norm_weight."""
    groups = int(attrs["n_groups"])
    rotate = (
        hadamard_lines("normed", "rotated", channels) if attrs["hadamard"] else "rotated = Identity (normed)"
    )
    return f"""
        epsilon = Constant <value_float: float = @epsilon> ()
        by_group = Constant <value_ints = [0, 0, {groups}, {channels // groups}]> ()
        flat = Constant <value_ints = [0, 0, {channels}]> ()
        {silu_lines("gate", "silu")}
        gated = Mul (x, silu)
        grouped = Reshape (gated, by_group)
        {root_mean_square_lines("grouped", "root", "epsilon")}
        divided = Div (grouped, root)
        merged = Reshape (divided, flat)
        normed = Mul (merged, norm_weight)
        {rotate}
    """
