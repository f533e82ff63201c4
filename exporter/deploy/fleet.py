"""The same on several hosts at once, with a live table; the worst host's exit code is the command's."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quamba_export.exporter.console import say
from quamba_export.exporter.deploy.actions import Outcome, Report
from quamba_export.exporter.deploy.host import SshOptions
from quamba_export.exporter.deploy.ssh import Session
from quamba_export.runtime.errors import ExitCode, QuambaError

if TYPE_CHECKING:
    from rich.table import Table

AT_ONCE = 16
Action = Callable[[Session, Report], Outcome]


@dataclass(frozen=True)
class Failure:
    """An error, as `--json` prints it."""

    message: str
    found: str
    allowed: str
    fix: str


@dataclass(frozen=True)
class HostResult:
    """One host of the `--json` object of `deploy`."""

    host: str
    code: int  # an exit code of this command
    seconds: float
    outcome: Outcome | None  # None where it failed
    error: Failure | None


@dataclass
class Board:
    """The step that each host is at."""

    steps: dict[str, str]
    live: bool  # a table is shown; else every step is a line
    lock: threading.Lock = field(default_factory=threading.Lock)
    sessions: set[Session] = field(default_factory=set)

    def cut_off(self) -> None:
        """End every session: whoever works on it fails at once."""
        with self.lock:
            for session in self.sessions:
                session.process.kill()

    @contextmanager
    def known(self, session: Session) -> Iterator[None]:
        with self.lock:
            self.sessions.add(session)
        try:
            yield
        finally:
            with self.lock:
                self.sessions.discard(session)

    def report(self, host: str, step: str) -> None:
        with self.lock:
            new = self.steps[host].split("%")[0].rstrip(" 0123456789") != step.split("%")[0].rstrip(
                " 0123456789"
            )
            self.steps[host] = step
        if new and not self.live:
            say(f"{host}: {step}")

    def __rich__(self) -> Table:
        from rich.markup import escape
        from rich.table import Table

        table = Table("host", "step", box=None, pad_edge=False)
        with self.lock:
            for host, step in self.steps.items():
                table.add_row(escape(host), escape(step))
        return table


def on_hosts(hosts: Sequence[str], options: SshOptions, action: Action, quiet: bool) -> list[HostResult]:
    """Run the action on every host, whatever becomes of the others. quiet: show no steps."""
    with _board(hosts, quiet) as board, ThreadPoolExecutor(min(AT_ONCE, len(hosts))) as pool:
        try:
            return list(pool.map(lambda host: _on_host(host, options, action, board), hosts))
        except BaseException:  # Ctrl-C, or a signal to end: the next run goes on
            pool.shutdown(wait=False, cancel_futures=True)
            board.cut_off()
            raise


def _on_host(host: str, options: SshOptions, action: Action, board: Board) -> HostResult:
    start = time.monotonic()
    try:
        board.report(host, "connect")
        with Session(host, options) as session, board.known(session):
            outcome = action(session, lambda step: board.report(host, step))
    except QuambaError as error:
        board.report(host, f"failed: {error.message}")
        failure = Failure(error.message, error.found, error.allowed, error.fix)
        return HostResult(host, int(error.code), round(time.monotonic() - start, 2), None, failure)
    board.report(host, outcome.state)
    return HostResult(host, int(ExitCode.OK), round(time.monotonic() - start, 2), outcome, None)


@contextmanager
def _board(hosts: Sequence[str], quiet: bool) -> Iterator[Board]:
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    board = Board(dict.fromkeys(hosts, "waiting"), live=quiet or console.is_terminal)
    if quiet or not console.is_terminal:
        yield board
        return
    with Live(board, console=console, transient=True, refresh_per_second=8):
        yield board


def require_all(results: Sequence[HostResult]) -> None:
    """Raise QuambaError with the worst host's code where one failed."""
    failed = [result for result in results if result.error]
    if not failed:
        return
    worst = max(failed, key=lambda result: result.code)
    assert worst.error is not None
    one = len(results) == 1
    raise QuambaError(
        worst.error.message
        if one
        else f"{len(failed)} of {len(results)} hosts failed: {worst.error.message}",
        found=worst.error.found,
        allowed=worst.error.allowed,
        fix=worst.error.fix,
        code=ExitCode(worst.code),
    )
