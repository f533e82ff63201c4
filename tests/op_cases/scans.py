"""Cases of the two scans: lengths around a chunk, groups, head and state sizes, every state dtype."""

from __future__ import annotations

import numpy as np

from op_cases.drawing import STEP, Case, draw, letters

SELECTIVE, SSD = "QuantizedSelectiveScan", "QuantizedSSDScan"
DYNAMIC_SELECTIVE, DYNAMIC_SSD = "DynamicStateSelectiveScan", "DynamicStateSSDScan"
CHANCE = {"stochastic": 1}
CHANCE_SHAPES = {  # every kernel, whole words and not
    DYNAMIC_SELECTIVE: ("one_of_everything", "decode", "L_65", "N_256"),
    DYNAMIC_SSD: ("one_of_everything", "decode_N_128", "decode_N_256", "decode_odd_sizes", "L_65", "G_8"),
}
STATE_DTYPES = ("float16", "float32", "int8")
SELECTIVE_SHAPES = {
    "one_of_everything": letters(B=1, L=1, E=1, N=1),
    "decode": letters(B=3, L=1, E=24, N=16),
    "odd_sizes": letters(B=2, L=7, E=13, N=16),
    "L_65": letters(B=1, L=65, E=12, N=16),
    "N_256": letters(B=1, L=3, E=5, N=256),
}
SSD_SHAPES = {
    "one_of_everything": letters(B=1, L=1, H=1, P=1, G=1, N=1, S=1),
    "decode": letters(B=3, L=1, H=4, P=16, G=1, N=16, S=16),
    "decode_N_32": letters(B=1, L=1, H=2, P=8, G=2, N=32, S=4),
    "decode_N_64": letters(B=1, L=1, H=2, P=12, G=1, N=64, S=4),
    "decode_N_128": letters(B=2, L=1, H=4, P=36, G=2, N=128, S=4),  # a block and one warp of the next
    "decode_N_256": letters(B=1, L=1, H=2, P=4, G=1, N=256, S=4),
    "decode_N_100": letters(B=1, L=1, H=2, P=8, G=1, N=100, S=4),
    "decode_P_35": letters(B=2, L=1, H=3, P=35, G=3, N=128, S=2),  # three rows of the last warp
    "decode_odd_sizes": letters(B=3, L=1, H=3, P=5, G=1, N=201, S=2),
    "odd_sizes": letters(B=2, L=7, H=3, P=5, G=1, N=12, S=2),
    "G_2": letters(B=2, L=17, H=6, P=16, G=2, N=32, S=32),
    "G_8": letters(B=1, L=9, H=16, P=16, G=8, N=16, S=128),
    "L_63": letters(B=1, L=63, H=2, P=16, G=1, N=16, S=16),
    "L_64": letters(B=1, L=64, H=2, P=16, G=2, N=16, S=16),
    "L_65": letters(B=2, L=65, H=2, P=16, G=1, N=16, S=16),
    "L_130": letters(B=1, L=130, H=2, P=16, G=1, N=16, S=16),
    "L_200_odd": letters(B=1, L=200, H=3, P=21, G=3, N=50, S=4),  # codes that lie on no word
    "L_128_wide": letters(B=1, L=128, H=2, P=80, G=1, N=144, S=4),
    "P_256": letters(B=1, L=3, H=1, P=256, G=1, N=16, S=4),
    "N_256": letters(B=1, L=3, H=2, P=16, G=1, N=256, S=4),
}


def _half_step_state(op: str) -> Case:
    """A state that ends between two codes: step = softplus(64) = 64, nothing is kept, 64 x B odd halves."""
    odd = np.array([-15, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15, 4, 6])
    scales = {"x_scale": 2.0**-6, "B_scale": STEP / 2, "state_scale": STEP, "dt_scale": 1.0}
    if op == SELECTIVE:
        sizes = letters(B=1, L=1, E=16, N=16)
        attrs = {**scales, "A_log_scale": 1.0, "dt_bias_scale": 1.0}
        codes = {"x": odd, "dt": 64, "B": odd, "A_log": 5, "dt_bias": 0}
        return draw(op, "half_step_state", sizes, state_dtype="int8", attrs=attrs, **codes)
    sizes = letters(B=1, L=1, H=1, P=16, G=1, N=16, S=2)
    tables = {
        "x_scale": scales["x_scale"],
        "B_scale": scales["B_scale"],
        "state_scale": scales["state_scale"],
    }
    codes = {"x": odd, "dt": 64, "B": odd, "A_log": 5.0, "dt_bias": 0.0}
    return draw(op, "half_step_state", sizes, state_dtype="int8", attrs={"dt_scale": 1.0}, **codes, **tables)


