"""Cases of the ops on float weights and fp32 values: few, for their arithmetic is that of the Half ops."""

from __future__ import annotations

from op_cases import norms, scans
from op_cases.drawing import draw, letters
from op_cases.linear import SHAPES

CONV = letters(B=2, L=2, C=37, W=4)
GROUPS, COUNT = norms.GROUPS["two_groups"]
PROJECTIONS = ("HalfInt8Linear", "HalfProjection", "HalfLinear", "FloatProjection", "FloatLinear")

CASES = [
    *(draw(op, "decode", SHAPES["decode"]) for op in PROJECTIONS),
    draw("FloatProjection", "K_1025", SHAPES["K_1025"]),
    draw("FloatLinear", "strided", SHAPES["odd_sizes"], strided=True),
    draw("HalfProjection", "saturated", SHAPES["odd_sizes"], x=60000.0, weight=1.5),
    draw("FloatRMSNorm", "odd_width", norms.NORM_SHAPES["odd_width"], strided=True),
    draw("FloatCausalConv1d", "decode", letters(B=3, L=1, C=24, W=4)),
    draw("FloatCausalConv1d", "shorter_than_the_window", CONV, strided=True),
    draw("FloatHadamard", "E_16", norms.WIDTHS["E_16"]),
    draw(
        "FloatHadamard",
        "E_33_without_transform",
        norms.WIDTHS["E_33_without_transform"],
        attrs={"hadamard": 0},
    ),
    draw("FloatGatedRMSNormHadamard", "two_groups", GROUPS, attrs={"n_groups": COUNT, "hadamard": 0}),
    draw("FloatSelectiveScan", "odd_sizes_float32", scans.SELECTIVE_SHAPES["odd_sizes"]),
    draw(
        "FloatSelectiveScan",
        "strided",
        scans.SELECTIVE_SHAPES["odd_sizes"],
        state_dtype="float16",
        strided=True,
    ),
    draw("FloatSSDScan", "odd_sizes_float32", scans.SSD_SHAPES["odd_sizes"]),
    draw("FloatSSDScan", "strided", scans.SSD_SHAPES["G_2"], state_dtype="float16", strided=True),
]
