"""The estimate of a build's memory, by hand for a tiny model, and its refusal."""

from __future__ import annotations

import ctypes
import itertools
import math
import sys
from pathlib import Path

import onnx
import pytest
from fake_cuda import FakeCuda
from host_math import host_math
from onnx import numpy_helper
from refusals import refused

from quamba_export.calib.model.quantize_model import quantize_model
from quamba_export.exporter.graph.onnx_export import onnx_from_model
from quamba_export.exporter.tensorrt.graph import tensorrt_graph
from quamba_export.exporter.tensorrt.memory import (
    TENSORRT_BYTES,
    MemoryEstimate,
    check_memory,
    estimate_memory,
    scan_workspace,
    ssd_workspace,
    token_bytes,
)
from quamba_export.exporter.tensorrt.weights import weight_table
from quamba_export.plugins.common.c_header import header
from quamba_export.runtime import cuda
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.errors import ExitCode
from tests.random_calibrations import random_calibration
from tests.random_checkpoints import MAMBA1, MAMBA2, random_checkpoint


@pytest.fixture(scope="module")
def exported() -> onnx.ModelProto:
    checkpoint = random_checkpoint(MAMBA1)
    calibration = random_calibration(MAMBA1, digest=checkpoint.digest)
    return onnx_from_model(quantize_model(checkpoint, calibration))


def test_a_token_takes_every_tensor_of_a_layer_once(exported: onnx.ModelProto) -> None:
    D, E, N, R = MAMBA1.d_model, MAMBA1.d_inner, MAMBA1.d_state, MAMBA1.dt_rank
    int8 = D + 2 * E + E + R + 2 * N + E + E  # norm_out; conv_in, z; x; dt_low, B, C; dt; out_proj_in
    assert token_bytes(exported) == int8 + 4 * E + 2 * 4 * D  # y; the residual stream before and after


def test_states_and_weights_are_counted(exported: onnx.ModelProto) -> None:
    weights = weight_table(tensorrt_graph(exported, weights_as_inputs=True), exported)
    one, four = (estimate_memory(exported, weights, batch, 16) for batch in (1, 4))
    states = MAMBA1.n_layer * (math.prod(MAMBA1.conv_state_shape) + 2 * math.prod(MAMBA1.ssm_state_shape))
    assert one.states == states + 16 * 8 + MAMBA1.vocab_size * 4
    assert (four.states, four.activations) == (4 * one.states, 4 * one.activations)
    assert one.activations == 17 * token_bytes(exported)
    arrays = {t.name: numpy_helper.to_array(t) for t in exported.graph.initializer}
    inputs = {weight.name for weight in weights}
    constants = sum(array.nbytes for name, array in arrays.items() if name not in inputs)
    assert one.weights == weights[-1].end + 2 * constants
    assert one.total == one.weights + one.states + one.activations + TENSORRT_BYTES


def test_the_workspace_of_a_scan_is_that_of_its_launcher(tmp_path: Path) -> None:
    """Against workspace.cuh itself, compiled for the host."""
    (tmp_path / "contracts.h").write_text(header())
    launcher = host_math(tmp_path, "host_workspace.cpp", f"-I{tmp_path}").ssd_workspace
    launcher.restype, launcher.argtypes = ctypes.c_int64, [ctypes.c_int64] * 6
    lengths, states = (1, 7, 8, 63, 64, 65, 127, 1000, 2048), (16, 64, 65, 128, 200)
    heads = ((1, 1, 1), (3, 5, 1), (24, 64, 8), (80, 64, 1))
    for B, L, (H, P, G), N in itertools.product((1, 3), lengths, heads, states):
        assert ssd_workspace(B, L, H, P, G, N) == launcher(B, L, H, P, G, N), (B, L, H, P, G, N)
    assert ssd_workspace(1, 1024, 80, 64, 1, 128) == 28_928 * 1024  # mamba2-2.7b


def test_the_scan_s_workspace_is_counted(exported: onnx.ModelProto) -> None:
    checkpoint = random_checkpoint(MAMBA2)
    calibration = random_calibration(MAMBA2, digest=checkpoint.digest)
    model = onnx_from_model(quantize_model(checkpoint, calibration))
    weights = weight_table(tensorrt_graph(model, weights_as_inputs=True), model)
    H, P, G, N = MAMBA2.n_heads, MAMBA2.headdim, MAMBA2.n_groups, MAMBA2.d_state
    for batch, length in ((1, 7), (2, 63), (3, 200)):
        wanted = ssd_workspace(batch, length, H, P, G, N)
        assert scan_workspace(model, batch, length) == wanted
        estimate = estimate_memory(model, weights, batch, length)
        assert estimate.activations == batch * (length + 1) * token_bytes(model) + wanted
    assert scan_workspace(exported, 3, 200) == 0  # Mamba-1
    halves = onnx_from_model(quantize_model(checkpoint, None, "w4a16"))
    assert [scan_workspace(halves, 2, length) for length in (7, 200)] == [0, 2 * 200 * H * 8]


def test_what_does_not_fit_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(memory=8 << 30))
    check_memory(MemoryEstimate(6 << 30, 1 << 30, 1 << 29), Cuda())
    with refused(
        "not fit into the GPU's memory",
        "found: an estimate of 8.50 GiB (weights 6.00, states 1.00, activations 1.00, tensorrt 0.50)",
        "allowed: 8.00 GiB, which are free of 8.00",
        "--max-batch",
        code=ExitCode.OUT_OF_SPACE,
    ):
        check_memory(MemoryEstimate(6 << 30, 1 << 30, 1 << 30), Cuda())


def test_a_jetson_s_page_cache_counts_as_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Linux gives it back; cudaMemGetInfo there takes it for used."""
    (tmp_path / "meminfo").write_text(f"MemFree: 9 kB\nMemAvailable:   {6 << 20} kB\nBuffers: 1 kB\n")
    monkeypatch.setattr(cuda, "MEMINFO", tmp_path / "meminfo")
    estimate = MemoryEstimate(4 << 30, 1 << 29, 1 << 29)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(87, 2 << 30, integrated=True))
    assert Cuda().memory() == (6 << 30, 2 << 30)
    check_memory(estimate, Cuda())
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(87, 2 << 30))
    assert Cuda().memory() == (2 << 30, 2 << 30)
    with refused("not fit into the GPU's memory", code=ExitCode.OUT_OF_SPACE):
        check_memory(estimate, Cuda())


def test_a_jetson_that_does_not_say_what_is_available_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "meminfo").write_text("MemFree: 9 kB\n")
    monkeypatch.setattr(cuda, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", FakeCuda(87, integrated=True))
    with refused("does not say how much memory is available", "MemAvailable", code=ExitCode.INCOMPATIBLE):
        Cuda().memory()
