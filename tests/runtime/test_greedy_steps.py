"""Greedy steps: tokens chosen and fed back on a fake device, or on the host by default."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from engine_records import engine_record
from fake_cuda import FakeCuda, FakePlan, fake_argmax
from refusals import refused
from tiny_recurrent import NumpyEngine, V, state_table

from quamba_export.runtime import tensorrt_library
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.decoder import HostDecoder
from quamba_export.runtime.device_argmax import argmax_of
from quamba_export.runtime.device_weights import DeviceWeights
from quamba_export.runtime.engine import Engine, Ids, prefill
from quamba_export.runtime.engine_record import WeightTensor
from quamba_export.runtime.engine_tensorrt import TrtEngine
from quamba_export.runtime.errors import ExitCode
from quamba_export.runtime.sampling import Sampling

TABLE = (WeightTensor("a.weight", "int8", (3, 5), 0),)
RECORD = engine_record(TABLE, device_bytes=1 << 20)
TOKEN_BYTES, LOGIT_BYTES = 8, 4 * V  # a sequence


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=fake))
    return fake


@pytest.fixture
def engine(api: FakeCuda, tmp_path: Path) -> TrtEngine:
    path, cuda = tmp_path / "weights.bin", Cuda()
    path.write_bytes(bytes(15))
    weights, plans = (
        DeviceWeights(path, TABLE, cuda),
        (FakePlan(api, 1), FakePlan(api, RECORD.prefill_length)),
    )
    return TrtEngine(*plans, weights, cuda, RECORD, state_table(), V, fake_argmax(api))  # type: ignore[arg-type]


def greedy(engine: Engine, prompt: Ids, steps: int) -> Ids:
    """Tokens (B, steps) behind prompt (B, L), the first of the prompt's logits."""
    logits, states = prefill(engine, prompt)
    tokens = [logits[:, -1].argmax(-1)]
    while len(tokens) < steps:
        chosen, states = engine.next_tokens(tokens[-1][:, None], states)
        tokens.append(chosen)
    return np.stack(tokens, axis=1)


def prompt_of(batch: int, length: int = 5) -> Ids:
    return np.random.default_rng(batch).integers(0, V, (batch, length))


@pytest.mark.parametrize("batch", [1, 3])
def test_the_tokens_are_those_of_the_logits(engine: TrtEngine, batch: int) -> None:
    found = greedy(engine, prompt_of(batch), 20)
    np.testing.assert_array_equal(found, greedy(NumpyEngine(), prompt_of(batch), 20))
    assert len(np.unique(found)) > 3, "the model says something"


def test_only_tokens_come_to_the_host(engine: TrtEngine, api: FakeCuda) -> None:
    """The first step brings its ids, every one brings tokens back; all but that one are launches."""
    _, states = prefill(engine, prompt_of(2))
    tokens = np.array([3, 4])
    api.copies.clear()
    for _ in range(10):
        tokens, states = engine.next_tokens(tokens[:, None], states)
    assert [nbytes for _, nbytes in api.copies] == [2 * TOKEN_BYTES] * 11
    assert api.launches == 9
    engine.run(tokens[:, None], states)
    assert api.copies[-1][1] == 2 * LOGIT_BYTES
    assert api.launches == 10, "a step with logits is captured too"


def test_other_tokens_than_those_chosen_may_be_fed(engine: TrtEngine) -> None:
    """Steps with and without logits, the chosen tokens and others, changed in place too."""
    reference, random = NumpyEngine(), np.random.default_rng(5)
    states, expected = engine.zero_states(2), reference.zero_states(2)
    tokens = np.array([1, 2])
    for turn in range(24):
        if turn % 4 == 1:
            tokens[turn % 2] = random.integers(V)
        if turn % 3 == 2:
            logits, states = engine.run(tokens[:, None], states)
            wanted, expected = reference.run(tokens[:, None], expected)
            np.testing.assert_array_equal(logits, wanted)
            continue
        fed = tokens[:, None].copy()
        tokens, states = engine.next_tokens(fed, states)
        wanted, expected = reference.next_tokens(fed, expected)
        np.testing.assert_array_equal(tokens, wanted)
    for name in expected:
        np.testing.assert_array_equal(states[name], expected[name])


def test_what_was_chosen_before_another_call_is_fed_again(engine: TrtEngine) -> None:
    """The ids that the device holds are those of the other call."""
    reference, start = NumpyEngine(), np.array([[1], [2]])
    chosen, states = engine.next_tokens(start, engine.zero_states(2))
    wanted, expected = reference.next_tokens(start, reference.zero_states(2))
    for between in (np.array([[3], [4]]), prompt_of(2)):
        _, states = engine.run(between, states)
        _, expected = reference.run(between, expected)
        chosen, states = engine.next_tokens(chosen[:, None], states)
        wanted, expected = reference.next_tokens(wanted[:, None], expected)
        np.testing.assert_array_equal(chosen, wanted)


