"""QuantizedSelectiveScan with an fp32 x, for studies of what its int8 codes cost."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor as T

from quamba_export.plugins.common.contract import Attr, OpSpec, Size, Tensor
from quamba_export.plugins.common.quantization import dequantize
from quamba_export.plugins.QuantizedSelectiveScan.op import selective_scan, selective_scan_lines

_CODES = ("dt", "A_log", "B", "C", "D", "z", "dt_bias")

SPEC = OpSpec(
    name="FloatInputSelectiveScan",
    inputs=(
        Tensor("x", "float32", "B L E"),
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
    attrs=tuple(Attr(f"{name}_scale", "float") for name in (*_CODES, "state")),
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
    *,
    dt_scale: float,
    A_log_scale: float,
    B_scale: float,
    C_scale: float,
    D_scale: float,
    z_scale: float,
    dt_bias_scale: float,
    state_scale: float,
) -> tuple[T, T]:
    """QuantizedSelectiveScan with x as it stands; every other operand is codes on its scale."""
    return selective_scan(
        x,
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


def onnx_body(sizes: Mapping[str, Size], dtypes: Mapping[str, str], attrs: Mapping[str, float | int]) -> str:
    """The reference in standard ops: a Scan over the length. N and the state's dtype are fixed."""
    scales = "\n".join(f"{a.name} = Constant <value_float: float = @{a.name}> ()" for a in SPEC.attrs)
    widened = "\n".join(f"{name}_f = DequantizeLinear ({name}, {name}_scale)" for name in _CODES)
    return f"""
        {scales}
        {widened}
        x_f = Identity (x)
        {selective_scan_lines(dtypes["state"], int(sizes["N"]))}
    """
