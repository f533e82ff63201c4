"""What a command prints: one JSON object on stdout, or rich tables for people; progress goes to stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    Show = Callable[[Console], None]
Advance = Callable[[int], None]


def emit(result: Any, as_json: bool, show: Show) -> None:
    """Print `result` (a dataclass or mapping): as one line of JSON, or for people by calling `show`."""
    if as_json:
        sys.stdout.write(json.dumps(to_jsonable(result), allow_nan=False) + "\n")
        return
    from rich.console import Console

    show(Console())


def say(line: str) -> None:
    """Tell whoever waits, on stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def to_jsonable(value: Any) -> Any:
    """Dataclasses to objects, paths to strings, non-finite numbers to null (JSON has none)."""
    if is_dataclass(value) and not isinstance(value, type):
        return to_jsonable(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


class Bar:
    """One progress bar on stderr."""

    def __init__(self, progress: Progress, description: str, total: int | None, unit: str) -> None:
        self.progress, self.unit = progress, unit
        self.task = progress.add_task(description, total=total, rate="")

    def advance(self, amount: int) -> None:
        self.progress.advance(self.task, amount)
        speed = self.progress.tasks[0].speed
        self.progress.update(self.task, rate=f"{speed:.1f} {self.unit}/s" if speed else "")

    def show(self, done: int, total: int) -> None:
        """Set where it stands; `total` may become known late."""
        self.progress.update(self.task, total=total)
        self.advance(done - int(self.progress.tasks[0].completed))


@contextmanager
def progress(description: str, total: int | None = None, unit: str = "tokens") -> Iterator[Bar]:
    """A bar with rate and time left, gone when the body ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    text, rate = TextColumn("{task.description}"), TextColumn("{task.fields[rate]}")
    columns = (text, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as shown:
        yield Bar(shown, description, total, unit)
