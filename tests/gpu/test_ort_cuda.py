"""An export in ONNX Runtime's CUDA provider against the CPU's: `make gpu-test PYTEST_ARGS='-k ort_cuda'`.

QUAMBA_EXPORTS, folders joined by colons, replaces the two tiny models made here. Exp, Log and sums of the two
providers round apart, so a code in a thousand may differ; TF32 or a state that is not carried would show.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from quamba_export.runtime.engine import prefill
from quamba_export.runtime.engine_ort import OrtEngine
from quamba_export.runtime.manifest import read_manifest
from quamba_export.runtime.ort_placement import place_nodes

LENGTH, STEPS = 40, 24
NO_KERNEL = {"BitwiseXor", "MatMulInteger"}  # docs/onnxruntime-cuda.md


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    onnxruntime = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("no CUDA GPU for ONNX Runtime: pip install 'onnxruntime-gpu[cuda,cudnn]' where one is")
    if "QUAMBA_EXPORTS" in os.environ:
        return [Path(name) for name in os.environ["QUAMBA_EXPORTS"].split(":")]
    from tiny_flow import CONFIGS, run_flow

    return [run_flow(tmp_path_factory.mktemp(kind), kind).export for kind in CONFIGS]


def test_cuda_gives_the_logits_and_states_of_the_cpu(exports: list[Path]) -> None:
    for folder in exports:
        manifest = read_manifest(folder)
        model, states, vocab_size = folder / "model.onnx", manifest.states, manifest.vocab_size
        on_cpu = OrtEngine(model, states, vocab_size)
        on_cuda = OrtEngine(model, states, vocab_size, provider="cuda")
        ids = np.random.default_rng(0).integers(0, vocab_size, (2, LENGTH + STEPS))
        (wanted, after), (found, here) = (prefill(engine, ids[:, :LENGTH]) for engine in (on_cpu, on_cuda))
        check_close(found, wanted, f"{folder}: prompt")
        for t in range(LENGTH, LENGTH + STEPS):
            wanted, after = on_cpu.run(ids[:, t : t + 1], after)
            found, here = on_cuda.run(ids[:, t : t + 1], here)
            check_close(found, wanted, f"{folder}: token {t}")
        for name in after:
            check_close(here[name], after[name], f"{folder}: {name}")
        differing = sum(int((here[name] != after[name]).sum()) for name in after)
        print(f"{folder}: {differing} state values differ after {LENGTH + STEPS} tokens")


def test_what_stays_on_the_cpu_is_what_has_no_kernel(exports: list[Path]) -> None:
    for folder in exports:
        placed = {p.provider: p for p in place_nodes(folder, read_manifest(folder), "cuda", threads=0)}
        for name, placement in placed.items():
            print(f"{folder}: {name} {placement.nodes} nodes {placement.ops}")
        assert set(placed["CPUExecutionProvider"].ops) >= NO_KERNEL
        assert "MatMul" in placed["CUDAExecutionProvider"].ops
        assert placed["CUDAExecutionProvider"].nodes > placed["CPUExecutionProvider"].nodes


def check_close(found: np.ndarray, wanted: np.ndarray, what: str) -> None:
    """Cosine above 0.9999, or both nothing but zeros."""
    a, b = (array.astype(np.float64).ravel() for array in (found, wanted))
    assert a @ b >= 0.9999 * np.linalg.norm(a) * np.linalg.norm(b), what
    assert np.isclose(np.linalg.norm(a), np.linalg.norm(b), rtol=1e-3), what
