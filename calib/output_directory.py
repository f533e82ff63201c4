"""How calibration/, export/ or bundle/ comes into being: whole, in one step, and never over anything else."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.output_path import MANIFESTS, Artefact, check_outside, is_artefact

LOCK = "lock"  # of the folder where a new one grows, held by its writer


def kind_of(folder: Path) -> Artefact | None:
    """Which of the three a folder is, by its manifest; None for anything else."""
    return next((kind for kind, manifest in MANIFESTS.items() if (folder / manifest).is_file()), None)


@contextmanager
def written_directory(target: Path, kind: Artefact) -> Iterator[Path]:
    """An empty folder beside `target` that takes its place when the body ends without an error.

    What killed writers have left beside `target` goes first. A symbolic link at `target` stays, what it leads
    to is replaced. The old and the new folder change places in one step, so a kill at any moment leaves one
    of them there; on a file system that cannot do that, a kill between two renames leaves the older one whole
    in a folder `.{name}.*` beside it, from which the next writer takes it back. Raises what check_replaceable
    does.
    """
    check_replaceable(target, kind)
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{glob.escape(target.name)}.????????/{LOCK}"):
        _end_killed(left, target)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    new, old = work / "new", work / "old"
    with (work / "lock.new").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(work / "lock.new", work / LOCK)  # only now: one that is unlocked counts as abandoned
        try:
            new.mkdir()
            yield new
            for path in new.iterdir():
                _to_disk(path)
            _put(new, old, target, kind)
        finally:
            _end(work, target)


def _end(work: Path, target: Path) -> None:
    """Delete what is left; the older artefact, where it was moved there, goes back."""
    old = work / "old"
    if old.exists() and not target.exists():  # interrupted between the two renames
        old.rename(target)
    shutil.rmtree(work)


def _end_killed(lock: Path, target: Path) -> None:
    """The same for a process that was killed: a kill frees its lock."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists():
                _end(lock.parent, target)
    except (BlockingIOError, FileNotFoundError):
        return  # it is at work, or another process does this


def _put(new: Path, old: Path, target: Path, kind: Artefact) -> None:
    """Move `new` to `target`, and what is there now to `old`: another process may have written meanwhile."""
    if not target.exists():
        try:
            new.rename(target)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    check_replaceable(target, kind)
    if not _exchange(new, target):
        target.rename(old)
        new.rename(target)


def _exchange(a: Path, b: Path) -> bool:
    """Let two folders change places in one step (Linux's renameat2); False where that is not to be had."""
    at_working_directory, rename_exchange = -100, 2
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    paths = os.fsencode(a.absolute()), os.fsencode(b.absolute())
    status = renameat2(at_working_directory, paths[0], at_working_directory, paths[1], rename_exchange)
    return bool(status == 0)


def check_replaceable(target: Path, kind: Artefact) -> None:
    """Raise QuambaError (exit 2) unless `target` is free, an empty folder, or an earlier artefact of `kind`,
    and in no bundle or export.

    What is replaced is deleted whole, so a file of the right name is not enough: it must say what it is. A
    mount point and the folder the command runs in cannot be renamed.
    """
    check_outside(target.resolve())
    if not target.exists():
        return
    resolved, found = target.resolve(), ""
    if not resolved.is_dir():
        found = "a file"
    elif resolved.is_mount() or Path.cwd().is_relative_to(resolved):
        found = "a mount point" if resolved.is_mount() else "the folder this command runs in"
    elif any(resolved.iterdir()) and not is_artefact(resolved, kind):
        found = f"a folder that is not an earlier {kind}"
    if found:
        raise QuambaError(
            f"{target} is in the way",
            found=found,
            allowed=f"no folder, an empty one, or an earlier {kind}",
            fix="choose another -o",
            code=ExitCode.USAGE,
        )


def _to_disk(path: Path) -> None:
    """So that a power cut after the rename finds the content too; a full disk shows here."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
