"""The generation loop over the numpy engine and a real tokenizer."""

import itertools

import numpy as np
import pytest
from tiny_recurrent import EOS, NumpyEngine, V, byte_level_tokenizer

from quamba_export.runtime.decoder import HostDecoder
from quamba_export.runtime.engine import CHUNK
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.generate import Generation, Limits, generate, stream
from quamba_export.runtime.sampling import Sampling

TOKENIZER = byte_level_tokenizer()
PROMPT = TOKENIZER.encode("the a").ids


class Scripted:
    """A decoder that says given texts, one row each, a byte-level token a step, and then <|endoftext|>."""

    def __init__(self, *texts: str) -> None:
        self.rows = [iter([*TOKENIZER.encode(text).ids, *itertools.repeat(EOS, 99)]) for text in texts]
        self.steps = 0

    def start(self, prompts: object) -> list[int]:
        return self.step()

    def step(self) -> list[int]:
        self.steps += 1
        return [next(row) for row in self.rows]


def scripted(text: str, limits: Limits) -> tuple[list[str], Generation]:
    pieces = list(stream(Scripted(text), TOKENIZER, [PROMPT], limits))
    assert pieces[-1].generation is not None
    return [piece.text for piece in pieces], pieces[-1].generation


def test_pieces_join_to_the_text() -> None:
    pieces, generation = scripted("naïve 世界 🎉", Limits(64, eos_token_id=EOS))
    assert "".join(pieces) == generation.text == "naïve 世界 🎉"
    assert generation.finish_reason == "eos"
    assert not any("�" in piece for piece in pieces)


def test_the_end_of_text_token_ends_and_is_counted_but_not_shown() -> None:
    _, generation = scripted("ab", Limits(64, eos_token_id=EOS))
    assert (generation.text, len(generation.token_ids), generation.token_ids[-1]) == ("ab", 3, EOS)


def test_an_end_of_text_token_that_is_an_ordinary_one_to_the_tokenizer_is_not_shown_either() -> None:
    (q,) = TOKENIZER.encode("q").ids
    _, generation = scripted("abqc", Limits(64, eos_token_id=q))
    assert (generation.text, generation.finish_reason) == ("ab", "eos")


def test_without_an_end_of_text_token_only_the_limit_ends() -> None:
    _, generation = scripted("ab", Limits(7))
    assert (generation.text, len(generation.token_ids), generation.finish_reason) == ("ab", 7, "length")


@pytest.mark.parametrize(
    ("text", "stop", "shown"),
    [
        ("one\n\nUser: two", ("\n\nUser:",), "one"),
        ("one two", ("one two",), ""),
        ("é世x", ("世",), "é"),
        ("abcabd", ("abd", "zzz"), "abc"),
    ],
)
def test_a_stop_string_may_span_tokens_and_is_not_shown(text: str, stop: tuple[str, ...], shown: str) -> None:
    pieces, generation = scripted(text, Limits(64, stop, EOS))
    assert "".join(pieces) == generation.text == shown
    assert generation.finish_reason == "stop"


def test_what_only_began_like_a_stop_string_is_shown_at_the_end() -> None:
    _, generation = scripted("abc\n\nUs", Limits(64, ("\n\nUser:",), EOS))
    assert (generation.text, generation.finish_reason) == ("abc\n\nUs", "eos")


def test_a_limit_inside_a_character_shows_a_replacement() -> None:
    _, generation = scripted("x世", Limits(3, eos_token_id=EOS))
    assert (generation.text, generation.finish_reason) == ("x�", "length")


def test_rows_end_one_by_one_and_the_last_ends_the_batch() -> None:
    decoder = Scripted("a", "abcd", "ab")
    done = generate(decoder, TOKENIZER, [PROMPT] * 3, Limits(64, eos_token_id=EOS))
    assert [generation.text for generation in done] == ["a", "abcd", "ab"]
    assert decoder.steps == 5
    assert [len(generation.token_ids) for generation in done] == [2, 5, 3]


def test_zero_tokens_run_no_model() -> None:
    engine = NumpyEngine()
    (done,) = generate(HostDecoder(engine, Sampling()), TOKENIZER, [PROMPT], Limits(0))
    assert (done.text, done.token_ids, done.finish_reason) == ("", (), "length")
    assert (done.ttft_ms, done.tpot_ms, done.tokens_per_second) == (None, None, None)
    assert engine.calls == []


