"""Token ids to text, token by token, without ever showing half a character.

A character of several bytes may be spread over tokens, and a decoder may treat the first token of a text in
its own way (a leading space, say). So a window of tokens is decoded each time: some that were already shown,
for context, and those that are new; what the new ones add is shown as soon as it no longer ends in U+FFFD,
the mark that a decoder writes for an incomplete character.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CONTEXT_TOKENS = 8
# Tokens held back at most: a character has 4 bytes, so a longer run is not text and is shown as it is.
MAX_HELD_TOKENS = 32


class Tokenizer(Protocol):
    """The part of `tokenizers.Tokenizer` that is used here."""

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


class StreamingDetokenizer:
    """The text of one sequence. Special tokens (end of text, ...) have none."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int] = ()) -> None:
        """prompt_ids: what the text continues; its last tokens are context and are not shown."""
        self._decode = tokenizer.decode
        self._restart(list(prompt_ids[-CONTEXT_TOKENS:]))

    def _restart(self, context: list[int]) -> None:
        """Begin a window with tokens that have been shown."""
        self._ids, self._context = context, len(context)
        self._shown = self._decode(context) if context else ""

    def add(self, token_id: int) -> str:
        """The text that this token completes; empty while a character is incomplete."""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        unfinished = text.endswith(REPLACEMENT) or not text[self._begin(text) :]
        if unfinished and len(self._ids) - self._context < MAX_HELD_TOKENS:
            return ""
        return self._show(text)

    @property
    def holds(self) -> bool:
        """Whether something is held back."""
        return len(self._ids) > self._context

    def flush(self) -> str:
        """What was held back, at the end of the sequence; U+FFFD stands for bytes that are no character."""
        return self._show(self._decode(self._ids)) if self.holds else ""

    def _begin(self, text: str) -> int:
        """Where what was not shown begins: a context that ended in half a character changes there."""
        half = self._shown.endswith(REPLACEMENT) and not text.startswith(self._shown)
        return len(self._shown.rstrip(REPLACEMENT) if half else self._shown)

    def _show(self, text: str) -> str:
        piece = text[self._begin(text) :]
        self._restart(self._ids[self._context :][-CONTEXT_TOKENS:])
        return piece
