"""The kernels' arithmetic, tests/plugins/host_*.cpp, compiled for the host."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from numpy.typing import NDArray

SOURCES = Path(__file__).parent / "plugins"
EXACT = ("-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror")


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
    library.hadamard_bytes.restype = ctypes.c_int64
    return library


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)
