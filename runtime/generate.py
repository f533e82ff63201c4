"""The generation loop: prompts in, pieces of text out as they come, at the end why and how fast it ended."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from quamba_export.runtime.decoder import Decoder
from quamba_export.runtime.detokenize import CONTEXT_TOKENS, StreamingDetokenizer, Tokenizer
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.stop_strings import StopStrings

FinishReason = Literal["eos", "stop", "length"]


@dataclass(frozen=True)
class Limits:
    """When a sequence ends: at the end-of-text token, before a stop string, or after so many tokens."""

    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()
    eos_token_id: int | None = None  # None: the end-of-text token ends nothing

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            found = str(self.max_new_tokens)
            raise QuambaError(
                "wrong number of new tokens", found=found, allowed="0 or more", code=ExitCode.USAGE
            )
        if "" in self.stop:
            raise QuambaError("a stop string is empty", found="''", allowed="text", code=ExitCode.USAGE)


@dataclass(frozen=True)
class Generation:
    """One finished sequence. Times are the runtime's own, without what the consumer did between pieces."""

    text: str  # without the stop string and special tokens
    token_ids: tuple[int, ...]  # every token chosen, the end-of-text token and those of the stop string too
    finish_reason: FinishReason
    prompt_tokens: int
    ttft_ms: (
        float | None
    )  # time to first token, all prompts of the batch fed; None where no token was asked for
    tpot_ms: float | None  # mean time per output token after the first; None where there was one at most
    tokens_per_second: float | None  # of this sequence after its first token


@dataclass(frozen=True)
class Piece:
    """Some text of sequence `row`; the last piece of a row carries its generation."""

    row: int
    text: str
    generation: Generation | None = None


def stream(
    decoder: Decoder,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    limits: Limits,
    behind: Sequence[Sequence[int]] = (),
) -> Iterator[Piece]:
    """Continue tokenized prompts (each of 1 token or more) as one batch; pieces come step by step.

    behind: of each the tokens that the decoder's states have behind them: a character may have begun there.
    With `max_new_tokens` 0 no model is run. A row that has ended is still fed, unseen, until the last one
    ends. Raises QuambaError for a token id outside the vocabulary, and for logits that are not finite (exit
    9).
    """
    before = behind or [()] * len(prompts)
    rows = [Row(tokenizer, ids, limits, known) for ids, known in zip(prompts, before, strict=True)]
    if limits.max_new_tokens == 0 or not rows:
        yield from (Piece(index, "", row.generation("length", None, None)) for index, row in enumerate(rows))
        return
    started = time.perf_counter()
    tokens = decoder.start(prompts)
    ttft, decoding, steps = time.perf_counter() - started, 0.0, 0
    while True:
        for index, row in enumerate(rows):
            if row.ended:
                continue
            text, reason = row.add(tokens[index])
            tpot = decoding / steps if steps else None
            done = row.generation(reason, ttft, tpot) if reason else None
            if text or done:
                yield Piece(index, text, done)
        if all(row.ended for row in rows):
            return
        started = time.perf_counter()
        tokens = decoder.step()
        decoding, steps = decoding + time.perf_counter() - started, steps + 1


def generate(
    decoder: Decoder, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], limits: Limits
) -> list[Generation]:
    """`stream` to its end: one generation a prompt, in order."""
    done = {
        piece.row: piece.generation
        for piece in stream(decoder, tokenizer, prompts, limits)
        if piece.generation
    }
    return [done[row] for row in range(len(prompts))]


class Row:
    """One sequence while it grows."""

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], limits: Limits, behind: Sequence[int] = ()
    ) -> None:
        self.limits, self.prompt_tokens, self.ended = limits, len(prompt), False
        self._tokens: list[int] = []
        self._texts: list[str] = []
        self._detokenizer = StreamingDetokenizer(tokenizer, [*behind[-CONTEXT_TOKENS:], *prompt])
        self._stop = StopStrings(limits.stop)

    def add(self, token: int) -> tuple[str, FinishReason | None]:
        """The text that may be shown after this token, and why the sequence ends with it, if it does."""
        self._tokens.append(token)
        ends_text = (
            token == self.limits.eos_token_id
        )  # a tokenizer need not call it special: it is never shown
        text = self._stop.feed("" if ends_text else self._detokenizer.add(token))
        reason = self._reason(token)
        if reason in ("eos", "length"):
            text += self._held_back()
            reason = "stop" if self._stop.found else reason
        self.ended = reason is not None
        self._texts.append(text)
        return text, reason

    def cut(self) -> str:
        """End the sequence from outside; the text that may still be shown."""
        text, self.ended = self._held_back(), True
        self._texts.append(text)
        return text

    def _held_back(self) -> str:
        """What was not shown yet because it could have become something else: no more can come."""
        text = self._stop.feed(self._detokenizer.flush())
        return text if self._stop.found else text + self._stop.flush()

    def _reason(self, token: int) -> FinishReason | None:
        if self._stop.found:
            return "stop"
        if token == self.limits.eos_token_id:
            return "eos"
        return "length" if len(self._tokens) >= self.limits.max_new_tokens else None

    def generation(self, reason: FinishReason, ttft: float | None, tpot: float | None) -> Generation:
        """What is known at the end; times in seconds here, in ms there."""
        return Generation(
            text="".join(self._texts),
            token_ids=tuple(self._tokens),
            finish_reason=reason,
            prompt_tokens=self.prompt_tokens,
            ttft_ms=None if ttft is None else ttft * 1e3,
            tpot_ms=None if tpot is None else tpot * 1e3,
            tokens_per_second=None if tpot is None else 1 / tpot,
        )
