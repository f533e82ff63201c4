"""The releases on a device: staged, put in place whole, switched by one rename, and taken back.

    lock                    held while something is changed, by whoever it names
    incoming/<id>/          a release on its way: what a copy that was cut off, or a repair, goes on with
    releases/<id>/          whole and tested: bundle/, site/ (packages), bin/quamba-export, release.json
    current -> releases/<id>
    history                 the ids that were current, oldest first

A kill at any moment leaves `current` at a whole release; one that was damaged there keeps its place until its
repaired copy, which has passed the self-test, takes it in one step.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
from pathlib import Path
from typing import IO, Any

from quamba_export.exporter.deploy.device.contents import set_modes
from quamba_export.runtime.errors import ExitCode, QuambaError

ID = re.compile(r"[0-9a-f]{16}")
COPIED = ("site", "bundle", "export")  # by rsync, which puts right what is there; all else is made here
MENDS = "deploy its bundle again: that repairs it"
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of <fcntl.h> and <linux/fs.h>


def default_folder() -> Path:
    """Of this user on the device."""
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(base) / "quamba-export"


class Store:
    """The folder; every method that changes something wants the lock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.releases, self.incoming = folder, folder / "releases", folder / "incoming"
        self.current_link = folder / "current"
        self._lock: IO[str] | None = None

    def lock(self, owner: str, since: str) -> None:
        """Take the lock until this process ends. Raises QuambaError (exit 8) naming who has it."""
        for folder in (self.releases, self.incoming):
            folder.mkdir(parents=True, exist_ok=True)
        file = (self.folder / "lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise QuambaError(
                "somebody else is deploying to this device",
                found=file.read(500).strip() or "a lock without a name: it was taken this moment",
                allowed="one deployment at a time",
                fix="wait until it has ended; a connection that was lost frees the lock within two minutes",
                code=ExitCode.REMOTE,
            ) from error
        file.truncate(0)
        file.write(f"{owner}, since {since}\n")
        file.flush()
        self._lock = file

    @property
    def locked(self) -> bool:
        return self._lock is not None

    def current(self) -> str | None:
        """The id that `current` leads to, None before the first deployment or where it leads elsewhere."""
        name = self.current_link.readlink().name if self.current_link.is_symlink() else ""
        return name if ID.fullmatch(name) else None

    def release(self, name: str) -> Path:
        """The folder of a release that is whole."""
        if not ID.fullmatch(name):
            raise QuambaError("no name of a release", found=repr(name)[:100], allowed="16 hex digits")
        return self.releases / name

    def record(self, name: str) -> dict[str, Any]:
        """What was noted when the release was tested. Raises QuambaError (exit 4) where that is damaged."""
        try:
            return dict(json.loads((self.release(name) / "release.json").read_bytes()))
        except (OSError, ValueError) as error:
            raise QuambaError(
                f"release {name} is damaged on the device",
                found=f"release.json: {error}",
                fix=MENDS,
                code=ExitCode.INTEGRITY,
            ) from error

    def stage(self, name: str, damaged: bool = False) -> dict[str, Any]:
        """Make room for a release. state: "current", "whole" (not current), or "incoming", to be copied.

        damaged: copy it again, also where it is there. root: of all this; path: where to copy to; basis: the
        current release, of which a copy may reuse files; bytes: what an earlier, interrupted copy has left
        there.
        """
        whole, path, current = self.release(name), self.incoming / name, self.current()
        if whole.is_dir() and not damaged:
            return {"state": "current" if name == current else "whole", "root": str(self.folder)}
        if whole.is_dir() and name != current:  # what is good of it need not be copied again
            remove(path)
            whole.rename(path)
        path.mkdir(exist_ok=True)
        set_modes(path)  # rsync goes into no folder that may not be entered
        for part in path.iterdir():
            if part.is_symlink() or part.name not in COPIED:  # rsync would write to where a link leads
                remove(part)
        there = sum(file.lstat().st_size for file in path.rglob("*") if file.is_file())
        basis = str(self.release(current)) if current else None
        root = str(self.folder)
        return {"state": "incoming", "root": root, "path": str(path), "basis": basis, "bytes": there}

    def put_in_place(self, name: str, record: dict[str, Any]) -> None:
        """What was staged and tested becomes a release, in one step; a damaged one of that name goes."""
        staged = self.incoming / name
        if (staged / "export").is_dir():  # the bundle has been built of it
            shutil.rmtree(staged / "export")
        (staged / "release.json").write_text(json.dumps(record, indent=2) + "\n")
        set_modes(staged)
        os.sync()  # a power cut after the rename finds the content too
        if os.path.lexists(self.release(name)):
            exchange(staged, self.release(name))
            remove(staged)
        else:
            staged.rename(self.release(name))

    def switch(self, name: str) -> None:
        """Let `current` lead to a release, by one rename."""
        if not (self.release(name) / "release.json").is_file():
            raise QuambaError("no such release on the device", found=name, allowed=", ".join(self.names()))
        if self.current_link.is_dir() and not self.current_link.is_symlink():
            raise QuambaError(
                f"{self.current_link} on the device is in the way",
                found="a folder",
                allowed="a link to a release",
                fix="move it away, and deploy again",
                code=ExitCode.REMOTE,
            )
        link = self.folder / ".current"
        remove(link)
        link.symlink_to(Path("releases") / name)
        link.replace(self.current_link)
        os.sync()

    def names(self) -> list[str]:
        """Ids of the releases that are whole, the one that was current last at the end."""
        found = self.releases.iterdir() if self.releases.is_dir() else ()
        there = {path.name for path in found if ID.fullmatch(path.name)}  # no lost+found
        ordered = list(dict.fromkeys(reversed(self.history())))[::-1]
        return sorted(there - set(ordered)) + [name for name in ordered if name in there]

    def history(self) -> list[str]:
        """The ids in it; what else a power cut has left there is no id."""
        path = self.folder / "history"
        words = path.read_bytes().decode(errors="replace").split() if path.is_file() else []
        return [word for word in words if ID.fullmatch(word)]

    def note(self, history: list[str]) -> None:
        """Write the history anew."""
        partial = self.folder / ".history"
        with partial.open("w") as file:
            file.write("".join(f"{name}\n" for name in history))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / "history")

    def before_current(self) -> list[str]:
        """The history before the current release, without what is no longer there.

        A kill between the switch and the note leaves a history without the newest id, or with ids after the
        current one; both are read as what happened.
        """
        history, current = self.history(), self.current()
        if current in history:
            history = history[: len(history) - 1 - history[::-1].index(current)]
        return [name for name in history if name != current and (self.releases / name).is_dir()]

    def prune(self, keep: int) -> list[str]:
        """Delete what no longer counts: releases beyond the `keep` last ones, and interrupted copies."""
        current = self.current()
        others = [name for name in self.names() if name != current]
        gone = others[: max(0, len(others) - (keep - 1))]
        for left in self.incoming.iterdir():
            remove(left)
        for name in gone:
            self.release(name).rename(self.incoming / name)  # so that no half of it is a release
            remove(self.incoming / name)
        self.note([name for name in self.history() if name not in gone])
        return gone


def remove(path: Path) -> None:
    """Whatever it is; nothing is fine, too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def exchange(one: Path, other: Path) -> None:
    """Let two folders change places in one step.

    Where the file system has no such step (NFS) it takes two renames. A kill between
    the two leaves `other` missing and `one` whole, which the next deployment puts in place.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # glibc 2.28
    names = (AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other))
    if renameat2 is not None and renameat2(*names, RENAME_EXCHANGE) == 0:
        return
    aside = one.with_name(f"{one.name}.damaged")
    remove(aside)
    other.rename(aside)
    one.rename(other)
    aside.rename(one)
