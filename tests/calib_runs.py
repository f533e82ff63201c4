"""Calibrations of random models on a short text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from random_checkpoints import random_checkpoint

from quamba_export.calib.calibrate import calibrate
from quamba_export.calib.calibration import Calibration
from quamba_export.calib.config import MambaConfig

SAMPLES, LENGTH = 10, 12  # two whole micro-batches and a part of one


def calibrate_random(folder: Path, config: MambaConfig, weights: int = 0, **options: Any) -> Calibration:
    """Of the random checkpoint of seed `weights`, on the text and tokenizer of `folder`."""
    checkpoint = random_checkpoint(config, weights, folder / "tokenizer.json")
    sizes = {"calib_size": SAMPLES, "calib_seqlen": LENGTH}
    return calibrate(checkpoint, options.pop("data", folder / "text.txt"), **{**sizes, **options})


def files(directory: Path) -> dict[str, bytes]:
    """Name -> content."""
    return {path.name: path.read_bytes() for path in directory.iterdir()}
