"""The official OpenAI client against the server."""

from __future__ import annotations

import time
from collections.abc import Iterator

import openai
import pytest
from served import MODEL, Served, serving

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serving(token=TOKEN, max_batch=2, queue=0) as made:
        yield made


@pytest.fixture
def client(served: Served) -> Iterator[openai.OpenAI]:
    url = f"http://127.0.0.1:{served.port}/v1"
    with openai.OpenAI(base_url=url, api_key=TOKEN, max_retries=0) as made:
        yield made


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    (listed,) = client.models.list()
    assert listed.id == MODEL
    assert client.models.retrieve(MODEL) == listed
    with pytest.raises(openai.NotFoundError, match="the model here is 'tiny'"):
        client.models.retrieve("other")


def test_a_chat_whole_and_streamed(client: openai.OpenAI) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the a"}]
    asked = {"model": MODEL, "messages": messages, "max_completion_tokens": 20, "seed": 3, "temperature": 0.7}
    whole = client.chat.completions.create(**asked)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 20
    assert whole.choices[0].finish_reason == "length"
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    *chunks, end = list(stream)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == whole.choices[0].message.content
    assert end.usage == whole.usage


def test_a_completion_with_a_session(client: openai.OpenAI) -> None:
    more = {"extra_body": {"session": "mine", "top_k": 5}, "temperature": 0}
    first = client.completions.create(model=MODEL, prompt="the a", max_tokens=9, **more)
    text = "the a" + first.choices[0].text
    second = client.completions.create(model=MODEL, prompt=text, max_tokens=9, **more)
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens > 5


def test_the_answer_of_an_assistant_can_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "the a"}]}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, max_tokens=5)
    messages += [answer.choices[0].message, {"role": "user", "content": "and"}]
    assert client.chat.completions.create(model=MODEL, messages=messages, max_tokens=5).choices


def test_errors_are_those_that_the_client_knows(served: Served, client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="the model here is 'tiny'"):
        client.completions.create(model="other", prompt="the")
    with pytest.raises(openai.BadRequestError, match="'n' is not allowed"):
        client.completions.create(model=MODEL, prompt="the", n=2)
    with pytest.raises(openai.BadRequestError, match="3 prompts are more than this server takes"):
        client.completions.create(model=MODEL, prompt=["the"] * 3)
    served.engine.pause = 0.01
    with client.completions.create(model=MODEL, prompt=["the"] * 2, max_tokens=900, stream=True) as stream:
        next(iter(stream))
        with pytest.raises(openai.RateLimitError, match="2 sequences are decoded"):
            client.completions.create(model=MODEL, prompt="the")
    served.engine.pause = 0.0
    while served.answering.scheduler.in_flight:
        time.sleep(0.01)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    served.engine.fault = "out of luck"
    with pytest.raises(openai.InternalServerError, match="out of luck"):
        client.completions.create(model=MODEL, prompt="the")
    served.engine.fault = ""
