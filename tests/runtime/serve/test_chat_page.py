"""The chat page in a browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from browser import Page, chromium
from served import Served, serving

TOKEN = "0123456789abcdef"
TEXTS = "[...document.querySelectorAll('article')].map((a) => [a.className, a.textContent])"
IDLE = "document.getElementById('send').textContent === 'send'"


def test_a_chat_in_a_browser(tmp_path: Path) -> None:
    with serving() as served, chromium(tmp_path) as page:
        served.engine.script = ": hi\nUser:"
        page.open(f"http://127.0.0.1:{served.port}/")
        page.wait_for("document.title === 'tiny'")
        page.value("document.getElementById('temperature').value = 0")
        page.type("the a\n")
        page.wait_for(f"document.querySelectorAll('article').length === 2 && {IDLE}")
        assert page.value(TEXTS) == [["user", "the a"], ["assistant", "hi"]]
        page.type("and <b>this</b>\n")
        page.wait_for(f"document.querySelectorAll('article').length === 4 && {IDLE}")
        assert page.value(TEXTS)[2:] == [["user", "and <b>this</b>"], ["assistant", "hi"]]
        speed = page.value("document.getElementById('speed').textContent")
        found = re.fullmatch(
            r"9 tokens · [\d.]+ tokens/s · first after \d+ ms · (\d+) in the prompt, (\d+) of them kept",
            speed,
        )
        assert found, speed
        assert int(found[1]) > int(found[2]) > 10
        assert page.problems == []


@contextmanager
def long_answer(tmp_path: Path) -> Iterator[tuple[Served, Page]]:
    """A page that has asked for 4,000 tokens, 10 ms each."""
    with serving() as served, chromium(tmp_path) as page:
        served.engine.script = "abcdefghijklmnopqrstuvwxyza"
        served.engine.pause = 0.01
        page.open(f"http://127.0.0.1:{served.port}/")
        page.wait_for("document.title === 'tiny'")
        page.value("document.getElementById('tokens').value = 4000")
        page.type("go\n")
        yield served, page


def test_stopping_ends_the_work_and_speed_is_shown_meanwhile(tmp_path: Path) -> None:
    with long_answer(tmp_path) as (served, page):
        page.wait_for(
            "/[1-9]\\d tokens · [\\d.]+ tokens.s/.test(document.getElementById('speed').textContent)"
        )
        page.value("document.getElementById('send').click()")
        page.wait_for(IDLE)
        shown = page.value(TEXTS)[1][1]
        assert shown
        for _ in range(500):
            if served.answering.scheduler.in_flight == 0:
                break
            page.value("new Promise((done) => setTimeout(done, 10))")
        assert served.answering.scheduler.in_flight == 0
        assert page.value(TEXTS)[1][1] == shown


def test_a_new_chat_takes_nothing_of_an_answer_that_was_still_coming(tmp_path: Path) -> None:
    with long_answer(tmp_path) as (_, page):
        page.wait_for("document.querySelectorAll('article')[1].textContent !== ''")
        page.value("document.getElementById('anew').click()")
        page.wait_for(IDLE)
        assert page.value("messages.length") == 0
        assert page.value(TEXTS) == []


def test_a_token_is_asked_for_and_used(tmp_path: Path) -> None:
    with serving(token=TOKEN) as served, chromium(tmp_path) as page:
        page.open(f"http://127.0.0.1:{served.port}/")
        page.wait_for("document.querySelector('article.error') !== null")
        assert page.value(TEXTS) == [["error", "this server wants a token: enter it above"]]
        page.value("document.getElementById('token').focus()")
        page.type(f"{TOKEN}\n")
        page.wait_for("document.title === 'tiny'")


def test_the_page_is_one_file_that_names_no_other() -> None:
    page = files("quamba_export.runtime.serve").joinpath("chat.html").read_text(encoding="utf-8")
    assert re.findall(r"(?:src|href|url|@import|https?:)", page) == []
