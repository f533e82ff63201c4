"""The TensorRT engine's own work on a fake device: chunks, captured steps, memory, and what it refuses."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from engine_records import engine_record
from fake_cuda import FakeCuda, FakePlan, at, fake_argmax
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from refusals import refused
from tiny_recurrent import NumpyEngine, V, state_table

from quamba_export.plugins.QuantizedSSDScan.chunk import CHUNK
from quamba_export.runtime.cuda import Cuda
from quamba_export.runtime.device_weights import DeviceWeights
from quamba_export.runtime.engine import prefill, stack_states
from quamba_export.runtime.engine_record import WeightTensor
from quamba_export.runtime.engine_tensorrt import WHOLE, TrtEngine
from quamba_export.runtime.errors import ExitCode

TABLE = (WeightTensor("a.weight", "int8", (3, 5), 0), WeightTensor("b.weight", "float32", (2, 2), 256))
RECORD = engine_record(TABLE)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    monkeypatch.setitem(sys.modules, "cuda.bindings", SimpleNamespace(runtime=fake))
    return fake


@pytest.fixture
def plans(api: FakeCuda) -> tuple[FakePlan, FakePlan]:
    return FakePlan(api, 1), FakePlan(api, RECORD.prefill_length)


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) + np.arange(4, dtype=np.float32).tobytes())
    return path


@pytest.fixture
def engine(api: FakeCuda, plans: tuple[FakePlan, FakePlan], weights_file: Path) -> TrtEngine:
    cuda = Cuda()
    weights = DeviceWeights(weights_file, TABLE, cuda)
    return TrtEngine(*plans, weights, cuda, RECORD, state_table(), V, fake_argmax(api))  # type: ignore[arg-type]


class ChunkedPlan(FakePlan):
    """Whole chunks of a call give other states and logits than single tokens, as Mamba-2's scan rounds."""

    def execute(self, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> None:
        position, whole = itertools.count(), shapes["input_ids"][1] // CHUNK * CHUNK
        one_token = NumpyEngine().token

        def token(ids: np.ndarray, arrays: dict[str, Any]) -> np.ndarray:
            if next(position) < whole:
                arrays["past_ssm_states.0"] += 0.125
            return one_token(ids, arrays)

        self.model.token = token  # type: ignore[method-assign]
        super().execute(shapes, addresses)


def engine_of(api: FakeCuda, weights_file: Path, prefill_length: int) -> tuple[TrtEngine, ChunkedPlan]:
    """And its plan for prompts."""
    record, cuda = engine_record(TABLE, prefill_length=prefill_length), Cuda()
    prompts = ChunkedPlan(api, prefill_length)
    weights = DeviceWeights(weights_file, TABLE, cuda)
    argmax = fake_argmax(api)
    return TrtEngine(FakePlan(api, 1), prompts, weights, cuda, record, state_table(), V, argmax), prompts  # type: ignore[arg-type]


def some_ids(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, V, (batch, length))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 8, 9, 27])
def test_it_computes_what_the_model_computes(engine: TrtEngine, length: int, count: int) -> None:
    ids, count = some_ids(3, length), min(count, length)
    wanted, after = NumpyEngine().run(ids, NumpyEngine().zero_states(3), count)
    found, states = engine.run(ids, engine.zero_states(3), count)
    np.testing.assert_array_equal(found, wanted)
    for name in after:
        np.testing.assert_array_equal(states[name], after[name])


def test_both_plans_read_one_copy_of_the_weights(
    api: FakeCuda, plans: tuple[FakePlan, FakePlan], weights_file: Path
) -> None:
    free, cuda = api.free_bytes, Cuda()
    weights = DeviceWeights(weights_file, TABLE, cuda)
    assert free - api.free_bytes == weights_file.stat().st_size
    engine = TrtEngine(*plans, weights, cuda, RECORD, state_table(), V, fake_argmax(api))  # type: ignore[arg-type]
    del weights
    assert plans[0].weights == plans[1].weights
    codes = at(plans[0].weights["a.weight"], (3, 5), np.uint8)
    np.testing.assert_array_equal(codes.ravel(), np.arange(15))
    np.testing.assert_array_equal(at(plans[1].weights["b.weight"], (4,), np.float32), np.arange(4))
    del engine
    assert api.free_bytes == free


