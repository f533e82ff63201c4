"""Messages of a chat as the text that a model continues: by the model's own template, or a plain one.

The template is `chat_template.jinja`, or the `chat_template` of tokenizer_config.json; serve/chat_template.py
renders it. Models without one, which were trained on plain text, get lines that such text is full of.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from quamba_export.runtime.errors import ExitCode, QuambaError, install_command
from quamba_export.runtime.held_files import Locate
from quamba_export.runtime.manifest import Manifest

ROLES = ("system", "user", "assistant")
TEMPLATE, TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True)
class Message:
    role: str  # one of ROLES
    content: str


@dataclass(frozen=True)
class ChatTemplate:
    """The Jinja of a model, and its special tokens by the names that it calls them."""

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)


class ChatText(Protocol):
    """How messages become a prompt, up to where the reply begins."""

    stop: tuple[str, ...]  # where the model has begun to speak for somebody else
    strips: bool  # whether white space in front of a reply belongs to the format

    def render(self, messages: Sequence[Message]) -> str: ...


class PlainChat:
    """A script: `User: ...` and `Assistant: ...`, a line each, whatever a system message says in front."""

    stop: tuple[str, ...] = ("\nUser:",)
    strips = True

    def render(self, messages: Sequence[Message]) -> str:
        names = {"system": "", "user": "User: ", "assistant": "Assistant: "}
        return "\n".join([*(names[m.role] + m.content for m in messages), "Assistant:"])


class TemplateChat:
    """A model's own template."""

    stop: tuple[str, ...] = ()
    strips = False

    def __init__(self, template: ChatTemplate) -> None:
        """Raises QuambaError for what is no Jinja, and (exit 2) where Jinja is not installed."""
        try:
            from quamba_export.runtime.serve.chat_template import Template
        except ModuleNotFoundError as error:
            raise QuambaError(
                "this model's chat template needs Jinja",
                found=str(error),
                fix=install_command("serve"),
                code=ExitCode.USAGE,
            ) from error
        self._template = Template(template.source, template.special_tokens)

    def render(self, messages: Sequence[Message]) -> str:
        """Raises QuambaError where the template refuses the messages, or fails."""
        return self._template.render([{"role": m.role, "content": m.content} for m in messages])


def chat_text_of(template: ChatTemplate | None) -> ChatText:
    """The format of a model's chats; see TemplateChat."""
    return PlainChat() if template is None else TemplateChat(template)


def read_chat_template(locate: Locate, manifest: Manifest) -> ChatTemplate | None:
    """The template of a verified directory, None where it has none. Raises QuambaError for a broken file."""
    config: dict[str, Any] = {}
    if TOKENIZER_CONFIG in manifest.files:
        config = read_config(locate(TOKENIZER_CONFIG).read_bytes())
    source = config.get("chat_template")
    if isinstance(source, list):  # several by name
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default")
    if TEMPLATE in manifest.files:
        source = locate(TEMPLATE).read_text(encoding="utf-8")
    if not isinstance(source, str):
        return None
    tokens = {name: config.get(name) for name in SPECIAL_TOKENS}
    texts = {name: t.get("content") if isinstance(t, dict) else t for name, t in tokens.items()}
    return ChatTemplate(source, {name: text for name, text in texts.items() if isinstance(text, str)})


def read_config(content: bytes) -> dict[str, Any]:
    """A tokenizer_config.json. Raises QuambaError for what is no JSON object."""
    try:
        config = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise QuambaError(f"{TOKENIZER_CONFIG} is not valid JSON", found=str(error)) from error
    if not isinstance(config, dict):
        raise QuambaError(f"{TOKENIZER_CONFIG} is no JSON object", found=type(config).__name__)
    return config
