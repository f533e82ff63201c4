"""Whether a file can be written somewhere, said before the work whose result it is to hold."""

from __future__ import annotations

import json
from pathlib import Path

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.folder_check import kind_of

MANIFESTS = {"manifest.json": "bundle", "export.json": "export"}  # with the `kind` that they say


def check_writable(path: Path) -> None:
    """Refuse a path that no new file can take, or that would spoil a bundle (exit 2).

    A device or a FIFO would not be written to, but replaced.
    """
    folder = path.absolute().parent
    odd = path.exists() and not path.is_file()
    if odd or not folder.is_dir():
        found = f"{kind_of(path.stat())} of this name" if odd else f"no directory {folder}"
        raise QuambaError(f"{path} cannot be written", found=found, allowed="a new file", code=ExitCode.USAGE)
    check_outside(path)


def check_outside(path: Path) -> None:
    """Refuse a path in a bundle or export, which is then refused for the file too many (exit 2)."""
    inside = path.absolute().parent.resolve()
    for folder in (inside, *inside.parents):
        if is_artefact(folder):
            raise QuambaError(
                f"{path} would lie in a bundle or export, which is then refused for the file too many",
                found=str(folder),
                allowed="a path in any other directory",
                code=ExitCode.USAGE,
            )


def is_artefact(folder: Path) -> bool:
    """Whether a manifest there says so; others' programs have a manifest.json too, and `export --json` prints
    what many will call export.json.
    """
    return any(_kind_in(folder / name) == kind for name, kind in MANIFESTS.items())


def _kind_in(manifest: Path) -> object:
    """What a manifest in a file, which has a schema version, names as its kind; None of anything else."""
    if not manifest.is_file():
        return None
    try:
        record = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return record.get("kind") if isinstance(record, dict) and "schema_version" in record else None
