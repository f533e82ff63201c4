"""What goes wrong while a server serves: clients that leave, engines that fail, its own end."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from served import MODEL, serving

from quamba_export.runtime.engine import States
from quamba_export.runtime.serve import connection
from quamba_export.runtime.serve.server import listening_socket
from quamba_export.runtime.serve.settings import Settings


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_takes_its_work_along(stream: bool) -> None:
    with serving() as served:
        served.engine.pause = 0.005
        connection = served.connect()
        body = json.dumps({"model": MODEL, "prompt": "the", "max_tokens": 4000, "stream": stream})
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        while not served.answering.scheduler.in_flight:
            time.sleep(0.001)
        assert connection.sock is not None
        if stream:
            connection.getresponse().read(10)
        connection.sock.shutdown(socket.SHUT_RDWR)
        connection.close()
        left = time.monotonic() + 5
        while served.answering.scheduler.in_flight and time.monotonic() < left:
            time.sleep(0.01)
        assert served.answering.scheduler.in_flight == 0
        served.engine.pause = 0.0
        assert served.complete("the")[0] == 200


def test_connections_that_ask_nothing_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than may be open at once, some of them silent and some in the middle of a head."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.5)
    with serving(max_batch=1, queue=0) as served, ExitStack() as opened:
        used = served.connect()
        used.request("GET", "/healthz")
        assert used.getresponse().read()
        assert used.sock is not None
        address = ("127.0.0.1", served.port)
        silent = [opened.enter_context(socket.create_connection(address)) for _ in range(70)]
        for one in (*silent[::2], used.sock):
            one.sendall(b"GET /healthz HT")
        left = time.monotonic() + 5
        for one in (*silent, used.sock):
            one.settimeout(max(0.1, left - time.monotonic()))
            assert one.recv(1) == b""
        assert served.send("GET", "/healthz")[0] == 200


def test_a_client_that_reads_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sequences go with it, and its place."""

    def small(settings: Settings) -> socket.socket:  # what is accepted has its buffer
        listener = listening_socket(settings)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        return listener

    monkeypatch.setattr(connection, "READ_SECONDS", 0.2)
    monkeypatch.setattr("served.listening_socket", small)
    body = json.dumps({"model": MODEL, "prompt": ["the"] * 4, "max_tokens": 4000, "stream": True}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with serving() as served, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", served.port))
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        left, generated = time.monotonic() + 15, served.answering.scheduler
        while not generated.in_flight and time.monotonic() < left:
            time.sleep(0.001)
        while served.server.server_state.connections and time.monotonic() < left:
            time.sleep(0.02)
        assert not served.server.server_state.connections
        while generated.in_flight and time.monotonic() < left:
            time.sleep(0.02)
        assert generated.in_flight == 0


def test_an_engine_that_fails_says_so_and_goes_on() -> None:
    with serving() as served:
        served.engine.fault = "out of luck"
        status, answer = served.complete("the")
        assert (status, answer["error"]["message"]) == (500, "out of luck")
        served.engine.fault = ""
        assert served.complete("the")[0] == 200


def test_an_engine_without_room_for_a_sequence_says_so_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(batch: int) -> States:
        raise RuntimeError("no memory for states")

    with serving() as served:
        with monkeypatch.context() as patched:
            patched.setattr(served.engine, "zero_states", full)
            status, answer = served.complete("the")
        assert (status, answer["error"]["message"]) == (500, "no memory for states")
        assert served.complete("the")[0] == 200


def test_what_nobody_thought_of_has_the_shape_of_an_error(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with serving() as served:
        monkeypatch.setattr(served.answering, "pieces", None)
        status, answer = served.complete("the")
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert "NoneType" in capfd.readouterr().err


def test_a_client_that_leaves_within_its_body_is_no_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with serving() as served:
        connection = served.connect()
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b"{")
        time.sleep(0.1)
        connection.close()
        wait_until(lambda: 'status="499"' in served.send("GET", "/metrics")[1])
    assert not capfd.readouterr().err


def test_shutting_down_ends_what_takes_longer_than_the_grace(capfd: pytest.CaptureFixture[str]) -> None:
    answers: list[Any] = []
    with serving() as served:
        served.engine.pause = 0.01
        body = {"model": MODEL, "prompt": "the", "max_tokens": 4000, "stream": True}

        def read() -> None:
            connection = served.connect()
            connection.request(
                "POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            while line := response.fp.readline():
                answers.append(line)

        reader = threading.Thread(target=read)
        reader.start()
        while len(answers) < 3:
            time.sleep(0.01)
    reader.join(10)
    assert not reader.is_alive()
    assert not served.answering.scheduler.alive
    assert any(b"the server is shutting down" in line for line in answers)
    assert answers[-2:] == [b"0\r\n", b"\r\n"]  # the stream is whole
    assert not capfd.readouterr().err


def wait_until(holds: Callable[[], bool]) -> None:
    left = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < left
        time.sleep(0.01)