def test_weights_that_do_not_fit_the_device_are_refused(api: FakeCuda, weights_file: Path) -> None:
    api.free_bytes = 200
    with refused("cudaMalloc failed", code=ExitCode.OUT_OF_SPACE):
        DeviceWeights(weights_file, TABLE, Cuda())


def test_a_prompt_is_fed_in_chunks_of_the_profile(
    engine: TrtEngine, plans: tuple[FakePlan, FakePlan]
) -> None:
    engine.run(some_ids(2, 19), engine.zero_states(2))
    decode, prefilled = plans
    assert prefilled.calls == [(2, 8), (2, 8), (2, 3)]
    assert decode.calls == []


def test_each_of_several_logits_is_of_a_prompt_that_ends_there(
    engine: TrtEngine, plans: tuple[FakePlan, FakePlan]
) -> None:
    engine.run(some_ids(2, 19), engine.zero_states(2), 5)  # behind 15, 16, 17, 18 and 19 tokens
    decode, prefilled = plans
    assert prefilled.calls == [(2, 8), (2, 7), (2, 8), (2, 8), (2, 2), (2, 3)]  # 8 and 16 are read once
    assert decode.calls == [(2, 1)]  # the 17th behind 16


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prefill_length=st.sampled_from([1, 8, 63, 64, 65, 100, 127, 128, 192]),
    batch=st.integers(1, 4),
    length=st.integers(1, 260),
    count=st.integers(1, 70),
)
def test_logits_and_states_are_those_of_the_prompts(
    prefill_length: int, batch: int, length: int, count: int, api: FakeCuda, weights_file: Path
) -> None:
    engine, _ = engine_of(api, weights_file, prefill_length)
    ids, count = some_ids(batch, length), min(count, length)
    found, after = engine.run(ids, engine.zero_states(batch), count)
    for column, end in enumerate(range(length - count + 1, length + 1)):
        wanted, states = engine.run(ids[:, :end], engine.zero_states(batch))
        np.testing.assert_array_equal(found[:, column : column + 1], wanted)
    for name in states:
        np.testing.assert_array_equal(after[name], states[name])


def test_a_logit_costs_64_tokens_at_most_whatever_the_profile(api: FakeCuda, weights_file: Path) -> None:
    engine, prompts = engine_of(api, weights_file, 100)
    engine.run(some_ids(1, 199), engine.zero_states(1), 2)
    assert prompts.calls == [(1, 100), (1, 64), (1, 34), (1, 35)]


def test_a_prompt_is_cut_behind_whole_chunks_of_the_scan() -> None:
    assert WHOLE == CHUNK


def test_a_step_is_captured_once_and_runs_once_a_token(
    engine: TrtEngine, plans: tuple[FakePlan, FakePlan], api: FakeCuda
) -> None:
    reference, states = NumpyEngine(), engine.zero_states(1)
    expected = reference.zero_states(1)
    for token in some_ids(1, 12)[0]:
        found, states = engine.run(np.array([[token]]), states)
        wanted, expected = reference.run(np.array([[token]]), expected)
        np.testing.assert_array_equal(found, wanted)
    assert plans[0].calls == [(1, 1)] * 12
    assert api.launches == 11


