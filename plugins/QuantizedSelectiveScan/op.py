"""Mamba-1's selective scan on int8 codes: dequantize, softplus, recurrence, skip and gate.

The state is carried: fp16 or fp32 as it stands, int8 on the calibrated `state_scale` (1 for a float state).
It is rounded once, at the end of a call: after every token in decode, after the chunk in prefill.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import (
    DOUBLE,
    FLOAT,
    silu_lines,
    softplus_lines,
    state_in_lines,
    state_out_lines,
)
from quamba_export.plugins.common.precise import silu, softplus
from quamba_export.plugins.common.quantization import dequantize, quantize

SPEC = OpSpec(
    name="QuantizedSelectiveScan",
    inputs=(
        Tensor("u", "int8", "B L E"),
        Tensor("dt", "int8", "B L E"),
        Tensor("A_log", "int8", "E N"),
        Tensor("B", "int8", "B L N"),
        Tensor("C", "int8", "B L N"),
        Tensor("D", "int8", "E"),
        Tensor("z", "int8", "B L E"),
        Tensor("dt_bias", "int8", "E"),
        Tensor("state", ("float16", "float32", "int8"), "B E N"),
    ),
    outputs=(
        Tensor("y", "float32", "B L E"),
        Tensor("state_out", ("float16", "float32", "int8"), "B E N", aliases="state"),
    ),
    attrs=tuple(
        Attr(f"{name}_scale", "float")
        for name in ("u", "dt", "A_log", "B", "C", "D", "z", "dt_bias", "state")
    ),
)


def reference(
    u: T,
    dt: T,
    A_log: T,
    B: T,
    C: T,
    D: T,
    z: T,
    dt_bias: T,
    state: T,
    *,
    u_scale: float,
    dt_scale: float,
    A_log_scale: float,
    B_scale: float,
    C_scale: float,
    D_scale: float,
    z_scale: float,
    dt_bias_scale: float,
    state_scale: float,
) -> tuple[T, T]:
    """h = exp(dt A) h + dt u B;  y = (h C + D u) silu(z), with A = -exp(A_log), dt = softplus(dt + dt_bias).

    Rounded to fp32: every dequantized value, dt + dt_bias, h C + D u, silu(z), y and the final h.

    Source: Mamba (arXiv 2312.00752), equation 2 and algorithm 2; Quamba, section 4.
    """
    A = -torch.exp(dequantize(A_log, A_log_scale).double())  # (E, N)
    step = softplus((dequantize(dt, dt_scale) + dequantize(dt_bias, dt_bias_scale)).double())  # (B, L, E)
    u_wide = dequantize(u, u_scale).double()  # (B, L, E)
    B_wide, C_wide = dequantize(B, B_scale).double(), dequantize(C, C_scale).double()  # (B, L, N)
    h = (dequantize(state, state_scale) if state.dtype == torch.int8 else state).double()  # (B, E, N)
    inputs = step * u_wide  # (B, L, E)
    outputs = torch.empty_like(u_wide)
    for t in range(u.shape[1]):
        h = h * torch.exp(step[:, t, :, None] * A) + inputs[:, t, :, None] * B_wide[:, t, None, :]
        outputs[:, t] = (h @ C_wide[:, t, :, None]).squeeze(-1)
    y = (outputs + dequantize(D, D_scale) * u_wide).float() * silu(dequantize(z, z_scale))
    h = h.float()
    return y, quantize(h, state_scale) if state.dtype == torch.int8 else h.to(state.dtype)


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops: a Scan over the length; the body differs by the state's dtype.

    DequantizeLinear goes without a zero point: with session.x64quantprecision, ONNX Runtime 1.31 cannot load
    a graph in which two constants share one.
    """
    scales = "\n".join(f"{a.name} = Constant <value_float: float = @{a.name}> ()" for a in SPEC.attrs)
    return f"""
        {scales}
        last = Constant <value_ints = [-1]> ()
        middle = Constant <value_ints = [1]> ()
        A_log_f = DequantizeLinear (A_log, A_log_scale)
        A_wide = Cast <to = {DOUBLE}> (A_log_f)
        A_exp = Exp (A_wide)
        A = Neg (A_exp)
        dt_f = DequantizeLinear (dt, dt_scale)
        dt_bias_f = DequantizeLinear (dt_bias, dt_bias_scale)
        dt_sum = Add (dt_f, dt_bias_f)
        dt_wide = Cast <to = {DOUBLE}> (dt_sum)
        {softplus_lines("dt_wide", "step")}
        u_f = DequantizeLinear (u, u_scale)
        u_wide = Cast <to = {DOUBLE}> (u_f)
        B_f = DequantizeLinear (B, B_scale)
        B_wide = Cast <to = {DOUBLE}> (B_f)
        C_f = DequantizeLinear (C, C_scale)
        C_wide = Cast <to = {DOUBLE}> (C_f)
        D_f = DequantizeLinear (D, D_scale)
        D_wide = Cast <to = {DOUBLE}> (D_f)
        z_f = DequantizeLinear (z, z_scale)
        inputs = Mul (step, u_wide)
        {state_in_lines("state", "h_0", dtypes["state"], "state_scale")}
        h_last, scanned = Scan <
            num_scan_inputs = 4, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1], body =
            selective_scan_step (
                double[B, E, N] h, double[B, E] step_t, double[B, E] inputs_t, double[B, N] B_t,
                double[B, N] C_t
            ) => (double[B, E, N] h_next, double[B, E] y_t) {{
                step_column = Unsqueeze (step_t, last)
                exponent = Mul (step_column, A)
                decay = Exp (exponent)
                kept = Mul (h, decay)
                input_column = Unsqueeze (inputs_t, last)
                B_row = Unsqueeze (B_t, middle)
                added = Mul (input_column, B_row)
                h_next = Add (kept, added)
                C_column = Unsqueeze (C_t, last)
                y_column = MatMul (h_next, C_column)
                y_t = Squeeze (y_column, last)
            }}> (h_0, step, inputs, B_wide, C_wide)
        skip = Mul (D_wide, u_wide)
        skipped_wide = Add (scanned, skip)
        skipped = Cast <to = {FLOAT}> (skipped_wide)
        {silu_lines("z_f", "z_silu")}
        y = Mul (skipped, z_silu)
        {state_out_lines("h_last", "state_out", dtypes["state"], "state_scale")}
    """
