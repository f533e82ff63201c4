"""The kernels' arithmetic of a state with a scale a row, compiled for the host: the references' bits."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from host_math import host_math, pointer

from quamba_export.plugins.common import recurrence, rotation
from quamba_export.plugins.common.scan_state import SMALLEST_PEAK, RowScaled


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


@pytest.mark.parametrize("spread", [1.0, 1e-3, 1e-28, 1e-37])
def test_one_token_of_a_row(kernels: ctypes.CDLL, spread: float) -> None:
    rng, N = np.random.default_rng(5), 256
    B, C = (rng.normal(size=N).astype(np.float32) for _ in range(2))
    codes, scale = rng.integers(-127, 128, N).astype(np.int8), np.float32(spread)
    decay, inputs = np.float32(0.937), np.float32(spread * -21.7)
    found, row_scale = codes.copy(), np.array([scale])
    next_h, read = np.empty(N, np.float32), np.empty(N, np.float32)
    numbers = (ctypes.c_float(decay), ctypes.c_float(inputs), pointer(B), pointer(C), ctypes.c_int(N))
    kernels.step_row(pointer(found), pointer(row_scale), *numbers, pointer(next_h), pointer(read))
    state = RowScaled(torch.from_numpy(codes)[None], torch.tensor([scale]))
    token = [torch.from_numpy(a)[None, None] for a in (B, C)]
    y, held = recurrence.scan(state, 1.0, lambda t: torch.tensor(decay), torch.tensor([[[inputs]]]), *token)
    assert isinstance(held, RowScaled)
    assert np.array_equal(held.codes[0].numpy(), found)
    assert held.scale.item() == row_scale[0]
    assert recurrence.tree_sum(torch.from_numpy(read)).item() == y.item()
    if spread > SMALLEST_PEAK * 127:
        assert np.abs(found).max() == 127  # the peak, and nothing beyond it


def test_registers_give_back_the_codes(kernels: ctypes.CDLL) -> None:
    scales = np.exp2(np.random.default_rng(7).uniform(-107, 100, 4096)).astype(np.float32)
    assert kernels.lost_codes(pointer(scales), ctypes.c_int(scales.size)) == 0
