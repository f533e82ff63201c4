"""The TensorRT engine over pycuda, on a fake of its driver: the same results, no graph, errors in words."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_records import engine_record
from fake_cuda import FakePlan, fake_argmax
from fake_pycuda import FakePycuda
from refusals import refused
from tiny_recurrent import NumpyEngine, V, state_table

from quamba_export.runtime.cuda import BACKEND, Cuda
from quamba_export.runtime.device_weights import DeviceWeights
from quamba_export.runtime.engine import prefill
from quamba_export.runtime.engine_record import WeightTensor
from quamba_export.runtime.engine_tensorrt import TrtEngine
from quamba_export.runtime.errors import ExitCode

TABLE = (WeightTensor("a.weight", "int8", (3, 5), 0),)
RECORD = engine_record(TABLE, tensorrt="10.3.0", sm=87, device_bytes=1 << 20)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakePycuda:
    fake = FakePycuda()
    for name in ("pycuda", "pycuda.driver", "pycuda.autoprimaryctx"):
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setenv(BACKEND, "pycuda")
    return fake


def make_engine(driver: FakePycuda, folder: Path) -> tuple[TrtEngine, FakePlan]:
    cuda, path = Cuda(), folder / "weights.bin"
    path.write_bytes(bytes(range(15)))
    weights = DeviceWeights(path, TABLE, cuda)
    plans = FakePlan(driver, 1), FakePlan(driver, RECORD.prefill_length)  # type: ignore[arg-type]
    return TrtEngine(*plans, weights, cuda, RECORD, state_table(), V, fake_argmax(driver)), plans[0]  # type: ignore[arg-type]


def test_prompt_steps_forks_and_loaded_states_are_the_model_s(driver: FakePycuda, tmp_path: Path) -> None:
    engine, decode = make_engine(driver, tmp_path)
    reference, ids = NumpyEngine(), np.random.default_rng(0).integers(0, V, (3, 25))
    (found, states), (wanted, after) = prefill(engine, ids[:, :19]), prefill(reference, ids[:, :19])
    np.testing.assert_array_equal(found, wanted)
    states = engine.load_states(dict(states.fork()))
    for t in range(19, 25):
        found, states = engine.run(ids[:, t : t + 1], states)
        wanted, after = reference.run(ids[:, t : t + 1], after)
        np.testing.assert_array_equal(found, wanted)
    for _ in range(4):
        tokens, states = engine.next_tokens(ids[:, :1], states)
        wanted, after = reference.next_tokens(ids[:, :1], after)
        np.testing.assert_array_equal(tokens, wanted)
    for name in after:
        np.testing.assert_array_equal(states[name], after[name])
    assert decode.calls == [(3, 1)] * 10  # each launched anew


def test_it_has_no_graphs_and_tells_the_device(driver: FakePycuda) -> None:
    cuda = Cuda()
    assert (cuda.has_graphs, cuda.sm, cuda.stream) == (False, 87, 7)
    assert (cuda.name, cuda.memory()) == ("Fake Orin", (1 << 24, 1 << 24))


def test_all_memory_is_given_back(driver: FakePycuda, tmp_path: Path) -> None:
    engine, _ = make_engine(driver, tmp_path)
    _, states = prefill(engine, np.ones((2, 9), np.int64))
    cuda = engine._cuda
    assert driver.allocated
    del engine, states
    gc.collect()
    assert driver.allocated == {}
    assert [memory for memory in driver.handed_out if memory() is not None] == []
    assert cuda.stream  # the device layer is still there, and holds none of it


def test_a_failing_call_is_told_in_the_driver_s_words(driver: FakePycuda) -> None:
    cuda = Cuda()
    with refused("cudaMalloc failed", "out of memory", "smaller batch", code=ExitCode.OUT_OF_SPACE):
        cuda.allocate(1 << 25)
    memory = cuda.allocate(8)
    with refused("cudaMemcpyAsync failed", "invalid argument", code=ExitCode.INCOMPATIBLE):
        cuda.copy(memory.address, cuda.pinned((16,), np.uint8).address, 16)


def test_a_backend_that_is_missing_or_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    monkeypatch.setenv(BACKEND, "pycuda")
    with refused("pycuda, which cannot be imported", "pip install pycuda", code=ExitCode.INCOMPATIBLE):
        Cuda()
    monkeypatch.setenv(BACKEND, "cupy")
    with refused("names no CUDA backend", "cupy", "cuda-python, pycuda", code=ExitCode.USAGE):
        Cuda()


def test_a_machine_without_a_gpu_is_told_so(driver: FakePycuda, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoDevice:
        @property
        def device(self) -> None:
            raise driver.Error("cuInit failed: no CUDA-capable device is detected")

    monkeypatch.setitem(sys.modules, "pycuda.autoprimaryctx", NoDevice())
    with refused("pycuda finds no GPU", "no CUDA-capable device", code=ExitCode.INCOMPATIBLE):
        Cuda()
