"""chunk.py in standard ONNX ops: all chunks at once but for the state, which a Scan carries through them.

Tensors are (b, c, G, R, ...): batch, chunks, groups, heads a group. Sums of codes alone are exact in fp32,
the others in fp64, in whatever order a MatMul adds.
"""

from __future__ import annotations

from collections.abc import Mapping

from quamba_export.plugins.common.contract import Size
from quamba_export.plugins.common.onnx_text import DOUBLE, FLOAT
from quamba_export.plugins.common.scan_state import CARRIED, loaded_lines, stored_lines
from quamba_export.plugins.QuantizedSSDScan.chunk import CHUNK, DIGITS, SMALLEST, TILE, TILES, X_DIGITS


def chunk_lines(sizes: Mapping[str, Size], x_dtype: str, dtype: str) -> str:
    """Of the first `whole` tokens y_chunks (b, c Q, H, P), without D x, and h_behind (b, G, R, P, N).

    Reads x, B, C, step, decay_f, x_scales, B_scale, C_scale, h_0 and, for an int8 state, h_scale.
    """
    groups, heads, channels, n_state = (int(sizes[letter]) for letter in "GHPN")
    per_group = heads // groups
    constants = {  # in a shape, 0 keeps what is there
        "head_tokens": [0, -1, CHUNK, groups, per_group],
        "x_tokens": [0, -1, CHUNK, groups, per_group, channels],
        "row_tokens": [0, -1, CHUNK, groups, 1, n_state],
        "tiles_shape": [0, 0, 0, 0, TILES, TILE],
        "tokens_shape": [0, 0, 0, 0, CHUNK],
        "pairs_shape": [0, 0, 0, 0, CHUNK, CHUNK],
        "groups_shape": [groups, 1, 1, 1],
        "x_scale_shape": [groups, per_group, channels, 1],
        "y_chunks_shape": [0, -1, heads, channels],
        "at_minus_1_and_2": [-1, -2],
        "pair_axes": [-3, -4],
        **{f"at_{place}": [place] for place in (-3, -2, -1, 0, 1, TILE, TILE + 1, CHUNK - 1, CHUNK)},
    }
    lines = [f"{_name(name)} = Constant <value_ints = {value}> ()" for name, value in constants.items()]
    parts = (
        _token_lines(x_dtype),
        _weight_lines(),
        _product_lines(),
        _state_lines(dtype, n_state),
        _output_lines(),
    )
    return "\n".join((*lines, *parts))


def _name(name: str) -> str:
    return name.replace("-", "minus_")


def _cut(source: str, target: str, shape: str, perm: list[int]) -> str:
    """The whole chunks of `source` (b, L, ...)."""
    return f"""
        {target}_whole = Slice ({source}, at_0, whole, at_1)
        {target}_tokens = Reshape ({target}_whole, {shape})
        {target} = Transpose <perm = {perm}> ({target}_tokens)
    """


def _part(source: str, target: str, begin: int, end: int, axis: int) -> str:
    """`target` = entries begin to end - 1 of `source` along an axis counted from the last."""
    return f"{target} = Slice ({source}, {_name(f'at_{begin}')}, at_{end}, {_name(f'at_{axis}')})"


def _token_lines(x_dtype: str) -> str:
    cuts = [_cut(name, f"{name}_q", "head_tokens", [0, 1, 3, 4, 2]) for name in ("step", "decay_f")]
    codes = [_code_lines(name, "row_tokens") for name in ("B", "C")]
    codes.append(_code_lines("x", "x_tokens") if x_dtype == "int8" else _float_x_lines())
    return f"""
        B_groups = Reshape (B_scale, groups_shape)
        C_groups = Reshape (C_scale, groups_shape)
        x_channels = Reshape (x_scales, x_scale_shape)
        {"".join((*cuts, *codes))}
    """


def _code_lines(name: str, shape: str) -> str:
    return f"""
        {_cut(name, f"{name}_int", shape, [0, 1, 3, 4, 2, 5])}
        {name}_q = Cast <to = {FLOAT}> ({name}_int)
        {name}_wide = Cast <to = {DOUBLE}> ({name}_int)
    """


def _float_x_lines() -> str:
    """codes_of() of chunk.py of an fp32 x."""
    return f"""
        {_cut("x", "x_channel_rows", "x_tokens", [0, 1, 3, 4, 5, 2])}
        x_in_scales = Div (x_channel_rows, x_channels)
        {_fixed_point_lines("x_in_scales", "x_fixed", X_DIGITS)}
        x_channel_codes = Mul (x_fixed_rounded, x_fixed_unit)
        x_q = Transpose <perm = [0, 1, 2, 3, 5, 4]> (x_channel_codes)
        x_wide = Cast <to = {DOUBLE}> (x_q)
    """


