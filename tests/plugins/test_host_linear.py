"""The int8 linear kernels as far as a CPU can run them: their arithmetic behind the sum, bit for bit against
the references, and the lanes of a warp replayed with the layouts the kernels use.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from op_cases import Case, cases_of
from op_cases.drawing import Array
from op_implementations import run_reference

from quamba_export.plugins.common.int4 import pack_int4
from quamba_export.plugins.common.registry import get_op

SOURCE = Path(__file__).with_name("host_linear.cpp")
EXACT = ("-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror")
LAST = {"RequantizedLinear": "out_scale", "QuantizedLinear": "residual"}
FUNCTION = {"RequantizedLinear": "requantized_end", "QuantizedLinear": "residual_end"}
BANK_BYTES = 128  # what shared memory gives at once; a 16-byte load takes it in phases of eight lanes


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ found: apt install g++")
    library = tmp_path_factory.mktemp("host_linear") / "host_linear.so"
    subprocess.run([compiler, *EXACT, "-shared", "-fPIC", str(SOURCE), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def pointer(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def codes(*shape: int) -> NDArray[np.int8]:
    return np.random.default_rng(7).integers(-128, 128, shape).astype(np.int8)


@pytest.mark.parametrize("case", [*cases_of("RequantizedLinear"), *cases_of("QuantizedLinear")], ids=str)
def test_end_is_the_reference(kernels: ctypes.CDLL, case: Case) -> None:
    (expected,) = run_reference(case)
    arrays = {name: np.ascontiguousarray(array) for name, array in case.inputs.items()}
    totals = (arrays["x"].astype(np.int64) @ arrays["weight"].astype(np.int64).T).astype(np.int32)
    rows = totals.shape[-1]
    found = np.empty_like(expected)
    getattr(kernels, FUNCTION[case.op])(
        pointer(totals),
        totals.size // rows,
        rows,
        ctypes.c_float(case.attrs["x_scale"]),
        *(pointer(arrays[name]) for name in ("weight_scale", "bias", LAST[case.op])),
        pointer(found),
    )
    assert np.array_equal(expected.view(np.uint8), found.view(np.uint8))


@pytest.mark.parametrize("case", cases_of("InputProjectionStep"), ids=str)
def test_end_of_the_step_is_the_reference(kernels: ctypes.CDLL, case: Case) -> None:
    """From the codes of the norm on; the state is updated in place."""
    arrays = {name: np.ascontiguousarray(array).copy() for name, array in case.inputs.items()}
    scale = case.attrs["norm_scale"]
    normed = get_op("RMSNormQuantize").reference(
        torch.from_numpy(arrays["x"]), epsilon=case.attrs["epsilon"], out_scale=scale
    )
    totals = (normed.numpy().astype(np.int64) @ arrays["weight"].astype(np.int64).T).astype(np.int32)
    expected_y, expected_state = run_reference(case)
    y, rows = np.empty_like(expected_y), totals.shape[-1]
    channels, width = arrays["conv_weight"].shape
    kernels.projection_step_end(
        pointer(totals),
        totals.size // rows,
        rows,
        ctypes.c_float(scale),
        *(pointer(arrays[name]) for name in ("weight_scale", "bias", "out_scale")),
        pointer(y),
        *(
            pointer(arrays[name])
            for name in ("conv_state", "conv_weight", "conv_x_scale", "conv_weight_scale")
        ),
        *(pointer(arrays[name]) for name in ("conv_bias", "conv_out_scale", "conv_state")),
        int(case.attrs["conv_begin"]),
        channels,
        width,
    )
    assert np.array_equal(expected_y, y)
    assert np.array_equal(expected_state, arrays["conv_state"])


def test_a_step_of_the_gemv_is_the_product(kernels: ctypes.CDLL) -> None:
    both, sums = codes(24, 64), np.empty((8, 16), np.int32)
    weight, x = both[:16].copy(), both[16:].copy()
    kernels.replay_gemv_step(pointer(weight), pointer(x), pointer(sums))
    assert np.array_equal(sums, x.astype(np.int32) @ weight.astype(np.int32).T)


@pytest.mark.parametrize("T", [1, 8])
@pytest.mark.parametrize(
    ("K", "M"),
    [(1, 1), (64, 8), (160, 5120), (768, 3352), (2560, 10576), (5120, 2560), (4096, 18560), (37, 400000)],
)
@pytest.mark.parametrize("multiprocessors", [8, 132])
def test_warps_of_the_gemv_share_every_step_out(
    kernels: ctypes.CDLL, K: int, M: int, T: int, multiprocessors: int
) -> None:
    """Each is done once; one block an SM, unless a block had more rows than threads to end them."""
    pieces = -(-K // 64) * 4
    visits = np.zeros(512 * pieces + 1, np.int32)
    blocks = kernels.gemv_visits(K, M, T, multiprocessors, pointer(visits))
    rows = int(visits[np.nonzero(visits)[0][-1]])
    assert (visits[: -(-rows // 16) * 16 * pieces] == 1).all()
    assert rows % 8 == 0
    assert rows <= (512 if T == 1 else 128)
    assert rows * blocks >= M > rows * (blocks - 1)
    assert blocks <= multiprocessors or rows == (512 if T == 1 else 128)


SHARED_KIB = {"H200": (132, 227), "RTX 4090": (128, 99), "Orin": (16, 163), "Orin Nano": (8, 163)}


@pytest.mark.parametrize("gpu", SHARED_KIB)
def test_one_token_of_every_published_size_takes_the_gemv(kernels: ctypes.CDLL, gpu: str) -> None:
    multiprocessors, kib = SHARED_KIB[gpu]
    for K, M in [(768, 3352), (1536, 768), (2560, 10576), (5120, 2560), (4096, 18560), (8192, 4096)]:
        assert kernels.gemv_depth_of(K, M, 1, multiprocessors, kib * 1024, 7) >= 3, (K, M)
        assert kernels.int4_gemv_depth_of(K, M, 1, multiprocessors, kib * 1024, 6) >= 3, (K, M)
        for gemv_depth_of in (kernels.half_int4_gemv_depth_of, kernels.half_int8_gemv_depth_of):
            assert gemv_depth_of(K, M, 1, multiprocessors, kib * 1024, 6) >= 2, (K, M)
    assert kernels.gemv_depth_of(2560, 10576, 1, multiprocessors, 227 * 1024, 7) == 7
    assert kernels.gemv_depth_of(2560, 10576, 9, multiprocessors, 227 * 1024, 7) == 0
    assert kernels.gemv_depth_of(131071, 10576, 1, multiprocessors, kib * 1024, 7) == (3 if kib == 227 else 0)


def test_a_stage_of_the_gemm_is_the_product(kernels: ctypes.CDLL) -> None:
    both, sums = codes(32, 128), np.empty((16, 16), np.int32)
    x, weight = both[:16].copy(), both[16:].copy()
    kernels.replay_gemm_stage(pointer(x), pointer(weight), pointer(sums))
    assert np.array_equal(sums, x.astype(np.int32) @ weight.astype(np.int32).T)


def test_a_group_of_the_int4_gemm_is_the_product(kernels: ctypes.CDLL) -> None:
    x, weight, sums = codes(16, 128), codes(8, 128) >> 4, np.empty((16, 8), np.int32)
    packed = np.ascontiguousarray(pack_int4(torch.from_numpy(weight)).numpy())
    kernels.replay_int4_group(pointer(x), pointer(packed), pointer(sums))
    assert np.array_equal(sums, 16 * (x.astype(np.int32) @ weight.astype(np.int32).T))


def test_a_lane_of_the_int4_gemm_finds_its_scales(kernels: ctypes.CDLL) -> None:
    places = list(product(range(32), range(4), range(2)))
    assert [kernels.scale_place_of(*place) for place in places] == [
        kernels.scale_of_lane(*place) for place in places
    ]
    assert not phases_collide([kernels.int4_offset(lane) for lane in range(32)])


def phases_collide(offsets: list[int]) -> bool:
    """Whether two of eight lanes that load 16 bytes together want the same banks."""
    return any(
        len({offset % BANK_BYTES for offset in offsets[i : i + 8]}) < 8 for i in range(0, len(offsets), 8)
    )


@pytest.mark.parametrize("columns", [32, 64, 96, 128, 768, 2560, 5120, 8192])
@pytest.mark.parametrize("piece", ["gemv_piece", "int4_gemv_piece"])
def test_tokens_of_the_gemv_lie_in_different_banks(kernels: ctypes.CDLL, piece: str, columns: int) -> None:
    of = getattr(kernels, piece)
    assert of(4, columns) >= columns
    assert not phases_collide([of(lane, columns) for lane in range(32)])


@pytest.mark.parametrize("operand", [0, 1])
def test_chunks_of_the_gemm_lie_in_different_banks(kernels: ctypes.CDLL, operand: int) -> None:
    for chunk in range(0, 8, 2):
        assert not phases_collide([kernels.gemm_offset(operand, lane, chunk) for lane in range(32)])
    for row in range(8):  # as cp.async writes: eight lanes to one row
        assert sorted(kernels.gemm_offset(0, row, chunk) // 16 for chunk in range(8)) == list(
            range(8 * row, 8 * row + 8)
        )
