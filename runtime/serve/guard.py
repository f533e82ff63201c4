"""Who may ask, before anything of a request is read: the token, or without one this machine's own pages."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from quamba_export.runtime.serve.meter import Meter
from quamba_export.runtime.serve.replies import ApiError
from quamba_export.runtime.serve.settings import is_loopback

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = ("/", "/healthz")  # hold nothing of anybody's
SECURITY_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


class Guard:
    """ASGI middleware: refuses strangers, counts answers."""

    def __init__(self, app: ASGIApp, token: str | None, meter: Meter, paths: frozenset[str]) -> None:
        """paths: those that are counted by name."""
        self.app, self.meter, self.paths = app, meter, paths
        self._token = None if token is None else token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self.paths else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.meter.answered(path, message["status"])
                message = {**message, "headers": [*message["headers"], *SECURITY_HEADERS]}
            await send(message)

        refusal = self._refusal(scope["path"], Headers(scope=scope))
        app = self.app if refusal is None else answer_of(refusal)
        await app(scope, receive, counted)

    def _refusal(self, path: str, headers: Headers) -> ApiError | None:
        if self._token is None:  # a page of another site must not reach it by a name of its own for loopback
            host = headers.get("host", "").rsplit("@")[-1]
            name = host.split("]")[0].lstrip("[") if host.startswith("[") else host.split(":")[0]
            return None if is_loopback(name) else ApiError(421, "without a token, only loopback is served")
        if path in OPEN_PATHS:
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and secrets.compare_digest(given.strip().encode(), self._token):
            return None
        return ApiError(
            401, "a token is required: `Authorization: Bearer ...`", headers={"WWW-Authenticate": "Bearer"}
        )


def answer_of(error: ApiError) -> JSONResponse:
    return JSONResponse(error.body(), error.status, error.headers)
