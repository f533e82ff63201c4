"""Cases of the two int8 projections: K around 1,024, where fp32 stops being exact, and past it."""

from __future__ import annotations

import numpy as np

from op_cases.drawing import STEP, Case, draw, letters

SHAPES = {
    "one_of_everything": letters(B=1, L=1, K=1, M=1),
    "decode": letters(B=3, L=1, K=64, M=48),
    "odd_sizes": letters(B=2, L=7, K=37, M=13),
    "L_65": letters(B=1, L=65, K=40, M=24),
    "K_1024": letters(B=1, L=2, K=1024, M=5),
    "K_1025": letters(B=1, L=2, K=1025, M=5),
    "K_3000": letters(B=2, L=3, K=3000, M=9),
}
LARGEST_SUMS = letters(B=1, L=2, K=2100, M=6)  # 2100 * 128 * 128 is beyond 2^25


def _spread(k: int) -> dict[str, float]:
    """An output scale on which random products fill the int8 range and clip at its ends."""
    return {"weight_scale": 0.011, "out_scale": 0.0123 * 0.011 * k**0.5 * 74 * 74 / 60}


def _largest(op: str) -> list[Case]:
    """All products of one sign, so that the sum is as large as it can be; then of mixed signs."""
    scales = {"out_scale": 50.0} if op == "RequantizedLinear" else {}
    return [
        draw(op, "largest_sum", LARGEST_SUMS, x=-128, weight=-128, **scales),
        draw(op, "smallest_sum", LARGEST_SUMS, x=127, weight=-128, **scales),
        draw(op, "saturated", LARGEST_SUMS, saturated=True, **scales),
    ]


def _half_steps() -> Case:
    """Sums -255..255 in halves of the output scale: every odd sum lies between two codes."""
    sums = np.arange(-255, 256)
    x = np.stack([sums // 2, sums - sums // 2], axis=-1)[None]  # (1, 511, 2)
    return draw(
        "RequantizedLinear",
        "half_steps",
        letters(B=1, L=511, K=2, M=3),
        x=x,
        weight=1,
        weight_scale=STEP / 2,
        bias=0.0,
        out_scale=STEP,
        attrs={"x_scale": 1.0},
    )


CASES = [
    *(draw("QuantizedLinear", name, sizes) for name, sizes in SHAPES.items()),
    *(draw("RequantizedLinear", name, sizes, **_spread(sizes["K"])) for name, sizes in SHAPES.items()),
    *(
        draw(op, "strided", SHAPES["odd_sizes"], strided=True)
        for op in ("QuantizedLinear", "RequantizedLinear")
    ),
    *_largest("QuantizedLinear"),
    *_largest("RequantizedLinear"),
    _half_steps(),
]
