"""Mamba-2's SSD scan on int8 codes: chunked matrix products in prefill, one recurrence step in decode.

x and the int8 state share a table of head-group x channel-group scales (Quamba2): `scale_index` names, for
each head and channel, the row of `x_scale` and `state_scale`. A float state takes a `state_scale` of ones.
The state is rounded once, at the end of a call.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import softplus_lines, state_in_lines, state_out_lines
from quamba_export.plugins.common.precise import softplus
from quamba_export.plugins.common.quantization import dequantize, quantize

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
        Attr("dt_min", "float", positive=False),
        Attr("dt_max", "float", positive=False),
    ),
)

CHUNK = 64  # tokens a matrix product covers; a shorter call is one chunk of its own length


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
    wide = dequantize(x, x_scale[scale_index]).double()  # (B, L, H, P)
    rows = dequantize(B, B_scale[:, None]).double()  # (B, L, G, N)
    columns = dequantize(C, C_scale[:, None]).double()
    A = -torch.exp(A_log.double())
    quantized = state.dtype == torch.int8
    h = (dequantize(state, state_scale[scale_index]) if quantized else state).double()  # (B, H, P, N)
    outputs = []
    for start in range(0, length, chunk):
        part = slice(start, start + chunk)
        y, h = ssd_chunk(wide[:, part], step[:, part], A, rows[:, part], columns[:, part], h)
        outputs.append(y)
    y = (torch.cat(outputs, dim=1) + D[:, None] * wide).float()
    h = h.float()
    return y, quantize(h, state_scale[scale_index]) if quantized else h.to(state.dtype)


def ssd_chunk(x: T, step: T, A: T, B: T, C: T, h: T) -> tuple[T, T]:
    """One chunk of Q tokens in fp64 -> y (B, Q, H, P), next h.

    x (B, Q, H, P), step (B, Q, H), A (H,), B and C (B, Q, G, N), h (B, H, P, N).
    """
    groups = B.shape[2]
    inputs = (step[..., None] * x).transpose(1, 2).unflatten(1, (groups, -1))  # (B, G, H/G, Q, P)
    total = torch.cumsum(step * A, dim=1).transpose(1, 2).unflatten(1, (groups, -1))  # (B, G, H/G, Q)
    rows, columns = B.transpose(1, 2).unsqueeze(2), C.transpose(1, 2).unsqueeze(2)  # (B, G, 1, Q, N)
    h = h.unflatten(1, (groups, -1))  # (B, G, H/G, P, N)
    between = total[..., :, None] - total[..., None, :]  # (B, G, H/G, Q, Q): log decay from j to i
    causal = torch.ones(between.shape[-2:], dtype=torch.bool, device=x.device).tril()
    decay = torch.exp(between.masked_fill(~causal, float("-inf")))
    inside = (columns @ rows.transpose(-1, -2) * decay) @ inputs  # (B, G, H/G, Q, P)
    carried = (h @ columns.transpose(-1, -2)).transpose(-1, -2) * torch.exp(total)[..., None]
    to_end = torch.exp(total[..., -1:] - total)[..., None]  # (B, G, H/G, Q, 1)
    h = h * torch.exp(total[..., -1])[..., None, None] + (inputs * to_end).transpose(-1, -2) @ rows
    return (inside + carried).flatten(1, 2).transpose(1, 2), h.flatten(1, 2)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops: a Scan over chunks; groups and heads are fixed in the body."""
    groups, heads, channels, n_state = (int(sizes[letter]) for letter in "GHPN")
    return f"""
        {_dequantize_lines(dtypes["state"])}
        {_chunk_lines(groups, heads, channels, n_state)}
        h_last, y_chunks = Scan <
            num_scan_inputs = 4, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1], body =
            ssd_chunk (
                double[B, H, P, N] h, double[B, Q, H, P] x_q, double[B, Q, H] step_q,
                double[B, Q, G, N] B_q, double[B, Q, G, N] C_q
            ) => (double[B, H, P, N] h_next, double[B, H, Q, P] y_q) {{
                step_column = Unsqueeze (step_q, last)
                weighted = Mul (step_column, x_q)
                weighted_h = Transpose <perm = [0, 2, 1, 3]> (weighted)
                inputs = Reshape (weighted_h, x_groups)
                exponent = Mul (step_q, A)
                total_q = CumSum (exponent, one)
                total_h = Transpose <perm = [0, 2, 1]> (total_q)
                total = Reshape (total_h, step_groups)
                B_rows = Transpose <perm = [0, 2, 1, 3]> (B_q)
                C_rows = Transpose <perm = [0, 2, 1, 3]> (C_q)
                B_columns = Transpose <perm = [0, 2, 3, 1]> (B_q)
                C_columns = Transpose <perm = [0, 2, 3, 1]> (C_q)
                h_groups = Reshape (h, state_groups)
                total_i = Unsqueeze (total, last)
                total_j = Unsqueeze (total, before_last)
                between = Sub (total_i, total_j)
                masked = Where (causal, between, minus_infinity)
                decay = Exp (masked)
                scores = MatMul (C_rows, B_columns)
                scores_g = Unsqueeze (scores, two)
                mixing = Mul (scores_g, decay)
                inside = MatMul (mixing, inputs)
                C_columns_g = Unsqueeze (C_columns, two)
                carried_t = MatMul (h_groups, C_columns_g)
                carried_h = Transpose <perm = [0, 1, 2, 4, 3]> (carried_t)
                total_exp = Exp (total_i)
                carried = Mul (carried_h, total_exp)
                y_g = Add (inside, carried)
                y_q = Reshape (y_g, y_heads)
                total_end = Gather <axis = 3> (total, minus_one)
                end_column = Unsqueeze (total_end, last)
                remaining = Sub (end_column, total)
                to_end = Exp (remaining)
                to_end_column = Unsqueeze (to_end, last)
                inputs_end = Mul (inputs, to_end_column)
                inputs_end_t = Transpose <perm = [0, 1, 2, 4, 3]> (inputs_end)
                B_rows_g = Unsqueeze (B_rows, two)
                added = MatMul (inputs_end_t, B_rows_g)
                end_exp = Exp (end_column)
                end_exp_g = Unsqueeze (end_exp, last)
                kept = Mul (h_groups, end_exp_g)
                h_next_g = Add (kept, added)
                h_next = Reshape (h_next_g, state_heads)
            }}> (h_0, x_chunks, step_chunks, B_chunks, C_chunks)
        y_tokens = Transpose <perm = [0, 1, 3, 2, 4]> (y_chunks)
        y_padded = Reshape (y_tokens, x_flat)
        y_scanned = Slice (y_padded, zero, length, one)
        D_wide = Cast <to = 11> (D)
        D_column = Unsqueeze (D_wide, last)
        skip = Mul (D_column, x_wide)
        y_wide = Add (y_scanned, skip)
        y = Cast <to = 1> (y_wide)
        {state_out_lines(dtypes["state"], "h_scale")}
    """


