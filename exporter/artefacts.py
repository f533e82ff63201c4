"""The folders that stages meet at: which one a path is, and how a new one is put in its place."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from quamba_export.runtime.errors import ExitCode, QuambaError

Kind = Literal["checkpoint", "calibration", "export", "bundle"]


def artefact_kind(path: Path) -> Kind:
    """Which of the four folders `path` is, by its manifest; anything else may be a checkpoint or a hub id."""
    if (path / "manifest.json").is_file():
        return "bundle"
    if (path / "export.json").is_file():
        return "export"
    if (path / "calibration.json").is_file():
        return "calibration"
    return "checkpoint"


@contextmanager
def written_directory(target: Path, kind: Kind) -> Iterator[Path]:
    """An empty folder beside `target` that takes its place when the body ends without an error.

    An older artefact of the same kind is replaced; any other folder that holds something is refused (exit 2).
    """
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and artefact_kind(target) != kind)):
        raise QuambaError(
            f"{target} is in the way",
            found="a file" if target.is_file() else f"a folder that is not an earlier {kind}",
            allowed=f"no folder, an empty one, or an earlier {kind}",
            fix="choose another -o",
            code=ExitCode.USAGE,
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    new, old = work / "new", work / "old"
    try:
        new.mkdir()
        yield new
        if target.exists():
            target.rename(old)
        new.rename(target)
    finally:
        if old.exists() and not target.exists():  # interrupted between the two renames
            old.rename(target)
        shutil.rmtree(work)
