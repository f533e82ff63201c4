"""Calibration samples from several texts, each with its share, in one fixed order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quamba_export.calib.data import Tokens, calibration_windows
from quamba_export.runtime.errors import ExitCode, QuambaError


@dataclass(frozen=True)
class Source:
    """A text (a file or a dataset's name) and its weight among the others."""

    text: str | Path
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            found, allowed = f"weight {self.weight} of {self.text}", "a number above 0"
            raise QuambaError(
                "a text cannot have that weight", found=found, allowed=allowed, code=ExitCode.USAGE
            )

    @property
    def name(self) -> str:
        return Path(self.text).name


def shares(sources: Sequence[Source], count: int) -> list[int]:
    """How many of `count` samples each text gives: by weight, what is left to the largest fractions.

    Raises QuambaError where a text would give none.
    """
    total = sum(source.weight for source in sources)
    exact = [source.weight / total * count for source in sources]
    whole = [int(share) for share in exact]
    by_fraction = sorted(range(len(sources)), key=lambda i: whole[i] - exact[i])
    for i in by_fraction[: count - sum(whole)]:
        whole[i] += 1
    for source, share in zip(sources, whole, strict=True):
        if not share:
            raise QuambaError(
                f"{source.text} would give no sample",
                found=f"weight {source.weight:g} of {total:g}, {count} samples",
                allowed="1 sample or more from every text",
                fix="give a larger --calib-size or a larger --data-weight",
                code=ExitCode.USAGE,
            )
    return whole


def mixed_windows(
    sources: Sequence[Source],
    tokenizer_path: Path,
    eos_token_id: int,
    *,
    count: int,
    size: int,
    seed: int | None = None,
) -> Tokens:
    """`count` windows of `size` tokens (count, size), every text's spread evenly over them.

    So that an observer that forgets (the percentile's moving average) ends on no text's own values. Of each
    text the windows are those of calibration_windows, which refuses one that is too short.
    """
    parts = [
        calibration_windows(source.text, tokenizer_path, eos_token_id, count=share, size=size, seed=seed)
        for source, share in zip(sources, shares(sources, count), strict=True)
    ]
    places = np.concatenate([(np.arange(len(part)) + 0.5) / len(part) for part in parts])
    return np.concatenate(parts)[np.argsort(places, kind="stable")]
