"""The recurrence of QuantizedSSDScan and HalfSSDScan in standard ONNX ops: a Scan over the tokens."""

from __future__ import annotations

from collections.abc import Mapping

from quamba_export.plugins.common.contract import Size
from quamba_export.plugins.common.onnx_text import exp_lines, softplus_lines
from quamba_export.plugins.common.recurrence import tree_sum_lines
from quamba_export.plugins.common.scan_state import (
    CARRIED,
    begin_lines,
    end_lines,
    has_row_scales,
    loaded_lines,
    stored_lines,
)


def ssd_scan_lines(sizes: Mapping[str, Size], kind: str) -> str:
    """ssd_scan of x_f, dt_f, A_log, B_f, C_f, D, dt_bias and `state` of `kind`: its dtype or rows.

    h_scales (H, P, N) is read for an int8 state only.
    """
    return f"""
        {start_lines(sizes, kind)}
        {recurrence_lines(sizes, kind, "", "h_0 -> y_scanned, h_last")}
        {end_of_scan_lines(sizes, kind)}
    """


def start_lines(sizes: Mapping[str, Size], kind: str) -> str:
    """The shapes, step and decay_f (B, L, H), and the state as h_0 (B, G, H/G, P, N)."""
    groups, heads, channels, n_state = (int(sizes[letter]) for letter in "GHPN")
    per_group, held = heads // groups, n_state + has_row_scales(kind)  # numbers a loop carries of a row
    shapes = {  # 0 keeps batch and length
        "heads_shape": [0, 0, groups, per_group, 1, 1],
        "channels_shape": [0, 0, groups, per_group, channels, 1],
        "rows_shape": [0, 0, groups, 1, 1, n_state],
        "state_shape": [0, groups, per_group, channels, held],
        "scale_shape": [groups, per_group, channels, n_state],
        "y_shape": [0, 0, heads, channels],
        "state_out_shape": [0, heads, channels, held],
    }
    shape_lines = "\n".join(f"{name} = Constant <value_ints = {shape}> ()" for name, shape in shapes.items())
    return f"""
        {shape_lines}
        {_STEPS}
        {"h_scale = Reshape (h_scales, scale_shape)" if kind == "int8" else ""}
        {begin_lines("state", "held_0", kind)}
        h_0 = Reshape (held_0, state_shape)
    """


def recurrence_lines(sizes: Mapping[str, Size], kind: str, tokens: str, states: str) -> str:
    """The tokens x_f, step, decay_f, B_f and C_f, named with `tokens` behind, one by one.

    states: "h -> y, h_next" names the state before and what comes out: y (B, L, H, P) without D x, the state.
    """
    begin, results = states.split(" -> ")
    y, behind = results.split(", ")
    return f"""
        decay{tokens}_rows = Reshape (decay_f{tokens}, heads_shape)
        step_column{tokens} = Unsqueeze (step{tokens}, last)
        weighted_x{tokens} = Mul (step_column{tokens}, x_f{tokens})
        inputs{tokens} = Reshape (weighted_x{tokens}, channels_shape)
        B_rows{tokens} = Reshape (B_f{tokens}, rows_shape)
        C_rows{tokens} = Reshape (C_f{tokens}, rows_shape)
        {behind}, {y}_heads = Scan <
            num_scan_inputs = 4, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1], body =
            token (
                {CARRIED[kind]}[B, G, R, P, M] held, float[B, G, R, I, I] decay_t,
                float[B, G, R, P, I] inputs_t, float[B, G, I, I, N] B_t, float[B, G, I, I, N] C_t
            ) => ({CARRIED[kind]}[B, G, R, P, M] held_next, float[B, G, R, P, I] y_t) {{
                {loaded_lines("held", "h", kind, "h_scale", int(sizes["N"]))}
                kept = Mul (h, decay_t)
                added_t = Mul (inputs_t, B_t)
                h_next = Add (kept, added_t)
                read = Mul (h_next, C_t)
                {tree_sum_lines("read", "y_t", int(sizes["N"]))}
                {stored_lines("h_next", "held_next", kind, "h_scale")}
            }}> ({begin}, decay{tokens}_rows, inputs{tokens}, B_rows{tokens}, C_rows{tokens})
        {y} = Reshape ({y}_heads, y_shape)
    """


def end_of_scan_lines(sizes: Mapping[str, Size], kind: str) -> str:
    """The op's outputs of y_scanned and h_last."""
    return f"""
        D_column = Unsqueeze (D, last)
        skip = Mul (D_column, x_f)
        y = Add (y_scanned, skip)
        held_last = Reshape (h_last, state_out_shape)
        {end_lines("held_last", "state_out", kind, int(sizes["N"]))}
    """


_STEPS = f"""
        last = Constant <value_ints = [-1]> ()
        dt_min = Constant <value_float: float = @dt_min> ()
        dt_max = Constant <value_float: float = @dt_max> ()
        dt_sum = Add (dt_f, dt_bias)
        {softplus_lines("dt_sum", "dt_soft")}
        step = Clip (dt_soft, dt_min, dt_max)
        {exp_lines("A_log", "A_negative")}
        A = Neg (A_negative)
        exponent = Mul (step, A)
        {exp_lines("exponent", "decay_f")}
"""
