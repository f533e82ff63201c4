"""QuantizedSSDScan with an int8 state whose scales are found when it is written: one a head and channel.

The state is held rotated over N (common/rotation.py), in a basis in which one scale serves a row.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.onnx_text import FLOAT
from quamba_export.plugins.common.quantization import dequantize
from quamba_export.plugins.common.rotation import rotated, rotated_lines, rotation_size
from quamba_export.plugins.common.scan_state import row_scaled, rows_kind
from quamba_export.plugins.QuantizedSSDScan.op import SPEC as STATIC
from quamba_export.plugins.QuantizedSSDScan.op import ssd_scan
from quamba_export.plugins.QuantizedSSDScan.token_onnx import ssd_scan_lines

SPEC = OpSpec(
    name="DynamicStateSSDScan",
    inputs=(
        *(tensor for tensor in STATIC.inputs if tensor.name not in ("state_scale", "state")),
        Tensor("state", "int8", "B H P N"),
        Tensor("row_scale", "float32", "B H P"),
    ),
    outputs=(
        STATIC.outputs[0],
        Tensor("state_out", "int8", "B H P N", aliases="state"),
        Tensor("row_scale_out", "float32", "B H P", aliases="row_scale"),
    ),
    attrs=(*STATIC.attrs, Attr("stochastic", "int", "flag")),
    multiples=STATIC.multiples,
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
    scale_index: T,
    state: T,
    row_scale: T,
    *,
    dt_scale: float,
    dt_min: float,
    dt_max: float,
    stochastic: int,
) -> tuple[T, T, T]:
    """h = exp(dt A) h + dt x (R B)^T;  y = h (R C) / size + D x, with the rotation R of blocks of `size`.

    state and row_scale hold R h, in codes to the nearest or, where `stochastic` is 1, up by chance. fp32
    throughout, R of codes is exact. Source: Mamba-2 (arXiv 2405.21060), section 3; the rotation is this
    project's.
    """
    share = 1.0 / rotation_size(state.shape[-1])
    unread = state.new_ones(state.shape[1:])
    y, held = ssd_scan(
        dequantize(x, x_scale[scale_index]),
        dequantize(dt, dt_scale),
        A_log,
        rotated(B) * B_scale[:, None],
        rotated(C) * (C_scale * share)[:, None],
        D,
        dt_bias,
        unread,
        row_scaled(state, row_scale, stochastic),
        (dt_min, dt_max),
    )
    return y, *held


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops: a Scan over the length. Groups, heads and N are fixed in the body."""
    groups, n_state = int(sizes["G"]), int(sizes["N"])
    return f"""
        scale_axis = Constant <value_ints = [-1]> ()
        dt_scale = Constant <value_float: float = @dt_scale> ()
        dt_f = DequantizeLinear (dt, dt_scale)
        x_codes = Cast <to = {FLOAT}> (x)
        x_scales = Gather <axis = 0> (x_scale, scale_index)
        x_f = Mul (x_codes, x_scales)
        {rotated_lines("B", "B_rotated", groups, n_state)}
        B_column = Unsqueeze (B_scale, scale_axis)
        B_f = Mul (B_rotated, B_column)
        {rotated_lines("C", "C_rotated", groups, n_state)}
        share = Constant <value_float = {1.0 / rotation_size(n_state)!r}> ()
        C_shared = Mul (C_scale, share)
        C_column = Unsqueeze (C_shared, scale_axis)
        C_f = Mul (C_rotated, C_column)
        {ssd_scan_lines(sizes, rows_kind(attrs["stochastic"]))}
    """
