"""Whether something can be written somewhere, said before the work whose result it is to hold.

What a folder is decides it, and its manifest says that: of all stages the rule stands here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.folder_check import kind_of

Artefact = Literal["calibration", "export", "bundle"]
MANIFESTS: dict[Artefact, str] = {
    "bundle": "manifest.json",
    "export": "export.json",
    "calibration": "calibration.json",
}


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
        if is_artefact(folder, "bundle") or is_artefact(folder, "export"):
            raise QuambaError(
                f"{path} would lie in a bundle or export, which is then refused for the file too many",
                found=str(folder),
                allowed="a path in any other directory",
                code=ExitCode.USAGE,
            )


def is_artefact(folder: Path, kind: Artefact) -> bool:
    """Whether a manifest there says so, in whatever schema version.

    Others' programs have a manifest.json too, and `export --json` prints what many will call export.json:
    their `kind`, or their version, is not this.
    """
    manifest = folder / MANIFESTS[kind]
    if not manifest.is_file():
        return False
    try:
        record = json.loads(manifest.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False  # somebody else's, or damaged: not ours to delete
    return isinstance(record, dict) and record.get("kind") == kind and "schema_version" in record