def _extremes(op: str, sizes: dict[str, int]) -> list[Case]:
    """Operands at their limits; steps so large that the state decays to nothing, or so small that it stays.

    step_1e_8: y holds nothing but a step of that size, every digit of which counts.
    """
    return [
        draw(op, "saturated", sizes, state_dtype="int8", saturated=True),
        draw(op, "step_1000", sizes, state_dtype="int8", attrs={"dt_scale": 8.0}),
        draw(op, "step_1e_56", sizes, state_dtype="float32", dt=-128, attrs={"dt_scale": 1.0}),
        draw(op, "step_1e_8", sizes, state_dtype="float32", dt=-128, state=0, D=0, attrs={"dt_scale": 0.15}),
        draw(op, "zero_state", sizes, state_dtype="float16", state=0),
        draw(op, "strided", sizes, state_dtype="int8", strided=True),
        _half_step_state(op),
    ]


def _dynamic(op: str, shapes: dict[str, dict[str, int]], extremes: str) -> list[Case]:
    """Rows whose scale is found as they are written: of one entry, of nothing, far below the least peak."""
    sizes = shapes[extremes]
    return [
        *(draw(op, name, shape) for name, shape in shapes.items()),
        draw(op, "saturated", sizes, saturated=True),
        draw(op, "strided", sizes, strided=True),
        draw(op, "step_1000", sizes, attrs={"dt_scale": 8.0}),
        draw(op, "nothing", sizes, x=0, state=0, row_scale=0.0),
        draw(op, "nothing_but_state", sizes, x=0, attrs={"dt_scale": 1e-3}),
        draw(op, "tiny_rows", sizes, x=0, row_scale=1e-37),
        draw(op, "one_peak", sizes, B=np.eye(1, sizes["N"], 3, dtype=np.int8)[0]),
        *(draw(op, f"chance_{name}", shapes[name], attrs=CHANCE) for name in CHANCE_SHAPES[op]),
        draw(op, "chance_saturated", sizes, saturated=True, attrs=CHANCE),
        draw(op, "chance_strided", sizes, strided=True, attrs=CHANCE),
        draw(op, "chance_nothing", sizes, x=0, state=0, row_scale=0.0, attrs=CHANCE),
        draw(op, "chance_kept_codes", sizes, x=0, attrs={"dt_scale": 1e-3, **CHANCE}),
        draw(op, "chance_tiny_rows", sizes, x=0, row_scale=1e-37, attrs=CHANCE),
    ]


CASES = [
    *(
        draw(SELECTIVE, f"{name}_{dtype}", sizes, state_dtype=dtype)
        for name, sizes in SELECTIVE_SHAPES.items()
        for dtype in STATE_DTYPES
    ),
    *_extremes(SELECTIVE, SELECTIVE_SHAPES["odd_sizes"]),
    *(
        draw(SSD, f"{name}_{dtype}", sizes, state_dtype=dtype)
        for name, sizes in SSD_SHAPES.items()
        for dtype in STATE_DTYPES
    ),
    *_extremes(SSD, SSD_SHAPES["G_2"]),
    *(
        draw(SSD, f"decode_strided_{dtype}", SSD_SHAPES["decode_N_128"], state_dtype=dtype, strided=True)
        for dtype in STATE_DTYPES
    ),
    *(
        draw(SSD, f"decode_scale_{scale}", SSD_SHAPES["decode_N_64"], state_dtype="int8", state_scale=scale)
        for scale in (1e-20, 1e20)  # beyond those that a reciprocal serves
    ),
    draw(SSD, "chunk_saturated", SSD_SHAPES["L_64"], state_dtype="int8", saturated=True),
    draw(SSD, "chunk_strided", SSD_SHAPES["L_65"], state_dtype="float16", strided=True),
    draw(SSD, "chunk_of_nothing", SSD_SHAPES["L_64"], x=0, state=0),
    draw(SSD, "chunk_step_1000", SSD_SHAPES["L_64"], attrs={"dt_scale": 8.0}),  # decays of nothing
    draw(SSD, "chunk_step_1e_56", SSD_SHAPES["L_64"], dt=-128, attrs={"dt_scale": 1.0}),
    draw(SSD, "decode_saturated", SSD_SHAPES["decode_N_128"], state_dtype="int8", saturated=True),
    draw(SSD, "decode_dt_below_0", SSD_SHAPES["decode_N_32"], attrs={"dt_min": -1.5, "dt_max": -0.7}),
    draw(SSD, "dt_limits", SSD_SHAPES["L_65"], state_dtype="float16", attrs={"dt_min": 0.3, "dt_max": 1.1}),
    draw(SSD, "one_scale", SSD_SHAPES["odd_sizes"], state_dtype="int8", scale_index=0),
    *_dynamic(DYNAMIC_SELECTIVE, SELECTIVE_SHAPES, "odd_sizes"),
    *_dynamic(DYNAMIC_SSD, SSD_SHAPES, "G_2"),
]
