"""Continuous batching: one thread owns the engine, and gives it one piece of work after another.

A turn is at most one chunk of one prompt and one decode step of everybody else, so a long prompt delays the
others by a chunk a token and not by its length. Prompts are fed alone and always in the same chunks, rows
draw from generators of their own, and an engine computes a row from that row alone: what a request says does
not depend on its company (docs/serve.md has what was tried).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from quamba_export.runtime.detokenize import Tokenizer
from quamba_export.runtime.engine import Engine, States, checked_ids
from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.generate import FinishReason, Generation
from quamba_export.runtime.serve.job import End, Failed, Job, Text
from quamba_export.runtime.serve.slots import Slot, Slots

CHUNK = 128  # tokens of a prompt a turn


class Watch(Protocol):
    """What hears of the work: the server's metrics. Called in the engine's thread."""

    def generated(self, generation: Generation) -> None: ...

    def stepped(self, seconds: float) -> None: ...

    def load(self, active: int, queued: int) -> None: ...


class QueueFull(Exception):
    """No room: as many requests as may wait are waiting."""


@dataclass
class Filling:
    """The prompt that is being fed."""

    job: Job
    states: States | None = None  # None before its first chunk
    fed: int = 0  # of job.ids


class Scheduler:
    """Takes jobs from any thread and runs them; `close` before the engine is let go."""

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, watch: Watch | None = None, *, max_batch: int, queue: int
    ) -> None:
        """max_batch: sequences decoded together; queue: how many more may wait."""
        self.max_batch, self.queue = max_batch, queue
        self._engine, self._tokenizer, self._watch = engine, tokenizer, watch
        self._waiting: deque[Job] = deque()
        self._filling: Filling | None = None
        self._batch = Slots(engine)
        self._changed, self._closing = threading.Condition(), False
        self._thread = threading.Thread(target=self._serve, name="engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    @property
    def in_flight(self) -> int:
        """Jobs that have not ended, waiting ones too."""
        return len(self._waiting) + (self._filling is not None) + len(self._batch.slots)

    def submit(self, jobs: list[Job]) -> None:
        """Take all of them, or raise QueueFull; QuambaError for ids outside the vocabulary."""
        for job in jobs:
            checked_ids([job.ids], self._engine.vocab_size)
        with self._changed:
            if self._closing or self.in_flight + len(jobs) > self.max_batch + self.queue:
                raise QueueFull
            self._waiting.extend(jobs)
            self._changed.notify()

    def close(self) -> None:
        """End every job that is left, and the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self.in_flight)
                if self._closing:
                    break
            try:
                self._turn()
            except Exception as error:  # of the engine: whoever is in it ends, the next ones may do better
                import logging  # batches from a file share this module, and log nothing

                logging.getLogger("quamba_export.serve").exception("the engine failed")
                self._fail_everybody(str(error).splitlines()[0] if str(error) else repr(error))
        self._fail_everybody("the server is shutting down", status=503)

    def _turn(self) -> None:
        self._drop_what_is_over()
        self._feed_a_chunk()
        if self._batch.slots:
            started = time.monotonic()
            self._take_tokens(list(self._batch.slots), self._batch.step())
            if self._watch:
                self._watch.stepped(time.monotonic() - started)
        if self._watch:
            self._watch.load(len(self._batch.slots), len(self._waiting))

    def _drop_what_is_over(self) -> None:
        """Let go of what nobody waits for, and of what took too long."""
        now = time.monotonic()
        with self._changed:
            late = [job for job in self._waiting if job.cancelled or job.deadline < now]
            self._waiting = deque(job for job in self._waiting if job not in late)
        if self._filling and (self._filling.job.cancelled or self._filling.job.deadline < now):
            late.append(self._filling.job)
            self._filling = None
        for job in late:
            if not job.cancelled:
                job.send(Failed(504, "no token within the time allowed for a request"))
        over = [slot for slot in self._batch.slots if slot.job.cancelled or slot.job.deadline < now]
        for slot in over:
            if not slot.job.cancelled:
                slot.job.send(Text(slot.row.cut()))
                self._end(slot, "length", timed_out=True)
        self._batch.leave(over)

    def _feed_a_chunk(self) -> None:
        """Feed the next tokens of the oldest prompt; at its end it joins the batch with its first token."""
        if self._filling is None:
            if not self._waiting or len(self._batch.slots) >= self.max_batch:
                return
            with self._changed:
                self._filling = Filling(self._waiting.popleft())
        filling, ids = self._filling, self._filling.job.ids[self._filling.fed :][:CHUNK]
        states = self._states_before(filling.job) if filling.states is None else filling.states
        logits, filling.states = self._engine.run(np.array([ids], dtype=np.int64), states)
        filling.fed += len(ids)
        if filling.fed < len(filling.job.ids):
            return
        slot = Slot(filling.job, self._tokenizer, self._engine.vocab_size)
        self._batch.join(slot, filling.states)
        self._filling = None
        self._take_tokens([slot], logits[:, -1])

    def _states_before(self, job: Job) -> States:
        return self._engine.load_states(job.before.arrays) if job.before else self._engine.zero_states(1)

    def _take_tokens(self, slots: list[Slot], logits: NDArray[np.float32]) -> None:
        """Choose a token for each of these slots from logits (n, V); those that end leave."""
        gone = []
        for slot, row in zip(slots, logits, strict=True):
            try:
                text, reason = slot.add(row)
            except QuambaError as error:  # this row's logits: the others go on
                slot.job.send(Failed(500, error.message))
                gone.append(slot)
                continue
            slot.job.send(Text(text))
            if reason:
                self._end(slot, reason)
                gone.append(slot)
        self._batch.leave(gone)

    def _end(self, slot: Slot, reason: FinishReason, *, timed_out: bool = False) -> None:
        job, generation = slot.job, slot.generation(reason)
        if self._watch:
            self._watch.generated(generation)
        states = slot.kept(self._batch.states_of(slot)) if job.keep else None
        job.send(End(generation, timed_out, states))

    def _fail_everybody(self, message: str, status: int = 500) -> None:
        with self._changed:
            jobs = [*self._waiting, *([self._filling.job] if self._filling else [])]
            jobs += [slot.job for slot in self._batch.slots]
            self._waiting.clear()
            self._filling, self._batch = None, Slots(self._engine)
        for job in jobs:
            job.send(Failed(status, message))
