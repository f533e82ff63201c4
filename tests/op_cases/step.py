"""Cases of the fused step in front of the scan: convolved channels in front, in the middle, at the end."""

from __future__ import annotations

from op_cases import int4
from op_cases.drawing import Array, Case, draw, letters

OP, INT4 = "InputProjectionStep", "Int4InputProjectionStep"
SHAPES = {
    "one_of_everything": (letters(B=1, L=1, D=1, M=1, C=1, W=2), 0),
    "decode": (letters(B=3, L=1, D=64, M=48, C=24, W=4), 16),
    "in_front": (letters(B=1, L=1, D=40, M=40, C=20, W=4), 0),
    "at_the_end": (letters(B=2, L=1, D=37, M=33, C=9, W=3), 24),
    "W_2": (letters(B=1, L=1, D=320, M=70, C=41, W=2), 3),
    "many_tokens": (letters(B=19, L=1, D=130, M=100, C=64, W=4), 30),
    "K_3000": (letters(B=1, L=1, D=3000, M=24, C=8, W=4), 8),
}
INT4_SHAPES = {
    "one_chunk": (letters(B=1, L=1, D=32, M=1, C=1, W=2), 0),
    "decode": (letters(B=3, L=1, D=128, M=48, C=24, W=4), 16),
    "short_group": (letters(B=1, L=1, D=160, M=40, C=20, W=4), 0),
    "at_the_end": (letters(B=2, L=1, D=64, M=33, C=9, W=3), 24),
    "many_tokens": (letters(B=19, L=1, D=256, M=100, C=64, W=4), 30),
    "K_2560": (letters(B=1, L=1, D=2560, M=24, C=8, W=4), 8),
}


def spread(D: int) -> dict[str, float]:
    """Scales on which random products fill the int8 range of the projection and of the convolution."""
    out_scale = 0.0261 * 0.011 * D**0.5 * 38 * 74 / 60
    return {"weight_scale": 0.011, "out_scale": out_scale, "conv_x_scale": out_scale}


def case_of(name: str, sizes: dict[str, int], begin: int, **given: float) -> Case:
    return draw(OP, name, sizes, attrs={"conv_begin": begin}, **spread(sizes["D"]), **given)


def int4_spread(D: int) -> dict[str, Array | float]:
    """The same of products with int4 codes."""
    out_scale = 0.0261 * 0.04 * D**0.5 * 38 * 4.6 / 60
    return {"weight_scale": int4.spread(D), "out_scale": out_scale, "conv_x_scale": out_scale}


def int4_case_of(name: str, sizes: dict[str, int], begin: int, **given: float) -> Case:
    return draw(INT4, name, sizes, attrs={"conv_begin": begin}, **int4_spread(sizes["D"]), **given)


CASES = [
    *(case_of(name, sizes, begin) for name, (sizes, begin) in SHAPES.items()),
    case_of("zero_state", *SHAPES["decode"], conv_state=0),
    draw(OP, "strided", SHAPES["decode"][0], strided=True, attrs={"conv_begin": 16}, **spread(64)),
    *(int4_case_of(name, sizes, begin) for name, (sizes, begin) in INT4_SHAPES.items()),
    int4_case_of("zero_state", *INT4_SHAPES["decode"], conv_state=0),
    draw(
        INT4, "strided", INT4_SHAPES["decode"][0], strided=True, attrs={"conv_begin": 16}, **int4_spread(128)
    ),
]
