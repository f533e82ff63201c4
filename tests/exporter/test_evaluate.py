"""Perplexity, KL and top-1 agreement on models whose figures are known."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models

from quamba_export.exporter.evaluation.evaluate import batches, evaluate, windows_a_call
from quamba_export.exporter.evaluation.language_models import Forward, LanguageModel
from quamba_export.runtime.errors import ExitCode, QuambaError

V = 8


@pytest.fixture
def tokenizer_path(tmp_path: Path) -> Path:
    """Token 0 is the end of text, token k the text of k letters."""
    tokenizer = Tokenizer(
        models.WordLevel({"<eos>": 0} | {"x" * k: k for k in range(1, V)}, unk_token="<eos>")
    )
    tokenizer.add_special_tokens(["<eos>"])
    tokenizer.decoder = decoders.Fuse()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def model_of(forward: Forward, tokenizer_path: Path, vocab_size: int = V) -> LanguageModel:
    facts = "fake", "checkpoint", "fp32", "float32", vocab_size, 0, tokenizer_path, "PyTorch"
    return LanguageModel(*facts, forward)


def uniform(input_ids: NDArray[np.int64], states: Any) -> tuple[NDArray[np.float32], Any]:
    return np.zeros((*input_ids.shape, V), dtype=np.float32), states


def running_sum(input_ids: NDArray[np.int64], states: Any) -> tuple[NDArray[np.float32], Any]:
    """Prefers the token that is the sum so far mod V: wrong unless the state is carried."""
    start = np.zeros((len(input_ids), 1), dtype=np.int64) if states is None else states
    total = start + input_ids.cumsum(axis=1)
    return 3.0 * np.eye(V, dtype=np.float32)[total % V], total[:, -1:]


def stream_of(length: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(1, V, length)


def test_a_uniform_model_has_the_vocabulary_as_perplexity(tokenizer_path: Path) -> None:
    stream = stream_of(40)
    result = evaluate(model_of(uniform, tokenizer_path), stream, window=16)
    assert result.perplexity == pytest.approx(V)
    assert result.nats_per_token == pytest.approx(math.log(V))
    assert result.tokens == 15 + 15 + 7
    letters = sum(int(token) for start in (0, 16, 32) for token in stream[start + 1 : start + 16])
    assert result.bits_per_byte == pytest.approx(3 * result.tokens / letters)


def test_decode_carries_the_state_and_agrees_with_prefill(tokenizer_path: Path) -> None:
    model, stream = model_of(running_sum, tokenizer_path), stream_of(50)
    prefill = evaluate(model, stream, window=16, mode="prefill")
    decode = evaluate(model, stream, window=16, mode="decode")
    assert decode.perplexity == pytest.approx(prefill.perplexity, rel=1e-6)
    assert decode.tokens == prefill.tokens


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_a_model_has_no_distance_from_itself(tokenizer_path: Path, mode: Any) -> None:
    model = model_of(running_sum, tokenizer_path)
    result = evaluate(model, stream_of(50), window=16, mode=mode, against=model)
    assert result.kl == pytest.approx(0.0, abs=1e-7)
    assert result.top1_agreement == 1.0
    assert result.against_perplexity == pytest.approx(result.perplexity)


def test_kl_is_measured_from_the_other_model(tokenizer_path: Path) -> None:
    peaked, flat = model_of(running_sum, tokenizer_path), model_of(uniform, tokenizer_path)
    result = evaluate(flat, stream_of(50), window=16, against=peaked)
    p = np.exp([3.0] + [0.0] * (V - 1))
    p /= p.sum()
    assert result.kl == pytest.approx(float((p * np.log(p * V)).sum()), rel=1e-5)


def test_keys_of_a_comparison_are_absent_without_one(tokenizer_path: Path) -> None:
    fields = evaluate(model_of(uniform, tokenizer_path), stream_of(20), window=16).present_fields()
    assert "kl" not in fields
    assert {"perplexity", "tokens", "bits_per_byte", "nats_per_token", "seconds", "tokens_per_second"} <= set(
        fields
    )


@pytest.mark.parametrize(
    ("length", "shapes"),
    [(2, [(1, 2)]), (16, [(1, 16)]), (17, [(1, 16)]), (18, [(1, 16), (1, 2)]), (80, [(4, 16), (1, 16)])],
)
def test_windows_are_contiguous_and_the_last_may_be_short(length: int, shapes: list[tuple[int, int]]) -> None:
    stream = np.arange(length)
    found = list(batches(stream, 16, 4))
    assert [batch.shape for batch in found] == shapes
    covered = np.concatenate([batch.ravel() for batch in found])
    assert (covered == stream[: len(covered)]).all()


@pytest.mark.parametrize("mode", ["prefill", "decode"])
def test_small_windows_do_not_make_endless_batches(tokenizer_path: Path, mode: Any) -> None:
    """An engine takes 4,096 sequences at most."""
    rows: list[int] = []

    def counted(input_ids: NDArray[np.int64], states: Any) -> tuple[NDArray[np.float32], Any]:
        rows.append(len(input_ids))
        return uniform(input_ids, states)

    assert evaluate(model_of(counted, tokenizer_path), stream_of(10_000), window=2, mode=mode).tokens == 5000
    assert (sum(rows), max(rows) <= 1024) == (5000, True)


def test_too_short_a_text_is_refused(tokenizer_path: Path) -> None:
    with pytest.raises(QuambaError, match="too short") as caught:
        evaluate(model_of(uniform, tokenizer_path), stream_of(1))
    assert caught.value.found == "1 tokens"


def test_models_of_different_vocabularies_are_refused(tokenizer_path: Path) -> None:
    other = model_of(uniform, tokenizer_path, vocab_size=V + 1)
    with pytest.raises(QuambaError, match="different vocabularies"):
        evaluate(model_of(uniform, tokenizer_path), stream_of(20), against=other)


def test_tokens_without_text_have_no_bits_a_byte(tokenizer_path: Path) -> None:
    """A document of one token: what is scored is the end-of-text id."""
    result = evaluate(model_of(uniform, tokenizer_path), np.array([3, 0]))
    assert result.tokens == 1
    assert "bits_per_byte" not in result.present_fields()


def test_the_end_of_text_has_no_text_whatever_the_tokenizer_calls_it(tokenizer_path: Path) -> None:
    model = replace(model_of(uniform, tokenizer_path), eos_token_id=2)
    result = evaluate(model, np.array([1, 4, 2, 2]))
    assert result.bits_per_byte == pytest.approx(3 * 3 / 4)


def test_a_window_that_cuts_a_character_counts_its_bytes(tmp_path: Path) -> None:
    """A byte-level token is its bytes: two windows over one snowman, three tokens of a byte each."""
    bytes_of_snowman = ["\u00e2", "\u013a", "\u0125"]  # how byte-level BPE writes e2 98 83
    vocabulary = {name: id for id, name in enumerate(["<eos>", "a", *bytes_of_snowman])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.decoder = decoders.ByteLevel()
    assert tokenizer.decode([2, 3, 4]) == "\u2603"
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    stream = np.array([1, 2, 3, 1, 4, 1])  # scored: two bytes of it, then one and a letter
    result = evaluate(model_of(uniform, tmp_path / "tokenizer.json"), stream, window=3)
    assert result.bits_per_byte == pytest.approx(3 * 4 / 4)


def test_a_perplexity_beyond_all_floats_is_infinite(tokenizer_path: Path) -> None:
    def sure_of_zero(input_ids: NDArray[np.int64], states: Any) -> tuple[NDArray[np.float32], Any]:
        return 1e6 * np.eye(V, dtype=np.float32)[np.zeros_like(input_ids)], states

    assert evaluate(model_of(sure_of_zero, tokenizer_path), stream_of(20)).perplexity == math.inf


def test_logits_that_are_not_finite_end_with_exit_9(tokenizer_path: Path) -> None:
    def broken(input_ids: NDArray[np.int64], states: Any) -> tuple[NDArray[np.float32], Any]:
        return np.full((*input_ids.shape, V), np.nan, dtype=np.float32), states

    good, bad = model_of(uniform, tokenizer_path), model_of(broken, tokenizer_path)
    for model, against in ((bad, None), (good, bad)):
        with pytest.raises(QuambaError, match="not finite") as caught:
            evaluate(model, stream_of(20), against=against)
        assert caught.value.code is ExitCode.NUMERIC


def test_a_call_is_short_enough_to_be_interrupted() -> None:
    """The engine answers Ctrl-C between calls: a small vocabulary is no reason for 32 windows in one."""
    assert windows_a_call("prefill", 1024 * 1024) <= 4
    assert windows_a_call("prefill", 1024 * 50280) == 1