def test_no_garbage_is_collected_into_a_capture(
    engine: TrtEngine, plans: tuple[FakePlan, FakePlan], api: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA gives up a capture when the thread frees memory, and Python may do so at any line."""
    queue, free = plans[0].queue, api.free_bytes
    monkeypatch.setattr(plans[0], "queue", lambda: (queue(), [[] for _ in range(2000)]))
    _, states = engine.run(some_ids(1, 1), engine.zero_states(1))
    taken = free - api.free_bytes
    cycle = [engine.zero_states(2).take()]
    cycle.append(cycle)
    del cycle
    engine.run(some_ids(1, 1), states)
    gc.collect()
    assert (free - api.free_bytes, api.launches, gc.isenabled()) == (taken, 1, True)


def test_two_conversations_take_turns(engine: TrtEngine) -> None:
    reference = NumpyEngine()
    found = [engine.zero_states(1), engine.zero_states(2)]
    wanted = [reference.zero_states(1), reference.zero_states(2)]
    for turn, length in enumerate([1, 1, 5, 1, 1, 1, 1, 3, 1, 1]):
        which = turn * 7 % 3 % 2
        ids = some_ids(which + 1, length)
        got, found[which] = engine.run(ids, found[which])
        want, wanted[which] = reference.run(ids, wanted[which])
        np.testing.assert_array_equal(got, want)


def test_a_step_that_failed_leaves_nothing_to_capture(
    engine: TrtEngine, plans: tuple[FakePlan, FakePlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is bound to the memory of the failed call, and a capture would take that up."""
    reference, ids = NumpyEngine(), some_ids(1, 1)
    _, states = engine.run(ids, engine.zero_states(1))
    _, expected = reference.run(ids, reference.zero_states(1))
    with monkeypatch.context() as patch:
        patch.setattr(plans[0], "queue", lambda: pytest.fail("no memory"))
        with pytest.raises(pytest.fail.Exception, match="no memory"):
            engine.run(some_ids(2, 1), engine.zero_states(2))
    found, states = engine.run(ids, states)
    wanted, expected = reference.run(ids, expected)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(states["past_ssm_states.0"], expected["past_ssm_states.0"])


def test_states_are_consumed_and_a_fork_lives_on(engine: TrtEngine) -> None:
    states = engine.zero_states(1)
    kept = states.fork()
    first, _ = engine.run(some_ids(1, 5), states)
    with pytest.raises(RuntimeError, match="consumed"):
        engine.run(some_ids(1, 5), states)
    second, _ = engine.run(some_ids(1, 5), kept)
    np.testing.assert_array_equal(first, second)


def test_states_can_be_saved_loaded_and_stacked(engine: TrtEngine) -> None:
    parts = [prefill(engine, some_ids(1, length))[1] for length in (4, 9)]
    stacked = stack_states(engine, [part.fork() for part in parts])
    assert stacked.batch == 2
    for name in stacked:
        np.testing.assert_array_equal(stacked[name], np.concatenate([part[name] for part in parts]))
    with refused("not the states of this model"):
        engine.load_states({"past_conv_states.0": np.zeros(1)})
    wrong = dict(stacked) | {"past_ssm_states.0": np.zeros((2, 8, 4), np.float16)}
    with refused("does not fit this model", "found: float16", "allowed: float32"):
        engine.load_states(wrong)


def test_memory_and_the_captured_step_serve_the_next_states(engine: TrtEngine, api: FakeCuda) -> None:
    states = engine.zero_states(2)
    for _ in range(3):
        _, states = engine.run(some_ids(2, 1), states)
    free, launches = api.free_bytes, api.launches
    del states
    states = engine.zero_states(2)
    assert not states["past_ssm_states.1"].any()
    wanted, _ = NumpyEngine().run(some_ids(2, 1), NumpyEngine().zero_states(2))
    np.testing.assert_array_equal(engine.run(some_ids(2, 1), states)[0], wanted)
    assert (api.free_bytes, api.launches) == (free, launches + 1)


def test_memory_of_another_batch_is_given_back(engine: TrtEngine, api: FakeCuda) -> None:
    states, free = engine.zero_states(1), api.free_bytes
    other = engine.zero_states(4)
    del other
    other = engine.zero_states(2)
    del other, states
    gc.collect()
    assert engine.zero_states(1).batch == 1
    assert api.free_bytes == free


def test_memory_of_another_batch_is_given_back_before_more_is_taken(engine: TrtEngine, api: FakeCuda) -> None:
    free = api.free_bytes
    for batch in (
        3,
        4,
    ):  # the engine keeps the last to spare
        _, states = engine.run(some_ids(batch, 1), engine.zero_states(batch))
        del states
    taken = free - api.free_bytes
    assert engine.zero_states(4).batch == 4
    assert free - api.free_bytes == taken
    api.free_bytes = 100  # 3 sequences need less than 4 do, no more
    assert engine.zero_states(3).batch == 3


def test_a_batch_beyond_the_profile_is_refused(engine: TrtEngine) -> None:
    with refused("wrong batch size", "found: 5", "allowed: 1 to 4", "--max-batch", code=ExitCode.USAGE):
        engine.zero_states(5)


def test_missing_memory_is_refused_in_words(engine: TrtEngine, api: FakeCuda) -> None:
    api.free_bytes = 100
    with refused("cudaMalloc failed", "a smaller batch", code=ExitCode.OUT_OF_SPACE):
        engine.zero_states(4)
