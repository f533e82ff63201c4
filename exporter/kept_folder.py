"""A folder of a cache that is filled once and kept."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def kept_folder(target: Path, fill: Callable[[Path], None]) -> Path:
    """`target`, which `fill` writes where it is not there yet.

    Of several processes that ask at once one fills it, the others wait. It appears whole in one step: a fill
    that fails or is killed leaves nothing at `target`.
    """
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # until the file is closed
        if not target.is_dir():
            for left in target.parent.glob(f".{target.name}.*"):
                if left.is_dir():  # by a fill that was killed
                    shutil.rmtree(left)
            with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
                new = Path(work) / "new"
                new.mkdir()
                fill(new)
                new.rename(target)
    return target
