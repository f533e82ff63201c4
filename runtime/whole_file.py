"""A file that is there whole or not at all, whatever happens to the process that writes it."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

ABANDONED_SECONDS = 3600.0  # nobody has written to it for so long: its writer was killed


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path`, on the disk, when the body ends without an error.

    It grows beside `path`, hidden; what a killed process left there an hour ago or longer is deleted first.
    """
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.partial"):
        remove_abandoned(left)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def remove_abandoned(partial: Path) -> None:
    """Another process may do the same at this moment."""
    try:
        age = time.time() - partial.stat().st_mtime
    except FileNotFoundError:
        return
    if age > ABANDONED_SECONDS:
        partial.unlink(missing_ok=True)
