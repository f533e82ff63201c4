"""QuantizedSelectiveScan with an int8 state whose scales are found when it is written: one a channel."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.scan_state import row_scaled, rows_kind
from quamba_export.plugins.QuantizedSelectiveScan import op as static

STATIC = static.SPEC
SPEC = OpSpec(
    name="DynamicStateSelectiveScan",
    inputs=(
        *STATIC.inputs[:-1],
        Tensor("state", "int8", "B E N"),
        Tensor("row_scale", "float32", "B E"),
    ),
    outputs=(
        STATIC.outputs[0],
        Tensor("state_out", "int8", "B E N", aliases="state"),
        Tensor("row_scale_out", "float32", "B E", aliases="row_scale"),
    ),
    attrs=(
        *(attr for attr in STATIC.attrs if attr.name != "state_scale"),
        Attr("stochastic", "int", "flag"),
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
    state: T,
    row_scale: T,
    *,
    x_scale: float,
    dt_scale: float,
    A_log_scale: float,
    B_scale: float,
    C_scale: float,
    D_scale: float,
    z_scale: float,
    dt_bias_scale: float,
    stochastic: int,
) -> tuple[T, T, T]:
    """QuantizedSelectiveScan from h = state * row_scale on; a channel of the next one gets its peak / 127
    and codes to the nearest or, where `stochastic` is 1, up by chance.
    """
    y, held = static.reference(
        x,
        dt,
        A_log,
        B,
        C,
        D,
        z,
        dt_bias,
        row_scaled(state, row_scale, stochastic),
        x_scale=x_scale,
        dt_scale=dt_scale,
        A_log_scale=A_log_scale,
        B_scale=B_scale,
        C_scale=C_scale,
        D_scale=D_scale,
        z_scale=z_scale,
        dt_bias_scale=dt_bias_scale,
        state_scale=1.0,  # not read
    )
    return y, *held


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops: a Scan over the length. N is fixed in the body."""
    scales = {name: value for name, value in attrs.items() if name != "stochastic"}
    return static.onnx_body(sizes, {**dtypes, "state": rows_kind(attrs["stochastic"])}, scales)
