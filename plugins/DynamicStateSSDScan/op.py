"""QuantizedSSDScan with an int8 state whose scales are found when it is written: one a head and channel."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import OpSpec, Size, Tensor
from quamba_export.plugins.common.scan_state import ROWS, RowScaled
from quamba_export.plugins.QuantizedSSDScan import op as static

STATIC = static.SPEC
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
    attrs=STATIC.attrs,
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
) -> tuple[T, T, T]:
    """QuantizedSSDScan from h = state * row_scale on; each row of the new one gets its peak / 127 as scale."""
    y, held = static.reference(
        x,
        dt,
        A_log,
        B,
        C,
        D,
        dt_bias,
        x_scale,
        B_scale,
        C_scale,
        x_scale.new_ones(len(x_scale), state.shape[-1]),  # not read
        scale_index,
        RowScaled(state, row_scale),
        dt_scale=dt_scale,
        dt_min=dt_min,
        dt_max=dt_max,
    )
    return y, *held


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops. Groups, heads and N are fixed in the body."""
    return static.onnx_body(sizes, {**dtypes, "state": ROWS}, attrs)
