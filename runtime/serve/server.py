"""The server as a process: a listening socket, uvicorn on it, and an orderly end at SIGTERM or Ctrl-C."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from quamba_export.runtime.bundle import Bundle
from quamba_export.runtime.chat_text import chat_text_of
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.serve.answering import Answering
from quamba_export.runtime.serve.app import application
from quamba_export.runtime.serve.connection import Connection
from quamba_export.runtime.serve.settings import Settings

LAST_WORDS_SECONDS = 5  # after the grace, for answers that say that the server ends
IDLE_CONNECTIONS = 64  # beside those of requests in flight, which may be twice what batch and queue hold


def serve(bundle: Bundle, settings: Settings, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then give what is in flight `settings.grace` seconds.

    ready: called with the URL once connections are accepted. Raises QuambaError (exit 2) for an address that
    cannot be had.
    """
    with listening_socket(settings) as listener:
        host, port = listener.getsockname()[:2]
        server = server_of(Answering(bundle, settings, chat_text_of(bundle.chat)), model_name(bundle.path))
        # uvicorn stops at these signals and then raises them again: the command is to end with 0
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, ignore)
        ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")
        server.run(sockets=[listener])


def model_name(bundle: Path) -> str:
    """The folder's name as a request can say it: _ for what is no character, or cannot be seen."""
    return "".join(letter if letter.isprintable() else "_" for letter in bundle.resolve().name)


class Server(uvicorn.Server):
    """uvicorn, which would cut off those that take longer than the grace: they are told first."""

    def __init__(self, config: uvicorn.Config, answering: Answering) -> None:
        super().__init__(config)
        self._answering = answering

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_after_grace())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_after_grace(self) -> None:
        await asyncio.sleep(self._answering.settings.grace)
        await asyncio.to_thread(self._answering.scheduler.close)


def server_of(answering: Answering, model: str) -> Server:
    """uvicorn with one event loop and h11, in pure Python as the whole extra is."""
    settings = answering.settings
    config = uvicorn.Config(
        application(answering, model),
        loop="asyncio",
        http=Connection,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=2 * (settings.max_batch + settings.queue) + IDLE_CONNECTIONS,
        timeout_graceful_shutdown=math.ceil(settings.grace) + LAST_WORDS_SECONDS,
    )
    return Server(config, answering)


def ignore(number: int, frame: object) -> None:
    """A signal handler."""


def listening_socket(settings: Settings) -> socket.socket:
    """A socket that accepts connections. Raises QuambaError (exit 2)."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=256)
    except OSError as error:
        raise QuambaError(
            f"cannot listen on {settings.host}, port {settings.port}",
            found=str(error),
            allowed="an address of this machine and a free port; --port 0 finds one",
            code=ExitCode.USAGE,
        ) from error
