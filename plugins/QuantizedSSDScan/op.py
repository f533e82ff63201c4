"""Mamba-2's SSD scan on int8 codes: chunked matrix products in prefill, one recurrence step in decode.

x and the int8 state share a table of head-group x channel-group scales (Quamba2): `scale_index` names, for
each head and channel, the row of `x_scale` and `state_scale`. A float state takes a `state_scale` of ones.
The state is rounded once, at the end of a call.
"""

from __future__ import annotations

import torch
from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Tensor
from quamba_export.plugins.common.precise import softplus
from quamba_export.plugins.common.quantization import dequantize, quantize
from quamba_export.plugins.QuantizedSSDScan.onnx_body import CHUNK, onnx_body

__all__ = ["SPEC", "onnx_body", "reference"]

SPEC = OpSpec(
    name="QuantizedSSDScan",
    inputs=(
        Tensor("x", "int8", "B L H P"),
        Tensor("dt", "int8", "B L H"),
        Tensor("A_log", "float32", "H"),
        Tensor("B", "int8", "B L G N"),
        Tensor("C", "int8", "B L G N"),
        Tensor("D", "float32", "H"),
        Tensor("dt_bias", "float32", "H"),
        Tensor("x_scale", "float32", "S"),
        Tensor("B_scale", "float32", "G"),
        Tensor("C_scale", "float32", "G"),
        Tensor("state_scale", "float32", "S N"),
        Tensor("scale_index", "int32", "H P"),
        Tensor("state", ("float16", "float32", "int8"), "B H P N"),
    ),
    outputs=(
        Tensor("y", "float32", "B L H P"),
        Tensor("state_out", ("float16", "float32", "int8"), "B H P N", aliases="state"),
    ),
    attrs=(
        Attr("dt_scale", "float"),
        Attr("dt_min", "float", "any"),
        Attr("dt_max", "float", "any"),
    ),
    multiples=(("H", "G"),),
)


def reference(
    x: T,
    dt: T,
    A_log: T,
    B: T,
    C: T,
    D: T,
    dt_bias: T,
    x_scale: T,
    B_scale: T,
    C_scale: T,
    state_scale: T,
    scale_index: T,
    state: T,
    *,
    dt_scale: float,
    dt_min: float,
    dt_max: float,
) -> tuple[T, T]:
    """h = exp(dt A) h + dt x B^T;  y = h C + D x, with A = -exp(A_log), dt = clamp(softplus(dt + dt_bias)).

    Rounded to fp32: every dequantized value, dt + dt_bias, y and the final h.
    Source: Mamba-2 (arXiv 2405.21060), section 6 and listing 1; Quamba2, section 4.
    """
    length, chunk = x.shape[1], min(x.shape[1], CHUNK)
    limits = (float(torch.tensor(limit)) for limit in (dt_min, dt_max))  # fp32 values, as ONNX holds them
    step = softplus((dequantize(dt, dt_scale) + dt_bias).double()).clamp(*limits)  # (B, L, H)
    x_wide = dequantize(x, x_scale[scale_index]).double()  # (B, L, H, P)
    B_wide = dequantize(B, B_scale[:, None]).double()  # (B, L, G, N)
    C_wide = dequantize(C, C_scale[:, None]).double()  # (B, L, G, N)
    A = -torch.exp(A_log.double())
    quantized = state.dtype == torch.int8
    h = (dequantize(state, state_scale[scale_index]) if quantized else state).double()  # (B, H, P, N)
    outputs = []
    for start in range(0, length, chunk):
        part = slice(start, start + chunk)
        y, h = ssd_chunk(x_wide[:, part], step[:, part], A, B_wide[:, part], C_wide[:, part], h)
        outputs.append(y)
    y = (torch.cat(outputs, dim=1) + D[:, None] * x_wide).float()
    h = h.float()
    return y, quantize(h, state_scale[scale_index]) if quantized else h.to(state.dtype)


def ssd_chunk(x: T, step: T, A: T, B: T, C: T, h: T) -> tuple[T, T]:
    """One chunk of Q tokens in fp64 -> y (B, Q, H, P), next h.

    x (B, Q, H, P), step (B, Q, H), A (H,), B and C (B, Q, G, N), h (B, H, P, N).
    """
    groups = B.shape[2]
    inputs = (step[..., None] * x).transpose(1, 2).unflatten(1, (groups, -1))  # (B, G, H/G, Q, P)
    total = torch.cumsum(step * A, dim=1).transpose(1, 2).unflatten(1, (groups, -1))  # (B, G, H/G, Q)
    B, C = B.transpose(1, 2).unsqueeze(2), C.transpose(1, 2).unsqueeze(2)  # (B, G, 1, Q, N)
    h = h.unflatten(1, (groups, -1))  # (B, G, H/G, P, N)
    between = total[..., :, None] - total[..., None, :]  # (B, G, H/G, Q, Q): log decay from j to i
    causal = torch.ones(between.shape[-2:], dtype=torch.bool, device=x.device).tril()
    decay = torch.exp(between.masked_fill(~causal, float("-inf")))
    inside = (C @ B.transpose(-1, -2) * decay) @ inputs  # (B, G, H/G, Q, P)
    carried = (h @ C.transpose(-1, -2)).transpose(-1, -2) * torch.exp(total)[..., None]
    to_end = torch.exp(total[..., -1:] - total)[..., None]  # (B, G, H/G, Q, 1)
    h = h * torch.exp(total[..., -1])[..., None, None] + (inputs * to_end).transpose(-1, -2) @ B
    return (inside + carried).flatten(1, 2).transpose(1, 2), h.flatten(1, 2)
