"""A percentile of the magnitudes: the few values above it are clipped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from quamba_export.calib.observers.observer import Observer, Rows, Statistic, absolute_maximum
from quamba_export.calib.recipes.options import number

_SHIFT = 18  # of a positive fp32's bits: leaves the exponent and 5 bits of mantissa, 32 bins an octave


@dataclass(frozen=True)
class Percentile(Observer):
    """alpha-percentile of |x| of each sample, smoothed over samples by limit += sigma * (sample's - limit).

    Source: Quamba (arXiv 2410.13229), section 4.2; the smoothing is its published code's.
    """

    kind: ClassVar[str] = "percentile"
    of_each_sample: ClassVar[bool] = True
    alpha: float = number(0.9995, above=0, most=1)
    sigma: float = number(0.01, above=0, most=1)

    @property
    def least_values(self) -> int:
        """One value above the percentile: with fewer it is the maximum."""
        exact = Fraction(str(self.alpha))  # as it was written: 1 - 0.99999 in binary is not 1 / 100,000
        return 1 if exact == 1 else math.ceil(1 / (1 - exact))

    def measure(self, rows: Tensor) -> Statistic:
        limits = [_percentile(row.abs(), self.alpha) for row in rows]
        return {"absmax": absolute_maximum(rows), "smoothed": np.array(limits)}

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        smoothed = total["smoothed"] + self.sigma * (sample["smoothed"] - total["smoothed"])
        return {"absmax": np.maximum(total["absmax"], sample["absmax"]), "smoothed": smoothed}

    def limit(self, total: Statistic) -> Rows:
        return total["smoothed"].astype(np.float64)


def _percentile(magnitude: Tensor, alpha: float) -> float:
    """alpha-percentile (linear between neighbours) of magnitude (n,): a histogram finds the few to sort."""
    bins = magnitude.contiguous().view(torch.int32) >> _SHIFT
    counts = torch.bincount(bins, minlength=1 << (31 - _SHIFT))
    position = alpha * (magnitude.numel() - 1)
    low = int(position)
    above = magnitude.numel() - low  # values from the low-th smallest on
    reached = counts.flip(0).cumsum(0) >= above
    first_bin = len(counts) - 1 - int(reached.int().argmax())
    largest = magnitude[bins >= first_bin].topk(above).values.double()  # descending
    lower, upper = float(largest[-1]), float(largest[max(above - 2, 0)])
    return lower + (position - low) * (upper - lower)
