"""Depthwise causal convolution and SiLU on int8 codes, with the last W-1 inputs as carried state.

Every channel has its own input, weight and output scale, so one call serves Mamba-1 (one scale repeated),
Mamba-2 (x, B and C side by side) and Quamba2's piecewise output scales.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor as T

from quamba_export.plugins.common.contract import OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import FLOAT, quantize_lines, silu_lines
from quamba_export.plugins.common.precise import silu
from quamba_export.plugins.common.quantization import quantize

SPEC = OpSpec(
    name="QuantizedCausalConv1d",
    inputs=(
        Tensor("x", "int8", "B L C"),
        Tensor("state", "int8", "B C W-1"),
        Tensor("weight", "int8", "C W"),
        Tensor("x_scale", "float32", "C"),
        Tensor("weight_scale", "float32", "C"),
        Tensor("bias", "float32", "C"),
        Tensor("out_scale", "float32", "C"),
    ),
    outputs=(Tensor("y", "int8", "B L C"), Tensor("state_out", "int8", "B C W-1", aliases="state")),
)


def reference(x: T, state: T, weight: T, x_scale: T, weight_scale: T, bias: T, out_scale: T) -> tuple[T, T]:
    """y = quantize(silu(conv * (x_scale * weight_scale) + bias), out_scale) (Quamba, section 4.2).

    The sum over the W taps is of integers below 2^24, exact in fp32 in any order. Code 0 stands for the
    zeros before the first token.
    """
    total, state_out = convolve(x, state, weight)
    y = quantize(silu(total * (x_scale * weight_scale) + bias), out_scale)  # (B, L, C)
    return y, state_out


def convolve(x: T, state: T, weight: T) -> tuple[T, T]:
    """Sums over the taps (B, L, C) fp32, from the oldest input to the newest, and the next state."""
    length, width = x.shape[1], weight.shape[1]
    inputs = torch.cat([state.transpose(1, 2), x], dim=1)  # (B, W-1+L, C)
    taps = weight.T.float()  # (W, C)
    total = inputs[:, :length].float() * taps[0]
    for k in range(1, width):
        total = total + inputs[:, k : k + length].float() * taps[k]
    return total, inputs[:, inputs.shape[1] - (width - 1) :].transpose(1, 2).contiguous()


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops, one Slice and Mul a tap."""
    return onnx_lines(int(sizes["W"]))


def onnx_lines(width: int, p: str = "") -> str:
    """The body with `p` in front of every name, for ops that hold a convolution."""
    return f"""
        {convolve_lines(width, p)}
        {p}scale = Mul ({p}x_scale, {p}weight_scale)
        {p}scaled = Mul ({p}total, {p}scale)
        {p}value = Add ({p}scaled, {p}bias)
        {silu_lines(f"{p}value", f"{p}activated")}
        {quantize_lines(f"{p}activated", f"{p}y", f"{p}out_scale")}
    """


def convolve_lines(width: int, p: str = "") -> str:
    """`p`total, `p`state_out = convolve of `p`x, `p`state, `p`weight."""
    lines = [
        f"""
        {p}time = Constant <value_ints = [1]> ()
        {p}rows = Constant <value_ints = [0]> ()
        {p}end = Constant <value_ints = [9223372036854775807]> ()
        {p}past = Transpose <perm = [0, 2, 1]> ({p}state)
        {p}codes = Concat <axis = 1> ({p}past, {p}x)
        {p}codes_f = Cast <to = {FLOAT}> ({p}codes)
        {p}taps_i = Transpose <perm = [1, 0]> ({p}weight)
        {p}taps = Cast <to = {FLOAT}> ({p}taps_i)
        """
    ]
    for k in range(width):
        stop = f"Constant <value_ints = [{k - width + 1}]> ()" if k < width - 1 else f"Identity ({p}end)"
        lines.append(f"""
        {p}from_{k} = Constant <value_ints = [{k}]> ()
        {p}to_{k} = {stop}
        {p}tap_to_{k} = Constant <value_ints = [{k + 1}]> ()
        {p}tap_{k} = Slice ({p}taps, {p}from_{k}, {p}tap_to_{k}, {p}rows)
        {p}codes_{k} = Slice ({p}codes_f, {p}from_{k}, {p}to_{k}, {p}time)
        {p}product_{k} = Mul ({p}codes_{k}, {p}tap_{k})
        """)
        lines.append(
            f"{p}sum_0 = Identity ({p}product_0)"
            if k == 0
            else f"{p}sum_{k} = Add ({p}sum_{k - 1}, {p}product_{k})"
        )
    lines.append(f"""
        {p}total = Identity ({p}sum_{width - 1})
        {p}keep = Constant <value_ints = [{1 - width}]> ()
        {p}last = Slice ({p}codes, {p}keep, {p}end, {p}time)
        {p}state_out = Transpose <perm = [0, 2, 1]> ({p}last)
        """)
    return "\n".join(lines)
