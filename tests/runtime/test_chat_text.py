"""Messages as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_recurrent import write_tiny_export

from quamba_export.runtime.bundle import open_bundle
from quamba_export.runtime.chat_text import ChatTemplate, Message, PlainChat, TemplateChat
from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.manifest import files_of

TALK = [
    Message("system", "Be kind."),
    Message("user", "hi"),
    Message("assistant", "ho"),
    Message("user", "so"),
]
CHATML = """{% for m in messages %}
<|im_start|>{{ m.role }}
{{ m['content'] }}{{ eos_token }}
{% endfor %}
{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def test_the_plain_format_is_a_script() -> None:
    assert PlainChat().render(TALK) == "Be kind.\nUser: hi\nAssistant: ho\nUser: so\nAssistant:"


TEMPLATES = {
    "ChatML": CHATML,
    "JSON": "{{ messages|tojson }}{{ messages[0]|tojson(indent=2) }}",
    "loops": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m }}{% break %}"
    "{% endfor %}",
    "training": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
    "tools": "{% if tools is not none %}[TOOLS]{{ tools }}{% endif %}{{ documents is none }}{{ bos_token }}",
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_template_is_rendered_as_transformers_does(template: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    talk = [*TALK, Message("user", "it's <b>é</b> & so on")]
    messages = [{"role": m.role, "content": m.content} for m in talk]
    wanted, _ = render_jinja_template(
        [messages], chat_template=template, add_generation_prompt=True, eos_token="</s>"
    )
    assert TemplateChat(ChatTemplate(template, {"eos_token": "</s>"})).render(talk) == wanted[0]


@pytest.mark.parametrize(
    "template",
    ["{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{% for i in range(1000000) %}{% endfor %}", "{{ strftime_now(5) }}"],
)
def test_an_error_of_a_template_is_its_own(template: str) -> None:
    with pytest.raises(QuambaError, match="chat template fails on these messages"):
        TemplateChat(ChatTemplate(template)).render(TALK)


def test_a_template_may_refuse_and_may_not_reach_out() -> None:
    with pytest.raises(QuambaError, match="refuses these messages") as error:
        TemplateChat(ChatTemplate("{{ raise_exception('roles must alternate') }}")).render(TALK)
    assert error.value.found == "roles must alternate"
    with pytest.raises(QuambaError, match="refuses these messages"):
        TemplateChat(ChatTemplate("{{ ''.__class__.__mro__[1].__subclasses__() }}")).render(TALK)
    with pytest.raises(QuambaError, match="no Jinja"):
        TemplateChat(ChatTemplate("{% for"))


def opened_with(folder: Path, files: dict[str, str]) -> ChatTemplate | None:
    """The template of an export that has these files too."""
    export = write_tiny_export(folder / "export")
    for name, content in files.items():
        (export / name).write_text(content)
    record = json.loads((export / "export.json").read_text())
    (export / "export.json").write_text(json.dumps(record | {"files": files_of(export)}))
    return open_bundle(export, threads=1).chat


EOS = {"eos_token": {"content": "</s>"}, "bos_token": None}


@pytest.mark.parametrize(
    ("config", "jinja", "found"),
    [
        (None, None, None),
        ({"eos_token": "</s>"}, None, None),
        ({"chat_template": "A", **EOS}, None, ChatTemplate("A", {"eos_token": "</s>"})),
        ({"chat_template": [{"name": "default", "template": "A"}]}, None, ChatTemplate("A")),
        ({"chat_template": "A", **EOS}, "B", ChatTemplate("B", {"eos_token": "</s>"})),
        (None, "B", ChatTemplate("B")),
    ],
)
def test_a_model_brings_its_template(
    tmp_path: Path, config: dict[str, Any] | None, jinja: str | None, found: ChatTemplate | None
) -> None:
    files = {"tokenizer_config.json": json.dumps(config)} if config is not None else {}
    assert opened_with(tmp_path, files | ({"chat_template.jinja": jinja} if jinja else {})) == found


@pytest.mark.parametrize(("content", "said"), [("{", "not valid JSON"), ("[]", "no JSON object")])
def test_a_broken_tokenizer_config_is_refused(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(QuambaError, match=said):
        opened_with(tmp_path, {"tokenizer_config.json": content})
