"""Cases of the fp16 ops: their shapes, values beyond fp16, sums that cancel, fp16's smallest numbers."""

from __future__ import annotations

import numpy as np

from op_cases import int4, norms, scans
from op_cases.drawing import Array, Case, draw, letters
from op_cases.linear import SHAPES as PROJECTIONS

CONV = {
    "decode": letters(B=3, L=1, C=24, W=4),
    "shorter_than_the_window": letters(B=2, L=2, C=37, W=4),
    "W_2": letters(B=2, L=9, C=17, W=2),
    "L_65": letters(B=1, L=65, C=40, W=4),
}
SELECTIVE = ("one_of_everything", "decode", "odd_sizes", "L_65")
SSD = (
    "one_of_everything",
    "decode",
    "decode_N_128",
    "decode_N_256",
    "decode_P_35",
    "odd_sizes",
    "G_2",
    "L_65",
    "N_256",
)
STATES = ("float16", "float32")
NEAR_THE_ENDS = (-65504.0, -65472.0, -(2.0**-24), 0.0, 2.0**-24, 2.0**-14, 65472.0, 65504.0)


def _ends(*shape: int) -> Array:
    """fp16's largest and smallest numbers in turn; with equal weights the small ones are what is left."""
    return np.resize(NEAR_THE_ENDS, shape)


def _all_sizes(*shape: int) -> Array:
    """Numbers of every binade up to 16,384 in turn, of either sign, with random fractions."""
    random = np.random.default_rng(11)
    exponents = np.resize(np.arange(-24, 14), shape)
    fractions = np.where(exponents < -14, 1.0, random.integers(1024, 2048, shape) / 1024)
    return (fractions * np.exp2(exponents) * random.choice([-1, 1], shape)).astype(np.float16)


def _int4(op: str) -> list[Case]:
    sizes = letters(B=1, L=2, K=416, M=6)
    return [
        *(draw(op, name, shape, weight_scale=int4.spread(shape["K"])) for name, shape in int4.SHAPES.items()),
        draw(op, "strided", int4.SHAPES["short_group"], strided=True),
        draw(op, "largest_sum", sizes, x=65504.0, weight=-120),
        draw(op, "ends", sizes, x=_ends(1, 2, 416)),
        draw(op, "cancelling", sizes, x=_ends(1, 2, 416), weight=0x11),
        draw(op, "all_sizes", sizes, x=_all_sizes(1, 2, 416)),
    ]


def _int8(op: str) -> list[Case]:
    sizes, one = letters(B=1, L=2, K=416, M=6), letters(B=1, L=1, K=704, M=600)
    return [
        draw(op, "ends", sizes, x=_ends(1, 2, 416), weight=1),
        draw(op, "all_sizes", sizes, x=_all_sizes(1, 2, 416)),
        draw(op, "largest_digits", one, x=0x7F00 * 2.0**-24, weight=-128),  # 127 is the digit, in radix 256
    ]


def _scans() -> list[Case]:
    cases = []
    for op, names, shapes in (
        ("HalfSelectiveScan", SELECTIVE, scans.SELECTIVE_SHAPES),
        ("HalfSSDScan", SSD, scans.SSD_SHAPES),
    ):
        cases += [
            draw(op, f"{name}_{dtype}", shapes[name], state_dtype=dtype) for name in names for dtype in STATES
        ]
        cases += [draw(op, "strided", shapes["odd_sizes"], strided=True)]
        cases += [draw(op, "step_1000", shapes["odd_sizes"], dt=1000.0)]
    limits = {"dt_min": 0.3, "dt_max": 1.1}
    return [*cases, draw("HalfSSDScan", "dt_limits", scans.SSD_SHAPES["L_65"], attrs=limits)]


def _rotations() -> list[Case]:
    widths = {
        name: norms.WIDTHS[name] for name in ("E_16", "E_40", "E_72_in_blocks", "E_33_without_transform")
    }
    cases = [
        draw(op, name, sizes, attrs={"hadamard": int("without" not in name)})
        for op in ("HalfHadamard", "HalfGatedRMSNormHadamard")
        for name, sizes in widths.items()
    ]
    groups, count = norms.GROUPS["two_groups"]
    return [
        *cases,
        draw("HalfHadamard", "saturated", widths["E_16"], x=1e5),
        draw("HalfHadamard", "strided", widths["E_40"], strided=True),
        draw("HalfGatedRMSNormHadamard", "two_groups", groups, attrs={"n_groups": count}),
        draw("HalfGatedRMSNormHadamard", "saturated", groups, norm_weight=1e6),
        draw("HalfGatedRMSNormHadamard", "strided", groups, strided=True),
    ]


def _silu_between_halves() -> Case:
    """Sums whose silu lies in the middle between two fp16 numbers, and their neighbours."""
    halves = np.random.default_rng(5).integers(0x0001, 0x7BFF, 3000).astype(np.uint16).view(np.float16)
    above = np.nextafter(halves, np.float16(np.inf))
    middles = (halves.astype(np.float64) + above) / 2
    x = middles + 1.0
    for _ in range(60):  # Newton for silu(x) = middle
        gate = 1 / (1 + np.exp(-x))
        x -= (x * gate - middles) / (gate * (1 + x * (1 - gate)))
    falling = -np.linspace(0.0, 110.0, 3000)
    near = np.concatenate([x, falling]).astype(np.float32)
    bias = np.concatenate([near, *(np.nextafter(near, np.float32(far)) for far in (-1e9, 1e9))])
    sizes = letters(B=1, L=1, C=bias.size, W=2)
    return draw("HalfCausalConv1d", "silu_between_halves", sizes, x=0, state=0, bias=bias)


CASES = [
    *(draw("HalfRMSNorm", name, sizes) for name, sizes in norms.NORM_SHAPES.items()),
    draw("HalfRMSNorm", "strided", norms.NORM_SHAPES["odd_width"], strided=True),
    draw("HalfRMSNorm", "tiny", norms.NORM_SHAPES["odd_width"], attrs={"epsilon": 1e9}),
    *(draw("HalfCausalConv1d", name, sizes) for name, sizes in CONV.items()),
    draw("HalfCausalConv1d", "saturated", CONV["W_2"], x=60000.0, weight=1.5),
    draw("HalfCausalConv1d", "strided", CONV["shorter_than_the_window"], strided=True),
    draw("HalfCausalConv1d", "negative_zeros", CONV["W_2"], x=-0.0, state=-0.0, weight=1.0, bias=-0.0),
    _silu_between_halves(),
    *_int4("HalfInt4Linear"),
    *_int4("HalfInt4Projection"),
    *(draw("HalfInt8Projection", name, sizes) for name, sizes in PROJECTIONS.items()),
    draw("HalfInt8Projection", "strided", PROJECTIONS["odd_sizes"], strided=True),
    *_int8("HalfInt8Linear"),
    *_int8("HalfInt8Projection"),
    draw("HalfInt8Projection", "saturated", PROJECTIONS["L_65"], saturated=True, weight_scale=1000.0),
    *_rotations(),
    *_scans(),
]
