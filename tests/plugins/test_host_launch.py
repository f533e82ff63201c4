"""Whole launchers compiled for the host, their kernels run block by block: the references'
bits, and nothing written beside them.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from host_math import EXACT, HOST_GPU, SOURCES
from op_cases import COMPILED, Case
from op_implementations import run_reference

from quamba_export.plugins.common.c_header import header
from quamba_export.plugins.common.registry import PLUGINS, kernel_names
from tests.gpu.kernel_library import KernelLibrary
from tests.gpu.random_shapes import random_cases

pytestmark = pytest.mark.xdist_group("launchers on the host")  # one process compiles them
OPS = tuple(
    op for op in kernel_names() if op.startswith("Half") and not op.endswith(("Linear", "Projection"))
)
ALIGNMENTS = ((0, 0), (48, 16), (5, 1))  # elements behind a row, elements off alignment
SMALL_GPU = (8, 2, 99 << 10)  # major version, multiprocessors, and bytes that sm_86 and sm_89 give a block
RANDOM_SHAPES, MOST_INPUTS = 12, 1 << 16  # of an op; of a call


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> KernelLibrary:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ found: apt install g++")
    folder = tmp_path_factory.mktemp("host_launch")
    (folder / "contracts.h").write_text(header())
    for name in ("cuda_fp16.h", "cuda_runtime.h"):
        (folder / name).write_text('#include "host_launch.h"\n')
    options = [*EXACT, *HOST_GPU, "-fPIC", "-D__CUDACC__", "-DQUAMBA_HOST_DEVICE=inline"]
    options += [f"-I{folder}", f"-I{SOURCES}", "-include", "host_launch.h", "-x", "c++", "-c"]

    def compiled(source: Path) -> Path:
        made = folder / f"{source.parent.name}_{source.stem}.o"
        subprocess.run([compiler, *options, source, "-o", made], check=True)
        return made

    sources = [SOURCES / "host_launch.cpp", *(PLUGINS / op / "launch.cu" for op in OPS)]
    with ThreadPoolExecutor(4) as pool:
        objects = list(pool.map(compiled, sources))
    subprocess.run([compiler, "-shared", *objects, "-o", folder / "launchers.so"], check=True)
    return KernelLibrary(folder / "launchers.so", "cpu")


def assert_bits_of_the_reference(library: KernelLibrary, case: Case, alignment: tuple[int, int]) -> None:
    found = library.run(case, wider=alignment[0], shift=alignment[1])
    for tensor, expected, actual in zip(case.spec.outputs, run_reference(case), found, strict=True):
        bits = (np.ascontiguousarray(values).view(np.uint8) for values in (expected, actual))
        assert np.array_equal(*bits), f"{case} {tensor.name}"


@pytest.mark.parametrize("case", [case for case in COMPILED if case.op in OPS], ids=str)
def test_a_launcher_gives_the_bits_of_its_reference(library: KernelLibrary, case: Case) -> None:
    for alignment in ALIGNMENTS:
        assert_bits_of_the_reference(library, case, alignment)


@pytest.fixture
def small_gpu(library: KernelLibrary) -> Iterator[None]:
    attributes = (ctypes.c_int * 3).in_dll(library.loaded, "host_gpu_attributes")
    before = tuple(attributes)
    attributes[:] = SMALL_GPU
    yield
    attributes[:] = before


@pytest.mark.usefixtures("small_gpu")
@pytest.mark.parametrize("case", [case for case in COMPILED if case.op in OPS], ids=str)
def test_a_launcher_finds_room_on_a_small_gpu(library: KernelLibrary, case: Case) -> None:
    assert_bits_of_the_reference(library, case, (0, 0))


@pytest.mark.parametrize("op", OPS)
def test_random_shapes(library: KernelLibrary, op: str) -> None:
    cases = (case for case in random_cases(op, seed=2) if case.inputs["x"].size < MOST_INPUTS)
    for i, case in enumerate(islice(cases, RANDOM_SHAPES)):
        assert_bits_of_the_reference(library, case, ALIGNMENTS[i % len(ALIGNMENTS)])
