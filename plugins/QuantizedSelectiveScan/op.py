"""Mamba-1's selective scan on int8 codes: dequantize, softplus, recurrence, skip and gate.

The state is carried: fp16 or fp32 as it stands, int8 on the calibrated `state_scale` (1 for a float state).
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import exp_lines, silu_lines, softplus_lines
from quamba_export.plugins.common.precise import exp, silu, softplus
from quamba_export.plugins.common.quantization import dequantize
from quamba_export.plugins.common.recurrence import scan, tree_sum_lines
from quamba_export.plugins.common.scan_state import (
    CARRIED,
    State,
    begin_lines,
    end_lines,
    loaded_lines,
    stored_lines,
)

SPEC = OpSpec(
    name="QuantizedSelectiveScan",
    inputs=(
        Tensor("x", "int8", "B L E"),
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
        for name in ("x", "dt", "A_log", "B", "C", "D", "z", "dt_bias", "state")
    ),
)


def reference(
    x: T,
    dt: T,
    A_log: T,
    B: T,
    C: T,
    D: T,
    z: T,
    dt_bias: T,
    state: State,
    *,
    x_scale: float,
    dt_scale: float,
    A_log_scale: float,
    B_scale: float,
    C_scale: float,
    D_scale: float,
    z_scale: float,
    dt_bias_scale: float,
    state_scale: float,
) -> tuple[T, State]:
    """h = exp(dt A) h + dt x B;  y = (h C + D x) silu(z), with A = -exp(A_log), dt = softplus(dt + dt_bias).

    fp32 throughout; exp, softplus and silu are rounded once.
    Source: Mamba (arXiv 2312.00752), equation 2 and algorithm 2; Quamba, section 4.
    """
    return selective_scan(
        dequantize(x, x_scale),
        dequantize(dt, dt_scale),
        dequantize(A_log, A_log_scale),
        dequantize(B, B_scale),
        dequantize(C, C_scale),
        dequantize(D, D_scale),
        dequantize(z, z_scale),
        dequantize(dt_bias, dt_bias_scale),
        state,
        state_scale,
    )


def selective_scan(
    x: T, dt: T, A_log: T, B: T, C: T, D: T, z: T, dt_bias: T, state: State, state_scale: float
) -> tuple[T, State]:
    """The reference behind the dequantization: all but the state is fp32, in the contract's shapes."""
    A = -exp(A_log)  # (E, N)
    step = softplus(dt + dt_bias)  # (B, L, E)
    y, h = scan(
        state,
        state_scale,
        lambda t: exp(step[:, t, :, None] * A),  # (B, E, N)
        (step * x)[..., None],  # (B, L, E, 1)
        B[:, :, None, :],  # (B, L, 1, N)
        C[:, :, None, :],
    )
    return (y + D * x) * silu(z), h


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops: a Scan over the length. N and the state's dtype are fixed in the body.

    DequantizeLinear goes without a zero point: with session.x64quantprecision, ONNX Runtime 1.31 cannot load
    a graph in which two constants share one.
    """
    scales = "\n".join(f"{name} = Constant <value_float: float = @{name}> ()" for name in attrs)
    names = (tensor.name for tensor in SPEC.inputs[:-1])
    widened = "\n".join(f"{name}_f = DequantizeLinear ({name}, {name}_scale)" for name in names)
    return f"""
        {scales}
        {widened}
        {selective_scan_lines(dtypes["state"], int(sizes["N"]))}
    """


def selective_scan_lines(kind: str, n_state: int) -> str:
    """selective_scan of x_f, dt_f, A_log_f, ... and `state` of `kind`: its dtype or rows (scan_state.py).

    state_scale is read for int8 only.
    """
    return f"""
        last = Constant <value_ints = [-1]> ()
        middle = Constant <value_ints = [1]> ()
        {exp_lines("A_log_f", "A_negative")}
        A = Neg (A_negative)
        dt_sum = Add (dt_f, dt_bias_f)
        {softplus_lines("dt_sum", "step")}
        inputs = Mul (step, x_f)
        {begin_lines("state", "h_0", kind)}
        h_last, scanned = Scan <
            num_scan_inputs = 4, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1], body =
            token (
                {CARRIED[kind]}[B, E, M] held, float[B, E] step_t, float[B, E] inputs_t, float[B, N] B_t,
                float[B, N] C_t
            ) => ({CARRIED[kind]}[B, E, M] held_next, float[B, E, I] y_t) {{
                {loaded_lines("held", "h", kind, "state_scale", n_state)}
                step_column = Unsqueeze (step_t, last)
                exponent = Mul (step_column, A)
                {exp_lines("exponent", "decay")}
                kept = Mul (h, decay)
                input_column = Unsqueeze (inputs_t, last)
                B_row = Unsqueeze (B_t, middle)
                added = Mul (input_column, B_row)
                h_next = Add (kept, added)
                C_row = Unsqueeze (C_t, middle)
                read = Mul (h_next, C_row)
                {tree_sum_lines("read", "y_t", n_state)}
                {stored_lines("h_next", "held_next", kind, "state_scale")}
            }}> (h_0, step, inputs, B_f, C_f)
        {end_lines("h_last", "state_out", kind, n_state)}
        y_read = Squeeze (scanned, last)
        skip = Mul (D_f, x_f)
        skipped = Add (y_read, skip)
        {silu_lines("z_f", "z_silu")}
        y = Mul (skipped, z_silu)
    """
