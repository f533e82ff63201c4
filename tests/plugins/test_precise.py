"""The shared formulas against extended precision: correctly rounded, and no overflow for any fp32 input."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_formulas import rms_norm
from op_formulas import silu as exact_silu
from op_formulas import softplus as exact_softplus
from op_implementations import ulps

from quamba_export.plugins.common.precise import root_mean_square, silu, softplus

FP32 = st.floats(-(2.0**100), 2.0**100, width=32)
GRID = np.concatenate(
    [np.linspace(-120, 120, 4801), np.geomspace(1e-30, 1e30, 601), -np.geomspace(1e-30, 1e30, 601)]
)


def test_silu_is_the_nearest_fp32_number() -> None:
    x = GRID.astype(np.float32)
    with np.errstate(over="ignore"):
        assert ulps(silu(torch.from_numpy(x)).numpy(), exact_silu(x)).max() == 0


def test_fp32_silu_would_not_be() -> None:
    x = torch.linspace(-20, 20, 4001)
    assert (ulps(torch.nn.functional.silu(x).numpy(), exact_silu(x.numpy())) > 0).any()


def test_softplus_is_good_to_2_to_the_minus_40() -> None:
    """Of its value, also where that is far below 2^-53 and 1 + exp(x) is 1; exp(-700) is near fp64's end."""
    x = GRID[GRID > -700]
    exact = exact_softplus(x)
    error = np.abs(softplus(torch.from_numpy(x)).numpy() - exact)
    assert (error <= 2.0**-40 * exact).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(FP32, min_size=1, max_size=40), st.floats(2.0**-126, 1.0, width=32))
def test_root_mean_square_is_the_nearest_fp32_number(values: list[float], epsilon: float) -> None:
    x = np.array(values, np.float32)
    found = x / root_mean_square(torch.from_numpy(x), epsilon).numpy()
    assert ulps(found, rms_norm(x, epsilon)).max() == 0
