"""Chunked prefill over any engine: nothing depends on where a prompt is cut."""

import numpy as np
import pytest
from tiny_recurrent import NumpyEngine, V

from quamba_export.runtime.engine import CHUNK, prefill, stack_states
from quamba_export.runtime.errors import QuambaError


def some_ids(batch: int, length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(0, V, (batch, length))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 16, 23])
@pytest.mark.parametrize("batch", [1, 3])
def test_chunked_prefill_equals_one_call(batch: int, length: int) -> None:
    ids = some_ids(batch, length)
    whole, whole_states = prefill(NumpyEngine(), ids, num_logits=length, chunk=64)
    chunked, chunked_states = prefill(NumpyEngine(), ids, num_logits=length, chunk=8)
    assert np.array_equal(whole, chunked)
    assert all(np.array_equal(whole_states[name], chunked_states[name]) for name in whole_states)


@pytest.mark.parametrize("num_logits", [1, 7, 8, 9, 20])
def test_the_last_logits_may_span_chunks(num_logits: int) -> None:
    ids = some_ids(2, 20)
    whole, _ = prefill(NumpyEngine(), ids, num_logits=20, chunk=64)
    last, _ = prefill(NumpyEngine(), ids, num_logits=num_logits, chunk=8)
    assert np.array_equal(last, whole[:, -num_logits:])


def test_no_call_is_longer_than_a_chunk() -> None:
    engine = NumpyEngine()
    prefill(engine, some_ids(1, 2 * CHUNK + 5))
    assert engine.calls == [(1, CHUNK), (1, CHUNK), (1, 5)]


def test_prefill_continues_given_states() -> None:
    ids, engine = some_ids(1, 12), NumpyEngine()
    whole, _ = prefill(engine, ids)
    _, states = prefill(engine, ids[:, :5])
    rest, _ = prefill(engine, ids[:, 5:], states)
    assert np.array_equal(rest, whole)


@pytest.mark.parametrize(("bad", "text"), [(-1, "-1"), (V, str(V)), (1 << 40, "1099511627776")])
def test_an_id_outside_the_vocabulary_is_named_before_the_model_runs(bad: int, text: str) -> None:
    engine, ids = NumpyEngine(), some_ids(2, 6)
    ids[1, 4] = bad
    with pytest.raises(QuambaError, match=rf"token id {text} .*position 4 of sequence 1") as caught:
        prefill(engine, ids)
    assert caught.value.allowed == f"0 to {V - 1}"
    assert engine.calls == []


@pytest.mark.parametrize("ids", [[], [[]], np.zeros((2, 0), np.int64), [1, 2], [[0.5]], [["a"]]])
def test_what_is_no_batch_of_ids_is_refused(ids: object) -> None:
    with pytest.raises(QuambaError, match="batch of sequences"):
        prefill(NumpyEngine(), ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("num_logits", [0, -1, 4])
def test_more_logits_than_tokens_are_refused(num_logits: int) -> None:
    with pytest.raises(QuambaError, match="that many logits"):
        prefill(NumpyEngine(), [[1, 2, 3]], num_logits=num_logits)


def test_stacked_states_go_on_like_each_alone() -> None:
    engine, next_ids = NumpyEngine(), np.array([[5], [6]])
    alone = [prefill(engine, some_ids(1, length))[1] for length in (3, 9)]
    apart = [engine.run(next_ids[i : i + 1], states.fork())[0] for i, states in enumerate(alone)]
    together, _ = engine.run(next_ids, stack_states(engine, alone))
    assert np.array_equal(together, np.concatenate(apart))
