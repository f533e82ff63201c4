"""The projections of fp16 numbers by codes, compiled for the host: digits, roundings, both kernels by blocks.

The kernels are those that nvcc compiles, but for the assembly of two headers, which host_tensor_core.h
replaces; their warps take turns in either order, and copies arrive at once or as late as they may.
"""

from __future__ import annotations

import ctypes
import re
import shutil
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from host_math import HOST_GPU, SOURCES, host_math, pointer
from op_cases import Case, cases_of
from op_cases.drawing import draw
from op_implementations import run_reference

from quamba_export.plugins.common.c_header import header
from quamba_export.plugins.common.registry import PLUGINS
from tests.gpu.kernel_library import KernelLibrary

FUNCTION = {
    "HalfInt4Linear": "int4_linear",
    "HalfInt4Projection": "int4_projection",
    "HalfInt8Linear": "int8_linear",
    "HalfInt8Projection": "int8_projection",
}
KERNELS = {"one": 0, "gemv": 1, "few": 2, "many": 3}
MOST_TOKENS = {"one": 1, "gemv": 8}
ASSEMBLY = re.compile(r"#ifdef __CUDACC__\n.*#endif  // __CUDACC__\n", re.DOTALL)
CASES = [case for op in FUNCTION for case in cases_of(op)]


def copied_kernels(folder: Path, fault: tuple[str, str, str] | None = None) -> Path:
    """Folder of the sources without assembly. fault: a header, its right text and a wrong one."""
    for op in FUNCTION:
        shutil.copytree(PLUGINS / op, folder / op)
    common = folder / "common"
    common.mkdir()
    for source in (PLUGINS / "common").glob("*.cuh"):
        text = source.read_text()
        if source.name in ("int8_mma.cuh", "async_copy.cuh"):
            text, count = ASSEMBLY.subn("", text)
            assert count == 1
        if fault is not None and source.name == fault[0]:
            assert fault[1] in text, fault
            text = text.replace(fault[1], fault[2])
        (common / source.name).write_text(text)
    return common


def compiled(folder: Path, fault: tuple[str, str, str] | None = None) -> ctypes.CDLL:
    common = copied_kernels(folder, fault)
    (common / "cuda_fp16.h").write_text('#include "host_gpu.h"\n')
    shutil.copy(SOURCES / "host_half.cpp", common)
    words = (*HOST_GPU, f"-I{SOURCES}", f"-I{common}")
    return host_math(folder, str(common / "host_half.cpp"), *words)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(tmp_path_factory.mktemp("host_half"))


@pytest.fixture(scope="module")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    folder = tmp_path_factory.mktemp("host_launchers")
    common = copied_kernels(folder)
    (common / "contracts.h").write_text(header())
    for name in ("cuda_fp16.h", "cuda_runtime.h"):
        (common / name).write_text('#include "host_launch.h"\n')
    lines = ['#include "host_launch.cpp"\n#include "host_tensor_core.h"\n']
    lines += [f'#include "../{op}/launch.cu"\n' for op in FUNCTION]
    (common / "launchers.cpp").write_text("".join(lines))
    words = (*HOST_GPU, "-D__CUDACC__", "-D__maxnreg__(count)=", f"-I{SOURCES}", f"-I{common}")
    host_math(folder, str(common / "launchers.cpp"), *words)
    return KernelLibrary(folder / "host_math.so", "cpu")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_launcher_gives_the_reference_s_bits(launchers: KernelLibrary, case: Case) -> None:
    for wider, shift in ((0, 0), (48, 16), (5, 1)):  # elements behind a row, elements off alignment
        (found,) = launchers.run(case, wider=wider, shift=shift)
        assert same(case, found)


def run(
    kernels: ctypes.CDLL, kernel: str, case: Case, *, backwards: bool = False, wider: int = 0
) -> np.ndarray:
    """y of one call. wider: elements between rows of x."""
    inputs = {name: np.ascontiguousarray(array) for name, array in case.inputs.items()}
    (expected,) = run_reference(case)
    columns, y = inputs["x"].shape[-1], np.full_like(expected, np.nan)
    tokens = y.size // y.shape[-1]
    x = np.full((tokens, columns + wider), np.nan, np.float16)
    x[:, :columns] = inputs["x"].reshape(tokens, columns)
    arrays = [x, *(array for name, array in inputs.items() if name != "x"), y]
    sizes = (ctypes.c_int64(columns + wider), tokens, columns, y.shape[-1])
    function = getattr(kernels, FUNCTION[case.op])
    function.restype = ctypes.c_bool
    assert function(KERNELS[kernel], backwards, *map(pointer, arrays), *sizes), "threads wait for ever"
    return y


def calls(cases: list[Case], kernels: Iterable[str] = KERNELS) -> list[tuple[str, Case]]:
    """Each case by every kernel that takes as many tokens."""
    pairs = product(kernels, cases)
    return [(k, case) for k, case in pairs if np.prod(case.inputs["x"].shape[:2]) <= MOST_TOKENS.get(k, 1000)]


def same(case: Case, found: np.ndarray) -> bool:
    (expected,) = run_reference(case)
    return np.array_equal(expected.view(np.uint8), found.view(np.uint8))


