"""A model's chat template as transformers renders it: Jinja in its sandbox, and what transformers adds to it.

Beside `raise_exception`, `strftime_now`, `{% break %}` and `{% continue %}`: `tojson` writes plain JSON where
Jinja's own is for HTML, and `{% generation %}`, which marks replies for training, changes nothing. A template
is a program of whoever made the model: an error that it raises is the template's, whatever its type.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quamba_export.runtime.errors import QuambaError

NOT_GIVEN = {"tools": None, "documents": None}  # templates ask whether they are none


class Template:
    """A template that was understood."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Raises QuambaError for what is no Jinja."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
        )
        environment.globals |= {"raise_exception": refuse, "strftime_now": now}
        environment.filters["tojson"] = to_json
        self._special = dict(special_tokens)
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise QuambaError("the chat template is no Jinja", found=str(error)) from error

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Raises QuambaError where the template refuses the messages, or fails."""
        values = {**NOT_GIVEN, **self._special, "messages": list(messages), "add_generation_prompt": True}
        try:
            return self._template.render(values)
        except (TemplateError, Refusal) as error:
            raise QuambaError("the model's chat template refuses these messages", found=str(error)) from error
        except Exception as error:  # 1 / 0, None + "x", ...: of the template's own code
            raise QuambaError(
                "the model's chat template fails on these messages", found=f"{type(error).__name__}: {error}"
            ) from error


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: what is between."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Refusal(Exception):
    """What a template raised itself."""


def refuse(message: str) -> None:
    """`raise_exception` of templates."""
    raise Refusal(message)


def now(form: str) -> str:
    """`strftime_now` of templates."""
    return datetime.datetime.now(datetime.timezone.utc).strftime(form)


def to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """`tojson` of templates, with the arguments of json.dumps; keys keep their order."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)
