"""What was probably meant by a path that leads nowhere."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path


def nearest_path(path: Path, kind: Callable[[Path], bool] = Path.is_file) -> str:
    """The fix for a path that leads nowhere: the nearest name of that kind beside it, "" without one."""
    if path.exists() or not path.parent.is_dir():
        return ""
    names = [beside.name for beside in path.parent.iterdir() if kind(beside)]
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.8)
    return f"did you mean {path.with_name(near[0])}?" if near else ""