@pytest.mark.parametrize(("kernel", "case"), calls(CASES), ids=str)
def test_a_kernel_gives_the_reference_s_bits(kernels: ctypes.CDLL, kernel: str, case: Case) -> None:
    assert same(case, run(kernels, kernel, case, wider=len(case.name) % 3 * 4 % 7))


LARGER = [
    draw(op, name, sizes, **({"weight_scale": 0.011} if "Int8" in op else {}))
    for op in FUNCTION
    for name, sizes in (
        ("one_token", {"B": 1, "L": 1, "K": 992, "M": 150}),
        ("tokens", {"B": 1, "L": 7, "K": 992, "M": 150}),
    )
]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("kernel", "case"), calls(LARGER), ids=str)
def test_in_either_order(kernels: ctypes.CDLL, kernel: str, case: Case, backwards: bool) -> None:
    assert same(case, run(kernels, kernel, case, backwards=backwards))


def finite_halves() -> np.ndarray:
    bits = np.arange(1 << 16, dtype=np.uint16)
    return bits[np.isfinite(bits.view(np.float16))]


def test_digits_of_every_number(kernels: ctypes.CDLL) -> None:
    bits = finite_halves()
    digits = np.empty((6, len(bits)), np.int8)
    kernels.limbs(pointer(bits), len(bits), pointer(digits))
    values = sum(digits[i].astype(np.int64) << 8 * i for i in range(6))
    assert np.array_equal(values, (bits.view(np.float16).astype(np.float64) * 2.0**24).astype(np.int64))
    assert digits[5].min() == -1
    assert digits[5].max() == 1
    magnitude = np.abs(bits.view(np.float16))
    assert not digits[4:, magnitude < 127.5].any()


def totals() -> np.ndarray:
    """Random ones of every size, and half steps of fp32 with their neighbours."""
    random = np.random.default_rng(3)
    sizes = random.integers(1, 64, 200_000)
    wide = random.integers(0, 2**63 - 1, sizes.size) >> (63 - sizes)
    steps = (2 * random.integers(2**23, 2**24, 3000) + 1)[:, None] << np.arange(
        38
    )  # 25 bits, the last one set
    around = (steps[..., None] + np.array([-1, 0, 1])).ravel()
    both = np.concatenate([wide, around, np.arange(300), 2**47 + np.arange(-300, 300)])
    return np.concatenate([both, -both, [-(2**63), 2**63 - 1]])


def test_the_nearest_float(kernels: ctypes.CDLL) -> None:
    wide = totals()
    found = np.empty(wide.size, np.float32)
    kernels.nearest_floats(pointer(wide), wide.size, pointer(found))
    assert np.array_equal(found, wide.astype(np.float32))  # the processor's own conversion: rounded once


def test_halves_saturate(kernels: ctypes.CDLL) -> None:
    exact = finite_halves().view(np.float16).astype(np.float32)
    steps = np.sort(exact)
    values = np.concatenate(
        [exact, (steps[1:] + steps[:-1]) / 2, [65519.9, 65520, 1e9, -65520, -np.inf, np.inf]]
    )
    values, bits = values.astype(np.float32), np.empty(len(values), np.uint16)
    kernels.halves(pointer(values), len(values), pointer(bits))
    assert np.array_equal(bits.view(np.float16), np.clip(values, -65504, 65504).astype(np.float16))


FAULTS = [
    ("half_limbs.cuh", "0x8080808080u", "0x7f80808080u"),
    ("half_limbs.cuh", "| ((total & 0xffff) != 0)", ""),
    ("half_limbs.cuh", "exponent > 0 ? exponent - 1 : 0", "exponent"),
    ("half_gemv.cuh", "quad == 0 ? last_upper : last_lower", "quad == 0 ? last_lower : last_upper"),
    ("half_gemv.cuh", "Pair(256) * sums[3]", "Pair(128) * sums[3]"),
    ("half_gemv.cuh", "token_total<int64_t>(sums, lane)", "token_total<int32_t>(sums, lane)"),
    ("half_gemm.cuh", "part[j][k] *= 256", "part[j][k] *= 255"),
    ("half_gemm.cuh", "last |= words[4] | words[5]", "last |= words[5]"),
    ("half_gemm.cuh", "wait_copy_groups<Tile::STAGES - 2>()", "wait_copy_groups<Tile::STAGES - 1>()"),
    ("half_gemm.cuh", "group + Tile::STAGES - 1;", "group + Tile::STAGES;"),
    (
        "half_gemm.cuh",
        "__syncthreads_or(make_planes<Tile>(planes, stage(group)))",
        "(make_planes<Tile>(planes, stage(group)), true)",
    ),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault[2])
def test_a_planted_fault_is_found(tmp_path: Path, fault: tuple[str, str, str]) -> None:
    faulty = compiled(tmp_path, fault)
    if fault[1].startswith("| ((total"):
        wide, found = totals(), np.empty(totals().size, np.float32)
        faulty.nearest_floats(pointer(wide), wide.size, pointer(found))
        assert not np.array_equal(found, wide.astype(np.float32))
        return
    kernels = ("few", "many") if fault[0] == "half_gemm.cuh" else ("one", "gemv")
    orders = product(calls([*LARGER, *CASES], kernels), (False, True))
    assert any(not same(case, run(faulty, k, case, backwards=backwards)) for (k, case), backwards in orders)
