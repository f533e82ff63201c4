"""A file that is there whole or not at all, whatever happens to the process that writes it."""

from __future__ import annotations

import errno
import glob
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

KEPT_CHARACTERS = 50  # of the name: with them and what is added, no name is too long
ABANDONED_SECONDS = 3600.0  # nobody has written to it for so long: its writer was killed


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path`, on the disk, when the body ends without an error.

    It grows beside `path`, hidden, under a name that nobody else has: a process's number will not do, which
    containers with one folder may share. What a killed process left there an hour ago or longer is deleted
    first.
    """
    known = f".{path.name[:KEPT_CHARACTERS]}."
    for left in path.parent.glob(f"{glob.escape(known)}*.partial"):
        remove_abandoned(left)
    partial = path.with_name(f"{known}{os.urandom(8).hex()}.partial")
    with partial.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """The folder's names, on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of a file system that keeps no names apart
            raise
    finally:
        os.close(descriptor)


def remove_abandoned(partial: Path) -> None:
    """Another process may do the same at this moment."""
    try:
        age = time.time() - partial.stat().st_mtime
    except FileNotFoundError:
        return
    if age > ABANDONED_SECONDS:
        partial.unlink(missing_ok=True)
