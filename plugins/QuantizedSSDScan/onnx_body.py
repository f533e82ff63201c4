"""The SSD scan in standard ONNX ops: one recurrence step for a single token, a Scan over chunks otherwise.

The groups and heads are fixed in the body. Everything between the dequantized inputs and y is fp64.
"""

from __future__ import annotations

from collections.abc import Mapping

from quamba_export.plugins.common.contract import Size
from quamba_export.plugins.common.onnx_text import (
    DOUBLE,
    FLOAT,
    softplus_lines,
    state_in_lines,
    state_out_lines,
)

CHUNK = 64  # tokens a matrix product covers; a shorter call is one chunk of its own length


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """Function body of the op; see op.py for the formula."""
    groups, heads, channels, n_state = (int(sizes[letter]) for letter in "GHPN")
    return f"""
        {_input_lines(dtypes["state"])}
        length = Shape <start = 1, end = 2> (x)
        is_step = Equal (length, one)
        is_step_scalar = Squeeze (is_step, zero)
        {_shape_lines(groups, heads, channels, n_state)}
        h_last, y_scanned = If (is_step_scalar) <
            then_branch = step_branch () => (double[B, H, P, N] h_then, double[B, L, H, P] y_then) {{
                {_STEP}
            }},
            else_branch = chunk_branch () => (double[B, H, P, N] h_else, double[B, L, H, P] y_else) {{
                {_chunk_lines(heads, channels, groups, n_state)}
                h_else, y_chunks = Scan <
                    num_scan_inputs = 4, scan_input_axes = [1, 1, 1, 1], scan_output_axes = [1], body =
                    ssd_chunk (
                        double[B, H, P, N] h, double[B, Q, H, P] x_q, double[B, Q, H] step_q,
                        double[B, Q, G, N] B_q, double[B, Q, G, N] C_q
                    ) => (double[B, H, P, N] h_next, double[B, H, Q, P] y_q) {{
                        {_CHUNK_STEP}
                    }}> (h_0, x_chunks, step_chunks, B_chunks, C_chunks)
                y_tokens = Transpose <perm = [0, 1, 3, 2, 4]> (y_chunks)
                y_padded = Reshape (y_tokens, x_flat)
                y_else = Slice (y_padded, zero, length, one)
            }}>
        D_wide = Cast <to = {DOUBLE}> (D)
        D_column = Unsqueeze (D_wide, last)
        skip = Mul (D_column, x_wide)
        y_wide = Add (y_scanned, skip)
        y = Cast <to = {FLOAT}> (y_wide)
        {state_out_lines("h_last", "state_out", dtypes["state"], "h_scale")}
    """


_STEP = """
                step_exponent = Mul (step, A)
                step_decay = Exp (step_exponent)
                step_decay_g = Reshape (step_decay, step_scalar)
                step_column = Unsqueeze (step, last)
                step_weighted = Mul (step_column, x_wide)
                step_inputs = Reshape (step_weighted, step_x)
                step_B = Reshape (B_wide, step_row)
                step_C = Reshape (C_wide, step_state_column)
                step_h = Reshape (h_0, state_groups)
                step_kept = Mul (step_h, step_decay_g)
                step_added = Mul (step_inputs, step_B)
                step_next = Add (step_kept, step_added)
                step_y = MatMul (step_next, step_C)
                y_then = Reshape (step_y, step_y_shape)
                h_then = Reshape (step_next, state_heads)
"""

_CHUNK_STEP = """
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
"""


def _input_lines(state_dtype: str) -> str:
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
        dt_wide = Cast <to = {DOUBLE}> (dt_sum)
        dt_min_wide = Cast <to = {DOUBLE}> (dt_min)
        dt_max_wide = Cast <to = {DOUBLE}> (dt_max)
        {softplus_lines("dt_wide", "dt_soft")}
        step = Clip (dt_soft, dt_min_wide, dt_max_wide)
        x_codes = Cast <to = {FLOAT}> (x)
        x_scales = Gather <axis = 0> (x_scale, scale_index)
        x_f = Mul (x_codes, x_scales)
        x_wide = Cast <to = {DOUBLE}> (x_f)
        B_codes = Cast <to = {FLOAT}> (B)
        B_column = Unsqueeze (B_scale, last)
        B_f = Mul (B_codes, B_column)
        B_wide = Cast <to = {DOUBLE}> (B_f)
        C_codes = Cast <to = {FLOAT}> (C)
        C_column = Unsqueeze (C_scale, last)
        C_f = Mul (C_codes, C_column)
        C_wide = Cast <to = {DOUBLE}> (C_f)
        A_wide = Cast <to = {DOUBLE}> (A_log)
        A_exp = Exp (A_wide)
        A = Neg (A_exp)
        h_scale = Gather <axis = 0> (state_scale, scale_index)
        {state_in_lines("state", "h_0", state_dtype, "h_scale")}
    """


def _shape_lines(groups: int, heads: int, channels: int, n_state: int) -> str:
    """Targets of the reshapes; 0 keeps the batch."""
    per_group = heads // groups
    shapes = {
        "step_scalar": [0, groups, per_group, 1, 1],
        "step_x": [0, groups, per_group, channels, 1],
        "step_row": [0, groups, 1, 1, n_state],
        "step_state_column": [0, groups, 1, n_state, 1],
        "step_y_shape": [0, 1, heads, channels],
        "x_groups": [0, groups, per_group, -1, channels],
        "step_groups": [0, groups, per_group, -1],
        "state_groups": [0, groups, per_group, channels, n_state],
        "state_heads": [0, heads, channels, n_state],
        "y_heads": [0, heads, -1, channels],
        "x_flat": [0, -1, heads, channels],
    }
    return "\n".join(f"{name} = Constant <value_ints = {shape}> ()" for name, shape in shapes.items())


def _chunk_lines(heads: int, channels: int, groups: int, n_state: int) -> str:
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
    return f"""
        chunk_size = Constant <value_ints = [{CHUNK}]> ()
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
    """
