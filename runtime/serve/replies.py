"""The JSON that OpenAI's API answers with: whole, in chunks of a stream, and of errors."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from quamba_export.runtime.generate import FinishReason
from quamba_export.runtime.serve.asked import Asked

DONE = b"data: [DONE]\n\n"
LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}  # Python's splitlines, httpx's
FINISH = {"eos": "stop", "stop": "stop", "length": "length"}  # OpenAI's words for ours


class ApiError(Exception):
    """An answer that is no result."""

    def __init__(
        self, status: int, message: str, *, code: str = "", headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers or {}

    def body(self) -> dict[str, Any]:
        """As OpenAI's; half a character that a client sent is no text, and is shown by its number."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        message = self.message.encode("utf-8", "backslashreplace").decode()
        return {"error": {"message": message, "type": kind, "param": None, "code": self.code or None}}


@dataclass(frozen=True)
class Choice:
    """One finished sequence of an answer."""

    text: str
    finish_reason: FinishReason
    timed_out: bool
    prompt_tokens: int  # cached ones too
    cached_tokens: int  # that a session had behind it
    new_tokens: int


@dataclass(frozen=True)
class Reply:
    """The envelope of one answer, the same in every chunk of it."""

    asked: Asked
    model: str
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """The answer that is not streamed."""
        entries = [
            {"index": index, **self._content(choice.text), "logprobs": None, **ending(choice)}
            for index, choice in enumerate(choices)
        ]
        return self._envelope("", choices=entries, usage=usage(choices))

    def chunk(self, index: int, text: str, end: Choice | None = None) -> bytes:
        """One event of a stream: some text, and at a sequence's end why."""
        content = {"delta": {"content": text}} if self.asked.kind == "chat" else {"text": text}
        ended = ending(end) if end else {"finish_reason": None}
        return event(self._envelope(".chunk", [{"index": index, **content, "logprobs": None, **ended}]))

    def opening(self) -> list[bytes]:
        """What a stream begins with: a chat says who speaks."""
        if self.asked.kind == "completion":
            return []
        delta = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return [event(self._envelope(".chunk", [delta]))]

    def closing(self, choices: Sequence[Choice]) -> list[bytes]:
        """What a stream ends with."""
        counted = [event(self._envelope(".chunk", [], usage(choices)))] if self.asked.include_usage else []
        return [*counted, DONE]

    def _content(self, text: str) -> dict[str, Any]:
        if self.asked.kind == "chat":
            return {"message": {"role": "assistant", "content": text}}
        return {"text": text}

    def _envelope(
        self, suffix: str, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        kind = f"chat.completion{suffix}" if self.asked.kind == "chat" else "text_completion"
        prefix = "chatcmpl" if self.asked.kind == "chat" else "cmpl"
        head = {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}
        return {**head, "choices": choices, **({"usage": usage} if usage else {})}


def ending(choice: Choice) -> dict[str, Any]:
    """`finish_reason`, which has no word for a time limit: `timed_out` says it."""
    return {
        "finish_reason": FINISH[choice.finish_reason],
        **({"timed_out": True} if choice.timed_out else {}),
    }


def usage(choices: Sequence[Choice]) -> dict[str, Any]:
    prompt, new = sum(c.prompt_tokens for c in choices), sum(c.new_tokens for c in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": sum(c.cached_tokens for c in choices)},
    }


def event(content: dict[str, Any]) -> bytes:
    """A server-sent event; what some clients take for the end of a line is escaped."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).translate(LINE_ENDS)
    return b"data: " + text.encode() + b"\n\n"
