"""Many prompts to one file: what is finished is on the disk, whatever happens to the process.

Results are appended to `OUT.part` as they come, and end up in `OUT` in the order of the prompts once all are
there. A run that was killed is started again by the same command: it reads the part and does the rest.
"""

from __future__ import annotations

import fcntl
import json
import os
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from quamba_export.runtime.bundle import Bundle
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.generate import Limits
from quamba_export.runtime.output_path import check_outside
from quamba_export.runtime.sampling import Sampling
from quamba_export.runtime.serve.job import End, Event, Failed, Job
from quamba_export.runtime.serve.scheduler import Scheduler
from quamba_export.runtime.whole_file import whole_file

FOREVER = 1e9  # seconds
Result = dict[str, Any]


def read_prompts(path: Path) -> list[str]:
    """A .jsonl file, of texts or of objects with `prompt`; any other: a prompt a line, empty lines skipped.

    Raises QuambaError naming the line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # only these end a line of JSON
    except (OSError, UnicodeDecodeError) as error:
        raise QuambaError(f"{path} holds no prompts", found=str(error), allowed="UTF-8 text") from error
    if path.suffix == ".jsonl":
        prompts = [prompt_of(line, f"{path}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    else:
        prompts = [line for line in lines if line.strip()]
    if not prompts:
        raise QuambaError(f"{path} holds no prompts", found="no line", allowed="a prompt a line")
    return prompts


def prompt_of(line: str, where: str) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise QuambaError(f"{where} is not JSON", found=str(error)) from error
    value = value.get("prompt") if isinstance(value, dict) else value
    if not isinstance(value, str):
        raise QuambaError(f"{where} has no prompt", found=line[:200], allowed='a text, or {"prompt": "..."}')
    return value


class ResultFile:
    """OUT and its part; a context manager that holds the part against a second writer."""

    def __init__(self, out: Path, settings: Mapping[str, Any], prompts: Sequence[str]) -> None:
        """settings: whatever decides the results; kept in the part's first line, and compared.

        Raises QuambaError: exit 2 where OUT is there already or in a bundle, or somebody else writes it, 3
        where the part is of other prompts or settings.
        """
        check_outside(out)
        self.out, self.part = out, out.with_name(f"{out.name}.part")
        self.done: dict[int, Result] = {}
        self._head = {"settings": dict(settings), "prompts": len(prompts)}
        if out.exists():
            raise QuambaError(
                f"{out} exists", found="a file", allowed="a new one, written when all is done",
                fix="move it, or give another -o", code=ExitCode.USAGE,
            )  # fmt: skip
        try:
            self._file: IO[bytes] = open(self.part, "a+b", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise QuambaError(
                f"{self.part} cannot be written", found=str(error), code=ExitCode.USAGE
            ) from error
        self._lock()
        self._read(prompts)

    def __enter__(self) -> ResultFile:
        return self

    def __exit__(self, *unused: object) -> None:
        self._file.close()

    def add(self, index: int, result: Result) -> None:
        """Keep one result: on the disk when this returns."""
        self.done[index] = result
        self._write({"index": index, **result})
        os.fsync(self._file.fileno())

    def finish(self) -> None:
        """All results are there: write OUT, whole or not at all, and remove the part."""
        with whole_file(self.out) as file:
            for index in range(len(self.done)):
                file.write(line_of(self.done[index]))
        self.part.unlink()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise QuambaError(
                f"{self.part} is being written",
                found="another run",
                allowed="one at a time",
                code=ExitCode.USAGE,
            ) from error

    def _read(self, prompts: Sequence[str]) -> None:
        """Take what an earlier run wrote, without the line that it was killed in.

        Nothing is cut off a file before it is known to be one of ours.
        """
        self._file.seek(0)
        content, head = self._file.read(), line_of(self._head)
        whole = content[: content.rfind(b"\n") + 1]
        try:
            ours = content.startswith(head) or head.startswith(content)
            lines = [json.loads(line) for line in whole.split(b"\n")[1:-1]] if ours else []
            self.done = {line.pop("index"): line for line in lines}
            ours = ours and all(self.done[index]["prompt"] == prompts[index] for index in self.done)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            ours = False
        if not ours:
            raise QuambaError(
                f"{self.part} is of another run",
                found=f"other prompts, or {content[:400].decode(errors='replace').splitlines()[:1]}",
                allowed=json.dumps(self._head),
                fix="repeat the command that began it, delete it, or give another -o",
            )
        self._file.truncate(len(whole))
        if not whole:
            self._write(self._head)

    def _write(self, value: Mapping[str, Any]) -> None:
        """A whole line: a disk that is nearly full takes part of one before it refuses the rest."""
        left = memoryview(line_of(value))
        while left:
            left = left[self._file.write(left) :]


def line_of(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def run_batch(
    bundle: Bundle, prompts: Sequence[str], results: ResultFile, limits: Limits, sampling: Sampling,
    *, max_batch: int, advance: Callable[[int], None],
) -> None:  # fmt: skip
    """Continue every prompt that has no result yet, `max_batch` at a time; prompt i draws with seed + i.

    advance: called with the number of finished ones. Raises QuambaError where the engine fails; what was
    finished is kept.
    """
    inbox: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
    waiting = [index for index in range(len(prompts)) if index not in results.done][::-1]
    # of those that have ended, some may not have left the batch yet: they need room too
    scheduler = Scheduler(bundle.engine, bundle.tokenizer, max_batch=max_batch, queue=2 * max_batch)
    try:
        running = 0
        while waiting or running:
            while waiting and running < 2 * max_batch:
                index = waiting.pop()
                scheduler.submit([job_of(bundle, prompts[index], limits, sampling, index, inbox)])
                running += 1
            index, event = inbox.get()
            if isinstance(event, Failed):
                raise QuambaError(f"prompt {index + 1} failed", found=event.message, code=ExitCode.NUMERIC)
            if isinstance(event, End):
                running -= 1
                results.add(index, result_of(prompts[index], event))
                advance(len(results.done))
    finally:
        scheduler.close()


def job_of(
    bundle: Bundle, prompt: str, limits: Limits, sampling: Sampling, index: int,
    inbox: queue.SimpleQueue[tuple[int, Event]],
) -> Job:  # fmt: skip
    return Job(
        ids=bundle.encode(prompt),
        limits=limits,
        sampling=replace(sampling, seed=(sampling.seed + index) % (1 << 64)),
        send=lambda event: inbox.put((index, event)),
        deadline=time.monotonic() + FOREVER,
    )


def result_of(prompt: str, end: End) -> Result:
    generation = end.generation
    return {
        "prompt": prompt,
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "prompt_tokens": generation.prompt_tokens,
        "new_tokens": len(generation.token_ids),
    }
