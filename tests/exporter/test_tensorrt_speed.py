"""What tensorrt_speed measures, with a numpy engine and a fake device in the place of TensorRT's."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_cuda import FakeCuda
from tiny_recurrent import NumpyEngine

from quamba_export.exporter.speed import random_models
from quamba_export.exporter.speed.gpu_speed import MIB, WARM_UP
from quamba_export.exporter.speed.random_models import CONFIGS, random_model
from quamba_export.exporter.tensorrt import speed as tensorrt_speed
from quamba_export.exporter.tensorrt.build import BuildOptions, Profile
from quamba_export.exporter.tensorrt.speed import greedy, measure, next_token_ms, states_of
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.engine import Ids, Logits, States


class RememberingEngine(NumpyEngine):
    """Remembers the ids of every call and what they gave."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Ids, Logits]] = []

    def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, States]:
        logits, states = super().run(input_ids, states, num_logits)
        self.seen.append((input_ids, logits))
        return logits, states


@pytest.fixture(autouse=True)
def few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_speed, "TTFT_RUNS", 2)
    monkeypatch.setattr(tensorrt_speed, "TPOT_RUNS", 3)
    monkeypatch.setattr(tensorrt_speed, "PROMPTS", (8, 20))
    monkeypatch.setattr(tensorrt_speed, "COPY_BYTES", 4096)


def test_a_step_reads_the_likeliest_token_of_the_last_one() -> None:
    engine = RememberingEngine()
    assert next_token_ms(engine, batch=3, context=5) > 0
    assert [ids.shape for ids, _ in engine.seen] == [(3, 5)] + [(3, 1)] * (WARM_UP + 3)
    for (_, logits), (ids, _) in zip(engine.seen, engine.seen[1:], strict=False):
        np.testing.assert_array_equal(ids, greedy(logits))


def test_a_long_context_is_read_in_chunks() -> None:
    engine = RememberingEngine()
    next_token_ms(engine, batch=1, context=1100)
    assert [ids.shape[1] for ids, _ in engine.seen[:4]] == [512, 512, 76, 1]


@pytest.mark.parametrize("size", ["mamba-130m", "mamba2-130m"])
def test_every_column_is_measured(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    small = replace(CONFIGS[size], d_model=64, n_layer=1, d_inner=2048, vocab_size=64)
    monkeypatch.setitem(random_models.CONFIGS, size, small)
    api = FakeCuda(memory=64 * MIB)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", api)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=api))
    built: list[tuple[Profile, Profile]] = []
    left_by_builder, model = [], random_model(size)

    def build(export: Path, folder: Path, profiles: tuple[Profile, Profile], options: BuildOptions) -> str:
        assert (export / "model.onnx").exists()
        left_by_builder.append(Cuda().allocate(MIB))
        built.append(profiles)
        return "record"

    def load(folder: Path, record: str, states: Any, vocab_size: int, cuda: Cuda) -> RememberingEngine:
        assert (record, states, vocab_size) == ("record", states_of(model), 64)
        engine = RememberingEngine()
        engine.memory = cuda.allocate(3 * MIB)  # type: ignore[attr-defined]
        return engine

    monkeypatch.setattr(tensorrt_speed, "engines_from_export", build)
    monkeypatch.setattr(tensorrt_speed, "load_engine", load)
    monkeypatch.setattr(tensorrt_speed, "import_tensorrt", lambda: SimpleNamespace(__version__="10.6.0"))
    speed = measure(model, size, BuildOptions(Path("plugins.so")), [8, 30])
    assert [(decode.max_batch, prefill.longest) for decode, prefill in built] == [(1, 512), (64, 8)]
    assert (list(speed.ttft_ms), list(speed.tpot_ms)) == (["8", "20"], ["1", "8", "64"])
    assert list(speed.context_tpot_ms) == ["8", "30"]
    assert speed.peak_mib == {"1": 3.0, "64": 3.0}
    assert speed.gb_per_s > 0
    assert speed.state_bytes == bytes_of_states(size)
    whole = sum(tensor.nbytes for tensor in model.tensors.values())
    assert speed.weight_bytes == whole - 2 * 64 * 64  # a token looks up one row of the embedding


def bytes_of_states(size: str) -> int:
    """int8 conv state (C, W - 1) and fp16 ssm state of one layer with d_inner 2048."""
    conv = 2048 + (2 * 128 if size == "mamba2-130m" else 0)
    return conv * 3 + 2 * 2048 * (128 if size == "mamba2-130m" else 16)