def _weight_lines() -> str:
    """reach (b, c, G, R, Q, Q) and first (b, c, G, R, Q): weights() of chunk.py."""
    same = ", ".join(str(int(i == j)) for i in range(TILES) for j in range(TILES))
    return f"""
        tiles = Reshape (decay_f_q, tiles_shape)
        steps = Reshape (step_q, tiles_shape)
        {_products_lines("tiles", "own")}
        {_part("own", "own_ends", TILE, TILE + 1, -2)}
        {_part("own_ends", "totals_row", 0, 1, -1)}
        totals = Squeeze (totals_row, at_minus_1_and_2)
        {_products_lines("totals", "between")}
        {_part("own", "own_rows", 1, TILE + 1, -2)}
        {_part("own_rows", "begun", 0, 1, -1)}
        {_part("own_rows", "own_pairs", 1, TILE + 1, -1)}
        {_part("own_ends", "ended_row", 1, TILE + 1, -1)}
        {_part("between", "between_rows", 0, TILES, -2)}
        between_column = Unsqueeze (between_rows, at_minus_2)
        arrived = Mul (between_column, begun)
        {_part("arrived", "arrived_first", 0, 1, -1)}
        first = Reshape (arrived_first, tokens_shape)
        {_part("arrived", "arrived_tiles", 1, TILES + 1, -1)}
        ended = Squeeze (ended_row, at_minus_2)
        ended_steps = Mul (ended, steps)
        ended_pairs = Unsqueeze (ended_steps, pair_axes)
        arrived_pairs = Unsqueeze (arrived_tiles, at_minus_1)
        across = Mul (ended_pairs, arrived_pairs)
        steps_row = Unsqueeze (steps, at_minus_2)
        near_pairs = Mul (own_pairs, steps_row)
        near = Unsqueeze (near_pairs, at_minus_2)
        same_tile = Constant <value = bool[{TILES}, 1, {TILES}, 1] {{{same}}}> ()
        reach_tiles = Where (same_tile, near, across)
        reach = Reshape (reach_tiles, pairs_shape)
    """


def _products_lines(source: str, target: str) -> str:
    """products() of chunk.py: `source` (..., 8) -> `target` (..., 9, 9)."""
    parts = ", ".join(f"{target}_factor_{i}" for i in range(TILE))
    lines = [
        f"""
        {parts} = Split <axis = -1, num_outputs = {TILE}> ({source})
        {target}_nothing = Sub ({target}_factor_0, {target}_factor_0)
        {target}_one_0 = Constant <value = {_unit_row(0)}> ()
        {target}_row_0 = Add ({target}_nothing, {target}_one_0)
    """
    ]
    for i in range(TILE):
        lines.append(f"""
            {target}_one_{i + 1} = Constant <value = {_unit_row(i + 1)}> ()
            {target}_longer_{i} = Mul ({target}_row_{i}, {target}_factor_{i})
            {target}_row_{i + 1} = Add ({target}_longer_{i}, {target}_one_{i + 1})
        """)
    lines += [f"{target}_line_{i} = Unsqueeze ({target}_row_{i}, at_minus_2)" for i in range(TILE + 1)]
    lines.append(
        f"{target} = Concat <axis = -2> ({', '.join(f'{target}_line_{i}' for i in range(TILE + 1))})"
    )
    return "\n".join(lines)


def _unit_row(place: int) -> str:
    return f"float[{TILE + 1}] {{{', '.join(str(float(i == place)) for i in range(TILE + 1))}}}"


