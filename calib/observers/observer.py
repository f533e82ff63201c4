"""How a scale is chosen: an observer turns the values of a site into the magnitude that gets code 127.

A measure takes one sample at a time and folds the samples together in their order, in constant memory; an
observer is one that a scale follows from. It works on rows (K, n), one row for each scale of the site
(calib/sites.py). To add one, write its class in a file of this folder, and nothing else: recipes, the
recipes' schema and the tests of all observers find it there. Its dataclass fields are its options.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quamba_export.calib.recipes.options import check_options
from quamba_export.plugins.common.quantization import INT8_MAX
from quamba_export.runtime.errors import ExitCode, QuambaError

Statistic = dict[str, NDArray[Any]]  # each (K, ...)
Rows = NDArray[np.float64]  # (K,)


class Measure(ABC):
    """What is kept of a site's values; it holds no state, the statistic does."""

    @abstractmethod
    def measure(self, rows: Tensor) -> Statistic:
        """Statistic of one sample, rows (K, n) fp32; "absmax" (K,) is always in it."""

    @abstractmethod
    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        """`total`, of the samples so far, with the next sample's added."""

    def measure_blocks(self, blocks: Sequence[Tensor]) -> Statistic:
        """Statistic of one sample whose rows come in blocks (k, n) of several lengths n."""
        parts = [self.measure(block) for block in blocks]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


class Observer(Measure):
    """Options of one way to choose a scale."""

    kind: ClassVar[str]  # its name in a recipe
    of_each_sample: ClassVar[bool] = False  # whether each sample has a limit of its own, then combined

    def __post_init__(self) -> None:
        check_options(self, self.kind)

    @property
    def least_values(self) -> int:
        """How many values of a row, of each sample or of all, the limit means something for."""
        return 1

    @abstractmethod
    def limit(self, total: Statistic) -> Rows:
        """(K,): the magnitude that gets code 127."""

    def as_table(self) -> dict[str, Any]:
        """The observer as it stands in a recipe."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]


def refuse_unknown(
    names: Collection[str],
    known: Collection[str],
    what: str,
    code: ExitCode = ExitCode.INVALID_INPUT,
) -> None:
    """Raise QuambaError for the first of `names` that is not known, with the nearest one that is.

    code: of a file by default; ExitCode.USAGE for what a flag says.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise QuambaError(
                f"unknown {what}: {name}",
                allowed=", ".join(sorted(known)) or "none",
                fix=f"did you mean {near[0]}?" if near else "",
                code=code,
            )


class SumOfMaxima(Measure):
    """Sum over samples of each row's largest magnitude: what channels are sorted by, never a scale."""

    def measure(self, rows: Tensor) -> Statistic:
        return {"absmax": absolute_maximum(rows).astype(np.float64)}

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        return {"absmax": total["absmax"] + sample["absmax"]}


class LargestOfMaxima(SumOfMaxima):
    """Largest magnitude of each row over all samples: what channels are smoothed by."""

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        return {"absmax": np.maximum(total["absmax"], sample["absmax"])}


def scales_from_limits(limits: Rows) -> tuple[NDArray[np.float32], int]:
    """(K,) limits -> (K,) fp32 scales, finite and > 0, and how many rows were dead.

    A dead row saw nothing but (nearly) zeros, so any scale is right for it: it gets the site's largest limit.
    """
    dead = limits < _SMALLEST_LIMIT
    largest = limits.max() if not dead.all() else 1.0
    return (np.where(dead, largest, limits) / INT8_MAX).astype(np.float32), int(dead.sum())


def absolute_maximum(rows: Tensor) -> NDArray[np.float32]:
    """Largest magnitude of each row (K, n) -> (K,)."""
    if rows.shape[0] == 1:  # no copy, and an order of magnitude faster than over a dimension
        low, high = rows.aminmax()
        return torch.maximum(high, -low).reshape(1).cpu().numpy()
    return rows.abs().amax(dim=1).cpu().numpy()


_SMALLEST_LIMIT = 2.0**-60
