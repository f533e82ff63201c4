"""RMSNormLinear and the argmax as far as a CPU can run them: where a token lies in shared memory, which warp
multiplies what, and the ranks of logits.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from op_cases import case_named
from op_cases.drawing import Array
from op_implementations import assert_within_bound, run_reference

SOURCE = Path(__file__).with_name("host_head.cpp")
EXACT = ("-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror")
NAN, INF = np.nan, np.inf


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ found: apt install g++")
    path = tmp_path_factory.mktemp("host_head") / "host_head.so"
    subprocess.run([compiler, *EXACT, "-shared", "-fPIC", str(SOURCE), "-o", str(path)], check=True)
    library = ctypes.CDLL(str(path))
    library.argmax_of.restype = ctypes.c_int64
    return library


def pointer(array: Array) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def places(kernels: ctypes.CDLL, D: int) -> list[int]:
    """Where the columns of a token lie."""
    return [kernels.head_place_of(d) for d in range(D)]


@pytest.mark.parametrize("D", [1, 255, 256, 768, 2560])
def test_every_column_has_a_place_of_its_own(kernels: ctypes.CDLL, D: int) -> None:
    pitch = kernels.head_pitch_of(D)
    assert pitch >= D
    assert sorted(places(kernels, pitch)) == list(range(pitch))


def test_lanes_load_side_by_side(kernels: ctypes.CDLL) -> None:
    """Lane l multiplies columns 8 l .. 8 l + 7 of a step: two loads of 16 bytes, no bank twice."""
    for half in range(2):
        firsts = [kernels.head_place_of(512 + 8 * lane + 4 * half) for lane in range(32)]
        assert firsts == list(range(firsts[0], firsts[0] + 128, 4))
    for d in range(0, 512, 4):
        assert places(kernels, 512)[d : d + 4] == list(
            range(places(kernels, 512)[d], places(kernels, 512)[d] + 4)
        )


@pytest.mark.parametrize("rows", [2, 4])
@pytest.mark.parametrize("warps", [8, 24, 104])
@pytest.mark.parametrize("name", ["one_of_everything", "one_token", "D_257", "D_2560"])
def test_the_warps_multiply_everything_once(kernels: ctypes.CDLL, name: str, warps: int, rows: int) -> None:
    case = case_named("RMSNormLinear", name)
    x, weight = case.inputs["x"], case.inputs["weight"].astype(np.float32)
    V, D = weight.shape
    token = np.zeros(kernels.head_pitch_of(D), np.float32)
    token[places(kernels, D)] = x[0, 0]
    sums, times = np.empty(V, np.float32), np.zeros(V, np.int32)
    kernels.walk_over_rows(pointer(token), pointer(weight), D, V, warps, rows, pointer(sums), pointer(times))
    assert (times == 1).all()
    root = np.sqrt(np.float32((x * x).mean()) + np.float32(case.attrs["epsilon"]))
    assert_within_bound(case, run_reference(case), [(sums / root)[None, None]])


def drawn(seed: int, *special: float) -> NDArray[np.float32]:
    """Logits of few values, so that the largest occurs several times; `special` ones among them."""
    random = np.random.default_rng(seed)
    logits = random.integers(-3, 4, 50).astype(np.float32)
    for value in special:
        logits[random.integers(0, 50, 2)] = value
    return logits


@pytest.mark.parametrize(
    "logits",
    [
        *(drawn(seed) for seed in range(5)),
        *(drawn(seed, -INF) for seed in range(3)),
        np.array([-0.0, 0.0], np.float32),
        np.array([-1e-45, -0.0, 0.0, -1.0], np.float32),
        np.array([-3e38, -3.4e38], np.float32),
        np.array([7.0], np.float32),
    ],
    ids=str,
)
def test_the_highest_rank_is_numpy_s_argmax(kernels: ctypes.CDLL, logits: NDArray[np.float32]) -> None:
    assert kernels.argmax_of(pointer(logits), logits.size) == logits.argmax()


@pytest.mark.parametrize(
    "logits",
    [
        *(drawn(seed, NAN) for seed in range(3)),
        *(drawn(seed, NAN, INF) for seed in range(3)),
        *(drawn(seed, -NAN, INF, -INF) for seed in range(3)),
        drawn(0, INF),
        np.array([-INF, -INF], np.float32),
    ],
    ids=str,
)
def test_what_is_not_finite_is_told(kernels: ctypes.CDLL, logits: NDArray[np.float32]) -> None:
    """Where runtime/sampling.py refuses the logits."""
    assert not np.isfinite(logits.max())
    assert kernels.argmax_of(pointer(logits), logits.size) == -1 - logits.argmax()
