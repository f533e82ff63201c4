"""Continuous batching over a tiny model: what a request says does not depend on its company."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from served import SlowEngine
from tiny_recurrent import byte_level_tokenizer, write_tiny_export

from quamba_export.runtime.bundle import open_bundle
from quamba_export.runtime.decoder import HostDecoder
from quamba_export.runtime.engine import Engine
from quamba_export.runtime.generate import Limits, generate
from quamba_export.runtime.sampling import Sampling
from quamba_export.runtime.serve.job import End, Event, Failed, Job, Text
from quamba_export.runtime.serve.meter import Meter
from quamba_export.runtime.serve.scheduler import CHUNK, QueueFull, Scheduler

TOKENIZER = byte_level_tokenizer()


class Asked:
    """A job and what came back."""

    def __init__(
        self, text: str, seed: int = 0, new: int = 20, seconds: float = 60.0, **more: object
    ) -> None:
        self.events: queue.Queue[Event] = queue.Queue()
        self.ids = TOKENIZER.encode(text).ids
        self.limits, self.sampling = Limits(new), Sampling(temperature=1.0, seed=seed)
        deadline = time.monotonic() + seconds
        self.job = Job(self.ids, self.limits, self.sampling, self.events.put, deadline, **more)  # type: ignore[arg-type]

    def end(self) -> End | Failed:
        self.text = ""
        while True:
            event = self.events.get(timeout=20)
            if not isinstance(event, Text):
                return event
            self.text += event.text


@pytest.fixture
def engine() -> SlowEngine:
    return SlowEngine()


@pytest.fixture
def scheduler(engine: SlowEngine) -> Iterator[Scheduler]:
    made = Scheduler(engine, TOKENIZER, Meter(), max_batch=3, queue=4)
    yield made
    made.close()


def tokens_alone(engine: Engine, asked: Asked) -> tuple[int, ...]:
    decoder = HostDecoder(engine, asked.sampling)
    return generate(decoder, TOKENIZER, [asked.ids], asked.limits)[0].token_ids


TEXTS = ("the a", "In the beginning " * 30, "x", "naïve 世界", "and the", "a the a the")


def check_company(engine: Engine) -> None:
    """Everybody at once, joining and leaving a batch of three, says what each says alone, bit for bit."""
    asked = [Asked(text, seed, new=7 + 5 * seed) for seed, text in enumerate(TEXTS)]
    assert len(asked[1].ids) > CHUNK
    alone = [tokens_alone(engine, one) for one in asked]
    scheduler = Scheduler(engine, TOKENIZER, Meter(), max_batch=3, queue=9)
    scheduler.submit([one.job for one in asked])
    ends = [one.end() for one in asked]
    scheduler.close()
    for one, end, tokens in zip(asked, ends, alone, strict=True):
        assert isinstance(end, End)
        assert end.generation.token_ids == tokens
        assert one.text == end.generation.text


def test_a_request_says_alone_what_it_says_in_company(engine: SlowEngine) -> None:
    check_company(engine)
    assert max(batch for batch, _ in engine.calls) == 3


def test_so_it_does_in_onnx_runtime(tmp_path: Path) -> None:
    check_company(open_bundle(write_tiny_export(tmp_path / "export"), threads=1).engine)


def test_a_long_prompt_lets_the_others_go_on(engine: SlowEngine, scheduler: Scheduler) -> None:
    short, long = Asked("the", new=200), Asked("In the beginning " * 90, new=1)
    scheduler.submit([short.job, long.job])
    assert isinstance(long.end(), End)
    chunks = [index for index, call in enumerate(engine.calls) if call == (1, CHUNK)]
    assert len(chunks) == len(long.ids) // CHUNK > 8
    assert all(later - earlier == 2 for earlier, later in itertools.pairwise(chunks))


def test_more_than_fit_and_may_wait_are_refused(engine: SlowEngine, scheduler: Scheduler) -> None:
    engine.pause = 0.02
    asked = [Asked("the") for _ in range(7)]
    scheduler.submit([one.job for one in asked])
    with pytest.raises(QueueFull):
        scheduler.submit([Asked("one more").job])
    assert all(isinstance(one.end(), End) for one in asked)
    late = Asked("now there is room")
    scheduler.submit([late.job])
    assert isinstance(late.end(), End)


def test_who_is_gone_makes_room_and_the_others_do_not_notice(
    engine: SlowEngine, scheduler: Scheduler
) -> None:
    engine.pause = 0.005
    gone, stays = Asked("the a", 1, new=10_000), Asked("and the", 2, new=60)
    scheduler.submit([gone.job, stays.job])
    while not stays.events.qsize():
        time.sleep(0.001)
    gone.job.cancelled = True
    end = stays.end()
    engine.pause = 0.0
    assert isinstance(end, End)
    assert end.generation.token_ids == tokens_alone(engine, stays)
    assert scheduler.in_flight == 0


def test_time_that_is_up_ends_a_text_and_fails_a_request_without_one(
    engine: SlowEngine, scheduler: Scheduler
) -> None:
    engine.pause = 0.01
    begun = [Asked("the", new=10_000, seconds=0.3) for _ in range(3)]
    waits = Asked("a", seconds=0.1)
    scheduler.submit([*(one.job for one in begun), waits.job])
    assert waits.end() == Failed(504, "no token within the time allowed for a request")
    for one in begun:
        end = one.end()
        assert isinstance(end, End)
        assert (end.timed_out, end.generation.finish_reason) == (True, "length")
        assert one.text == end.generation.text != ""


def test_states_that_are_kept_go_on_where_the_text_ended(engine: SlowEngine, scheduler: Scheduler) -> None:
    long, begins = Asked("the a", new=40), Asked("the a", new=15, keep=True)
    company = Asked("In the", 3)
    long.job.sampling = begins.job.sampling = Sampling()
    scheduler.submit([company.job, begins.job, long.job])
    first, whole = begins.end(), long.end()
    assert isinstance(first, End)
    assert isinstance(whole, End)
    assert first.states is not None
    assert first.states.tokens == len(begins.ids) + 14
    rest = Asked("", new=25, before=first.states)
    rest.job.ids, rest.job.sampling = [first.generation.token_ids[-1]], Sampling()
    scheduler.submit([rest.job])
    second = rest.end()
    assert isinstance(second, End)
    assert first.generation.token_ids + second.generation.token_ids == whole.generation.token_ids


def test_logits_that_are_no_numbers_fail_their_request(engine: SlowEngine, scheduler: Scheduler) -> None:
    engine.nan_after = 3
    one = Asked("the")
    scheduler.submit([one.job])
    assert one.end() == Failed(500, "the model's logits are not finite")


def test_an_engine_that_fails_once_serves_the_next(engine: SlowEngine, scheduler: Scheduler) -> None:
    engine.fault = "out of luck"
    one, two = Asked("the"), Asked("the")
    scheduler.submit([one.job])
    assert one.end() == Failed(500, "out of luck")
    engine.fault = ""
    scheduler.submit([two.job])
    assert isinstance(two.end(), End)


def test_closing_ends_whoever_is_left(engine: SlowEngine) -> None:
    engine.pause = 0.01
    scheduler = Scheduler(engine, TOKENIZER, Meter(), max_batch=1, queue=4)
    asked = [Asked("the", new=10_000) for _ in range(3)]
    scheduler.submit([one.job for one in asked])
    scheduler.close()
    assert [one.end() for one in asked] == [Failed(503, "the server is shutting down")] * 3
    assert not scheduler.alive
