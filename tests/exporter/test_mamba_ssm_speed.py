"""tests/gpu_bench/mamba_ssm_speed.py with a small model in the place of mamba-ssm's, on the CPU."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from refusals import refused

from quamba_export.exporter.speed.random_models import CONFIGS
from tests.gpu_bench import mamba_ssm_speed
from tests.gpu_bench.mamba_ssm_speed import mamba_ssm_module, measure, model_fields, parse_arguments

SIZE = "mamba2-130m"
VOCABULARY = 32


class CountingModel(torch.nn.Module):
    """Its state sums the tokens, the likeliest next token is that modulo V; `calls` are its ids' shapes."""

    factor = 1.0

    def __init__(self, config: SimpleNamespace, device: str, dtype: torch.dtype) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(config.vocab_size, 4, device=device, dtype=dtype)
        self.calls: list[tuple[int, ...]] = []

    def forward(self, ids: torch.Tensor, inference_params: Any, num_last_tokens: int) -> SimpleNamespace:
        assert num_last_tokens == 1
        self.calls.append(tuple(ids.shape))
        ((total,),) = inference_params.key_value_memory_dict.values()
        begun = inference_params.seqlen_offset > 0
        total[:] = ids.sum(1) + (total if begun else 0)
        inference_params.fed = ids.shape[1] + (inference_params.fed if begun else 0)
        likeliest = torch.nn.functional.one_hot(total % VOCABULARY, VOCABULARY)
        return SimpleNamespace(logits=self.factor * likeliest[:, None].half())


class Parameters(SimpleNamespace):
    """As mamba_ssm's InferenceParams."""

    def reset(self, max_seqlen: int, max_batch_size: int) -> None:
        self.seqlen_offset = 0


def update_graph_cache(model: CountingModel, cache: None, batch: int, context: int, longest: int) -> Any:
    states = {0: (torch.zeros(batch, dtype=torch.int64),)}
    parameters = Parameters(key_value_memory_dict=states, seqlen_offset=0)

    def run(ids: torch.Tensor, position: torch.Tensor, offset: int) -> torch.Tensor:
        assert (position == offset).all()
        assert offset == parameters.seqlen_offset == parameters.fed >= context
        return model(ids, inference_params=parameters, num_last_tokens=1).logits

    return SimpleNamespace(inference_params=parameters, run=run)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> list[CountingModel]:
    """mamba_ssm and torch.cuda as far as they are called; the models made."""
    made: list[CountingModel] = []

    def head_model(config: SimpleNamespace, device: str, dtype: torch.dtype) -> CountingModel:
        made.append(CountingModel(config, device, dtype))
        return made[-1]

    def sample(logits: torch.Tensor, top_k: int) -> torch.Tensor:
        assert top_k == 1
        return logits.argmax(-1)

    modules = {
        "mamba_ssm": SimpleNamespace(__version__="2.3.2"),
        "mamba_ssm.models.config_mamba": SimpleNamespace(MambaConfig=SimpleNamespace),
        "mamba_ssm.models.mixer_seq_simple": SimpleNamespace(MambaLMHeadModel=head_model),
        "mamba_ssm.utils.generation": SimpleNamespace(update_graph_cache=update_graph_cache, sample=sample),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 5 << 20)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Fake GPU")
    small = {"DEVICE": "cpu", "COPY_BYTES": 4096, "DECODED": 4, "TTFT_RUNS": 2, "TPOT_RUNS": 3}
    for name, value in (small | {"PROMPTS": (8, 20)}).items():
        monkeypatch.setattr(mamba_ssm_speed, name, value)
    monkeypatch.setitem(CONFIGS, SIZE, replace(CONFIGS[SIZE], vocab_size=VOCABULARY))
    return made


def test_every_column_is_measured(models: list[CountingModel]) -> None:
    speed = measure(SIZE)
    assert (list(speed.ttft_ms), list(speed.tpot_ms)) == (["8", "20"], ["1", "8", "64"])
    assert list(speed.free_running_tpot_ms) == list(speed.peak_mib) == ["1", "8", "64"]
    assert set(speed.peak_mib.values()) == {5.0}
    assert (speed.engine, speed.numbers) == (f"mamba-ssm 2.3.2, torch {torch.__version__}", "fp16")
    assert (speed.weight_bytes, speed.state_bytes) == (VOCABULARY * 4 * 2, 8)
    (model,) = models
    prompts = {shape for shape in model.calls if shape[1] > 1}
    assert prompts == {(1, 8), (1, 20), (8, 8), (64, 8)}


def test_a_token_is_what_the_last_one_gave(models: list[CountingModel]) -> None:
    model = CountingModel(SimpleNamespace(vocab_size=VOCABULARY), "cpu", torch.float16)
    generation = mamba_ssm_speed.Generation(model, VOCABULARY, 2, 5)
    for _ in range(2):  # the states begin anew with every prompt
        total = generation.prompt.sum(1)
        assert generation.first_token().tolist() == (total % VOCABULARY)[:, None].tolist()
        for _ in range(3):
            total += total % VOCABULARY
            token = mamba_ssm_speed.read_token(generation)
            assert token.tolist() == (total % VOCABULARY)[:, None].tolist()


def test_an_overflow_is_no_speed(models: list[CountingModel], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CountingModel, "factor", float("inf"))
    with refused("overflows in fp16", "logits of", code=9):
        measure(SIZE)


def test_the_sizes_are_those_of_the_random_models() -> None:
    first, second = model_fields(CONFIGS["mamba-2.8b"]), model_fields(CONFIGS["mamba2-8b"])
    assert (first["d_model"], first["n_layer"], first["vocab_size"]) == (2560, 64, 50288)
    assert first["ssm_cfg"] == {"layer": "Mamba1", "d_state": 16, "d_conv": 4, "expand": 2, "dt_rank": 160}
    assert second["ssm_cfg"]["ngroups"] == 8
    assert second["ssm_cfg"]["layer"] == "Mamba2"
    assert not second["tie_embeddings"]


def test_arguments() -> None:
    assert parse_arguments([SIZE, "mamba-2.8b"]).sizes == [SIZE, "mamba-2.8b"]
    with pytest.raises(SystemExit):
        parse_arguments(["mamba2-9t"])


def test_a_machine_without_mamba_ssm_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    with refused("mamba-ssm does not load", "pip install causal-conv1d mamba-ssm", code=5):
        mamba_ssm_module("mamba_ssm")
