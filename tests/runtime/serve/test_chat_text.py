"""Messages as text."""

from __future__ import annotations

import pytest

from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.serve.chat_text import Message, PlainChat, TemplateChat

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


def test_a_template_is_rendered_as_transformers_does() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": m.role, "content": m.content} for m in TALK]
    wanted, _ = render_jinja_template(
        [messages], chat_template=CHATML, add_generation_prompt=True, eos_token="</s>"
    )
    assert TemplateChat(CHATML, {"eos_token": "</s>"}).render(TALK) == wanted[0]


def test_a_template_may_refuse_and_may_not_reach_out() -> None:
    with pytest.raises(QuambaError, match="refuses these messages") as error:
        TemplateChat("{{ raise_exception('roles must alternate') }}", {}).render(TALK)
    assert error.value.found == "roles must alternate"
    with pytest.raises(QuambaError, match="refuses these messages"):
        TemplateChat("{{ ''.__class__.__mro__[1].__subclasses__() }}", {}).render(TALK)
    with pytest.raises(QuambaError, match="no Jinja"):
        TemplateChat("{% for", {})
