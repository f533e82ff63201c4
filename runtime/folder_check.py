"""The files of a bundle or export directory against their manifest, before any of them is parsed.

The rules, and how a writer lists what it has written. A reader opens the files once and checks those very
descriptors: held_files.py. Hashes prove that the files are those the manifest names, not who wrote the
manifest: signature.py.
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
SIGNATURE = "model.sig"  # signs the manifest and every file that it lists, so it is in no manifest itself
GRAPHS = {"decode": "decode.onnx", "prefill": "prefill.onnx"}  # of a portable bundle, for TensorRT
PLUGIN_SOURCES = "plugin-sources.tar"  # of a portable bundle
WEIGHTS = "weights.bin"  # of a TensorRT bundle, for both of its plans
# What a directory may hold besides its manifest, and the largest size of each in bytes.
MAX_BYTES = {
    "model.onnx": 2048 * MIB,  # the limit of a protobuf message
    "model.onnx.data": 65536 * MIB,
    "config.json": 4 * MIB,
    "generation_config.json": 4 * MIB,
    "tokenizer.json": 128 * MIB,
    "tokenizer_config.json": 4 * MIB,
    "chat_template.jinja": 4 * MIB,
    "decode.engine": 65536 * MIB,
    "prefill.engine": 65536 * MIB,
    WEIGHTS: 65536 * MIB,
    "libquamba_plugins.so": 256 * MIB,
    **dict.fromkeys(GRAPHS.values(), 256 * MIB),
    PLUGIN_SOURCES: 64 * MIB,
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


def no_plain_file(path: Path, found: str) -> QuambaError:
    """The refusal (exit 4) of what cannot be opened, or is no regular file."""
    return integrity_error(f"{path} cannot be used", found=found, allowed="a regular file")


@contextmanager
def open_plain(path: Path, max_bytes: int) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file that has one name and at most `max_bytes`; yields the file and its size in bytes.

    Never follows a symbolic link and never waits for a FIFO's other end. Raises QuambaError (exit 4).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        found = "a symbolic link" if path.is_symlink() else error.strerror or str(error)
        raise no_plain_file(path, found) from error
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
        raise no_plain_file(path, kind_of(status))
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


def check_names(folder: Path, manifest_name: str, listed: Mapping[str, object], names: set[str]) -> None:
    """Refuse a listed name that is not allowed, an unlisted entry and a missing file (exit 4).

    names: what `folder` holds.
    """
    for name in listed:
        if "/" in name or "\\" in name or name in (".", ".."):
            raise integrity_error(f"the manifest of {folder} leaves its directory", found=ascii(name))
        if name not in MAX_BYTES:
            raise integrity_error(
                f"the manifest of {folder} lists a file that may not be there",
                found=ascii(name),  # a letter of another script looks the same
                allowed=", ".join(MAX_BYTES),
            )
    models = MODEL_FILES[any(name.endswith(".engine") for name in listed)]
    if missing := [name for name in (*models, "config.json") if name not in listed]:
        raise integrity_error(f"the manifest of {folder} does not list {missing[0]}", found=", ".join(listed))
    present = names - {manifest_name, SIGNATURE}
    if extra := sorted(present - set(listed)):
        raise integrity_error(
            f"{folder} holds a file that its manifest does not list", found=", ".join(map(ascii, extra))
        )
    if missing := sorted(set(listed) - present):
        raise integrity_error(f"{folder} lacks a file that its manifest lists", found=f"no {missing[0]}")


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
