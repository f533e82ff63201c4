"""The kernels' arithmetic of a state with a scale a row, compiled for the host: the references' bits."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from host_math import host_math, pointer

from quamba_export.plugins.common import recurrence, rotation
from quamba_export.plugins.common.scan_state import SMALLEST_PEAK, row_scaled, up_by_chance


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return host_math(tmp_path_factory.mktemp("host_rows"), "host_rows.cpp")


@pytest.mark.parametrize("layout", ["rotate_words", "rotate_columns"])
def test_a_warp_rotates_as_the_reference(kernels: ctypes.CDLL, layout: str) -> None:
    rng = np.random.default_rng(3)
    for N in range(1, 257):
        codes = rng.integers(-128, 128, N).astype(np.int8)
        found = codes.astype(np.float32)
        getattr(kernels, layout)(pointer(found), ctypes.c_int(N))
        assert np.array_equal(rotation.rotated(torch.from_numpy(codes)).numpy(), found), N


def test_rotating_twice_is_the_size() -> None:
    codes = torch.randint(-128, 128, (3, 96), dtype=torch.int8)
    for block in rotation.rotated(codes).unflatten(-1, (-1, 32)).unbind(-2):
        assert block.abs().max() <= 32 * 128
    signs = rotation.rotated(torch.eye(96, dtype=torch.int8))
    assert torch.equal(signs @ signs, 32 * torch.eye(96))


@pytest.mark.parametrize("step_row", ["step_row", "step_row_by_chance"])
@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-28, 1e-37])
def test_one_token_of_a_row(kernels: ctypes.CDLL, spread: float, step_row: str) -> None:
    rng, N = np.random.default_rng(5), 256
    B, C = (rng.normal(size=N).astype(np.float32) for _ in range(2))
    codes, scale = rng.integers(-127, 128, N).astype(np.int8), np.float32(spread)
    decay, inputs = np.float32(0.937), np.float32(spread * -21.7)
    found, row_scale = codes.copy(), np.array([scale])
    next_h, read = np.empty(N, np.float32), np.empty(N, np.float32)
    numbers = (ctypes.c_float(decay), ctypes.c_float(inputs), pointer(B), pointer(C), ctypes.c_int(N))
    getattr(kernels, step_row)(pointer(found), pointer(row_scale), *numbers, pointer(next_h), pointer(read))
    by_chance = step_row == "step_row_by_chance"
    state = row_scaled(torch.from_numpy(codes)[None], torch.tensor([scale]), by_chance)
    token = [torch.from_numpy(a)[None, None] for a in (B, C)]
    y, held = recurrence.scan(state, 1.0, lambda t: torch.tensor(decay), torch.tensor([[[inputs]]]), *token)
    assert np.array_equal(held.codes[0].numpy(), found)
    assert held.scale.item() == row_scale[0]
    assert recurrence.tree_sum(torch.from_numpy(read)).item() == y.item()
    if spread > SMALLEST_PEAK * 127:
        assert np.abs(found).max() == 127  # the peak, and nothing beyond it


def test_registers_give_back_the_codes(kernels: ctypes.CDLL) -> None:
    scales = np.exp2(np.random.default_rng(7).uniform(-107, 100, 4096)).astype(np.float32)
    assert kernels.lost_codes(pointer(scales), ctypes.c_int(scales.size)) == 0


def test_chance_gives_the_bits_of_its_reference(kernels: ctypes.CDLL) -> None:
    rng = np.random.default_rng(11)
    whole = np.arange(-127, 128)
    beside = [np.nextafter(whole, limit, dtype=np.float32) for limit in (-999, 999)]
    drawn = [rng.uniform(-127, 127, 100_000), rng.normal(size=10_000), np.exp(-rng.uniform(0, 100, 10_000))]
    steps = np.concatenate([whole, whole + 0.5, *beside, *drawn, [-0.0]]).astype(np.float32)
    found = steps.copy()
    kernels.raise_by_chance(pointer(found), ctypes.c_int(found.size))
    assert np.array_equal(up_by_chance(torch.from_numpy(steps)).numpy(), found)
    assert np.abs(found).max() == 127


def test_chance_keeps_codes_and_rounds_as_often_up_as_the_fraction_says() -> None:
    codes = torch.arange(-127, 128).float()
    scales = torch.exp2(torch.empty(4096, 1).uniform_(-100, 100, generator=torch.Generator().manual_seed(3)))
    assert torch.equal(up_by_chance(codes * scales / scales), codes.expand(4096, -1))
    for fraction in (0.1, 0.5, 0.9):
        near = torch.arange(fraction - 0.02, fraction + 0.02, 1e-6, dtype=torch.float64)
        for code in (0, 3, 40, -100):
            raised = up_by_chance((code + near).float()).double() - code
            assert set(raised.unique().tolist()) <= {0.0, 1.0}
            assert raised.mean().item() == pytest.approx(fraction, abs=0.01), code
