"""The routes: OpenAI's completions and chat completions, the models, health, metrics and the chat page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files
from typing import Literal, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.serve.answering import Answering, Piece
from quamba_export.runtime.serve.asked import parse_request
from quamba_export.runtime.serve.guard import Guard, answer_of
from quamba_export.runtime.serve.replies import ApiError, Choice, Reply, event

PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = "chat.html"
BODY_SECONDS = 30.0  # for a body to arrive
CLIENT_GONE = 499  # nginx's word for it; nobody reads the answer, but it is counted
T = TypeVar("T")


class Routes:
    """The handlers of one server."""

    def __init__(self, answering: Answering, model: str) -> None:
        """model: the name that clients know it by."""
        self.answering, self.model = answering, model

    async def completions(self, request: Request) -> Response:
        return await self._answer(request, "completion")

    async def chat_completions(self, request: Request) -> Response:
        return await self._answer(request, "chat")

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._entry()]})

    async def model_by_name(self, request: Request) -> Response:
        if request.path_params["name"] != self.model:
            raise self._no_such_model()
        return JSONResponse(self._entry())

    async def healthz(self, request: Request) -> Response:
        alive = self.answering.scheduler.alive
        return JSONResponse({"status": "ok" if alive else "the engine has stopped"}, 200 if alive else 503)

    async def metrics(self, request: Request) -> Response:
        return Response(self.answering.meter.text(), media_type="text/plain; version=0.0.4")

    async def forget(self, request: Request) -> Response:
        if not self.answering.sessions.forget(request.path_params["name"]):
            raise ApiError(404, "no such session")
        return Response(status_code=204)

    async def page(self, request: Request) -> Response:
        content = files("quamba_export.runtime.serve").joinpath(PAGE).read_text(encoding="utf-8")
        return HTMLResponse(content, headers={"Content-Security-Policy": PAGE_POLICY})

    def _entry(self) -> dict[str, object]:
        return {"id": self.model, "object": "model", "created": 0, "owned_by": "quamba-export"}

    def _no_such_model(self) -> ApiError:
        return ApiError(404, f"the model here is {self.model!r}", code="model_not_found")

    async def _answer(self, request: Request, kind: Literal["completion", "chat"]) -> Response:
        content = await body_of(request, self.answering.settings.max_body)
        asked = parse_request(content, kind, self.answering.settings.max_tokens)
        if asked.model != self.model:
            raise self._no_such_model()
        reply, pieces = Reply(asked, self.model), self.answering.pieces(asked)
        if asked.stream:
            first = await unless_gone(request, anext(pieces))
            return StreamingResponse(events(reply, first, pieces), media_type="text/event-stream")
        return JSONResponse(reply.whole(await unless_gone(request, collected(pieces))))


async def body_of(request: Request, most: int) -> bytes:
    """The body, JSON of at most `most` bytes: a type that no page of another site may send unasked."""
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
        raise ApiError(415, "a request is application/json")
    if int(request.headers.get("content-length", "0")) > most:
        raise ApiError(413, f"a request has at most {most} bytes")

    async def read() -> bytes:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > most:
                raise ApiError(413, f"a request has at most {most} bytes")
        return bytes(content)

    try:
        return await asyncio.wait_for(read(), BODY_SECONDS)
    except ClientDisconnect as error:
        raise ApiError(CLIENT_GONE, "the client is gone") from error
    except asyncio.TimeoutError as error:
        raise ApiError(408, f"the request took more than {BODY_SECONDS:.0f} s to arrive") from error


async def collected(pieces: AsyncGenerator[Piece, None]) -> list[Choice]:
    """Every choice of an answer, in order."""
    choices = {piece.index: piece.choice async for piece in pieces if piece.choice}
    return [choices[index] for index in sorted(choices)]


async def events(reply: Reply, first: Piece, pieces: AsyncGenerator[Piece, None]) -> AsyncIterator[bytes]:
    """The stream of an answer whose first piece has come; an error ends it as an event."""
    choices: list[Choice] = []
    try:
        for opening in reply.opening():
            yield opening
        piece: Piece | None = first
        while piece:
            choices += [piece.choice] if piece.choice else []
            yield reply.chunk(piece.index, piece.text, piece.choice)
            piece = await anext(pieces, None)
        for closing in reply.closing(choices):
            yield closing
    except ApiError as error:
        yield event(error.body())
    finally:
        await pieces.aclose()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which ends when the client closes its connection."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_GONE, "the client is gone")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def application(answering: Answering, model: str) -> Starlette:
    """The ASGI application; at its end the engine's thread ends."""
    handlers = Routes(answering, model)
    routes = [
        Route("/", handlers.page),
        Route("/healthz", handlers.healthz),
        Route("/metrics", handlers.metrics),
        Route("/v1/models", handlers.models),
        Route("/v1/models/{name:path}", handlers.model_by_name),
        Route("/v1/completions", handlers.completions, methods=["POST"]),
        Route("/v1/chat/completions", handlers.chat_completions, methods=["POST"]),
        Route("/v1/sessions/{name:path}", handlers.forget, methods=["DELETE"]),
    ]
    token, meter = answering.settings.token, answering.meter
    paths = frozenset(route.path for route in routes)
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, token=token, meter=meter, paths=paths)],
        exception_handlers={
            ApiError: refused,
            QuambaError: refused,
            HTTPException: refused,
            Exception: failed,
        },
        lifespan=engine_until_end(answering),
    )


def engine_until_end(answering: Answering) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(answering.close)

    return lifespan


async def failed(request: Request, error: Exception) -> Response:
    """The answer to what nobody thought of; the server's log has the traceback."""
    return answer_of(ApiError(500, f"this is a bug in quamba-export: {type(error).__name__}"))


async def refused(request: Request, error: Exception) -> Response:
    """The answer to an error: a QuambaError says what is wrong with the request."""
    if isinstance(error, HTTPException):
        error = ApiError(error.status_code, error.detail)
    return answer_of(error if isinstance(error, ApiError) else ApiError(400, str(error)))
