"""Cases of the ops for studies of the scan's input: codes of 8 and 4 bits, one scale and two."""

from __future__ import annotations

from op_cases import conv, scans
from op_cases.drawing import draw

CONV, SELECTIVE, SSD = "ScanInputCausalConv1d", "FloatInputSelectiveScan", "FloatInputSSDScan"
EIGHT, FOUR, NONE = ({"largest_code": code} for code in (127, 7, 0))
L_65 = conv.SHAPES["L_65"]
SMALL = {"out_scale": 0.001, "outlier_scale": 0.02}  # most values are outliers

CASES = [
    draw(CONV, "decode", conv.SHAPES["decode"], attrs=EIGHT),
    draw(CONV, "two_scales", L_65, attrs=EIGHT, **SMALL),
    draw(CONV, "one_scale", L_65, attrs=EIGHT, out_scale=0.001, outlier_scale=0.001),
    draw(CONV, "four_bits", L_65, attrs=FOUR, **SMALL),
    draw(CONV, "unquantized", conv.SHAPES["W_3"], attrs=NONE),
    draw(CONV, "saturated", conv.SHAPES["W_3"], attrs=EIGHT, saturated=True, **SMALL),
    draw(CONV, "strided", conv.SHAPES["shorter_than_the_window"], attrs=FOUR, strided=True),
    *(
        draw(SELECTIVE, f"{name}_{dtype}", scans.SELECTIVE_SHAPES[name], state_dtype=dtype)
        for name, dtype in (("odd_sizes", "int8"), ("odd_sizes", "float32"), ("L_65", "float16"))
    ),
    *(
        draw(SSD, f"{name}_{dtype}", scans.SSD_SHAPES[name], state_dtype=dtype)
        for name, dtype in (("odd_sizes", "float16"), ("odd_sizes", "float32"), ("G_2", "int8"))
    ),
    draw(SSD, "L_63_int8", scans.SSD_SHAPES["L_63"], state_dtype="int8", strided=True),
    draw(SSD, "L_65_int8", scans.SSD_SHAPES["L_65"], state_dtype="int8", strided=True),
    draw(SSD, "L_200_odd_float16", scans.SSD_SHAPES["L_200_odd"], state_dtype="float16"),
    draw(SSD, "zero_x", scans.SSD_SHAPES["L_64"], x=0.0),
]
