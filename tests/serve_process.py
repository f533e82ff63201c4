"""`quamba-export serve` as a process of its own, as a user starts it."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMAND = [sys.executable, "-m", "quamba_export.exporter.cli", "serve"]


@contextmanager
def serve_process(
    bundle: Path, *flags: str, end: signal.Signals = signal.SIGTERM
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The process and its port, which the system chooses; behind the body it has to leave with 0 on `end`.

    Raises AssertionError with what it said on stderr where it did not start, or did not end well.
    """
    command = [*COMMAND, str(bundle), "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline()
            port = first.rsplit(":", 1)[-1].strip()
            assert port.isdigit(), first + process.stderr.read()
            yield process, int(port)
            process.send_signal(end)
            status = process.wait(30)
            assert (status, process.stderr.read()) == (0, "")
        finally:
            process.kill()  # of a body that failed; nothing where it has ended
