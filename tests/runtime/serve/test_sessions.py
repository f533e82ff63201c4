"""Sessions: what they spare, what they never change, and what bounds them."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import numpy as np
import pytest
from served import Served, serving

from quamba_export.runtime.decoder import HostDecoder
from quamba_export.runtime.sampling import Sampling
from quamba_export.runtime.serve.sessions import Sessions
from quamba_export.runtime.text_states import Beginning, KeptStates, TextStates

CHAT = "/v1/chat/completions"


@pytest.fixture
def served() -> Iterator[Served]:
    with serving(max_sessions=2) as made:
        yield made


def cached(answer: dict[str, object]) -> int:
    usage = answer["usage"]
    assert isinstance(usage, dict)
    tokens: int = usage["prompt_tokens_details"]["cached_tokens"]
    return tokens


def test_a_text_that_goes_on_is_not_fed_again(served: Served) -> None:
    _, first = served.complete("the a", max_tokens=20, temperature=0, session="s")
    text = "the a" + first["choices"][0]["text"]
    del served.engine.calls[:]
    _, second = served.complete(text, max_tokens=20, temperature=0, session="s")
    fed = served.engine.calls[0][1]
    _, whole = served.complete("the a", max_tokens=40, temperature=0)
    assert first["choices"][0]["text"] + second["choices"][0]["text"] == whole["choices"][0]["text"]
    assert fed == 1
    assert cached(second) == second["usage"]["prompt_tokens"] - 1
    assert cached(first) == cached(whole) == 0


def test_a_chat_goes_on_after_the_line_that_the_model_began_for_the_user(served: Served) -> None:
    """The plain format stops at a string that the model has mostly been fed by then."""
    served.engine.script = ": hi\nUser:"
    messages = [{"role": "user", "content": "the a"}]
    body = {"model": "tiny", "max_tokens": 60, "temperature": 0, "session": "s"}
    _, first, _ = served.send("POST", CHAT, body | {"messages": messages})
    messages += [first["choices"][0]["message"], {"role": "user", "content": "and"}]
    _, second, _ = served.send("POST", CHAT, body | {"messages": messages})
    _, alone, _ = served.send("POST", CHAT, body | {"messages": messages, "session": "other"})
    assert messages[1] == second["choices"][0]["message"] == {"role": "assistant", "content": "hi"}
    assert cached(second) > 20 > cached(alone) == 0
    assert second["usage"]["prompt_tokens"] == alone["usage"]["prompt_tokens"]
    same_states(served, "s", "other")


def same_states(served: Served, *names: str) -> None:
    """Bit for bit, of the last turns of these sessions."""
    one, other = (served.answering.sessions.find(name)[0].states for name in names)
    assert one.tokens == other.tokens
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name])


def test_an_edited_or_repeated_message_goes_on_from_the_turn_before_it(served: Served) -> None:
    """With the states of a conversation in which the message taken back never was."""
    served.engine.script = ": hi\nUser:"
    ask = {"model": "tiny", "max_tokens": 60, "temperature": 0}
    said = [{"role": "user", "content": "the a"}, {"role": "assistant", "content": "hi"}]

    def say(session: str, text: str) -> int:
        messages = [*said, {"role": "user", "content": text}]
        return cached(served.send("POST", CHAT, ask | {"session": session, "messages": messages})[1])

    for session in ("s", "other"):
        served.send("POST", CHAT, ask | {"session": session, "messages": said[:1]})
    once = say("s", "never mind")
    assert once == say("s", "never mind") == say("s", "and") == say("other", "and") > 0
    same_states(served, "s", "other")
    assert served.answering.sessions.nbytes == 4 * served.answering.sessions.find("s")[0].states.nbytes


def test_another_text_begins_anew_and_says_what_it_says_without_a_session(served: Served) -> None:
    served.complete("the a", max_tokens=20, session="s")
    _, other = served.complete("and the", max_tokens=20, seed=4, session="s")
    _, alone = served.complete("and the", max_tokens=20, seed=4)
    assert cached(other) == 0
    assert other["choices"] == alone["choices"]


def test_a_repetition_penalty_sees_the_tokens_behind_a_session(served: Served) -> None:
    """Over two requests, as in one: what a session knows of its text it knows from the one before."""
    bundle, text = served.answering.bundle, "the a"
    prompt = bundle.encode(text)
    whole = HostDecoder(bundle.engine, Sampling(repetition_penalty=5.0))
    ids = [*prompt, *whole.start([prompt]), *(whole.step()[0] for _ in range(29))]
    for new in (0, 10, 20):
        asked = {"max_tokens": 10, "temperature": 0, "repetition_penalty": 5.0, "session": "s"}
        _, part = served.complete(text, **asked)
        assert cached(part) == (new and len(prompt) + new - 1)
        text += part["choices"][0]["text"]
    occurred = served.answering.sessions.find("s")[0].states.occurred
    assert occurred is not None
    assert np.flatnonzero(np.unpackbits(occurred)).tolist() == sorted({*ids[:-1]})


CHARACTERS = "a🎉世é!"


@pytest.mark.parametrize("cut", range(1, 10))
def test_a_character_may_be_cut_by_the_end_of_an_answer(served: Served, cut: int) -> None:
    """Each of its bytes is a token here; what the client shows of half a one is U+FFFD."""
    served.engine.script = CHARACTERS
    asked = {"temperature": 0, "session": "s"}
    _, first = served.complete("a", max_tokens=cut, **asked)
    text = first["choices"][0]["text"]
    _, second = served.complete("a" + text, max_tokens=10 - cut, **asked)
    assert cached(second) == cut
    assert "a" + text.rstrip("�") + second["choices"][0]["text"] == CHARACTERS


@pytest.mark.parametrize("cut", range(1, 10))
def test_half_a_character_is_not_behind_another_text(served: Served, cut: int) -> None:
    served.engine.script = CHARACTERS
    _, first = served.complete("a", max_tokens=cut, temperature=0, session="s")
    text = "a" + first["choices"][0]["text"].rstrip("�") + " the"
    served.engine.script = ""
    _, other = served.complete(text, max_tokens=10, temperature=0, session="s")
    _, alone = served.complete(text, max_tokens=10, temperature=0)
    assert other["choices"] == alone["choices"]


def test_the_oldest_goes_first_and_a_session_can_be_ended(served: Served) -> None:
    for name in ("one", "two", "three"):
        served.complete("the", max_tokens=2, session=name)
    assert len(served.answering.sessions) == 2
    assert served.send("DELETE", "/v1/sessions/one")[0] == 404
    assert served.send("DELETE", "/v1/sessions/two")[0] == 204
    assert len(served.answering.sessions) == 1


def states(value: int) -> TextStates:
    kept = KeptStates({"past_ssm_states.0": np.full((1, 4), value, np.float32)}, value)
    return TextStates(kept, Beginning.of("a" * value), 7, Beginning.of("a" * value + "b"))


@pytest.mark.parametrize("name", ["a/b", "ä ?#%"])
def test_a_session_of_any_name_can_be_ended(served: Served, name: str) -> None:
    served.complete("the a", max_tokens=2, session=name)
    assert served.send("DELETE", f"/v1/sessions/{quote(name, safe='')}")[0] == 204


def test_sessions_expire_when_unused_for_long() -> None:
    now = [0.0]
    sessions = Sessions(3, 10.0, clock=lambda: now[0])
    sessions.keep("a", states(1), "a")
    now[0] = 8.0
    sessions.keep("b", states(2), "aa")
    assert sessions.find("a")
    now[0] = 18.5
    assert sessions.find("b") == ()
    assert sessions.find("a") == ()
    assert (len(sessions), sessions.nbytes) == (0, 0)


def test_use_counts_and_not_age() -> None:
    sessions = Sessions(2, 10.0, clock=lambda: 0.0)
    sessions.keep("a", states(1), "a")
    sessions.keep("b", states(2), "aa")
    assert sessions.find("a")
    sessions.keep("c", states(3), "aaa")
    assert sessions.find("b") == ()
    assert sessions.nbytes == 32


def test_the_last_turns_are_kept_and_those_taken_back_are_not() -> None:
    sessions = Sessions(2, 10.0, turns=2, clock=lambda: 0.0)
    one, two, three, other = states(1), states(3), states(5), states(4)
    for turn, text in ((one, "a"), (two, "aaa"), (three, "aaaaa")):
        sessions.keep("s", turn, text)
    assert sessions.find("s") == (three, two)
    assert sessions.begun("s", "aaaa") is two
    assert sessions.begun("s", "aa") is None
    sessions.keep("s", other, "aaaa")
    assert sessions.find("s") == (other, two)
    sessions.keep("s", one, "x")
    assert sessions.find("s") == (one,)


@pytest.mark.parametrize(
    ("text", "rest"),
    [
        ("aab", ([7], "")),
        ("aab more", ([7], " more")),
        ("aac", ([], "c")),
        ("aa", None),
        ("a", None),
        ("bab", None),
    ],
)
def test_what_is_left_to_be_fed(text: str, rest: object) -> None:
    assert states(2).rest_of(text) == rest
