"""The schedule of the kernel of Mamba-1's prompts: its warps take turns on the host, in either order.

What a warp reads before it is written, or after it is overwritten, shows in one of the two orders.
"""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from host_math import HOST_GPU, SOURCES, host_math, pointer
from op_cases import Case
from op_cases.drawing import draw
from op_implementations import run_reference

from quamba_export.plugins.common.c_header import header, strided
from quamba_export.plugins.common.registry import get_op
from tests.gpu.kernel_library import struct_type

SIZES = [
    {"B": 1, "L": 140, "E": 15, "N": 16},  # more tiles than the kernel holds at once
    {"B": 2, "L": 64, "E": 12, "N": 13},
    {"B": 1, "L": 5, "E": 3, "N": 1},
]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("host_prompt")
    (folder / "contracts.h").write_text(header())
    (folder / "cuda_fp16.h").write_text('#include "host_gpu.h"\n')
    return host_math(folder, "host_prompt.cpp", f"-I{folder}", f"-I{SOURCES}", *HOST_GPU)


def run(kernel: ctypes._NamedFuncPointer, case: Case, backwards: bool) -> list[np.ndarray]:
    """y and the state behind the prompt, with its row scales where it has some. Raises AssertionError where
    threads wait for ever.
    """
    call = struct_type(get_op("QuantizedSelectiveScan").spec)()  # which a dynamic state's launcher fills, too
    sizes = case.inputs["x"].shape + case.inputs["B"].shape[-1:]
    inputs = {name: values.copy() for name, values in case.inputs.items()}
    y = np.full(case.inputs["x"].shape, np.nan, np.float32)
    for letter, size in zip(("B", "L", "E", "N"), sizes, strict=True):
        setattr(call.size, letter, size)
    rows = [inputs.pop("row_scale")] if "row_scale" in inputs else []
    for name, value in case.attrs.items():
        if name != "stochastic":
            setattr(call, name, value)
    for name, values in {**inputs, "y": y, "state_out": inputs["state"]}.items():
        setattr(call, name, values.ctypes.data)
    for tensor in case.spec.inputs:
        if strided(tensor):
            setattr(call, f"{tensor.name}_stride", inputs[tensor.name].shape[2])
    kernel.restype = ctypes.c_bool
    arguments = (ctypes.byref(call), *map(pointer, rows), ctypes.c_bool(backwards))
    assert kernel(*arguments), "a barrier that not every thread reaches"
    return [y, inputs["state"], *rows]


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", ["prompt", "wide_prompt"])
def test_a_prompt_whose_warps_take_turns(kernels: ctypes.CDLL, name: str, backwards: bool) -> None:
    for sizes in SIZES:
        case = draw("QuantizedSelectiveScan", f"turns_{sizes['L']}", sizes)
        found = run(getattr(kernels, name), case, backwards)
        for expected, actual in zip(run_reference(case), found, strict=True):
            assert np.array_equal(expected, actual), sizes


@pytest.mark.parametrize(("name", "stochastic"), [("prompt_of_rows", 0), ("prompt_by_chance", 1)])
def test_a_prompt_whose_state_is_scaled_as_it_is_written(
    kernels: ctypes.CDLL, name: str, stochastic: int
) -> None:
    for sizes in SIZES:
        attrs = {"stochastic": stochastic}
        case = draw("DynamicStateSelectiveScan", f"rows_{sizes['L']}", sizes, attrs=attrs)
        found = run(getattr(kernels, name), case, backwards=False)
        for expected, actual in zip(run_reference(case), found, strict=True):
            assert np.array_equal(expected, actual), sizes
