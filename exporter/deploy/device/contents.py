"""Whether a release on the device still is what was installed: every file, read and hashed again.

A bundle is held against its own manifest, whose digest the release's record has; packages against the tree
digest that the workstation has of the same folder. Modes are those that `set_modes` gave: nobody but the
owner writes, and the launcher can be run. Python's __pycache__ is no content: it is deleted, and Python makes
it anew.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

CHUNK_BYTES = 4 << 20
BYTECODE = "__pycache__"
UNLISTED = {"manifest.json", "model.sig"}  # of a bundle: what its manifest cannot list
LAUNCHER = "bin/quamba-export"


def tree_digest(folder: Path) -> str:
    """sha256 over the name and the content's sha256 of every file below a folder, bytecode left out."""
    digest = sha256()
    for path in sorted(path for path in _entries(folder) if path.is_symlink() or not path.is_dir()):
        digest.update(os.fsencode(path.relative_to(folder)) + f"\0{file_digest(path)}\0".encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """sha256 of a regular file's content; of anything else, which no release holds, what it is."""
    if not path.exists() and not path.is_symlink():
        return "missing"
    if path.is_symlink() or not stat.S_ISREG(path.lstat().st_mode):
        return "no regular file"
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _entries(folder: Path) -> Iterator[Path]:
    """A folder, and what is below it but bytecode; a link to a folder is not followed."""
    yield folder
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if not entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)
        elif entry.name != BYTECODE:
            yield from _entries(Path(entry.path))


def mode_of(path: Path, release: Path) -> int:
    """What a folder, the launcher or another file of a release has, whatever the umask."""
    return 0o755 if path.is_dir() or path == release / LAUNCHER else 0o644


def set_modes(release: Path) -> None:
    """Give a release and everything in it the mode that it is to have; a folder before what it holds."""
    for path in _entries(release):
        if not path.is_symlink():  # whose chmod would be another file's
            path.chmod(mode_of(path, release))


def mode_fault(release: Path) -> str | None:
    """The first whose mode is another than `set_modes` gave, in words."""
    for path in _entries(release):
        mode, wanted = stat.S_IMODE(path.lstat().st_mode), mode_of(path, release)
        if mode != wanted:
            return f"{path.relative_to(release)} has mode {mode:03o}, not {wanted:03o}"
    return None


def drop_bytecode(site: Path) -> None:
    """Damage in it would be damage, too, and nobody knows what it should be."""
    for folder in [path for path in site.rglob(BYTECODE) if path.is_dir() and not path.is_symlink()]:
        shutil.rmtree(folder)


def fault_of(release: Path, wanted: Mapping[str, str], site: str, files: Mapping[str, str]) -> str | None:
    """What is damaged first of all; None where the release is whole.

    wanted: of the self-test's result that was noted; site: tree digest of its packages; files: sha256 of
    further ones, "missing" where there must be none.
    """
    try:
        record = json.loads((release / "release.json").read_bytes())
        noted = record["self_test"]
        if record["id"] != release.name or any(noted[name] != wanted[name] for name in wanted):
            return "release.json is of something else"
        for name, digest in files.items():
            if file_digest(release / name) != digest:
                return f"{name} is not what was installed"
        if fault := _bundle_fault(release / "bundle", record["bundle_digest"]):
            return fault
        drop_bytecode(release / "site")
        if tree_digest(release / "site") != site:
            return "site/ is not what was installed"
        return mode_fault(release)
    except (ValueError, KeyError, TypeError) as error:
        return f"release.json, or a manifest, is not what was written: {error}"
    except OSError as error:  # also of a disk that cannot read a block
        return str(error)


def _bundle_fault(bundle: Path, digest: str) -> str | None:
    if file_digest(bundle / "manifest.json") != digest:
        return "bundle/manifest.json is not what was installed"
    listed: dict[str, Any] = json.loads((bundle / "manifest.json").read_bytes())["files"]
    if odd := set(os.listdir(bundle)) - UNLISTED ^ set(listed):
        return f"bundle/{min(odd)} is {'missing' if min(odd) in listed else 'not in the manifest'}"
    for name, entry in listed.items():
        if file_digest(bundle / name) != entry["sha256"] or (bundle / name).stat().st_nlink != 1:
            return f"bundle/{name} is not what the manifest says"
    return None
