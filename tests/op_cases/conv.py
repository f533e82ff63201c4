"""Cases of the causal convolution: calls shorter than its window, awkward channel counts, scales of parts."""

from __future__ import annotations

import numpy as np

from op_cases.drawing import STEP, Case, draw, letters

OP = "QuantizedCausalConv1d"
SHAPES = {
    "one_of_everything": letters(B=1, L=1, C=1, W=2),
    "decode": letters(B=3, L=1, C=24, W=4),
    "shorter_than_the_window": letters(B=2, L=2, C=37, W=4),
    "as_long_as_the_state": letters(B=1, L=3, C=8, W=4),
    "W_2": letters(B=2, L=9, C=17, W=2),
    "W_3": letters(B=1, L=10, C=33, W=3),
    "L_65": letters(B=1, L=65, C=40, W=4),
    "many_channels": letters(B=1, L=5, C=300, W=4),
}


def _half_steps() -> Case:
    """Values of 60 and more, where silu(v) = v in fp32: every odd sum lies between two codes."""
    sums = np.arange(127, 254)  # 127 + (0..126)
    x = np.stack([np.full_like(sums, 127), sums - 127], axis=-1).reshape(1, -1, 1)  # taps see both of a pair
    return draw(
        OP,
        "half_steps",
        letters(B=1, L=254, C=3, W=2),
        x=x,
        state=0,
        weight=1,
        x_scale=1.0,
        weight_scale=8 * STEP,
        bias=0.0,
        out_scale=16 * STEP,
    )


def _scales_of_parts(sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """x, B and C side by side: three input scales, and output scales that change inside x."""
    channels = np.arange(sizes["C"])
    x_scale = np.select([channels < 24, channels < 32], [0.021, 0.013], 0.017)
    return {"x_scale": x_scale, "out_scale": 0.01 + 0.003 * (channels // 4)}


CASES = [
    *(draw(OP, name, sizes) for name, sizes in SHAPES.items()),
    draw(OP, "zero_state", SHAPES["L_65"], state=0),
    draw(OP, "scales_of_parts", SHAPES["L_65"], **_scales_of_parts(SHAPES["L_65"])),
    draw(OP, "saturated", SHAPES["W_3"], saturated=True, out_scale=0.001),
    draw(OP, "strided", SHAPES["shorter_than_the_window"], strided=True),
    _half_steps(),
]
