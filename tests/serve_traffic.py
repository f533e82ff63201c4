"""Requests of every kind that a server sees in its life, one after another, over a few connections."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

JSON = {"Content-Type": "application/json"}
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


def kinds(number: int) -> tuple[str, Any]:
    """The path and body of request `number`: sessions new and old, streams, errors, and plain ones mostly."""
    body: dict[str, Any] = {"model": "tiny", "prompt": f"the {number}", "max_tokens": 2, "seed": number}
    message = {"role": "user", "content": f"a {number}"}
    match number % 10:
        case 0:
            return CHAT, {"model": "tiny", "messages": [message], "max_tokens": 2, "session": f"s{number}"}
        case 1:
            return COMPLETIONS, {**body, "session": f"s{number % 50}", "stream": True}
        case 2:
            return COMPLETIONS, {**body, "stream": True}
        case 3:
            return COMPLETIONS, {**body, "prompt": ["the", "a"]}
        case 4:
            return COMPLETIONS, {**body, "n": 2}
        case 5:
            return f"/v1/nothing/{number}", body
        case _:
            return COMPLETIONS, body


def send(port: int, numbers: range) -> int:
    """Send these requests on one connection, which every 100th leaves; returns the number answered."""
    connection, answered = http.client.HTTPConnection("127.0.0.1", port, timeout=60), 0
    for number in numbers:
        path, body = kinds(number)
        connection.request("POST", path, json.dumps(body), JSON)
        if number % 100 == 7 and connection.sock is not None:
            connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()
            continue
        response = connection.getresponse()
        response.read()
        assert response.status in (200, 400, 404), response.status
        answered += 1
    connection.close()
    return answered


def traffic(port: int, requests: int, *, each: int = 500, clients: int = 3) -> Iterator[int]:
    """Send so many requests from a few clients at once; yields the number sent, after every `each`."""
    with ThreadPoolExecutor(clients) as pool:
        for begin in range(0, requests, each):
            end = min(begin + each, requests)
            parts = [range(begin + client, end, clients) for client in range(clients)]
            assert sum(pool.map(lambda part: send(port, part), parts)) > 0.9 * (end - begin)
            yield end