def test_one_token_has_a_time_to_first_token_only() -> None:
    (done,) = generate(HostDecoder(NumpyEngine(), Sampling()), TOKENIZER, [PROMPT], Limits(1))
    assert done.ttft_ms is not None
    assert done.tpot_ms is None


def test_times_leave_out_what_the_consumer_does() -> None:
    clock = iter([0.0, 0.5, 10.0, 10.1, 20.0, 20.3, 99.0, 99.2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("quamba_export.runtime.generate.time.perf_counter", lambda: next(clock))
        _, generation = scripted("abcd", Limits(4))
    assert generation.ttft_ms == pytest.approx(500)
    assert generation.tpot_ms == pytest.approx(200)
    assert generation.tokens_per_second == pytest.approx(5)


def test_greedy_is_the_argmax_of_the_model_fed_with_its_own_tokens() -> None:
    engine = NumpyEngine()
    (done,) = generate(HostDecoder(engine, Sampling()), TOKENIZER, [PROMPT], Limits(20))
    ids = list(PROMPT)
    for token in done.token_ids:
        logits, _ = NumpyEngine().run(np.array([ids]), NumpyEngine().zero_states(1))
        assert token == logits[0, -1].argmax()
        ids.append(token)


@pytest.mark.parametrize(
    "sampling", [Sampling(), Sampling(temperature=1.0, top_p=0.9, repetition_penalty=1.3, seed=3)]
)
def test_a_batch_of_ragged_prompts_gives_what_each_gives_alone(sampling: Sampling) -> None:
    prompts = [PROMPT, PROMPT[:1], PROMPT * 3]
    together = generate(HostDecoder(NumpyEngine(), sampling), TOKENIZER, prompts, Limits(12))
    (alone,) = generate(HostDecoder(NumpyEngine(), sampling), TOKENIZER, prompts[:1], Limits(12))
    assert together[0].token_ids == alone.token_ids
    if sampling.temperature == 0:
        for prompt, done in zip(prompts, together, strict=True):
            (alone,) = generate(HostDecoder(NumpyEngine(), sampling), TOKENIZER, [prompt], Limits(12))
            assert done.token_ids == alone.token_ids


def test_a_prompt_longer_than_a_chunk_is_fed_in_chunks() -> None:
    engine = NumpyEngine()
    (done,) = generate(HostDecoder(engine, Sampling()), TOKENIZER, [PROMPT * 400], Limits(2))
    assert done.prompt_tokens == 400 * len(PROMPT)
    assert max(length for _, length in engine.calls) == CHUNK
    assert engine.calls[-1] == (1, 1)


def test_an_id_outside_the_vocabulary_is_named_before_any_prompt_is_run() -> None:
    engine = NumpyEngine()
    with pytest.raises(QuambaError, match=f"token id {V}"):
        generate(HostDecoder(engine, Sampling()), TOKENIZER, [PROMPT, [V]], Limits(2))
    assert engine.calls == []


def test_logits_that_become_nan_end_with_exit_code_9() -> None:
    pieces = stream(HostDecoder(NumpyEngine(nan_after=3), Sampling()), TOKENIZER, [PROMPT], Limits(20))
    with pytest.raises(QuambaError, match="not finite") as caught:
        list(pieces)
    assert caught.value.code is ExitCode.NUMERIC


def test_no_prompts_give_no_pieces() -> None:
    assert generate(HostDecoder(NumpyEngine(), Sampling()), TOKENIZER, [], Limits(5)) == []


def test_a_step_before_the_start_is_a_programming_error() -> None:
    with pytest.raises(RuntimeError, match="before start"):
        HostDecoder(NumpyEngine(), Sampling()).step()


@pytest.mark.parametrize("limits", [{"max_new_tokens": -1}, {"stop": ("a", "")}])
def test_limits_out_of_range_are_usage_errors(limits: dict[str, object]) -> None:
    with pytest.raises(QuambaError) as caught:
        Limits(**limits)  # type: ignore[arg-type]
    assert caught.value.code is ExitCode.USAGE
