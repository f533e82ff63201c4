"""A server over the tiny numpy model, in a thread of the test's process, and a plain client of it."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from tiny_recurrent import EOS, ArrayStates, NumpyEngine, V, byte_level_tokenizer, state_table

from quamba_export.runtime.bundle import Bundle
from quamba_export.runtime.chat_text import ChatText, PlainChat
from quamba_export.runtime.engine import Ids, Logits, States
from quamba_export.runtime.manifest import Manifest
from quamba_export.runtime.serve.answering import Answering
from quamba_export.runtime.serve.server import listening_socket, server_of
from quamba_export.runtime.serve.settings import Settings

MODEL = "tiny"


class SlowEngine(NumpyEngine):
    """The numpy engine; every call takes `pause` seconds, and fails where `fault` is set."""

    pause, fault = 0.0, ""
    script = ""  # where given: after each of its characters the next one is the likeliest

    def run(self, input_ids: Ids, states: States, num_logits: int = 1) -> tuple[Logits, ArrayStates]:
        time.sleep(self.pause)
        if self.fault:
            raise RuntimeError(self.fault)
        result = super().run(input_ids, states, num_logits)
        del self.calls[:-1000]
        ids = byte_level_tokenizer().encode(self.script).ids if self.script else []
        for token, following in itertools.pairwise(ids):
            result[0][input_ids[:, -1] == token, -1, following] = 1e6
        return result


@dataclass
class Served:
    """A running server and what it is made of."""

    engine: SlowEngine
    answering: Answering
    port: int
    server: uvicorn.Server
    headers: dict[str, str] = field(default_factory=dict)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, http.client.HTTPMessage]:
        """One request on a connection of its own: status, body (JSON read), headers."""
        connection = self.connect()
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        typed = {"Content-Type": "application/json"} if content is not None else {}
        connection.request(method, path, content, {**typed, **self.headers, **(headers or {})})
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        is_json = response.headers.get_content_type() == "application/json"
        return response.status, json.loads(answer) if is_json else answer.decode(), response.headers

    def complete(self, prompt: Any, **more: Any) -> tuple[int, Any]:
        status, answer, _ = self.send(
            "POST", "/v1/completions", {"model": MODEL, "prompt": prompt, "seed": 1, **more}
        )
        return status, answer


def tiny_bundle() -> Bundle:
    """A bundle that was never a file."""
    manifest = Manifest(
        kind="bundle",
        producer="test",
        target="cpu",
        backend="onnxruntime",
        qformat="w8a8",
        config={"vocab_size": V},
        eos_token_id=EOS,
        states=state_table(),
        files={},
        sources={"export": "a" * 64},
    )
    return Bundle(Path(MODEL), manifest, SlowEngine(), byte_level_tokenizer(), ())


@contextmanager
def serving(chat: ChatText | None = None, **settings: Any) -> Iterator[Served]:
    """A server with these settings, gone when the body ends."""
    bundle = tiny_bundle()
    answering = Answering(bundle, Settings(port=0, grace=1, **settings), chat or PlainChat())
    listener = listening_socket(answering.settings)
    server = server_of(answering, MODEL)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert isinstance(bundle.engine, SlowEngine)
    try:
        yield Served(bundle.engine, answering, listener.getsockname()[1], server)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
