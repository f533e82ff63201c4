"""Engines on a real GPU: the gate lets them pass, finds a planted fault, and the weights are there once.

Needs a GPU, TensorRT with its builder, cuda-bindings, onnx, onnxruntime, and QUAMBA_PLUGINS: `make gpu-test`.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from refusals import refused

from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.tensorrt_library import import_builder

NEEDED = ("onnx", "onnxruntime", "tokenizers", "cuda.bindings.runtime")


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """real_engines.build, each build in a folder of its own."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA GPU: engines run on one only (`make gpu-test` there)")
    if "QUAMBA_PLUGINS" not in os.environ:
        pytest.skip("QUAMBA_PLUGINS is not set: `make gpu-test` builds the library and sets it")
    for module in NEEDED:
        pytest.importorskip(module, reason=f"no {module}: pip install 'quamba-export[export,runtime-gpu]'")
    try:
        import_builder()
    except QuambaError as error:
        pytest.skip(f"no TensorRT that builds engines: {error.found}")
    made = import_module("tests.gpu.real_engines")

    def build_one(name: str, **options: Any) -> Any:
        folder = tmp_path_factory.mktemp("engines") / name
        return made.build(name, folder, Path(os.environ["QUAMBA_PLUGINS"]), **options)

    return build_one


@pytest.mark.parametrize("qformat", ["w8a8", "w4a8", "w4a16", "w8a16"])
@pytest.mark.parametrize("name", ["mamba-130m", "mamba2-130m"])
def test_engines_pass_the_gate_with_their_weights_once_in_memory(
    build: Callable[..., Any], name: str, qformat: str
) -> None:
    built = build(name, qformat=qformat)
    taken = built.check(Cuda())
    weights = (built.folder / "weights.bin").stat().st_size
    plans = [(built.folder / f"{plan}.engine").stat().st_size for plan in ("decode", "prefill")]
    print(f"{name}: weights.bin {weights >> 20} MiB, plans {plans}, GPU memory {taken >> 20} MiB")
    assert taken < 2 * weights
    assert max(plans) < weights / 10


def test_the_gate_names_the_layer_of_a_planted_fault(build: Callable[..., Any]) -> None:
    built = build("mamba2-130m")
    (weight,) = (w for w in built.record.weights if w.name == "layers.1.in_proj.weight")
    rows, columns = weight.shape
    row = weight.offset + rows // 2 * columns  # of a channel that the convolution reads
    content = bytearray((built.folder / "weights.bin").read_bytes())
    content[row : row + columns] = bytes(code ^ 0x40 for code in content[row : row + columns])
    (built.folder / "weights.bin").write_bytes(content)
    with refused("from layer 1 (past_conv_states.1) on", "instead of", code=ExitCode.NUMERIC):
        built.check(Cuda())


def test_weights_of_another_model_are_refused(build: Callable[..., Any]) -> None:
    built = build("mamba2-130m")
    first = replace(built.record.weights[0], shape=(1, *built.record.weights[0].shape))
    record = replace(built.record, weights=(first, *built.record.weights[1:]))
    with refused(f"'{first.name}'", "does not fit", code=ExitCode.INTEGRITY):
        replace(built, record=record).check(Cuda())


@pytest.mark.parametrize("field", ["max_batch", "prefill_length"])
def test_calls_beyond_the_plans_are_refused(build: Callable[..., Any], field: str) -> None:
    built = build("mamba2-130m")
    record = replace(built.record, **{field: getattr(built.record, field) + 1})
    with refused("max_batch or prefill_length does not fit", code=ExitCode.INTEGRITY):
        replace(built, record=record).check(Cuda())


def test_version_compatible_engines_pass_too(build: Callable[..., Any]) -> None:
    version = import_builder().__version__.split(".post")[0]
    try:
        ctypes.CDLL(f"libnvinfer_lean.so.{version}")
    except OSError as error:
        with refused("TensorRT", "libnvinfer_lean", code=ExitCode.INCOMPATIBLE):
            build("mamba2-130m", version_compatible=True)
        pytest.skip(f"no lean runtime beside the builder: {error}")
    built = build("mamba2-130m", version_compatible=True)
    assert built.record.version_compatible
    built.check(Cuda())
