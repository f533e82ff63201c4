"""`serve` on a real GPU: requests alone and in company, a session, a stream, the end.

QUAMBA_BUNDLE names a TensorRT bundle built for this GPU with --max-batch 4 or more.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serve_process import serve_process

PROMPTS = ["In the beginning", "A city by the sea", "def main(", "The second law", "She said", "1, 2, 3,"]
TOKENS = 48


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """A server over the bundle, ended by SIGTERM; it has to leave with 0."""
    if "QUAMBA_BUNDLE" not in os.environ:
        pytest.skip("no CUDA GPU with a bundle: QUAMBA_BUNDLE names none")
    with serve_process(Path(os.environ["QUAMBA_BUNDLE"]), "--max-batch", "4") as (_, number):
        yield number


def answer(port: int, prompt: str, **fields: Any) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    name = Path(os.environ["QUAMBA_BUNDLE"]).name
    body = {"model": name, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0} | fields
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    return connection.getresponse()


def ask(port: int, prompt: str, **fields: Any) -> dict[str, Any]:
    response = answer(port, prompt, **fields)
    said: dict[str, Any] = json.loads(response.read())
    assert response.status == 200, said
    return said


def text(said: dict[str, Any]) -> str:
    return str(said["choices"][0]["text"])


@pytest.mark.parametrize(
    "sampling", [{}, {"temperature": 0.8, "top_p": 0.95, "seed": 7}], ids=["greedy", "drawn"]
)
def test_a_request_has_the_same_text_alone_and_in_company(port: int, sampling: dict[str, Any]) -> None:
    alone = [text(ask(port, prompt, **sampling)) for prompt in PROMPTS]
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        together = list(pool.map(lambda prompt: text(ask(port, prompt, **sampling)), PROMPTS))
    assert together == alone
    assert len(set(alone)) == len(alone)


def test_run_gives_the_same_text(port: int) -> None:
    command = [sys.executable, "-m", "quamba_export.exporter.cli", "run", os.environ["QUAMBA_BUNDLE"]]
    flags = ["--prompt", PROMPTS[0], "--max-new-tokens", str(TOKENS)]
    done = subprocess.run([*command, *flags], capture_output=True, text=True, check=True)
    assert text(ask(port, PROMPTS[0])).strip() in done.stdout


def test_a_session_is_fed_only_what_is_new(port: int) -> None:
    first = ask(port, PROMPTS[0], session="one")
    both = PROMPTS[0] + text(first) + " and then"
    again = ask(port, both, session="one")
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > TOKENS
    assert text(again)


def test_a_stream_brings_the_whole_text(port: int) -> None:
    whole = text(ask(port, PROMPTS[1]))
    lines = [
        line[6:]
        for line in answer(port, PROMPTS[1], stream=True).read().decode().splitlines()
        if line[:5] == "data:"
    ]
    assert lines[-1] == "[DONE]"
    assert "".join(text(json.loads(line)) for line in lines[:-1] if json.loads(line)["choices"]) == whole
