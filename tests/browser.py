"""Headless Chromium over its debugging pipe: one page, opened, asked and typed into."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"]
# Chromium reads descriptor 3 and writes 4, which the test's process may use for something else
EXECUTE = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Page:
    """A tab. `problems` are what the page complained of: exceptions, console errors, refused loads."""

    def __init__(self, read: IO[bytes], write: IO[bytes]) -> None:
        self._read, self._write, self._count, self._session = read, write, 0, ""
        self.problems: list[str] = []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, url: str) -> None:
        self._ask("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is; a promise is waited for."""
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self._ask("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 15.0) -> None:
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, f"still not true: {expression}"
            time.sleep(0.02)

    def type(self, text: str) -> None:
        """As from a keyboard, into what has the focus; a line's end is the Enter key."""
        for part in text.split("\n")[:-1]:
            self._ask("Input.insertText", text=part)
            for kind in ("keyDown", "keyUp"):
                self._ask("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r")

    def _ask(self, method: str, **params: Any) -> Any:
        self._count += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._count, "method": method, "params": params, **session}
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = json.loads(self._message())
            if answer.get("id") == self._count:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            advice = answer.get("params", {}).get("entry", {}).get("level") in ("verbose", "info")
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded") and not advice:
                self.problems.append(json.dumps(answer["params"]))

    def _message(self) -> bytes:
        content = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "Chromium has ended"
            content += byte
        return bytes(content)


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A page in a Chromium of its own; skips the test where there is none."""
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
    command = [sys.executable, "-c", EXECUTE, str(their_read), str(their_write), program, *FLAGS]
    process = subprocess.Popen(
        [*command, f"--user-data-dir={profile}"],
        pass_fds=(their_read, their_write),
        stderr=subprocess.DEVNULL,
    )
    os.close(their_read)
    os.close(their_write)
    with os.fdopen(our_read, "rb") as read, os.fdopen(our_write, "wb") as write:
        yield Page(read, write)
        write.write(json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        write.flush()
        process.wait(20)
