"""Messages of a chat as the text that a model continues: by the model's own template, or a plain one.

The template is the `chat_template` of tokenizer_config.json, Jinja as transformers renders it, in Jinja's
sandbox. Models without one, which were trained on plain text, get lines that such text is full of.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quamba_export.runtime.errors import QuambaError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Message:
    role: str  # one of ROLES
    content: str


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

    def __init__(self, template: str, special_tokens: Mapping[str, str]) -> None:
        """special_tokens: bos_token and the like, as the template names them.

        Raises QuambaError for what is no Jinja.
        """
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.globals |= {"raise_exception": refuse, "strftime_now": now}
        self._special = dict(special_tokens)
        try:
            self._template = environment.from_string(template)
        except TemplateError as error:
            raise QuambaError("the chat template is no Jinja", found=str(error)) from error

    def render(self, messages: Sequence[Message]) -> str:
        """Raises QuambaError where the template refuses the messages."""
        as_objects: list[dict[str, Any]] = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return self._template.render(messages=as_objects, add_generation_prompt=True, **self._special)
        except TemplateError as error:
            raise QuambaError("the model's chat template refuses these messages", found=str(error)) from error


def refuse(message: str) -> None:
    """`raise_exception` of templates."""
    raise TemplateError(message)


def now(form: str) -> str:
    """`strftime_now` of templates."""
    return datetime.datetime.now(datetime.timezone.utc).strftime(form)