def test_two_conversations_take_turns(engine: TrtEngine) -> None:
    reference = NumpyEngine()
    found, wanted = [[], []], [[], []]
    states = [engine.zero_states(1), engine.zero_states(2)]
    expected = [reference.zero_states(1), reference.zero_states(2)]
    tokens = [np.array([7]), np.array([8, 9])]
    for turn in range(16):
        which = turn * 7 % 3 % 2
        fed = tokens[which][:, None]
        tokens[which], states[which] = engine.next_tokens(fed, states[which])
        wanted_tokens, expected[which] = reference.next_tokens(fed, expected[which])
        found[which] += tokens[which].tolist()
        wanted[which] += wanted_tokens.tolist()
    assert found == wanted


def test_several_tokens_may_be_fed(engine: TrtEngine) -> None:
    tokens, states = engine.next_tokens(prompt_of(2, 19), engine.zero_states(2))
    wanted, after = NumpyEngine().next_tokens(prompt_of(2, 19), NumpyEngine().zero_states(2))
    np.testing.assert_array_equal(tokens, wanted)
    for name in after:
        np.testing.assert_array_equal(states[name], after[name])


def test_the_memory_of_states_that_are_gone_knows_its_tokens(engine: TrtEngine) -> None:
    """A new conversation that begins with the token that the last one ended with, and one that does not."""
    for _ in range(2):
        states, tokens = engine.zero_states(1), np.array([5])
        for _ in range(4):
            tokens, states = engine.next_tokens(tokens[:, None], states)
        del states
        wanted, _ = NumpyEngine().next_tokens(tokens[:, None], NumpyEngine().zero_states(1))
        found, _ = engine.next_tokens(tokens[:, None], engine.zero_states(1))
        np.testing.assert_array_equal(found, wanted)


def test_logits_that_are_not_finite_are_refused(engine: TrtEngine) -> None:
    """After captured steps; the other sequence is well."""
    states = engine.zero_states(2)
    for _ in range(3):
        _, states = engine.next_tokens(np.array([[1], [2]]), states)
    arrays = {name: states[name] for name in states}
    arrays["past_ssm_states.1"][1] = np.nan
    del states
    broken = engine.load_states(arrays)
    with refused("the model's logits are not finite", f"{V} NaN and 0 inf of {V}", code=ExitCode.NUMERIC):
        engine.next_tokens(np.array([[1], [2]]), broken)


def test_states_are_consumed(engine: TrtEngine) -> None:
    states = engine.zero_states(1)
    engine.next_tokens(np.array([[1]]), states)
    with pytest.raises(RuntimeError, match="consumed"):
        engine.next_tokens(np.array([[1]]), states)


@pytest.mark.parametrize(
    ("sampling", "asked"),
    [
        (Sampling(), True),
        (Sampling(top_k=3), True),
        (Sampling(temperature=0.7), False),
        (Sampling(repetition_penalty=1.2), False),
    ],
    ids=str,
)
def test_the_decoder_asks_for_tokens_where_they_are_the_likeliest(
    engine: TrtEngine, api: FakeCuda, sampling: Sampling, asked: bool
) -> None:
    decoder, reference = HostDecoder(engine, sampling), HostDecoder(NumpyEngine(), sampling)
    prompts = [[1, 2, 3], [4]]
    assert decoder.start(prompts) == reference.start(prompts)
    api.copies.clear()
    assert [decoder.step() for _ in range(9)] == [reference.step() for _ in range(9)]
    assert (max(nbytes for _, nbytes in api.copies) < 2 * LOGIT_BYTES) == asked


def test_a_status_of_the_plugin_library_is_told() -> None:
    class Function:
        argtypes = restype = None

        def __call__(self, *arguments: int) -> int:
            assert arguments == (100, 2, 50, 50, 200, 7)
            return 1

    function = Function()
    queue = argmax_of(SimpleNamespace(quamba_argmax=function), SimpleNamespace(stream=7))  # type: ignore[arg-type]
    with refused("quamba_argmax failed", "found: cudaError_t 1", code=ExitCode.INCOMPATIBLE):
        queue(100, 2, 50, 200)
    assert function.argtypes[1] is ctypes.c_int64


def test_the_functions_are_those_of_the_loaded_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_library, "_loaded", {})
    with pytest.raises(RuntimeError, match="before load_plugins"):
        tensorrt_library.plugin_functions()
    plugins = tensorrt_library.Plugins("c0ffee", "12.6", ctypes.CDLL(None))
    monkeypatch.setattr(tensorrt_library, "_loaded", {b"digest": plugins})
    assert tensorrt_library.plugin_functions() is plugins.functions
