"""Streamed text equals decoded text, and no piece ever holds half a character."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tiny_recurrent import EOS, byte_level_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from quamba_export.runtime.detokenize import MAX_HELD_TOKENS, StreamingDetokenizer

BYTE_LEVEL = byte_level_tokenizer()
BYTE_IDS = [i for i in range(1, 257) if len(BYTE_LEVEL.id_to_token(i)) == 1]


def byte_fallback_tokenizer() -> Tokenizer:
    """As SentencePiece models have it: decoding strips the first space, rare characters are bytes."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁hello",
        "▁world",
        "▁",
        "a",
        "b",
    ]
    tokenizer = Tokenizer(
        models.BPE({w: i for i, w in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


BYTE_FALLBACK = byte_fallback_tokenizer()


def streamed(tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None) -> list[str]:
    detokenizer = StreamingDetokenizer(tokenizer, prompt or [])
    return [*(detokenizer.add(i) for i in ids), detokenizer.flush()]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_comes_out_whole(text: str) -> None:
    assume(BYTE_LEVEL.id_to_token(EOS) not in text)  # written out it is that token, which no text shows
    pieces = streamed(BYTE_LEVEL, BYTE_LEVEL.encode(text).ids)
    assert "".join(pieces) == text


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(BYTE_IDS), max_size=MAX_HELD_TOKENS - 1))
def test_any_bytes_come_out_as_they_are_decoded_together(ids: list[int]) -> None:
    assert "".join(streamed(BYTE_LEVEL, ids)) == BYTE_LEVEL.decode(ids)


@pytest.mark.parametrize("tokenizer", [BYTE_LEVEL, BYTE_FALLBACK], ids=["byte level", "byte fallback"])
@pytest.mark.parametrize("character", ["é", "世", "🎉", "\u200d", "�"])
def test_a_character_is_shown_with_its_last_byte(tokenizer: Tokenizer, character: str) -> None:
    def byte_id(byte: int) -> int:
        if tokenizer is BYTE_FALLBACK:
            return int(tokenizer.token_to_id(f"<0x{byte:02X}>"))
        return BYTE_OF[byte]

    ids = [byte_id(byte) for byte in character.encode()]
    after = byte_id(ord("a"))
    pieces = streamed(tokenizer, [*ids, after])
    assert "".join(pieces) == character + "a"
    assert all(piece == "" for piece in pieces[: len(ids) - 1])


BYTE_OF = (
    {BYTE_LEVEL.decode([i]).encode()[0]: i for i in BYTE_IDS if BYTE_LEVEL.decode([i]) != "�"}
    | {
        byte: BYTE_LEVEL.token_to_id(chr(256 + index))
        for index, byte in enumerate([*range(33), *range(127, 161), 173])
        if BYTE_LEVEL.token_to_id(chr(256 + index)) is not None
    }
    | {byte: BYTE_LEVEL.token_to_id(chr(byte)) for byte in [*range(161, 173), *range(174, 256)]}
)


def test_spaces_between_words_survive_a_decoder_that_strips_the_first() -> None:
    hello, world = (BYTE_FALLBACK.token_to_id(word) for word in ("▁hello", "▁world"))
    assert "".join(streamed(BYTE_FALLBACK, [hello, world, world])) == "hello world world"
    assert "".join(streamed(BYTE_FALLBACK, [world, hello], prompt=[hello])) == " world hello"


def test_special_tokens_have_no_text_and_do_not_disturb_their_neighbours() -> None:
    ids = BYTE_LEVEL.encode("the é").ids
    assert "".join(streamed(BYTE_LEVEL, [EOS, *ids[:2], EOS, *ids[2:], EOS])) == BYTE_LEVEL.decode(ids)


def test_bytes_that_are_never_a_character_are_shown_and_the_window_stays_short() -> None:
    detokenizer = StreamingDetokenizer(BYTE_LEVEL)
    pieces = [detokenizer.add(BYTE_OF[0x80]) for _ in range(5 * MAX_HELD_TOKENS)]
    assert sum(map(len, pieces)) >= 4 * MAX_HELD_TOKENS
    assert len(detokenizer._ids) <= 2 * MAX_HELD_TOKENS


@pytest.mark.parametrize("character", ["é", "世", "🎉", "👩\u200d🚀", "e\u0301", "�"])
@pytest.mark.parametrize("context", ["", "ab �"])
def test_a_character_that_began_before_is_completed(character: str, context: str) -> None:
    """States may end within a character: the tokens behind them are the context."""
    ids = [BYTE_OF[byte] for byte in (context + character).encode()]
    for cut in range(len(context.encode()), len(ids) + 1):
        begun = BYTE_LEVEL.decode(ids[:cut]).rstrip("�") if cut < len(ids) else context + character
        text = "".join(streamed(BYTE_LEVEL, [*ids[cut:], BYTE_OF[ord("a")]], prompt=ids[:cut]))
        assert (begun + text).replace("�", "") == (context + character + "a").replace("�", "")


def test_an_incomplete_character_at_the_end_is_shown_as_a_replacement() -> None:
    assert streamed(BYTE_LEVEL, [BYTE_OF[ord("x")], *(BYTE_OF[b] for b in "世".encode()[:2])]) == [
        "x",
        "",
        "",
        "�",
    ]
