"""The kernels' arithmetic, tests/plugins/host_*.cpp, compiled for the host."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

F32 = NDArray[np.float32]

SOURCES = Path(__file__).parent / "plugins"
EXACT = ("-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror")
# with plugins/host_gpu.h
HOST_GPU = ("-O1", "-Wno-unused-parameter", "-Wno-sign-compare", "-fno-extern-tls-init")


def host_math(folder: Path, source: str = "host_math.cpp", *options: str) -> ctypes.CDLL:
    """The library of `source`, compiled into `folder` with further options; skips where there is no g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ found: apt install g++")
    path = folder / "host_math.so"
    words = [compiler, *EXACT, *options, "-shared", "-fPIC", str(SOURCES / source), "-o", str(path)]
    subprocess.run(words, check=True)
    library = ctypes.CDLL(str(path))
    if source != "host_math.cpp":
        return library
    library.tree_sum_of.restype = library.root_of.restype = ctypes.c_float
    return library


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def assert_same_bits(expected: torch.Tensor, found: F32) -> None:
    assert np.array_equal(expected.numpy().view(np.uint8), found.view(np.uint8))


def drawn(*shape: int, spread: float = 1.0, seed: int = 3) -> F32:
    return (np.random.default_rng(seed).standard_normal(shape) * spread).astype(np.float32)


def half_steps(scale: float) -> F32:
    """Between two codes each, with both neighbours, and far beyond the last code."""
    middle = ((np.arange(-400, 400) + 0.5) * scale).astype(np.float32)
    return np.concatenate([middle, np.nextafter(middle, np.float32(-9)), np.nextafter(middle, np.float32(9))])
