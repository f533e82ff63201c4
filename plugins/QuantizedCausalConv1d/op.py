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
    length, width = x.shape[1], weight.shape[1]
    codes = torch.cat([state.transpose(1, 2), x], dim=1)  # (B, W-1+L, C)
    taps = weight.T.float()  # (W, C)
    total = sum(codes[:, k : k + length].float() * taps[k] for k in range(width))  # (B, L, C)
    value = torch.as_tensor(total) * (x_scale * weight_scale) + bias
    y = quantize(silu(value), out_scale)  # (B, L, C)
    return y, codes[:, codes.shape[1] - (width - 1) :].transpose(1, 2).contiguous()


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops, one Slice and Mul a tap."""
    width = int(sizes["W"])
    lines = [
        f"""
        time = Constant <value_ints = [1]> ()
        rows = Constant <value_ints = [0]> ()
        end = Constant <value_ints = [9223372036854775807]> ()
        past = Transpose <perm = [0, 2, 1]> (state)
        codes = Concat <axis = 1> (past, x)
        codes_f = Cast <to = {FLOAT}> (codes)
        taps_i = Transpose <perm = [1, 0]> (weight)
        taps = Cast <to = {FLOAT}> (taps_i)
        """
    ]
    for k in range(width):
        stop = f"Constant <value_ints = [{k - width + 1}]> ()" if k < width - 1 else "Identity (end)"
        lines.append(f"""
        from_{k} = Constant <value_ints = [{k}]> ()
        to_{k} = {stop}
        tap_to_{k} = Constant <value_ints = [{k + 1}]> ()
        tap_{k} = Slice (taps, from_{k}, tap_to_{k}, rows)
        codes_{k} = Slice (codes_f, from_{k}, to_{k}, time)
        product_{k} = Mul (codes_{k}, tap_{k})
        """)
        lines.append(
            "sum_0 = Identity (product_0)" if k == 0 else f"sum_{k} = Add (sum_{k - 1}, product_{k})"
        )
    lines.append(f"""
        scale = Mul (x_scale, weight_scale)
        scaled = Mul (sum_{width - 1}, scale)
        value = Add (scaled, bias)
        {silu_lines("value", "activated")}
        {quantize_lines("activated", "y", "out_scale")}
        keep = Constant <value_ints = [{1 - width}]> ()
        last = Slice (codes, keep, end, time)
        state_out = Transpose <perm = [0, 2, 1]> (last)
        """)
    return "\n".join(lines)
