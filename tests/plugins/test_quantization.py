"""int8 codes: round half to even, true division; and the exact integer product."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quamba_export.calib.model.quantize_model import absmax_scale
from quamba_export.plugins.common.quantization import (
    INT8_MAX,
    INT8_MIN,
    SMALLEST_SCALE,
    as_scale,
    dequantize,
    int8_matmul,
    quantize,
)

# scales with 12 significant bits: (k + 1/2) * s is exact in fp32 for every code k, 1 / s hardly ever
SHORT_SCALES = st.builds(
    lambda mantissa, power: mantissa * 2.0**power, st.integers(2049, 4095), st.integers(-20, -6)
)
SCALES = st.floats(2.0**-20, 2.0**13, width=32)


def through_reciprocal(x: torch.Tensor, scale: float) -> torch.Tensor:
    """What must not be done: one reciprocal, then products."""
    return torch.clamp(torch.round(x * (1.0 / as_scale(scale, x))), INT8_MIN, INT8_MAX).to(torch.int8)


def half_steps(scale: float) -> torch.Tensor:
    """(k + 1/2) * scale for k = -140..139, exact."""
    return (torch.arange(-140, 140) + 0.5).double().mul(scale).float()


@settings(max_examples=200, deadline=None)
@given(SHORT_SCALES)
def test_half_steps_round_to_the_even_code(scale: float) -> None:
    x = half_steps(scale)
    assert [Fraction(v) for v in x.tolist()] == [
        (Fraction(2 * k + 1, 2)) * Fraction(scale) for k in range(-140, 140)
    ]
    even = [2 * ((k + 1) // 2) for k in range(-140, 140)]
    assert quantize(x, scale).tolist() == [max(INT8_MIN, min(INT8_MAX, code)) for code in even]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-(2.0**20), 2.0**20, width=32), min_size=1, max_size=50), SCALES)
def test_codes_are_the_nearest_to_the_fp32_quotient(values: list[float], scale: float) -> None:
    x = torch.tensor(values)
    quotients = [Fraction(float(np.float32(v) / np.float32(scale))) for v in x.tolist()]
    expected = [max(INT8_MIN, min(INT8_MAX, round(q))) for q in quotients]  # Fraction rounds half to even
    assert quantize(x, scale).tolist() == expected


@settings(max_examples=200, deadline=None)
@given(SCALES)
def test_every_code_survives_a_round_trip(scale: float) -> None:
    codes = torch.arange(INT8_MIN, INT8_MAX + 1).to(torch.int8)
    assert torch.equal(quantize(dequantize(codes, scale), scale), codes)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(-1.0, 1.0, width=32), min_size=2, max_size=50), st.floats(2.0**-7, 1.0, width=32))
def test_codes_keep_the_order_and_lie_within_half_a_step(values: list[float], scale: float) -> None:
    x = torch.tensor(sorted(values))
    codes = quantize(x, scale).int()
    assert (codes.diff() >= 0).all()
    inside = x.abs() <= INT8_MAX * scale
    error = (dequantize(codes.to(torch.int8), scale) - x).abs()[inside]
    assert (error <= scale * (0.5 + 2**-16)).all()


def test_a_reciprocal_would_give_other_codes() -> None:
    """5 % of half steps; hardly any random value, which is why the cases hold half-step grids."""
    scales = [mantissa * 2.0**-16 for mantissa in range(2049, 4096, 8)]
    wrong = [
        (quantize(x, s) != through_reciprocal(x, s)).float().mean().item()
        for s in scales
        for x in [half_steps(s)]
    ]
    assert 0.02 < np.mean(wrong) < 0.2
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    assert (quantize(x, 0.0271) != through_reciprocal(x, 0.0271)).float().mean() < 1e-4


@pytest.mark.parametrize("columns", [1, 7, 1023, 1024, 1025, 2048, 3001])
@pytest.mark.parametrize("fill", ["random", "largest", "smallest", "alternating"])
def test_products_are_exact(columns: int, fill: str) -> None:
    generator = torch.Generator().manual_seed(columns)
    x, weight = (
        torch.randint(-128, 128, (rows, columns), generator=generator).to(torch.int8) for rows in (5, 3)
    )
    if fill == "largest":
        x[:], weight[:] = -128, -128
    elif fill == "smallest":
        x[:], weight[:] = -128, 127
    elif fill == "alternating":
        x[:], weight[:] = 127, 127
        x[:, ::2] = -128
    exact = x.numpy().astype(np.int64) @ weight.numpy().astype(np.int64).T
    assert np.array_equal(int8_matmul(x, weight).numpy(), exact.astype(np.float32))


def test_one_long_fp32_product_would_round_on_the_way() -> None:
    """127 * 127 a column: partial sums beyond 2^24 are odd, and fp32 holds even numbers only."""
    x, weight = torch.full((1, 3001), 127, dtype=torch.int8), torch.full((1, 3001), 127, dtype=torch.int8)
    naive = sum(a * b for a, b in zip(x[0].float(), weight[0].float(), strict=True))
    assert float(naive) != np.float32(127 * 127 * 3001)
    assert float(int8_matmul(x, weight)) == np.float32(127 * 127 * 3001)


@pytest.mark.parametrize("peak", [0.0, 1e-44, 1e-38, 100 * SMALLEST_SCALE])
def test_a_slice_of_next_to_nothing_counts_as_zeros(peak: float) -> None:
    weight = torch.tensor([[peak, -peak / 2], [1.0, 0.5]])
    scale = absmax_scale(weight, dim=1)
    assert scale.tolist() == [1.0, np.float32(1 / 127)]
    assert quantize(weight, scale[:, None]).tolist() == [[0, 0], [127, 64]]
    assert absmax_scale(torch.tensor([127 * SMALLEST_SCALE])).item() == SMALLEST_SCALE
