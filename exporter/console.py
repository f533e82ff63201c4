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

    Show = Callable[[Console], None]
Advance = Callable[[int], None]


def emit(result: Any, as_json: bool, show: Show) -> None:
    """Print `result` (a dataclass or mapping): as one line of JSON, or for people by calling `show`."""
    if as_json:
        sys.stdout.write(json.dumps(to_jsonable(result), allow_nan=False) + "\n")
        return
    from rich.console import Console

    show(Console())


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


@contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """A progress bar with time left on stderr; the body calls the yielded function with each increment."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda amount: bar.advance(task, amount)
