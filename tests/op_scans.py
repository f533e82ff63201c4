"""The scans a second time, from their formulas: one token after the other, whole chunks by op_chunks.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from op_cases.drawing import Array
from op_chunks import CHUNK, scan_chunks
from op_formulas import Attrs, Rows, dequantize, exp, f32, floats, recurrence, silu, softplus

SELECTIVE_OPERANDS = ("x", "dt", "A_log", "B", "C", "D", "z", "dt_bias")


def quantized_selective_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    widened = {name: dequantize(i[name], a[f"{name}_scale"]) for name in SELECTIVE_OPERANDS}
    return selective_scan({**widened, "state": i["state"]}, a["state_scale"])


def dynamic_state_selective_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    y, state = quantized_selective_scan({**i, "state": rows(i)}, {**a, "state_scale": 1.0})
    return [y, *state]


def dynamic_state_ssd_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    size = i["state"].shape[-1] & -i["state"].shape[-1]
    widened = {
        "x": dequantize(i["x"], i["x_scale"][i["scale_index"]]),
        "B": dequantize(in_blocks(i["B"], size), i["B_scale"][:, None]),
        "C": dequantize(in_blocks(i["C"], size), i["C_scale"][:, None] / f32(size)),
        "dt": dequantize(i["dt"], a["dt_scale"]),
    }
    y, state = ssd_scan({**i, **widened, "state": rows(i)}, a, 1.0)
    return [y, *state]


def in_blocks(codes: Array, size: int) -> Array:
    """Each block of `size` codes by the matrix of signs: -1 where the bits of row and column meet oddly."""
    places = range(size)
    signs = np.array([[1 - 2 * ((i & j).bit_count() % 2) for j in places] for i in places])
    return (codes.reshape(*codes.shape[:-1], -1, size).astype(np.int64) @ signs).reshape(codes.shape)


def rows(i: Mapping[str, Array]) -> Any:
    return Rows(i["state"], i["row_scale"])


def float_input_selective_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    widened = {name: dequantize(i[name], a[f"{name}_scale"]) for name in SELECTIVE_OPERANDS[1:]}
    return selective_scan({**i, **widened}, a["state_scale"])


def half_selective_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return selective_scan({**floats(i, *SELECTIVE_OPERANDS), "state": i["state"]}, 1.0)


def selective_scan(i: Mapping[str, Array], state_scale: float) -> list[Array]:
    x, dt, A_log, rows, read, D, z, dt_bias = (i[name] for name in SELECTIVE_OPERANDS)
    step = softplus(dt + dt_bias).swapaxes(0, 1)  # (L, B, E)
    decay = exp(step[..., None] * -exp(A_log))
    y, state = recurrence(
        i["state"],
        state_scale,
        decay,
        step * x.swapaxes(0, 1),
        rows.swapaxes(0, 1)[:, :, None, :],
        read.swapaxes(0, 1)[:, :, None, :],
    )
    return [(y + D * x) * silu(z), state]


def quantized_ssd_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    """Whole chunks, then one token after the other."""
    x, state_scale = dequantize(i["x"], i["x_scale"][i["scale_index"]]), i["state_scale"][i["scale_index"]]
    whole = x.shape[1] // CHUNK * CHUNK
    step, decay = steps({**i, "dt": dequantize(i["dt"], a["dt_scale"])}, a)
    y, state = scan_chunks({**i, "x": i["x"][:, :whole]}, step, decay, state_scale)
    y = y + i["D"][:, None] * x[:, :whole]
    if whole == x.shape[1]:
        return [y, state]
    rest = {name: i[name][:, whole:] for name in ("dt", "B", "C")}
    y_rest, state = float_input_ssd_scan({**i, **rest, "x": x[:, whole:], "state": state}, a)
    return [np.concatenate([y, y_rest], axis=1), state]


def float_input_ssd_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    widened = {
        "B": dequantize(i["B"], i["B_scale"][:, None]),
        "C": dequantize(i["C"], i["C_scale"][:, None]),
        "dt": dequantize(i["dt"], a["dt_scale"]),
    }
    return ssd_scan({**i, **widened}, a, i["state_scale"][i["scale_index"]])


def half_ssd_scan(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    return ssd_scan({**i, **floats(i, "x", "B", "C", "dt")}, a, 1.0)


def ssd_scan(i: Mapping[str, Array], a: Attrs, state_scale: Array | float) -> list[Array]:
    x, heads, groups = i["x"], i["x"].shape[2], i["B"].shape[2]
    rows, read = (  # (L, B, H, 1, N): the group's, for each of its heads
        i[name].repeat(heads // groups, axis=2).swapaxes(0, 1)[..., None, :] for name in ("B", "C")
    )
    step, decay = (array.swapaxes(0, 1) for array in steps(i, a))  # (L, B, H)
    y, state = recurrence(
        i["state"],
        state_scale,
        decay[..., None, None],
        step[..., None] * x.swapaxes(0, 1),
        rows,
        read,
    )
    return [y + i["D"][:, None] * x, state]


def steps(i: Mapping[str, Array], a: Attrs) -> tuple[Array, Array]:
    """Step and decay (B, L, H)."""
    step = np.clip(softplus(i["dt"] + i["dt_bias"]), f32(a["dt_min"]), f32(a["dt_max"]))
    return step, exp(step * -exp(i["A_log"]))
