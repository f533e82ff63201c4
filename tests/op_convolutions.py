"""The convolutions of tests/op_definitions.py."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from op_cases.drawing import Array
from op_formulas import Attrs, f32, half, quantize, silu


def causal_conv(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    window, result = conv_window(i), conv_result(i)
    past = window[:, i["x"].shape[1] :].swapaxes(1, 2).astype(np.int8)
    return [quantize(result, i["out_scale"]), past]


def conv_window(i: Mapping[str, Array]) -> Array:
    return np.concatenate([i["state"].swapaxes(1, 2), i["x"]], axis=1).astype(np.int64)  # (B, W-1+L, C)


def conv_result(i: Mapping[str, Array]) -> Array:
    """numpy.convolve, a channel at a time; its kernel runs backwards. SiLU behind it."""
    window = conv_window(i)
    total = np.empty(i["x"].shape, np.int64)
    for b, c in np.ndindex(window.shape[0], window.shape[2]):
        total[b, :, c] = np.convolve(window[b, :, c], i["weight"][c, ::-1].astype(np.int64), mode="valid")
    return silu(total.astype(f32) * (i["x_scale"] * i["weight_scale"]) + i["bias"])


def scan_input_conv(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    """An element at a time: its code on the first scale if the grid has it, else on the other."""
    codes, state = causal_conv(i, a)
    result = conv_result(i)
    largest = int(a["largest_code"])
    if not largest:
        return [codes, result, state]
    value = np.empty_like(result)
    for place in np.ndindex(*result.shape):
        scale, other = i["out_scale"][place[2]], i["outlier_scale"][place[2]]
        code = np.rint(result[place] / scale)
        if not -largest - 1 <= code <= largest:
            code, scale = np.clip(np.rint(result[place] / other), -largest - 1, largest), other
        value[place] = f32(code) * scale
    return [codes, value, state]


def half_conv(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    y, state = float_conv(i, a)
    return [half(y), state]


def float_conv(i: Mapping[str, Array], a: Attrs) -> list[Array]:
    """fp32 products, one token after the other, the oldest input first."""
    window = np.concatenate([i["state"].swapaxes(1, 2), i["x"]], axis=1)  # (B, W-1+L, C)
    length, width = i["x"].shape[1], i["weight"].shape[1]
    value = np.empty(i["x"].shape, f32)
    for t in range(length):
        products = window[:, t : t + width].astype(f32) * i["weight"].T  # (B, W, C)
        value[:, t] = np.add.accumulate(products, axis=1)[:, -1] + i["bias"]
    return [silu(value), window[:, length:].swapaxes(1, 2)]
