"""Cases of the projections with int4 weights: one group, many, a short last one, the largest sums."""

from __future__ import annotations

import numpy as np

from op_cases.drawing import Array, Case, draw, letters

SHAPES = {
    "one_chunk": letters(B=1, L=1, K=32, M=1),
    "decode": letters(B=3, L=1, K=128, M=48),
    "short_group": letters(B=2, L=7, K=160, M=13),
    "L_65": letters(B=1, L=65, K=64, M=24),
    "K_384": letters(B=1, L=2, K=384, M=33),
    "K_2560": letters(B=1, L=3, K=2560, M=9),
}


def spread(columns: int) -> Array:
    """Scales of the groups: no two share one, every other is negative, as clipped ones may be."""
    scales = np.linspace(0.01, 0.07, -(-columns // 128))
    scales[1::2] *= -1
    return scales[None]


def _largest(op: str) -> list[Case]:
    """All products of one sign: 0x88 is -8 twice."""
    sizes = letters(B=1, L=2, K=416, M=6)
    return [
        draw(op, "largest_sum", sizes, x=-128, weight=-120),
        draw(op, "smallest_sum", sizes, x=127, weight=-120),
        draw(op, "saturated", sizes, saturated=True),
    ]


def case_of(op: str, name: str, sizes: dict[str, int]) -> Case:
    """A case on scales of its groups."""
    return draw(op, name, sizes, **_given(op, sizes["K"]))


def _cases(op: str) -> list[Case]:
    return [
        *(case_of(op, name, sizes) for name, sizes in SHAPES.items()),
        draw(op, "strided", SHAPES["short_group"], strided=True),
        *_largest(op),
    ]


def _given(op: str, columns: int) -> dict[str, Array | float]:
    """Scales on which random sums fill the int8 range and clip at its ends."""
    given: dict[str, Array | float] = {"weight_scale": spread(columns)}
    if op == "Int4RequantizedLinear":
        given["out_scale"] = 0.0123 * 0.04 * columns**0.5 * 74 * 4.6 / 60
    return given


CASES = [*_cases("Int4Linear"), *_cases("Int4RequantizedLinear")]
