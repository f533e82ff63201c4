"""Cases of the final norm and head: few tokens and many, odd rows, sums of one sign."""

from __future__ import annotations

import numpy as np

from op_cases.drawing import Array, Case, draw, letters

OP = "RMSNormLinear"
SHAPES = {
    "one_of_everything": letters(B=1, L=1, D=1, V=1),
    "decode": letters(B=3, L=1, D=64, V=48),
    "odd_sizes": letters(B=2, L=7, D=37, V=13),
    "one_token": letters(B=1, L=1, D=768, V=100),
    "D_257": letters(B=1, L=1, D=257, V=9),
    "D_2560": letters(B=1, L=1, D=2560, V=67),
    "eight_tokens": letters(B=8, L=1, D=520, V=33),
    "L_65": letters(B=1, L=65, D=40, V=24),
}


def case_of(name: str, sizes: dict[str, int], **given: Array | float) -> Case:
    """A weight of the spread that a head has, about 0.03."""
    weight = np.random.default_rng(sizes["D"]).normal(0.0, 0.03, (sizes["V"], sizes["D"]))
    return draw(OP, name, sizes, **{"weight": weight, **given})


def _of_one_sign() -> Case:
    """Every product positive: the sums grow, and so do their roundings."""
    random, sizes = np.random.default_rng(1), letters(B=1, L=3, D=3000, V=9)
    x, weight = random.uniform(0.5, 1.5, (1, 3, 3000)), random.uniform(0.01, 0.05, (9, 3000))
    return case_of("one_sign", sizes, x=x, weight=weight)


def _magnitudes() -> Case:
    """A token of zeros, tiny ones (epsilon is all of their mean square) and a huge one."""
    scales = np.array([0.0, 1e-18, 1e-6, 1.0, 1e15])[None, :, None]
    x = scales * np.random.default_rng(2).standard_normal((1, 5, 40))
    return case_of("magnitudes", letters(B=1, L=5, D=40, V=12), x=x)


def _weight_s_range() -> Case:
    """Subnormal fp16 weights, the largest ones and both zeros."""
    weight = np.tile([2.0**-24, -(2.0**-15), 65504.0, -65504.0, 0.0, -0.0, 1.0], 8)[:48]
    return case_of("weight_s_range", letters(B=1, L=2, D=48, V=5), weight=weight)


INT4_SHAPES = {
    "decode": letters(B=3, L=1, D=64, V=48),
    "short_group": letters(B=2, L=3, D=288, V=13),
}

CASES = [
    *(
        draw("RMSNormInt8Linear", name, sizes)
        for name, sizes in SHAPES.items()
        if name in ("decode", "odd_sizes", "D_257")
    ),
    draw("RMSNormInt8Linear", "strided", SHAPES["odd_sizes"], strided=True),
    *(draw("RMSNormInt4Linear", name, sizes) for name, sizes in INT4_SHAPES.items()),
    draw("RMSNormInt4Linear", "strided", INT4_SHAPES["short_group"], strided=True),
    *(case_of(name, sizes) for name, sizes in SHAPES.items()),
    draw(OP, "strided", SHAPES["odd_sizes"], strided=True),
    _of_one_sign(),
    _magnitudes(),
    _weight_s_range(),
]
