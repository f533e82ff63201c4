"""Cases of the two norms and the Hadamard transform in front of an int8 projection."""

from __future__ import annotations

import numpy as np

from op_cases.drawing import STEP, Array, Case, draw, letters

NORM, GATED, HADAMARD = "RMSNormQuantize", "GatedRMSNormHadamardQuantize", "HadamardQuantize"
WEIGHTED = "WeightedRMSNormQuantize"
NORM_SHAPES = {
    "one_of_everything": letters(B=1, L=1, D=1),
    "decode": letters(B=3, L=1, D=64),
    "odd_width": letters(B=2, L=7, D=33),
    "wide": letters(B=1, L=3, D=768),
    "L_65": letters(B=1, L=65, D=40),
}
WIDTHS = {  # power of two; 12, 20, 28 and 40 at the base; block-diagonal
    "E_1": letters(B=1, L=1, E=1),
    "E_16": letters(B=3, L=1, E=16),
    "E_24": letters(B=2, L=65, E=24),
    "E_40": letters(B=1, L=5, E=40),
    "E_56": letters(B=1, L=2, E=56),
    "E_72_in_blocks": letters(B=2, L=3, E=72),
    "E_33_without_transform": letters(B=1, L=4, E=33),
    "E_768": letters(B=1, L=2, E=768),
}
GROUPS = {
    "two_groups": (letters(B=2, L=3, E=48), 2),
    "eight_groups": (letters(B=1, L=65, E=128), 8),
    "three_groups_of_blocks": (letters(B=1, L=2, E=36), 3),
}
SINGLE_TOKENS = {  # several blocks make the parts of one; wider ones: tests/gpu/random_shapes.py
    "token_of_1024": (1024, 2),
    "token_of_1536": (1536, 1),
    "token_of_1920_in_blocks": (1920, 3),
    "token_of_3072": (3072, 8),
    "token_of_5120": (5120, 1),
}


def _magnitudes(width: int, largest: float) -> Array:
    """Rows (1, 6, width): one of zeros, then 1e-30 (whose square lies outside fp32) to `largest`."""
    signs = np.where(np.arange(width) % 3 == 0, -1.0, 0.5)
    return np.stack([scale * signs for scale in (0.0, 1e-30, 1e-10, 1e-3, 1.0, largest)])[None]


def _half_step_rows() -> Array:
    """Rows (1, 2, 64) and halves of them with a root mean square of 2048: normed, most are half STEPs."""
    steps = 61 * (2 * np.arange(28) + 1)  # 61 = 1024 STEP
    half = np.concatenate([steps, [2517, 2517, 3517, 549]])  # squares add up to 32 * 2048^2
    return np.stack([np.concatenate([half, -half]), np.concatenate([-half[::-1], half])])[None]


def _norm_half_steps() -> Case:
    attrs = {"epsilon": 1e-30, "out_scale": STEP}
    return draw(NORM, "half_steps", letters(B=1, L=2, D=64), x=_half_step_rows(), attrs=attrs)


def _gated_half_steps() -> Case:
    """silu(z) = z = 64, a power of two that the norm divides out again."""
    sizes = letters(B=1, L=2, E=64)
    attrs = {"epsilon": 1e-30, "z_scale": 1.0, "n_groups": 2, "hadamard": 0, "out_scale": STEP}
    return draw(GATED, "half_steps", sizes, x=_half_step_rows(), z=64, norm_weight=1.0, attrs=attrs)


def _hadamard_half_steps(hadamard: int) -> Case:
    """Every code plus a half; or H's inverse of them, exact because H of width 16 has entries +-1/4."""
    steps = (np.arange(-144, 144) + 0.5).reshape(1, -1, 16) * STEP
    sylvester = np.array([[1.0]])
    for _ in range(4):
        sylvester = np.kron([[1.0, 1.0], [1.0, -1.0]], sylvester)
    x = steps @ sylvester / 4 if hadamard else steps
    attrs = {"hadamard": hadamard, "out_scale": STEP}
    return draw(HADAMARD, f"half_steps_{hadamard}", letters(B=1, L=18, E=16), x=x, attrs=attrs)


def _without_transform(name: str) -> dict[str, float | int]:
    return {"hadamard": int("without" not in name), "out_scale": 0.0261}


CASES = [
    *(draw(NORM, name, sizes) for name, sizes in NORM_SHAPES.items()),
    draw(NORM, "saturated", NORM_SHAPES["odd_width"], attrs={"out_scale": 0.001}),
    draw(NORM, "magnitudes", letters(B=1, L=6, D=40), x=_magnitudes(40, 1e30)),
    draw(NORM, "strided", NORM_SHAPES["odd_width"], strided=True),
    _norm_half_steps(),
    *(draw(WEIGHTED, name, NORM_SHAPES[name]) for name in ("decode", "odd_width")),
    draw(WEIGHTED, "saturated", NORM_SHAPES["odd_width"], attrs={"out_scale": 0.001}),
    draw(WEIGHTED, "magnitudes", letters(B=1, L=6, D=40), x=_magnitudes(40, 1e30), strided=True),
    *(draw(HADAMARD, name, sizes, attrs=_without_transform(name)) for name, sizes in WIDTHS.items()),
    draw(HADAMARD, "saturated", WIDTHS["E_40"], attrs={"out_scale": 0.001}),
    draw(HADAMARD, "magnitudes", letters(B=1, L=6, E=40), x=_magnitudes(40, 1e6)),
    draw(HADAMARD, "strided", WIDTHS["E_72_in_blocks"], strided=True),
    _hadamard_half_steps(0),
    _hadamard_half_steps(1),
    *(draw(HADAMARD, name, letters(B=1, L=1, E=E)) for name, (E, _) in SINGLE_TOKENS.items()),
    draw(HADAMARD, "strided_token", letters(B=1, L=1, E=2048), strided=True),
    *(draw(GATED, name, sizes, attrs=_without_transform(name)) for name, sizes in WIDTHS.items()),
    *(draw(GATED, name, sizes, attrs={"n_groups": groups}) for name, (sizes, groups) in GROUPS.items()),
    draw(GATED, "saturated", WIDTHS["E_40"], saturated=True, attrs={"out_scale": 0.001}),
    draw(GATED, "magnitudes", letters(B=1, L=6, E=40), x=_magnitudes(40, 1e30)),
    draw(GATED, "strided", GROUPS["two_groups"][0], strided=True, attrs={"n_groups": 2}),
    _gated_half_steps(),
    *(
        draw(GATED, name, letters(B=1, L=1, E=E), attrs={"n_groups": groups})
        for name, (E, groups) in SINGLE_TOKENS.items()
    ),
    draw(GATED, "strided_token", letters(B=1, L=1, E=2048), strided=True),
    draw(GATED, "six_tokens_of_magnitudes", letters(B=1, L=6, E=1280), x=_magnitudes(1280, 1e30)),
]
