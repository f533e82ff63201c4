"""What a request asks for: the JSON of OpenAI's API, read field by field.

A field that changes nothing here is taken (`user`), one that would be ignored to the client's surprise is
refused by name: an answer is what was asked for, or an error.
"""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import Any, Literal

from quamba_export.runtime.chat_text import ROLES, Message
from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.fields import Fields
from quamba_export.runtime.generate import Limits
from quamba_export.runtime.sampling import Sampling, wanted_instead

MAX_PROMPTS, MAX_STOPS, MAX_SESSION_NAME = 64, 16, 128
DEFAULT_TOKENS = {"completion": 16, "chat": 512}  # OpenAI's own for the first
WITHOUT_EFFECT = ("user", "metadata", "store", "safety_identifier", "prompt_cache_key")
# what is not implemented is taken with the value that means nothing, as clients send it
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (False,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "suffix": ("",),
    "response_format": ({"type": "text"},),
    "tools": ([],),
}
Prompt = str | list[int]


@dataclass(frozen=True)
class Asked:
    """One request, checked but for what needs the tokenizer."""

    kind: Literal["completion", "chat"]
    model: str
    prompts: tuple[Prompt, ...]  # of a completion
    messages: tuple[Message, ...]  # of a chat
    max_tokens: int
    stop: tuple[str, ...]
    sampling: Sampling
    stream: bool
    include_usage: bool  # of a stream: at its end
    session: str | None

    def limits(self, eos_token_id: int, more_stops: tuple[str, ...]) -> Limits:
        return Limits(self.max_tokens, self.stop + more_stops, eos_token_id)


class RequestFields(Fields):
    """Fields that may be missing, or null, which is the same."""

    def maybe(self, key: str, kinds: tuple[type, ...], default: Any, allowed: str) -> Any:
        self._known.add(key)
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) not in kinds:
            raise self.error(key, repr(value), allowed)
        return value

    def whole(self, key: str, default: int, low: int, high: int) -> int:
        value: int = self.maybe(key, (int,), default, "an integer")
        if not low <= value <= high:
            raise self.error(key, str(value), f"an integer from {low} to {high}")
        return value

    def flag(self, key: str) -> bool:
        return self.maybe(key, (bool,), False, "true or false") is True


def parse_request(content: bytes, kind: Literal["completion", "chat"], max_tokens: int) -> Asked:
    """The request in a body. max_tokens: the most it may ask for. Raises QuambaError naming the field."""
    fields = RequestFields(Fields.from_json(content, "the request", "").values, "the request", "")
    chat = kind == "chat"
    prompts, messages = ((), parse_messages(fields)) if chat else (parse_prompts(fields), ())
    wanted = (
        "max_completion_tokens" if fields.values.get("max_completion_tokens") is not None else "max_tokens"
    )
    for key, values in NEUTRAL.items():
        value = fields.maybe(key, (bool, int, float, str, dict, list), values[0], "")
        if value not in values or isinstance(value, bool) != isinstance(values[0], bool):  # logprobs 0 asks
            raise fields.error(key, repr(value), f"{values[0]!r}: nothing else is implemented")
    for key in (*WITHOUT_EFFECT, "max_tokens", "max_completion_tokens"):
        fields.maybe(key, (str, dict, bool, int), None, "text, an object or a number")
    asked = Asked(
        kind=kind,
        model=fields.text("model"),
        prompts=prompts,
        messages=messages,
        max_tokens=fields.whole(wanted, min(DEFAULT_TOKENS[kind], max_tokens), 1, max_tokens),
        stop=parse_stops(fields),
        sampling=parse_sampling(fields),
        stream=fields.flag("stream"),
        include_usage=parse_stream_options(fields),
        session=parse_session(fields, len(prompts), tokens=any(isinstance(p, list) for p in prompts)),
    )
    fields.end()
    return asked


def parse_stream_options(fields: RequestFields) -> bool:
    """Whether a stream ends with its usage. There is no padding against onlookers, `include_obfuscation`."""
    options = RequestFields(fields.maybe("stream_options", (dict,), {}, "an object"), "stream_options", "")
    if options.flag("include_obfuscation"):
        raise options.error("include_obfuscation", "True", "false: nothing else is implemented")
    usage = options.flag("include_usage")
    options.end()
    return usage


def parse_sampling(fields: RequestFields) -> Sampling:
    """OpenAI's default temperature is 1, and without a seed every request draws anew."""
    defaults = Sampling(temperature=1.0, seed=secrets.randbits(63))
    values: dict[str, Any] = {}
    for key, default in asdict(defaults).items():
        whole = type(default) is int
        kinds, words = ((int,), "an integer") if whole else ((int, float), "a number")
        values[key] = fields.maybe(key, kinds, default, words)
        if allowed := wanted_instead(key, values[key]):
            raise fields.error(key, str(values[key]), allowed)
    return Sampling(**values)


def parse_prompts(fields: RequestFields) -> tuple[Prompt, ...]:
    """A text, a list of texts, a list of token ids or a list of these."""
    allowed = f"text, token ids, or a list of up to {MAX_PROMPTS} of them"
    value = fields.maybe("prompt", (str, list), None, allowed)
    prompts = value if isinstance(value, list) and not all(type(item) is int for item in value) else [value]
    if not 1 <= len(prompts) <= MAX_PROMPTS or not all(is_prompt(prompt) for prompt in prompts):
        raise fields.error("prompt", repr(value), allowed)
    return tuple(prompts)


def is_prompt(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(type(item) is int for item in value)
    return isinstance(value, str)


def parse_messages(fields: RequestFields) -> tuple[Message, ...]:
    messages = tuple(parse_message(entry.values, entry) for entry in fields.objects("messages"))
    if not messages:
        raise fields.error("messages", "no message", "one or more")
    return messages


def parse_message(values: dict[str, Any], fields: Fields) -> Message:
    """Role and text; the text may be in parts."""
    role, content = values.get("role"), values.get("content")
    role = "system" if role == "developer" else role
    if role not in ROLES:
        raise fields.error("role", repr(role), ", ".join(ROLES))
    if isinstance(content, list):
        parts = [
            part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text"
        ]
        texts = [part for part in parts if isinstance(part, str)]
        content = "".join(texts) if len(texts) == len(content) else None
    if not isinstance(content, str):
        raise fields.error("content", repr(values.get("content")), "text, or a list of parts of text")
    if odd := [key for key in values if key not in ("role", "content") and values[key] is not None]:
        raise fields.error(odd[0], repr(values[odd[0]]), "role and content: nothing else is implemented")
    return Message(role, content)


def parse_stops(fields: RequestFields) -> tuple[str, ...]:
    value = fields.maybe("stop", (str, list), [], "text or a list of texts")
    stops = [value] if isinstance(value, str) else value
    if len(stops) > MAX_STOPS or not all(isinstance(stop, str) and stop for stop in stops):
        raise fields.error("stop", repr(value), f"text, or a list of up to {MAX_STOPS} texts, none empty")
    return tuple(stops)


def parse_session(fields: RequestFields, prompts: int, *, tokens: bool) -> str | None:
    """The name of a session, which has one text."""
    name: str | None = fields.maybe("session", (str,), None, "a name")
    if name is None:
        return None
    if not (1 <= len(name) <= MAX_SESSION_NAME and name.isprintable()):
        raise fields.error("session", repr(name), f"1 to {MAX_SESSION_NAME} printable characters")
    if prompts > 1 or tokens:
        raise QuambaError("a session is of one text", found="several prompts, or tokens", allowed="one text")
    return name
