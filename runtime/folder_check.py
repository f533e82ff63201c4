"""The files of a bundle or export directory against their manifest, before any of them is parsed.

Hashes prove that the files are those the manifest names, not who wrote the manifest. Whoever can write to the
directory while it is being loaded can still swap a file after its check: keep a bundle where only its owner
writes.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quamba_export.runtime.errors import ExitCode, QuambaError

MIB = 1 << 20
MANIFEST_NAMES = ("manifest.json", "export.json")
MAX_MANIFEST_BYTES = 4 * MIB
WEIGHTS = "weights.bin"  # of a TensorRT bundle, for both of its plans
# What a directory may hold besides its manifest, and the largest size of each in bytes.
MAX_BYTES = {
    "model.onnx": 2048 * MIB,  # the limit of a protobuf message
    "model.onnx.data": 65536 * MIB,
    "config.json": 4 * MIB,
    "generation_config.json": 4 * MIB,
    "tokenizer.json": 128 * MIB,
    "decode.engine": 65536 * MIB,
    "prefill.engine": 65536 * MIB,
    WEIGHTS: 65536 * MIB,
    "libquamba_plugins.so": 256 * MIB,
}
MODEL_FILES = (
    ("model.onnx",),
    ("decode.engine", "prefill.engine", WEIGHTS, "libquamba_plugins.so"),
)  # one set of them
HASH_CHUNK_BYTES = 4 * MIB


@dataclass(frozen=True)
class FileEntry:
    """One file as a manifest lists it."""

    sha256: str  # 64 lowercase hex digits
    size: int  # bytes


def integrity_error(message: str, *, found: str, allowed: str = "") -> QuambaError:
    """A refusal that exits with 4."""
    fix = "do not use it; copy the directory again from where it was made, or make it anew"
    return QuambaError(message, found=found, allowed=allowed, fix=fix, code=ExitCode.INTEGRITY)


@contextmanager
def open_plain(path: Path, max_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file that has one name and at most `max_bytes`; yields the file and its size in bytes.

    Never follows a symbolic link and never waits for a FIFO's other end. Raises QuambaError (exit 4).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        found = "a symbolic link" if path.is_symlink() else error.strerror or str(error)
        raise integrity_error(f"{path} cannot be used", found=found, allowed="a regular file") from error
    try:
        size = plain_size(path, os.fstat(descriptor), max_bytes)
    except QuambaError:
        os.close(descriptor)
        raise
    with os.fdopen(descriptor, "rb") as file:
        yield file, size


def plain_size(path: Path, status: os.stat_result, max_bytes: int) -> int:
    """Bytes of a regular file that has one name and keeps to its limit. Raises QuambaError (exit 4)."""
    if not stat.S_ISREG(status.st_mode):
        raise integrity_error(f"{path} cannot be used", found=kind_of(status), allowed="a regular file")
    if status.st_nlink != 1:
        raise integrity_error(
            f"{path} has other names", found=f"{status.st_nlink} hard links", allowed="1: no hard links"
        )
    if status.st_size > max_bytes:
        raise integrity_error(
            f"{path} is too large", found=f"{status.st_size} bytes", allowed=f"at most {max_bytes}"
        )
    return status.st_size


def kind_of(status: os.stat_result) -> str:
    """What an entry that is no regular file is, in words."""
    for test, name in ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket")):
        if test(status.st_mode):
            return name
    return "a device"


def entry_of(path: Path) -> FileEntry:
    """Size and sha256 of a file whose name is one of MAX_BYTES."""
    digest, read = hashlib.sha256(), 0
    with open_plain(path, MAX_BYTES[path.name]) as (file, _):
        while block := file.read(HASH_CHUNK_BYTES):
            digest.update(block)
            read += len(block)
    return FileEntry(sha256=digest.hexdigest(), size=read)


def check_names(folder: Path, manifest_name: str, listed: Mapping[str, object]) -> None:
    """Refuse a listed name that is not allowed, an unlisted entry and a missing file; opens nothing."""
    for name in listed:
        if "/" in name or "\\" in name or name in (".", ".."):
            raise integrity_error(f"the manifest of {folder} leaves its directory", found=repr(name))
        if name not in MAX_BYTES:
            raise integrity_error(
                f"the manifest of {folder} lists a file that may not be there",
                found=repr(name),
                allowed=", ".join(MAX_BYTES),
            )
    models = MODEL_FILES[any(name.endswith(".engine") for name in listed)]
    if missing := [name for name in (*models, "config.json") if name not in listed]:
        raise integrity_error(f"the manifest of {folder} does not list {missing[0]}", found=", ".join(listed))
    present = {entry.name for entry in os.scandir(folder)} - {manifest_name}
    if extra := sorted(present - set(listed)):
        raise integrity_error(
            f"{folder} holds a file that its manifest does not list", found=", ".join(map(repr, extra))
        )
    if missing := sorted(set(listed) - present):
        raise integrity_error(f"{folder} lacks a file that its manifest lists", found=f"no {missing[0]}")


def check_files(folder: Path, manifest_name: str, files: Mapping[str, FileEntry]) -> None:
    """Compare every file with its entry, all of them before any is used. Raises QuambaError (exit 4)."""
    check_names(folder, manifest_name, files)
    for name, entry in files.items():
        with open_plain(folder / name, MAX_BYTES[name]) as (_, size):
            if size != entry.size:
                raise integrity_error(
                    f"{folder / name} has changed", found=f"{size} bytes", allowed=f"{entry.size} bytes"
                )
    for name, entry in files.items():
        found = entry_of(folder / name)
        if found != entry:
            raise integrity_error(
                f"{folder / name} has changed",
                found=f"sha256 {found.sha256}",
                allowed=f"sha256 {entry.sha256}",
            )


def find_manifest(folder: Path) -> str:
    """The manifest that a directory holds; a bundle's wins. Raises QuambaError (exit 3) if none."""
    for name in MANIFEST_NAMES:
        if os.path.lexists(folder / name):
            return name
    raise QuambaError(
        f"{folder} is neither a bundle nor an export",
        found="no such directory" if not folder.is_dir() else "no manifest.json and no export.json in it",
        allowed="a directory that `quamba-export build` or `quamba-export export` wrote",
        fix=_way_to_bundle(folder),
    )


def _way_to_bundle(folder: Path) -> str:
    """The command that comes next for what a directory holds."""
    build = "quamba-export build export/ --target cpu -o bundle/"
    if (folder / "calibration.json").is_file():
        return f"quamba-export export CHECKPOINT --calibration {folder} -o export/, then {build}"
    if (folder / "config.json").is_file():
        return f"it may be a checkpoint: first quamba-export calibrate {folder} --data TEXT -o calibration/"
    return build
