"""The kernels' Hadamard transforms in their three forms, compiled for the host: the references' bits."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import torch
from host_math import assert_same_bits, drawn, half_steps, host_math, pointer
from op_cases.drawing import STEP

from quamba_export.plugins.common import hadamard, quantization

FULL = [1, 2, 8, 16, 32, 64, 2048, *(base << k for base in (12, 20, 28, 40) for k in (0, 1, 2, 3, 4, 7))]
BLOCKED = [3, 36, 44, 60, 72, 176, 1920]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = host_math(tmp_path_factory.mktemp("host_hadamard"), "host_hadamard.cpp")
    library.hadamard_bytes.restype = ctypes.c_int64
    return library


@pytest.mark.parametrize("order", [12, 20, 28])
def test_signs_of_the_base_matrices(kernels: ctypes.CDLL, order: int) -> None:
    signs = np.empty((order, order), np.int8)
    kernels.base_signs(ctypes.c_int(order), pointer(signs))
    factors = hadamard.hadamard_factors(order)
    assert np.array_equal(signs, torch.kron(factors.left, factors.right).sign().numpy())


@pytest.mark.parametrize("size", [*FULL, *BLOCKED])
def test_transform_rounds_as_the_reference(kernels: ctypes.CDLL, size: int) -> None:
    """Except where fp64's error decides: a sum of four floats may end in the middle between two."""
    entries = np.empty(kernels.hadamard_bytes(ctypes.c_int(size)) // 8)
    for seed in range(3):
        x, found = drawn(size, seed=seed), np.empty(size, np.float32)
        kernels.hadamard_of(pointer(x), ctypes.c_int(size), pointer(found), pointer(entries))
        wide = hadamard.apply_hadamard(torch.from_numpy(x).double()).numpy()
        expected = wide.astype(np.float32)
        middle = (expected.astype(np.float64) + found) / 2
        assert ((expected == found) | (np.abs(wide - middle) < 1e-14)).all()


@pytest.mark.parametrize("form", ["in_parts", "by_whole_tokens"])
@pytest.mark.parametrize("size", [1024, 1536, 1920, 2048, 5120, 7168, 8192, 10240, 12288, 14336, 16384])
def test_the_forms_of_published_widths_transform_as_the_reference(
    kernels: ctypes.CDLL, form: str, size: int
) -> None:
    entries = np.empty(kernels.hadamard_bytes(ctypes.c_int(size)) // 8)
    x, found = drawn(size, seed=3), np.full(size, np.nan, np.float32)
    arguments = pointer(x), ctypes.c_int(size), pointer(found), pointer(entries)
    assert getattr(kernels, f"hadamard_{form}")(*arguments) == 0
    wide = hadamard.apply_hadamard(torch.from_numpy(x).double()).numpy()
    middle = (wide.astype(np.float32).astype(np.float64) + found) / 2
    assert ((wide.astype(np.float32) == found) | (np.abs(wide - middle) < 1e-14)).all()


@pytest.mark.parametrize("scale", [STEP, 0.0261, 1.0, 3e-5])
def test_codes_of_a_part(kernels: ctypes.CDLL, scale: float) -> None:
    """Half steps and their neighbours, brought to the sums that the transform of width 4096 makes of them."""
    x = half_steps(scale)
    sums, found = x.astype(np.float64) * 64, np.empty(x.shape, np.int8)
    kernels.part_codes(
        pointer(sums), ctypes.c_int(x.size), ctypes.c_int(4096), ctypes.c_float(scale), pointer(found)
    )
    assert_same_bits(quantization.quantize(torch.from_numpy(x), scale), found)