def _fixed_point_lines(source: str, target: str, digits: int = DIGITS) -> str:
    """fixed_point() of chunk.py: integers `target`, fp64, and `target`_unit, fp32, of fp32 `source`.

    (1 + 2^52) w less its product by 1 - 2^-53 is the power of two at or below w in fp64 (Rump, Ogita, Oishi,
    "Accurate floating-point summation", 2008); here half of both, for ONNX Runtime takes 1 - 2^-53 for one.
    """
    return f"""
        {target}_abs = Abs ({source})
        {target}_largest = ReduceMax <keepdims = 1> ({target}_abs, at_minus_1)
        {target}_smallest = Constant <value = float {{{SMALLEST!r}}}> ()
        {target}_above = Max ({target}_largest, {target}_smallest)
        {target}_wide = Cast <to = {DOUBLE}> ({target}_above)
        {target}_up = Constant <value = double {{{2.0**52 + 1!r}}}> ()
        {target}_half = Constant <value = double {{0.5}}> ()
        {target}_below_half = Constant <value = double {{{0.5 - 2.0**-54!r}}}> ()
        {target}_digits = Constant <value = double {{{2.0 ** (1 - digits)!r}}}> ()
        {target}_raised = Mul ({target}_wide, {target}_up)
        {target}_more = Mul ({target}_raised, {target}_half)
        {target}_less = Mul ({target}_raised, {target}_below_half)
        {target}_power = Sub ({target}_more, {target}_less)
        {target}_step = Mul ({target}_power, {target}_digits)
        {target}_unit = Cast <to = {FLOAT}> ({target}_step)
        {target}_units = Div ({source}, {target}_unit)
        {target}_rounded = Round ({target}_units)
        {target} = Cast <to = {DOUBLE}> ({target}_rounded)
    """


def _product_lines() -> str:
    """What a chunk's tokens add: inside (b, c, G, R, Q, P) to y, added (b, c, G, R, P, N) to the state."""
    return f"""
        B_turned = Transpose <perm = [0, 1, 2, 3, 5, 4]> (B_q)
        CB = MatMul (C_q, B_turned)
        mixed_f = Mul (reach, CB)
        {_fixed_point_lines("mixed_f", "mixed")}
        mixed_product = MatMul (mixed, x_wide)
        mixed_sum = Cast <to = {FLOAT}> (mixed_product)
        mixed_values = Mul (mixed_sum, mixed_unit)
        BC_groups = Mul (B_groups, C_groups)
        BCx_column = Mul (BC_groups, x_channels)
        BCx_row = Transpose <perm = [0, 1, 3, 2]> (BCx_column)
        inside = Mul (mixed_values, BCx_row)
        x_turned = Transpose <perm = [0, 1, 2, 3, 5, 4]> (x_q)
        {_part("reach", "reach_last", CHUNK - 1, CHUNK, -2)}
        weighted_f = Mul (reach_last, x_turned)
        {_fixed_point_lines("weighted_f", "weighted")}
        weighted_product = MatMul (weighted, B_wide)
        weighted_sum = Cast <to = {FLOAT}> (weighted_product)
        xB_column = Mul (x_channels, B_groups)
        added_scale = Mul (weighted_unit, xB_column)
        added = Mul (weighted_sum, added_scale)
    """


def _state_lines(dtype: str, n_state: int) -> str:
    """h_before (b, c, G, R, P, N) fp32, the state before each chunk; h_behind, that behind the last."""
    return f"""
        {_part("first", "first_last", CHUNK - 1, CHUNK, -1)}
        kept_shares = Unsqueeze (first_last, at_minus_1)
        h_behind, h_before = Scan <
            num_scan_inputs = 2, scan_input_axes = [1, 1], scan_output_axes = [1], body =
            chunk (
                {CARRIED[dtype]}[b, g, r, p, n] held_in, float[b, g, r, i, i] share,
                float[b, g, r, p, n] more
            ) => ({CARRIED[dtype]}[b, g, r, p, n] held_out, float[b, g, r, p, n] h_chunk) {{
                {loaded_lines("held_in", "h_chunk", dtype, "h_scale", n_state)}
                h_kept = Mul (h_chunk, share)
                h_sum = Add (h_kept, more)
                {stored_lines("h_sum", "held_out", dtype, "h_scale")}
            }}> (h_0, kept_shares, added)
    """


def _output_lines() -> str:
    return f"""
        {_fixed_point_lines("h_before", "before")}
        held_turned = Transpose <perm = [0, 1, 2, 3, 5, 4]> (before)
        held_product = MatMul (C_wide, held_turned)
        held_sum = Cast <to = {FLOAT}> (held_product)
        held_column = Mul (before_unit, C_groups)
        held_row = Transpose <perm = [0, 1, 2, 3, 5, 4]> (held_column)
        held_values = Mul (held_sum, held_row)
        since_begin = Unsqueeze (first, at_minus_1)
        held_y = Mul (held_values, since_begin)
        y_of_heads = Add (inside, held_y)
        y_of_tokens = Transpose <perm = [0, 1, 4, 2, 3, 5]> (y_of_heads)
        y_chunks = Reshape (y_of_tokens, y_chunks_shape)
    """
