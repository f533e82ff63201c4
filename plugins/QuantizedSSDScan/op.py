"""Mamba-2's SSD scan on int8 codes: whole chunks of 64 tokens in integers, one fp32 recurrence behind them.

x and the int8 state share a table of head-group x channel-group scales (Quamba2): `scale_index` names, for
each head and channel, the row of `x_scale` and `state_scale`. A float state takes a `state_scale` of ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import FLOAT
from quamba_export.plugins.common.precise import exp, softplus
from quamba_export.plugins.common.quantization import dequantize
from quamba_export.plugins.common.recurrence import scan
from quamba_export.plugins.common.scan_state import CARRIED, State
from quamba_export.plugins.QuantizedSSDScan.chunk import CHUNK, Scales, scan_chunks
from quamba_export.plugins.QuantizedSSDScan.chunk_onnx import chunk_lines
from quamba_export.plugins.QuantizedSSDScan.token_onnx import (
    end_of_scan_lines,
    recurrence_lines,
    start_lines,
)

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

    Whole chunks of 64 tokens in integers (chunk.py), the tokens behind them one by one in fp32; exp and
    softplus are rounded once. Source: Mamba-2 (arXiv 2405.21060), sections 3 and 6.
    """
    scales = x_scale[scale_index], B_scale, C_scale, state_scale[scale_index]
    wide = dequantize(x, scales[0]), dequantize(dt, dt_scale)
    return chunked_scan(x, wide, A_log, B, C, D, dt_bias, scales, state, (dt_min, dt_max))


def chunked_scan(
    x: T,
    wide: tuple[T, T],
    A_log: T,
    B: T,
    C: T,
    D: T,
    dt_bias: T,
    scales: tuple[T, T, T, T],
    state: T,
    limits: tuple[float, float],
) -> tuple[T, T]:
    """The reference of either x, int8 or fp32; wide: x and dt in fp32.

    scales: of x (H, P), B and C (G), the state (H, P, N).
    """
    x_scales, B_scale, C_scale, state_scales = scales
    whole, parts = x.shape[1] // CHUNK * CHUNK, []
    if whole:
        by_group = (B.shape[2], -1)
        in_groups = Scales(
            x_scales.unflatten(0, by_group),
            B_scale[:, None, None],
            C_scale[:, None, None],
            state_scales.unflatten(0, by_group),
        )
        step, decay = steps(wide[1][:, :whole], A_log, dt_bias, limits)
        y, state = scan_chunks(x[:, :whole], step, decay, B[:, :whole], C[:, :whole], in_groups, state)
        parts.append(y + D[:, None] * wide[0][:, :whole])
    if whole < x.shape[1]:
        y, state = ssd_scan(
            wide[0][:, whole:],
            wide[1][:, whole:],
            A_log,
            dequantize(B[:, whole:], B_scale[:, None]),
            dequantize(C[:, whole:], C_scale[:, None]),
            D,
            dt_bias,
            state_scales,
            state,
            limits,
        )
        parts.append(y)
    return torch.cat(parts, dim=1), state


def ssd_scan(
    x: T,
    dt: T,
    A_log: T,
    B: T,
    C: T,
    D: T,
    dt_bias: T,
    state_scale: T,
    state: State,
    limits: tuple[float, float],
) -> tuple[T, State]:
    """The reference behind the dequantization: all but the state is fp32, in the contract's shapes.

    state_scale (H, P, N) is read for an int8 state only.
    """
    groups = B.shape[2]
    step, decay = steps(dt, A_log, dt_bias, limits)
    inputs = step[..., None] * x  # (B, L, H, P)
    decay = decay.unflatten(2, (groups, -1))[..., None, None]  # (B, L, G, H/G, 1, 1)
    inputs = inputs.unflatten(2, (groups, -1))[..., None]  # (B, L, G, H/G, P, 1)
    scale = state_scale.unflatten(0, (groups, -1))  # (G, H/G, P, N)
    y, h = scan(
        state.unflatten(1, (groups, -1)),  # (B, G, H/G, P, N)
        scale,
        lambda t: decay[:, t],
        inputs,
        B[..., None, None, :],  # (B, L, G, 1, 1, N)
        C[..., None, None, :],
    )
    return y.flatten(2, 3) + D[:, None] * x, h.flatten(1, 2)


