"""A chat turn by turn: what it feeds, and turns that are taken back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from served import SlowEngine, tiny_bundle

from quamba_export.runtime.bundle import Bundle
from quamba_export.runtime.chat import KEPT_TURNS, Chat
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.generate import Limits
from quamba_export.runtime.rewind import rewound
from quamba_export.runtime.sampling import Sampling
from quamba_export.runtime.saved_states import feed, load_states, save_states
from quamba_export.runtime.text_states import TextStates

LIMITS, GREEDY = Limits(20, eos_token_id=0), Sampling()


@pytest.fixture
def bundle() -> Bundle:
    bundle = tiny_bundle()
    assert isinstance(bundle.engine, SlowEngine)
    bundle.engine.script = ": hi\nUser:"
    return bundle


def said(chat: Chat, text: str) -> str:
    return "".join(chat.answer(text, LIMITS, GREEDY))


def fed(bundle: Bundle, chat: Chat, text: str) -> int:
    """Tokens of the call that feeds the question."""
    assert isinstance(bundle.engine, SlowEngine)
    bundle.engine.calls.clear()
    said(chat, text)
    return bundle.engine.calls[0][1]


def test_a_turn_feeds_only_what_is_new_and_has_the_states_of_the_whole_text(bundle: Bundle) -> None:
    chat, anew = Chat(bundle, system="Be kind."), Chat(bundle, system="Be kind.")
    assert said(chat, "the a") == "hi"
    whole = fed(bundle, anew, "the a")
    assert fed(bundle, chat, "and") < whole
    assert [message.content for message in chat.messages] == ["Be kind.", "the a", "hi", "and", "hi"]
    text = chat.text.render(chat.messages[:-1])
    kept = chat.saved()
    other = feed(bundle.engine, [*bundle.encode(text), *bundle.encode(" hi\nUser:")])
    assert (kept.tokens, kept.next_token) == (other.tokens, other.next_token)
    for name in kept.states:
        np.testing.assert_array_equal(kept.states[name], other.states[name])


def test_a_turn_that_is_taken_back_was_never_said(bundle: Bundle) -> None:
    chat, straight = Chat(bundle), Chat(bundle)
    for text in ("the a", "never mind", "nor this"):
        said(chat, text)
    chat.rewind(2)
    said(straight, "the a")
    assert chat.messages == straight.messages
    assert fed(bundle, chat, "and the") == fed(bundle, straight, "and the")
    one, other = chat.saved(), straight.saved()
    assert (one.tokens, one.next_token) == (other.tokens, other.next_token)
    assert all((one.states[name] == other.states[name]).all() for name in one.states)


@pytest.mark.parametrize("turns", [0, 2, -1])
def test_no_more_can_be_taken_back_than_was_said(bundle: Bundle, turns: int) -> None:
    chat = Chat(bundle)
    said(chat, "the a")
    with pytest.raises(QuambaError, match="cannot be taken back") as error:
        chat.rewind(turns)
    assert error.value.code is ExitCode.USAGE
    chat.rewind(1)
    with pytest.raises(QuambaError, match="nothing has been said yet"):
        chat.saved()


def test_an_answer_that_is_cut_short_is_no_turn(bundle: Bundle) -> None:
    chat = Chat(bundle)
    pieces = chat.answer("the a", LIMITS, GREEDY)
    next(pieces)
    pieces.close()
    assert chat.messages == ()
    assert said(chat, "the a") == "hi"


def test_saved_states_are_gone_on_from(bundle: Bundle, tmp_path: Path) -> None:
    chat = Chat(bundle)
    said(chat, "the a")
    save_states(tmp_path / "a", chat.saved(), bundle.manifest)
    forked = Chat(bundle, load_states(tmp_path / "a", bundle.engine, bundle.manifest))
    assert fed(bundle, forked, "and") == 1 + len(bundle.encode("User: and\nAssistant:"))
    assert fed(bundle, forked, "and") < 20


def test_a_penalty_knows_the_tokens_of_every_turn(bundle: Bundle, tmp_path: Path) -> None:
    """Of those in a file, too: no token of theirs is chosen again."""
    assert isinstance(bundle.engine, SlowEngine)
    bundle.engine.script = ""
    penalized, limits = Sampling(repetition_penalty=1000.0), Limits(8)
    chat = Chat(bundle)
    "".join(chat.answer("the a", limits, penalized))
    save_states(tmp_path / "a", chat.saved(), bundle.manifest)
    loaded = Chat(bundle, load_states(tmp_path / "a", bundle.engine, bundle.manifest))
    before = loaded.saved().history.tokens
    "".join(loaded.answer("x", limits, penalized))
    assert loaded.generation
    assert not set(before) & set(loaded.generation.token_ids)
    assert set(before) <= set(loaded.saved().history.known)


def test_a_saved_chat_goes_back_to_where_a_turn_ended(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Chat(bundle)
    said(chat, "the a")
    one = chat.saved()
    said(chat, "and")
    said(chat, "nor this")
    save_states(tmp_path / "chat", chat.saved(marks=2), bundle.manifest)
    loaded = load_states(tmp_path / "chat", bundle.engine, bundle.manifest)
    assert len(loaded.marks) == 2
    back = rewound(bundle.engine, loaded, loaded.tokens - one.tokens)
    assert back.history.feeds == one.history.feeds
    for name in one.states:
        np.testing.assert_array_equal(back.states[name], one.states[name])
    monkeypatch.setattr(TextStates, "rest_of", lambda *text: None)  # fed anew, in one piece
    said(chat, "again")
    assert chat.saved(marks=2).marks == ()


def test_a_chat_of_one_token_answers_is_saved(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fed anew each time, its pieces begin alike, but none ends where a turn before it ended."""
    chat, short = Chat(bundle), Limits(1, eos_token_id=0)
    monkeypatch.setattr(TextStates, "rest_of", lambda *text: None)
    for text in ("the a", "and", "nor this"):
        "".join(chat.answer(text, short, GREEDY))
    save_states(tmp_path / "chat", chat.saved(marks=2), bundle.manifest)
    assert load_states(tmp_path / "chat", bundle.engine, bundle.manifest).marks == ()


def test_a_long_chat_keeps_the_last_turns(bundle: Bundle) -> None:
    chat = Chat(bundle)
    for _ in range(KEPT_TURNS + 3):
        said(chat, "a")
    with pytest.raises(QuambaError) as error:
        chat.rewind(KEPT_TURNS + 1)
    assert error.value.allowed == f"1 to {KEPT_TURNS}"
