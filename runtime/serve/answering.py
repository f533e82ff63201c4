"""From a request to its jobs, and from what the engine sends to an answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from quamba_export.runtime.bundle import Bundle
from quamba_export.runtime.chat_text import ChatText
from quamba_export.runtime.serve.asked import Asked, Prompt
from quamba_export.runtime.serve.job import End, Event, Failed, Job
from quamba_export.runtime.serve.meter import Meter
from quamba_export.runtime.serve.replies import ApiError, Choice
from quamba_export.runtime.serve.scheduler import QueueFull, Scheduler
from quamba_export.runtime.serve.sessions import Sessions
from quamba_export.runtime.serve.settings import Settings
from quamba_export.runtime.text_states import states_after


@dataclass(frozen=True)
class Piece:
    """Some text of choice `index`; the last one of a choice carries it whole."""

    index: int
    text: str
    choice: Choice | None = None


class Answering:
    """Everything that requests share: the engine behind its scheduler, sessions, metrics."""

    def __init__(self, bundle: Bundle, settings: Settings, chat: ChatText) -> None:
        self.bundle, self.settings, self.chat, self.meter = bundle, settings, chat, Meter()
        # one thread: tokenizers keeps the words it has seen for each, up to 3 MB of them
        self._encoding = ThreadPoolExecutor(1, "tokenizer")
        self.sessions = Sessions(settings.max_sessions, settings.session_seconds, settings.session_turns)
        self.scheduler = Scheduler(
            bundle.engine,
            bundle.tokenizer,
            self.meter,
            max_batch=settings.max_batch,
            queue=settings.queue,
        )

    async def pieces(self, asked: Asked) -> AsyncGenerator[Piece, None]:
        """The answer as it comes. Whoever stops listening ends the work.

        Raises ApiError: 429 where there is no room, 503 at shutdown, 504 and 500 where the engine gives none.
        """
        chat = asked.kind == "chat"
        prompts = [self.chat.render(asked.messages)] if chat else asked.prompts
        inbox: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        send = sender(asyncio.get_running_loop(), inbox)
        jobs = [await self._job(asked, prompt, send(index)) for index, prompt in enumerate(prompts)]
        texts = [Reading(strip=chat and self.chat.strips) for _ in jobs]
        self._submit(jobs)
        try:
            left = len(jobs)
            while left:
                index, event = await inbox.get()
                if isinstance(event, Failed):
                    raise ApiError(event.status, event.message)
                if isinstance(event, End):
                    left -= 1
                    self._keep(asked, prompts[index], jobs[index], event)
                    yield Piece(index, "", choice_of(jobs[index], event, texts[index].text))
                elif text := texts[index].read(event.text):
                    yield Piece(index, text)
        finally:
            for job in jobs:
                job.cancelled = True

    def _submit(self, jobs: list[Job]) -> None:
        most = self.settings.max_batch + self.settings.queue
        if len(jobs) > most:
            raise ApiError(400, f"{len(jobs)} prompts are more than this server takes at a time: {most}")
        try:
            self.scheduler.submit(jobs)
        except QueueFull as error:
            raise ApiError(
                429,
                f"{self.settings.max_batch} sequences are decoded and {self.settings.queue} may wait",
                code="queue_full",
                headers={"Retry-After": "1"},
            ) from error

    async def _job(self, asked: Asked, prompt: Prompt, send: Callable[[Event], None]) -> Job:
        stops = self.chat.stop if asked.kind == "chat" else ()
        job = Job(
            ids=prompt if isinstance(prompt, list) else [],
            limits=asked.limits(self.bundle.manifest.eos_token_id, stops),
            sampling=asked.sampling,
            send=send,
            deadline=time.monotonic() + self.settings.timeout,
            keep=asked.session is not None and self.settings.max_sessions > 0,
        )
        if isinstance(prompt, list):
            return job
        session = self.sessions.begun(asked.session, prompt) if asked.session else None
        rest = session.rest_of(prompt) if session else None
        if session is None or rest is None:
            job.ids = await self._encode(prompt)
            return job
        tokens, text = rest
        job.ids = [*tokens, *(await self._encode(text) if text else [])]
        job.before = session.states
        return job

    async def _encode(self, text: str) -> list[int]:
        """Beside the event loop: a long text takes a while."""
        return await asyncio.get_running_loop().run_in_executor(self._encoding, self.bundle.encode, text)

    def close(self) -> None:
        """End what is left, and the threads."""
        self.scheduler.close()
        self._encoding.shutdown()

    def _keep(self, asked: Asked, prompt: Prompt, job: Job, end: End) -> None:
        if asked.session is None or end.states is None or isinstance(prompt, list):
            return
        session = states_after(
            self.bundle.tokenizer, prompt, [*job.recent, *job.ids], end.generation, end.states
        )
        self.sessions.keep(asked.session, session, prompt)
        self.meter.sessions(len(self.sessions), self.sessions.nbytes)


class Reading:
    """One choice's text as the client sees it."""

    def __init__(self, *, strip: bool) -> None:
        """strip: white space in front belongs to the chat's format."""
        self.text, self._strip = "", strip

    def read(self, text: str) -> str:
        shown = text.lstrip() if self._strip and not self.text else text
        self.text += shown
        return shown


def choice_of(job: Job, end: End, text: str) -> Choice:
    cached = job.before.tokens if job.before else 0
    new = len(end.generation.token_ids)
    return Choice(text, end.generation.finish_reason, end.timed_out, cached + len(job.ids), cached, new)


def sender(
    loop: asyncio.AbstractEventLoop, inbox: asyncio.Queue[tuple[int, Event]]
) -> Callable[[int], Callable[[Event], None]]:
    """Of each choice the function by which the engine's thread hands its events to the loop."""

    def of(index: int) -> Callable[[Event], None]:
        def send(event: Event) -> None:
            loop.call_soon_threadsafe(inbox.put_nowait, (index, event))

        return send

    return of
