"""The device layer on a real GPU through cuda-python and through pycuda, and a bundle over both.

QUAMBA_BUNDLE names a TensorRT bundle built for this GPU; without it only memory and copies are tested.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np
import pytest

from quamba_export.runtime.bundle import open_model
from quamba_export.runtime.cuda import BACKEND, BACKENDS, Cuda
from quamba_export.runtime.engine import prefill
from quamba_export.runtime.errors import QuambaError

MODULES = {"cuda-python": "cuda.bindings.runtime", "pycuda": "pycuda.driver"}
LENGTH, STEPS = 100, 24


def make_cuda(monkeypatch: pytest.MonkeyPatch, backend: str) -> Cuda:
    pytest.importorskip(MODULES[backend], reason=f"no CUDA GPU through {backend}: pip install {backend}")
    monkeypatch.setenv(BACKEND, backend)
    try:
        return Cuda()
    except QuambaError as error:
        pytest.skip(f"no CUDA GPU through {backend}: {error.found}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_bytes_go_to_the_device_and_come_back(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    cuda = make_cuda(monkeypatch, backend)
    values = np.arange(1 << 16, dtype=np.int32)
    first, second = cuda.allocate(values.nbytes), cuda.allocate(values.nbytes)
    pinned, pageable = cuda.pinned(values.shape, values.dtype), np.empty_like(values)
    pinned.array[:] = values
    cuda.copy(first.address, pinned.address, values.nbytes)
    cuda.copy(second.address, first.address, values.nbytes)
    cuda.copy(pageable.ctypes.data, second.address, values.nbytes)
    cuda.clear(first)
    cuda.copy(pinned.address, first.address, values.nbytes)
    cuda.synchronize()
    assert np.array_equal(pageable, values)
    assert not pinned.array.any()
    assert 50 <= cuda.sm <= 199
    assert cuda.has_graphs == (backend == "cuda-python")


def test_a_bundle_gives_the_same_bits_through_both(monkeypatch: pytest.MonkeyPatch) -> None:
    if "QUAMBA_BUNDLE" not in os.environ:
        pytest.skip("no CUDA GPU with a bundle: QUAMBA_BUNDLE names none")
    results = []
    for backend in BACKENDS:
        make_cuda(monkeypatch, backend)
        manifest, engine = open_model(Path(os.environ["QUAMBA_BUNDLE"]))
        ids = np.random.default_rng(0).integers(0, manifest.vocab_size, (1, LENGTH + STEPS))
        logits, states = prefill(engine, ids[:, :LENGTH])
        steps = [logits]
        for t in range(LENGTH, LENGTH + STEPS):
            logits, states = engine.run(ids[:, t : t + 1], states)
            steps.append(logits)
        results.append((np.concatenate(steps, axis=1), {name: states[name].copy() for name in states}))
        del engine, states
        gc.collect()
    (wanted, after), (found, here) = results
    assert np.array_equal(found, wanted)
    assert [name for name in after if not np.array_equal(here[name], after[name])] == []
