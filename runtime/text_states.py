"""States and the text behind them, so that a text which begins with it is fed from there on.

Of the text only its length and a digest are kept: a conversation's memory stays that of its states, whose
size does not depend on how long it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.detokenize import StreamingDetokenizer, Tokenizer
from quamba_export.runtime.engine import States
from quamba_export.runtime.generate import Generation


@dataclass(frozen=True)
class KeptStates:
    """One sequence's states on the host, (1, ...) each, behind `tokens` tokens."""

    arrays: Mapping[str, NDArray[Any]]
    tokens: int
    occurred: NDArray[np.uint8] | None = None  # which tokens these are, a bit for each of the vocabulary
    recent: tuple[int, ...] = ()  # the last of them: a character may have begun there

    @classmethod
    def copy_of(cls, states: States, tokens: int) -> KeptStates:
        return cls({name: np.array(states[name]) for name in states}, tokens)

    @property
    def nbytes(self) -> int:
        occurred = 0 if self.occurred is None else self.occurred.nbytes
        return occurred + sum(array.nbytes for array in self.arrays.values())


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
class TextStates:
    """States, the text behind them, and where the last token is text too, that token and the text with it."""

    states: KeptStates
    behind: Beginning | None  # None where the states end within a character: no text is behind them
    last_token: int
    complete: Beginning | None

    def rest_of(self, text: str) -> tuple[list[int], str] | None:
        """The tokens and then the text still to be fed, so that all of `text` is; None if it is another."""
        if self.complete and self.complete.begins(text):
            return [self.last_token], text[self.complete.length :]
        if self.behind and self.behind.begins(text) and len(text) > self.behind.length:
            return [], text[self.behind.length :]
        return None


def states_after(
    tokenizer: Tokenizer, prompt: str, ids: list[int], generation: Generation, states: KeptStates
) -> TextStates:
    """What is known at the end of a generation. prompt: all text before it; ids: its last tokens.

    The last token has not been fed. The end-of-text token is no text, and one that completed a stop string
    may hold more than that, so only after "length" is it the next to be fed.
    """
    *fed, last = generation.token_ids
    detokenizer = StreamingDetokenizer(tokenizer, ids)
    behind = prompt + "".join(detokenizer.add(token) for token in fed)
    whole = not detokenizer.holds
    complete = behind + detokenizer.add(last) + detokenizer.flush()
    ended = generation.finish_reason == "length"
    known = Beginning.of(behind) if whole else None
    return TextStates(states, known, last, Beginning.of(complete) if ended else None)


def digest_of(text: str) -> bytes:
    return sha256(text.encode("utf-8", "surrogatepass")).digest()
