"""How many sequences are decoded together: what is wanted, and what the bundle's engine takes."""

from __future__ import annotations

import os

from quamba_export.runtime.engine import MAX_BATCH
from quamba_export.runtime.errors import ExitCode, QuambaError
from quamba_export.runtime.manifest import Manifest

PLACES = 4  # where nothing is wanted and the engine takes as many


def places_for(manifest: Manifest, wanted: int | None) -> int:
    """The largest batch of a scheduler for this bundle; wanted: None for the usual.

    Raises QuambaError: exit 2 for more than the engine takes, 5 where it cannot be used from the scheduler's
    thread.
    """
    most = MAX_BATCH if manifest.engine is None else manifest.engine.max_batch
    if wanted is not None and not 1 <= wanted <= most:
        raise QuambaError(
            "--max-batch is not what this bundle takes",
            found=str(wanted),
            allowed=f"1 to {most}",
            fix="" if manifest.engine is None else "`quamba-export build --max-batch` with a larger one",
            code=ExitCode.USAGE,
        )
    if manifest.engine is not None and os.environ.get("QUAMBA_CUDA_BACKEND") == "pycuda":
        raise QuambaError(
            "a batch that requests join needs cuda-python",
            found="QUAMBA_CUDA_BACKEND=pycuda, whose context belongs to the thread that opened the engine",
            allowed="cuda-python",
            fix="unset QUAMBA_CUDA_BACKEND",
            code=ExitCode.INCOMPATIBLE,
        )
    return min(PLACES, most) if wanted is None else wanted