def _dequantize_lines(state_dtype: str) -> str:
    return f"""
        dt_scale = Constant <value_float: float = @dt_scale> ()
        dt_min = Constant <value_float: float = @dt_min> ()
        dt_max = Constant <value_float: float = @dt_max> ()
        zero_point = Constant <value = int8 {{0}}> ()
        last = Constant <value_ints = [-1]> ()
        before_last = Constant <value_ints = [-2]> ()
        zero = Constant <value_ints = [0]> ()
        one = Constant <value_ints = [1]> ()
        two = Constant <value_ints = [2]> ()
        minus_one = Constant <value_int = -1> ()
        minus_infinity = Constant <value = double {{-1.0e300}}> ()
        dt_f = DequantizeLinear (dt, dt_scale, zero_point)
        dt_sum = Add (dt_f, dt_bias)
        dt_wide = Cast <to = 11> (dt_sum)
        dt_min_wide = Cast <to = 11> (dt_min)
        dt_max_wide = Cast <to = 11> (dt_max)
        {softplus_lines("dt_wide", "dt_soft")}
        step = Clip (dt_soft, dt_min_wide, dt_max_wide)
        x_codes = Cast <to = 1> (x)
        x_scales = Gather <axis = 0> (x_scale, scale_index)
        x_f = Mul (x_codes, x_scales)
        x_wide = Cast <to = 11> (x_f)
        B_codes = Cast <to = 1> (B)
        B_column = Unsqueeze (B_scale, last)
        B_f = Mul (B_codes, B_column)
        B_wide = Cast <to = 11> (B_f)
        C_codes = Cast <to = 1> (C)
        C_column = Unsqueeze (C_scale, last)
        C_f = Mul (C_codes, C_column)
        C_wide = Cast <to = 11> (C_f)
        A_wide = Cast <to = 11> (A_log)
        A_exp = Exp (A_wide)
        A = Neg (A_exp)
        h_scale = Gather <axis = 0> (state_scale, scale_index)
        {state_in_lines(state_dtype, "h_scale")}
    """


def _chunk_lines(groups: int, heads: int, channels: int, n_state: int) -> str:
    """Pad the length to whole chunks (dt 0: no decay, no input) and fold it into (chunks, Q)."""
    folds = []
    for name, rank, tail in (
        ("x", 4, [heads, channels]),
        ("step", 3, [heads]),
        ("B", 4, [groups, n_state]),
        ("C", 4, [groups, n_state]),
    ):
        value = name if name == "step" else f"{name}_wide"
        folds.append(f"""
        {name}_pads_before = Constant <value_ints = {[0] * (rank + 1)}> ()
        {name}_pads_after = Constant <value_ints = {[0] * (rank - 2)}> ()
        {name}_pads = Concat <axis = 0> ({name}_pads_before, padding, {name}_pads_after)
        {name}_padded = Pad ({value}, {name}_pads)
        {name}_tail = Constant <value_ints = {tail}> ()
        {name}_fold = Concat <axis = 0> (zero, chunks, chunk, {name}_tail)
        {name}_chunks = Reshape ({name}_padded, {name}_fold)
        """)
    per_group = heads // groups
    return f"""
        chunk_size = Constant <value_ints = [{CHUNK}]> ()
        length = Shape <start = 1, end = 2> (x)
        chunk = Min (length, chunk_size)
        length_up = Add (length, chunk)
        length_up_less = Sub (length_up, one)
        chunks = Div (length_up_less, chunk)
        padded_length = Mul (chunks, chunk)
        padding = Sub (padded_length, length)
        {"".join(folds)}
        positions_end = Squeeze (chunk, zero)
        position_zero = Constant <value_int = 0> ()
        position_one = Constant <value_int = 1> ()
        positions = Range (position_zero, positions_end, position_one)
        positions_i = Unsqueeze (positions, last)
        causal = GreaterOrEqual (positions_i, positions)
        x_groups = Constant <value_ints = [0, {groups}, {per_group}, -1, {channels}]> ()
        step_groups = Constant <value_ints = [0, {groups}, {per_group}, -1]> ()
        state_groups = Constant <value_ints = [0, {groups}, {per_group}, {channels}, {n_state}]> ()
        state_heads = Constant <value_ints = [0, {heads}, {channels}, {n_state}]> ()
        y_heads = Constant <value_ints = [0, {heads}, -1, {channels}]> ()
        x_flat = Constant <value_ints = [0, -1, {heads}, {channels}]> ()
    """
