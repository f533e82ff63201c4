"""The C++ arithmetic of the W4A8 projections, compiled by g++: the reference's bits without a GPU."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from op_cases import Case, cases_of
from op_implementations import run_reference

from quamba_export.plugins.common.registry import get_op

SOURCE = Path(__file__).with_name("host_int4.cpp")
LAST = {"Int4Linear": "residual", "Int4RequantizedLinear": "out_scale"}
FUNCTION = {"Int4Linear": "int4_residual", "Int4RequantizedLinear": "int4_requantized"}
CASES = [case for op in LAST for case in cases_of(op)]


def compiled(folder: Path, source: str) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ found: apt install g++")
    library, copy = folder / "host_int4.so", folder / "host_int4.cpp"
    copy.write_text(source.replace("../..", str(SOURCE.parents[2])))
    warnings = ["-Wall", "-Wno-unknown-pragmas", "-Werror"]  # #pragma unroll is nvcc's
    flags = ["-std=c++17", "-O2", *warnings, "-ffp-contract=off", "-shared", "-fPIC"]
    subprocess.run([compiler, *flags, "-o", str(library), str(copy)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return compiled(tmp_path_factory.mktemp("host_int4"), SOURCE.read_text())


def run_host(host: ctypes.CDLL, case: Case) -> np.ndarray:
    inputs = {name: np.ascontiguousarray(array) for name, array in case.inputs.items()}
    batch, length, columns = inputs["x"].shape
    rows = len(inputs["weight"])
    y = np.empty((batch, length, rows), np.float32 if case.op == "Int4Linear" else np.int8)
    scale = inputs["weight_scale"].astype(np.float32)
    arrays = [inputs["x"], inputs["weight"], scale, inputs["bias"], inputs[LAST[case.op]], y]
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in arrays]
    sizes = (batch * length, columns, rows, ctypes.c_float(case.attrs["x_scale"]))
    getattr(host, FUNCTION[case.op])(*pointers, *sizes)
    return y


def run_step(host: ctypes.CDLL, case: Case) -> list[np.ndarray]:
    """From the codes of the norm on: y, and the state that was updated in place."""
    i = {name: np.ascontiguousarray(array).copy() for name, array in case.inputs.items()}
    norm_scale = case.attrs["norm_scale"]
    normed = get_op("RMSNormQuantize").reference(
        torch.from_numpy(i["x"]), epsilon=case.attrs["epsilon"], out_scale=norm_scale
    )
    codes, scale = normed.numpy(), i["weight_scale"].astype(np.float32)
    batch, length, columns = codes.shape
    channels, width = i["conv_weight"].shape
    y = np.empty((batch, length, len(i["weight"])), np.int8)
    conv = [i[f"conv_{name}"] for name in ("state", "weight", "x_scale", "weight_scale", "bias", "out_scale")]
    arrays = [codes, i["weight"], scale, i["bias"], i["out_scale"], y]
    host.int4_step(
        *(array.ctypes.data_as(ctypes.c_void_p) for array in arrays),
        *(batch * length, columns, y.shape[-1], ctypes.c_float(norm_scale)),
        *(array.ctypes.data_as(ctypes.c_void_p) for array in conv),
        *(int(case.attrs["conv_begin"]), channels, width),
    )
    return [y, i["conv_state"]]


@pytest.mark.parametrize("case", cases_of("Int4InputProjectionStep"), ids=str)
def test_the_step_gives_the_reference_s_bits(host: ctypes.CDLL, case: Case) -> None:
    for found, expected in zip(run_step(host, case), run_reference(case), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("K", "M"), [(768, 3352), (1536, 6448), (2560, 10576)])
def test_a_block_of_the_step_leaves_room_for_one_of_out_proj(host: ctypes.CDLL, K: int, M: int) -> None:
    """On an H200: 132 SMs, 228 KiB of shared memory and 65,536 registers each."""
    assert host.step_and_out_proj_bytes(K, M, 132) <= 228 * 1024
    assert host.step_and_out_proj_registers() <= 65536


def group_parts(host: ctypes.CDLL) -> tuple[np.ndarray, np.ndarray]:
    """Parts of random and of the largest sums on scales of every size and sign, as both kernels make them."""
    random = np.random.default_rng(1)
    totals = np.concatenate([random.integers(-(2**17), 2**17 + 1, 200_000), [0, 2**17, -(2**17)] * 50]) * 16
    sizes = 10.0 ** random.uniform(-8, 4.8, totals.size) * random.choice([-1, 1], totals.size)
    parts = np.empty((2, totals.size), np.float32)
    arrays = [totals.astype(np.int32), sizes.astype(np.float16).astype(np.float32)]
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (*arrays, parts[0], parts[1])]
    host.group_parts(*pointers[:2], totals.size, *pointers[2:])
    return parts[0], parts[1]


def test_a_biased_sum_makes_the_same_part(host: ctypes.CDLL) -> None:
    plain, biased = group_parts(host)
    np.testing.assert_array_equal(biased, plain)


def test_a_bias_that_is_off_is_found(tmp_path: Path) -> None:
    faulty = compiled(
        tmp_path, SOURCE.read_text().replace("BIASED_ZERO + totals", "BIASED_ZERO + 1 + totals")
    )
    plain, biased = group_parts(faulty)
    assert not np.array_equal(biased, plain)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_reference_s_bits(host: ctypes.CDLL, case: Case) -> None:
    np.testing.assert_array_equal(run_host(host, case), run_reference(case)[0])


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("word_at(x + i), word_at(x + 16 + i)", "word_at(x + 16 + i), word_at(x + i)"),
        ("scale[m * p.groups() + g]", "scale[m * p.groups()]"),
        ("for (int g = 0; g < p.groups(); g++)", "for (int g = p.groups() - 1; g >= 0; g--)"),
    ],
)
def test_a_planted_fault_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    source = SOURCE.read_text()
    assert right in source
    faulty = compiled(tmp_path, source.replace(right, wrong))
    assert any(not np.array_equal(run_host(faulty, case), run_reference(case)[0]) for case in CASES)
