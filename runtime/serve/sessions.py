"""Sessions: the states behind a conversation, kept between its requests.

A request carries its whole text, as every OpenAI client sends it; with the name of a session, the part that
the session has behind it is not fed again. A session therefore changes what a request costs and never what
it means: one that has expired, or whose text does not begin this one, is as good as none. Of the text only
its length and a digest are kept.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from quamba_export.runtime.detokenize import StreamingDetokenizer, Tokenizer
from quamba_export.runtime.generate import Generation
from quamba_export.runtime.serve.job import KeptStates


@dataclass(frozen=True)
class Beginning:
    """Some text, known again by its length and sha256."""

    length: int  # characters
    digest: bytes

    @classmethod
    def of(cls, text: str) -> Beginning:
        return cls(len(text), digest_of(text))

    def begins(self, text: str) -> bool:
        return self.length <= len(text) and digest_of(text[: self.length]) == self.digest


@dataclass(frozen=True)
class Session:
    """States, the text behind them, and where the last token is text too, that token and the text with it."""

    states: KeptStates
    behind: Beginning
    last_token: int
    complete: Beginning | None

    def rest_of(self, text: str) -> tuple[list[int], str] | None:
        """The tokens and then the text still to be fed, so that all of `text` is; None if it is another."""
        if self.complete and self.complete.begins(text):
            return [self.last_token], text[self.complete.length :]
        if self.behind.begins(text) and len(text) > self.behind.length:
            return [], text[self.behind.length :]
        return None


def session_after(
    tokenizer: Tokenizer, prompt: str, ids: list[int], generation: Generation, states: KeptStates
) -> Session:
    """The session at the end of a generation. prompt: all text before it; ids: what was fed of that.

    The last token has not been fed. The end-of-text token is no text, and one that completed a stop string
    may hold more than that, so only after "length" is it the next to be fed.
    """
    *fed, last = generation.token_ids
    detokenizer = StreamingDetokenizer(tokenizer, ids)
    behind = prompt + "".join(detokenizer.add(token) for token in fed)
    complete = behind + detokenizer.add(last) + detokenizer.flush()
    ended = generation.finish_reason == "length"
    return Session(states, Beginning.of(behind), last, Beginning.of(complete) if ended else None)


class Sessions:
    """At most `limit` sessions, the least recently used one going first, and each for so long only."""

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """seconds: how long a session is kept since it was last used."""
        self.limit, self.seconds, self._clock = limit, seconds, clock
        self._kept: OrderedDict[str, tuple[float, Session]] = OrderedDict()  # oldest use first

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes of the states kept."""
        return sum(session.states.nbytes for _, session in self._kept.values())

    def find(self, name: str) -> Session | None:
        """The session of this name, now the most recently used one."""
        self.expire()
        if name not in self._kept:
            return None
        _, session = self._kept.pop(name)
        self._kept[name] = self._clock(), session
        return session

    def keep(self, name: str, session: Session) -> None:
        self.expire()
        self._kept.pop(name, None)
        self._kept[name] = self._clock(), session
        while len(self._kept) > self.limit:
            self._kept.popitem(last=False)

    def forget(self, name: str) -> bool:
        """Whether there was such a session."""
        self.expire()
        return self._kept.pop(name, None) is not None

    def expire(self) -> None:
        oldest = self._clock() - self.seconds
        while self._kept and next(iter(self._kept.values()))[0] < oldest:
            self._kept.popitem(last=False)


def digest_of(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