def steps(dt: T, A_log: T, dt_bias: T, limits: tuple[float, float]) -> tuple[T, T]:
    """Step and decay (B, L, H) of every token and head, fp32."""
    step = softplus(dt + dt_bias).clamp(*(_fp32(limit) for limit in limits))
    return step, exp(step * -exp(A_log))


def _fp32(limit: float) -> float:
    """The value that ONNX and a plugin hold."""
    return float(torch.tensor(limit))


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops. Groups, heads, P and N are fixed in the body."""
    return chunked_body(sizes, dtypes["x"], dtypes["state"])


def chunked_body(sizes: Mapping[str, Size], x_dtype: str, dtype: str) -> str:
    """chunked_scan of x of a dtype, with a state of `dtype`."""

    def outputs(name: str) -> str:
        return f"(float[b, l, h, p] y_{name}, {CARRIED[dtype]}[b, g, r, p, n] h_{name})"

    return f"""
        {_WIDENED}
        {_X_CODES if x_dtype == "int8" else "x_f = Identity (x)"}
        {start_lines(sizes, dtype)}
        length = Shape <start = 1, end = 2> (x)
        chunk_length = Constant <value_ints = [{CHUNK}]> ()
        has_chunks = GreaterOrEqual (length, chunk_length)
        y_scanned, h_last = If <
            then_branch = chunks () => {outputs("all")} {{
                chunk_count = Div (length, chunk_length)
                whole = Mul (chunk_count, chunk_length)
                {chunk_lines(sizes, x_dtype, dtype)}
                has_rest = Less (whole, length)
                y_all, h_all = If <
                    then_branch = rest () => {outputs("joined")} {{
                        {"".join(f"{name}_rest = Slice ({name}, whole, length, at_1)" for name in _BY_TOKEN)}
                        {_ROWS.format(tokens="_rest")}
                        {recurrence_lines(sizes, dtype, "_rest", "h_behind -> y_rest, h_joined")}
                        y_joined = Concat <axis = 1> (y_chunks, y_rest)
                    }},
                    else_branch = no_rest () => {outputs("same")} {{
                        y_same = Identity (y_chunks)
                        h_same = Identity (h_behind)
                    }}> (has_rest)
            }},
            else_branch = tokens () => {outputs("tokens")} {{
                {_ROWS.format(tokens="")}
                {recurrence_lines(sizes, dtype, "", "h_0 -> y_tokens, h_tokens")}
            }}> (has_chunks)
        {end_of_scan_lines(sizes, dtype)}
    """


_BY_TOKEN = ("x_f", "step", "decay_f", "B", "C")

_WIDENED = """
        scale_axis = Constant <value_ints = [-1]> ()
        dt_scale = Constant <value_float: float = @dt_scale> ()
        dt_f = DequantizeLinear (dt, dt_scale)
        x_scales = Gather <axis = 0> (x_scale, scale_index)
        B_column = Unsqueeze (B_scale, scale_axis)
        C_column = Unsqueeze (C_scale, scale_axis)
        h_scales = Gather <axis = 0> (state_scale, scale_index)
"""

_X_CODES = f"""
        x_codes = Cast <to = {FLOAT}> (x)
        x_f = Mul (x_codes, x_scales)
"""

_ROWS = f"""
        B_codes = Cast <to = {FLOAT}> (B{{tokens}})
        B_f{{tokens}} = Mul (B_codes, B_column)
        C_codes = Cast <to = {FLOAT}> (C{{tokens}})
        C_f{{tokens}} = Mul (C_codes, C_column)
"""
