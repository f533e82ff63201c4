"""The folders that stages meet at: which one a path is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from quamba_export.calib.output_directory import MANIFESTS, Artefact

Kind = Artefact | Literal["checkpoint"]


def artefact_kind(path: Path) -> Kind:
    """Which of the four folders `path` is, by its manifest; anything else may be a checkpoint or a hub id."""
    found = (kind for kind, manifest in MANIFESTS.items() if (path / manifest).is_file())
    return next(found, "checkpoint")
