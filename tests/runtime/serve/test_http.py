"""The server as clients see it, over real connections."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served import MODEL, Served, serving

from quamba_export.runtime.generate import Limits
from quamba_export.runtime.sampling import Sampling
from quamba_export.runtime.serve.replies import event
from quamba_export.runtime.serve.server import model_name

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def shared() -> Iterator[Served]:
    with serving() as served:
        yield served


def generated(served: Served, prompt: str, new: int, sampling: Sampling) -> str:
    """What the runtime says without a server."""
    limits = Limits(new, eos_token_id=served.answering.bundle.manifest.eos_token_id)
    return served.answering.bundle.generate([prompt], limits, sampling)[0].text


def events_of(body: str) -> list[Any]:
    """The JSON of every event of a stream that ended as it should."""
    lines = [line.removeprefix("data: ") for line in body.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_a_completion_is_what_the_runtime_says(shared: Served) -> None:
    status, answer = shared.complete("the a", max_tokens=30, temperature=0.9, top_p=0.9, seed=5)
    assert status == 200
    assert answer["object"] == "text_completion"
    (choice,) = answer["choices"]
    assert choice["text"] == generated(shared, "the a", 30, Sampling(0.9, top_p=0.9, seed=5))
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 30
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] + 30


def test_a_stream_joins_to_the_completion(shared: Served) -> None:
    body = {"model": MODEL, "prompt": "naïve", "max_tokens": 40, "seed": 3}
    _, whole, _ = shared.send("POST", "/v1/completions", body)
    options = {"stream": True, "stream_options": {"include_usage": True}}
    status, text, headers = shared.send("POST", "/v1/completions", body | options)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    *chunks, end = events_of(text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole["choices"][0]["text"]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-2:] == [None, "length"]
    assert (end["choices"], end["usage"]) == ([], whole["usage"])


def test_a_chat_is_the_completion_of_its_text(shared: Served) -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "the a"}]
    body = {"model": MODEL, "messages": messages, "max_tokens": 30, "seed": 3}
    _, answer, _ = shared.send("POST", "/v1/chat/completions", body)
    _, plain = shared.complete("Be kind.\nUser: the a\nAssistant:", max_tokens=30, seed=3, stop=["\nUser:"])
    message = answer["choices"][0]["message"]
    assert message == {"role": "assistant", "content": plain["choices"][0]["text"].lstrip()}
    _, text, _ = shared.send("POST", "/v1/chat/completions", body | {"stream": True})
    first, *chunks = events_of(text)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"]["content"] for chunk in chunks) == message["content"]


def test_many_at_once_get_what_each_gets_alone(shared: Served) -> None:
    prompts = [f"the {'a the ' * n}" for n in range(8)]
    alone = [shared.complete(prompt, max_tokens=25, seed=n) for n, prompt in enumerate(prompts)]
    with ThreadPoolExecutor(8) as pool:
        ask = lambda n: shared.complete(prompts[n], max_tokens=25, seed=n)  # noqa: E731
        together = list(pool.map(ask, range(8)))
    assert [a["choices"] for _, a in together] == [a["choices"] for _, a in alone]
    assert max(batch for batch, _ in shared.engine.calls) > 1


def test_several_prompts_are_several_choices(shared: Served) -> None:
    _, answer = shared.complete(["the", "a"], max_tokens=9)
    texts = [shared.complete(prompt, max_tokens=9)[1]["choices"][0]["text"] for prompt in ("the", "a")]
    assert [choice["text"] for choice in answer["choices"]] == texts
    ids = shared.answering.bundle.encode("the")
    assert shared.complete(ids, max_tokens=9)[1]["choices"][0]["text"] == texts[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n": 2}, "'n' is not allowed"),
        ({"prompt": None}, "'prompt' is not allowed"),
        ({"prompt": []}, "'prompt' is not allowed"),
        ({"prompt": ["a", 7]}, "'prompt' is not allowed"),
        ({"prompt": [10**9]}, "token id 1000000000 is not in the vocabulary"),
        ({"temperature": -1}, "'temperature' is not allowed"),
        ({"repetition_penalty": 0}, "'repetition_penalty' is not allowed"),
        ({"top_k": 2**31 + 1}, "'top_k' is not allowed"),
        ({"top_k": 1.5}, "'top_k' is not allowed"),
        ({"top_p": 1.5}, "allowed: 1e-09 to 1"),
        ({"temperature": "hot"}, "'temperature' is not allowed"),
        ({"max_tokens": 0}, "'max_tokens' is not allowed"),
        ({"max_tokens": 5000}, "an integer from 1 to 4096"),
        ({"stop": [""]}, "'stop' is not allowed"),
        ({"logprobs": 3}, "'logprobs' is not allowed"),
        ({"logprobs": 0}, "'logprobs' is not allowed"),  # those of the chosen tokens
        ({"n": True}, "'n' is not allowed"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options: 'usage' is not allowed"),
        ({"stream_options": {"include_obfuscation": True}}, "'include_obfuscation' is not allowed"),
        ({"temprature": 1}, "'temprature' is not allowed"),
        ({"session": "s", "prompt": ["a", "b"]}, "a session is of one text"),
        ({"session": "x" * 200}, "'session' is not allowed"),
        ({"half a character \ud800": 1}, "'half a character \\ud800' is not allowed"),
        ({"prompt": ["a"] * 37}, "37 prompts are more than this server takes at a time: 36"),
    ],
)
def test_what_is_not_allowed_is_named(shared: Served, change: dict[str, Any], said: str) -> None:
    body = {"model": MODEL, "prompt": "the", **change}
    status, answer, _ = shared.send("POST", "/v1/completions", body)
    assert status == 400
    assert said in answer["error"]["message"]
    assert "--" not in answer["error"]["message"]  # a client has fields, no flags


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "tool", "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "image"}]}],
        [{"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image_url", "text": "x"}]}],
    ],
)
def test_messages_that_are_no_text_are_refused(shared: Served, messages: list[Any]) -> None:
    status, _, _ = shared.send("POST", "/v1/chat/completions", {"model": MODEL, "messages": messages})
    assert status == 400


BODIES = {
    "empty": b"",
    "cut": b"{",
    "list": b"[]",
    "NaN": b'{"model": NaN}',
    "no UTF-8": b"\xff",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_object_is_refused(shared: Served, body: bytes) -> None:
    assert shared.send("POST", "/v1/completions", body)[0] == 400


def test_other_models_paths_methods_and_types_are_refused(shared: Served) -> None:
    body = {"model": "gpt", "prompt": "the"}
    assert shared.send("POST", "/v1/completions", body)[1]["error"]["code"] == "model_not_found"
    assert shared.send("GET", "/v1/embeddings")[0] == 404
    assert shared.send("GET", "/v1/completions")[0] == 405
    assert shared.send("POST", "/v1/completions", body, {"Content-Type": "text/plain"})[0] == 415
    assert shared.send("GET", "/v1/models", headers={"Host": "evil.example"})[0] == 421
    assert shared.send("GET", "/v1/models", headers={"Host": f"localhost:{shared.port}"})[0] == 200


def test_a_body_too_large_is_refused_announced_or_not() -> None:
    with serving(max_body=2000) as served:
        assert served.complete("a" * 3000)[0] == 413
        connection = served.connect()
        chunks = iter([b'{"prompt": "', *[b"a" * 500] * 6])
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", chunks, headers, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()
        assert served.complete("a")[0] == 200


def test_a_full_queue_says_when_to_come_again() -> None:
    with serving(max_batch=1, queue=1) as served, ThreadPoolExecutor(2) as pool:
        served.engine.pause = 0.01
        running = [pool.submit(served.complete, "the", max_tokens=40) for _ in range(2)]
        while served.answering.scheduler.in_flight < 2:
            time.sleep(0.001)
        status, answer, headers = served.send("POST", "/v1/completions", {"model": MODEL, "prompt": "a"})
        assert (status, answer["error"]["code"], headers["retry-after"]) == (429, "queue_full", "1")
        assert [future.result()[0] for future in running] == [200, 200]


def test_a_request_that_takes_too_long_ends() -> None:
    with serving(max_batch=1, timeout=0.3) as served, ThreadPoolExecutor(1) as pool:
        served.engine.pause = 0.01
        long = pool.submit(served.complete, "the", max_tokens=4000)
        time.sleep(0.1)
        served.engine.pause = 0.02
        assert long.result()[1]["choices"][0]["timed_out"] is True
        served.engine.pause = 0.4
        assert served.complete("In the beginning " * 30)[0] == 504  # two chunks


def test_a_token_is_asked_for_but_by_health_and_the_page() -> None:
    with serving(token=TOKEN) as served:
        for path in ("/v1/models", "/metrics"):
            status, _, headers = served.send("GET", path)
            assert (status, headers["www-authenticate"]) == (401, "Bearer")
            assert served.send("GET", path, headers={"Authorization": f"Bearer {TOKEN[:-1]}"})[0] == 401
            assert served.send("GET", path, headers={"Authorization": f"Bearer {TOKEN}é"})[0] == 401
            assert served.send("GET", path, headers={"Authorization": f"Basic {TOKEN}"})[0] == 401
            assert served.send("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})[0] == 200
        assert served.complete("the")[0] == 401
        assert served.send("GET", "/healthz")[0] == served.send("GET", "/")[0] == 200
        assert served.send("GET", "/healthz", headers={"Host": "device.local"})[0] == 200


def test_metrics_count_what_happened() -> None:
    with serving() as served:
        served.complete("the", max_tokens=5, session="s")
        served.send("GET", "/v1/nothing/such")
        _, text, _ = served.send("GET", "/metrics")
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert values['quamba_requests_total{path="/v1/completions",status="200"}'] == "1.0"
        assert values['quamba_requests_total{path="other",status="404"}'] == "1.0"
        assert values["quamba_generated_tokens_total"] == "5.0"
        assert values["quamba_ttft_seconds_count"] == values["quamba_tpot_seconds_count"] == "1.0"
        assert values["quamba_queue_depth"] == "0.0"
        assert values["quamba_sessions"] == "1.0"


def test_a_model_has_a_name_that_a_request_can_say(tmp_path: Path) -> None:
    for name, said in (
        (b"\xffm", "_m"),
        (b"a\nb", "a_b"),
        ("a \N{GREEK SMALL LETTER PI}".encode(), "a \u03c0"),
    ):
        assert model_name(tmp_path / os.fsdecode(name)) == said


def test_an_event_is_one_line_for_every_client() -> None:
    """httpx's iter_lines ends a line wherever str.splitlines does."""
    said = {"text": "".join(map(chr, range(0x3000)))}
    data, *rest = event(said).decode().splitlines()
    assert (json.loads(data.removeprefix("data: ")), rest) == (said, [""])
