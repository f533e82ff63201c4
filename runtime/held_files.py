"""The files of one directory, opened once: what is loaded later is what was compared with the manifest.

A check by name says nothing of what the name leads to a moment later. Here the directory and every file in it
are opened once; kind, size and sha256 are taken of those descriptors, and what is loaded is reached through
them: a name that is exchanged meanwhile changes nothing. Code and what is parsed (`SEALED`) is copied into
memory that nobody can write to, and hashed there. What is too large for that, and ONNX Runtime's graph, which
must lie beside its weights, is loaded in place and compared again afterwards (`check_unchanged`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from quamba_export.runtime.errors import QuambaError
from quamba_export.runtime.folder_check import (
    HASH_CHUNK_BYTES,
    MAX_BYTES,
    MAX_MANIFEST_BYTES,
    SIGNATURE,
    FileEntry,
    check_names,
    integrity_error,
    no_plain_file,
    plain_size,
)

Locate = Callable[
    [str], Path
]  # where a file of a bundle or export is read from: HeldFiles.location, or joinpath
SEALED = (
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("decode.engine", "prefill.engine", "libquamba_plugins.so"),
)
BESIDE_OTHERS = "model.onnx"  # reached through the directory, where ONNX Runtime looks for its weights
OPENS_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
OPENS_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # no link, no wait for a FIFO
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL


class HeldFiles:
    """Descriptors of a directory and its files; a context manager. What has been loaded outlives it."""

    def __init__(self, folder: Path) -> None:
        """Raises QuambaError (exit 3) for what is no directory."""
        self.folder, self._entries, self._copies = folder, dict[str, FileEntry](), dict[str, int]()
        self._files: dict[str, int] = {}
        try:
            self._directory = os.open(folder, OPENS_DIRECTORY)
        except OSError as error:
            raise QuambaError(f"{folder} cannot be opened", found=error.strerror or str(error)) from error
        self._checked: dict[str, os.stat_result] = {}

    def __enter__(self) -> HeldFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for descriptor in (*self._files.values(), *self._copies.values(), self._directory):
            os.close(descriptor)

    def names(self) -> set[str]:
        """What the directory holds now."""
        return set(os.listdir(self._directory))

    def content(self, name: str, max_bytes: int = MAX_MANIFEST_BYTES) -> bytes:
        """A small file. Raises QuambaError (exit 4) for what is no plain file, or beyond the limit."""
        descriptor = self._open(name, max_bytes)
        return os.pread(descriptor, max_bytes, 0)

    def check(self, manifest_name: str, entries: Mapping[str, FileEntry]) -> None:
        """Compare every file with its entry, kinds and sizes of all before any is hashed.

        Raises QuambaError (exit 4).
        """
        names = self.names()
        check_names(self.folder, manifest_name, entries, names)
        if SIGNATURE in names:  # read only where a signature is required
            self._open(SIGNATURE, MAX_MANIFEST_BYTES)
        for name, entry in entries.items():
            descriptor = self._open(name, MAX_BYTES[name])
            if (size := os.fstat(descriptor).st_size) != entry.size:
                raise self._changed(name, f"{size} bytes", f"{entry.size} bytes")
        for name, entry in entries.items():
            self._compare(name, self._files[name], entry)
            self._entries[name] = entry

    def location(self, name: str) -> Path:
        """A path to the checked file that no exchange of names can redirect, until the files are closed.

        Raises QuambaError (exit 4) where a file of SEALED has changed since its check.
        """
        if name == BESIDE_OTHERS:
            return Path(f"/proc/self/fd/{self._directory}/{name}")
        if name in SEALED:
            return Path(f"/proc/self/fd/{self._sealed(name)}")
        return Path(f"/proc/self/fd/{self._files[name]}")

    def check_unchanged(self) -> None:
        """After loading: every name still leads to the file that was checked, and nobody has written to it.

        Raises QuambaError (exit 4).
        """
        for name, before in self._checked.items():
            now = (os.fstat(self._files[name]), self._status(name))
            if any(identity(status) != identity(before) for status in now):
                raise self._changed(name, "another file or content while it was being loaded", "no writer")

    def _open(self, name: str, max_bytes: int) -> int:
        """The descriptor of a plain file, opened the first time."""
        if name not in self._files:
            try:
                self._files[name] = os.open(name, OPENS_FILE, dir_fd=self._directory)
            except OSError as error:
                link = error.errno == errno.ELOOP
                raise no_plain_file(
                    self.folder / name, "a symbolic link" if link else error.strerror or str(error)
                ) from error
            status = os.fstat(self._files[name])
            plain_size(self.folder / name, status, max_bytes)
            self._checked[name] = status
        return self._files[name]

    def _status(self, name: str) -> os.stat_result:
        try:
            return os.stat(name, dir_fd=self._directory, follow_symlinks=False)
        except OSError as error:
            raise self._changed(name, "gone while it was being loaded", "no writer") from error

    def _sealed(self, name: str) -> int:
        """A copy in memory that nobody can write to, its bytes compared with the entry; made once."""
        if name in self._copies:
            return self._copies[name]
        label = str(self.folder / name)[-200:]  # what error messages and /proc/self/maps show
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        copy = self._copies[name] = os.memfd_create(label, flags)
        size = self._entries[name].size
        os.posix_fallocate(copy, 0, max(size, 1))  # no room: here, and not as a signal later
        os.ftruncate(copy, size)
        offset = 0
        while block := os.pread(self._files[name], min(HASH_CHUNK_BYTES, size - offset), offset):
            offset += os.pwrite(copy, block, offset)
        fcntl.fcntl(copy, fcntl.F_ADD_SEALS, SEALS)
        self._compare(name, copy, self._entries[name])
        return copy

    def _compare(self, name: str, descriptor: int, entry: FileEntry) -> None:
        found = digest_of(descriptor)
        if found != entry.sha256:
            raise self._changed(name, f"sha256 {found}", f"sha256 {entry.sha256}")

    def _changed(self, name: str, found: str, allowed: str) -> QuambaError:
        return integrity_error(f"{self.folder / name} has changed", found=found, allowed=allowed)


def digest_of(descriptor: int) -> str:
    """sha256 of a file from its first byte, 64 hex digits."""
    digest, offset = hashlib.sha256(), 0
    while block := os.pread(descriptor, HASH_CHUNK_BYTES, offset):
        digest.update(block)
        offset += len(block)
    return digest.hexdigest()


def identity(status: os.stat_result) -> tuple[int, ...]:
    """What differs once a file is another one, or was written to, renamed or linked."""
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_nlink,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def shown(location: Path) -> str:
    """A location as people know it: the name of the file that /proc/self/fd/... leads to."""
    real = os.path.realpath(location) if str(location).startswith("/proc/self/fd/") else str(location)
    return real.removeprefix("/memfd:").removesuffix(" (deleted)")
