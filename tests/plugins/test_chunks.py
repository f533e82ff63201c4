"""QuantizedSSDScan's chunks: how far their integers are from the formula, and what those integers are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from op_cases import case_named
from op_cases.drawing import Array, Case, draw, letters
from op_formulas import dequantize
from op_implementations import run_reference

from quamba_export.plugins.QuantizedSSDScan import op as ssd
from quamba_export.plugins.QuantizedSSDScan.chunk import codes_of, fixed_point

SIZES = letters(B=1, L=192, H=4, P=64, G=1, N=128, S=16)
BOUND = 2.0**-12  # of the outputs' root mean square: as far as whole chunks are from fp64


def case_of(A_log: float, dt_bias: float, state_dtype: str) -> Case:
    name = f"chunks_{A_log}_{dt_bias}"
    return draw("QuantizedSSDScan", name, SIZES, state_dtype=state_dtype, A_log=A_log, dt_bias=dt_bias)


def in_fp64(case: Case) -> NDArray[np.float64]:
    """y of one group by the recurrence, nothing rounded."""
    i, index = case.inputs, case.inputs["scale_index"]
    x, rows, read = (
        dequantize(i[name], scale).astype(np.float64)
        for name, scale in (
            ("x", i["x_scale"][index]),
            ("B", i["B_scale"][:, None]),
            ("C", i["C_scale"][:, None]),
        )
    )
    h = i["state"] * (i["state_scale"][index].astype(np.float64) if i["state"].dtype == np.int8 else 1.0)
    step = np.log1p(np.exp(i["dt"] * case.attrs["dt_scale"] + i["dt_bias"]))
    y = np.empty(x.shape)
    for t in range(x.shape[1]):
        decay = np.exp(-step[:, t] * np.exp(i["A_log"]))[..., None, None]
        h = h * decay + (step[:, t, :, None] * x[:, t])[..., None] * rows[:, t, :, None]
        y[:, t] = (h * read[:, t, :, None]).sum(-1)
    return y + i["D"][:, None] * x


def distance(y: Array, exact: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))


@pytest.mark.parametrize("state_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("A_log", "dt_bias"), [(1.0, -4.0), (0.0, -3.0), (2.0, 0.0), (-2.0, -6.0)])
def test_chunks_are_near_the_formula(
    monkeypatch: pytest.MonkeyPatch, A_log: float, dt_bias: float, state_dtype: str
) -> None:
    """With an fp32 state within the bound, else nearer than with a state rounded after every token."""
    case = case_of(A_log, dt_bias, state_dtype)
    exact, chunked = in_fp64(case), run_reference(case)[0]
    monkeypatch.setattr(ssd, "CHUNK", 1 << 20)
    allowed = BOUND if state_dtype == "float32" else distance(run_reference(case)[0], exact)
    assert distance(chunked, exact) < allowed


def rows_of_values() -> NDArray[np.float32]:
    """Ordinary rows; rows around a power of two; half steps; the largest and smallest numbers; nothing."""
    random, f32 = np.random.default_rng(3), np.float32
    ordinary = random.standard_normal((64, 16)) * 2.0 ** random.uniform(-90, 90, (64, 1))
    powers = 2.0 ** np.arange(-110, 128, 7, dtype=np.float64)[:, None] * np.linspace(-1, 1, 16)
    beside = np.nextafter(powers.astype(f32), f32(0))
    halves = np.r_[8192.0, np.arange(-7, 8) + 0.5][None] * 2.0 ** np.arange(-20, 20)[:, None]
    return np.concatenate([ordinary, powers, beside, halves, np.zeros((1, 16))]).astype(f32)


def test_integers_are_the_nearest_on_a_power_of_two() -> None:
    x = rows_of_values()
    codes, unit = (tensor.numpy().astype(np.float64) for tensor in fixed_point(torch.from_numpy(x)))
    assert (np.frexp(unit)[0] == 0.5).all()
    assert np.abs(codes).max() <= 2**14
    assert np.array_equal(codes, np.rint(x / unit))
    assert ((np.abs(codes).max(-1) >= 2**13) | (np.abs(x).max(-1) < 2.0**-100)).all()


@pytest.mark.parametrize("beside", [0, 1, -128, 127])
def test_an_fp32_x_of_codes_is_those_codes(beside: int) -> None:
    """Every code on many scales, beside another in its row; about a tenth of the quotients are not exact."""
    random = np.random.default_rng(5)
    scale = torch.from_numpy(np.exp(random.uniform(-14, 7, 4000)).astype(np.float32))  # (P)
    codes = torch.arange(-128.0, 128.0)[:, None].expand(-1, 4000)  # (c, P)
    x = torch.stack([codes, torch.full_like(codes, beside)], dim=1)[None, :, None, None]  # (1, c, 1, 1, 2, P)
    assert not torch.equal(x * scale / scale, x)
    assert torch.equal(codes_of(x * scale, scale[None, None]), x)


@pytest.mark.parametrize("state_dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("name", ["decode", "L_63", "L_64", "L_65", "L_200_odd", "G_8"])
def test_an_fp32_x_of_codes_gives_their_bits(name: str, state_dtype: str) -> None:
    int8 = case_named("QuantizedSSDScan", f"{name}_{state_dtype}")
    x = dequantize(int8.inputs["x"], int8.inputs["x_scale"][int8.inputs["scale_index"]])
    float32 = Case("FloatInputSSDScan", int8.name, {**int8.inputs, "x": x}, int8.attrs)
    for expected, found in zip(run_reference(int8), run_reference(float32), strict=True):
        assert np.array_equal(expected, found)
