"""One client's connection: uvicorn's, with a limit on how long the head of a request may take to arrive.

uvicorn closes a connection that is silent after an answer. One that never asks anything, or sends its head a
byte a minute, would keep its place for ever, and a few dozen of them all places, without a token.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0  # for a request's head to arrive, from the connection or from the head's first byte


class Connection(H11Protocol):
    """Closes where no head is complete in time; a request's body and answer have limits of their own."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._late = self.loop.call_later(HEAD_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:  # a request has begun
            self._stop_waiting()
        elif self._late is None:
            self._late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None
