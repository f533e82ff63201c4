"""ACIQ: the clipping limit that is best for a Gaussian or Laplace distribution with the values' moment."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from quamba_export.calib.observers.observer import Observer, Rows, Statistic, absolute_maximum
from quamba_export.calib.recipes.options import choice
from quamba_export.plugins.common.quantization import INT8_MAX


@dataclass(frozen=True)
class AnalyticalClipping(Observer):
    """limit = u * b with b = mean |x| (laplace), or u * sigma with sigma^2 = mean x^2 (gaussian).

    u minimizes clipping error + rounding error (step limit / 127) of the distribution, in units of its b or
    sigma: u = 9.88 for Laplace, 3.92 for Gaussian. Moments are about 0, where symmetric codes have their
    middle, over all samples. Never beyond the largest magnitude seen.
    Source: ACIQ, Banner et al., "Post training 4-bit quantization of convolutional networks for
    rapid-deployment" (arXiv 1810.05723), section 3.
    """

    kind: ClassVar[str] = "aciq"
    distribution: str = choice("laplace", ("gaussian", "laplace"))

    def measure(self, rows: Tensor) -> Statistic:
        exact = rows.double()
        moment = exact.abs() if self.distribution == "laplace" else exact.square()
        return {
            "absmax": absolute_maximum(rows),
            "moment": moment.sum(dim=1).cpu().numpy(),
            "count": torch.full(rows.shape[:1], rows.shape[1]).numpy(),
        }

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        return {
            "absmax": np.maximum(total["absmax"], sample["absmax"]),
            "moment": total["moment"] + sample["moment"],
            "count": total["count"] + sample["count"],
        }

    def limit(self, total: Statistic) -> Rows:
        mean = total["moment"] / total["count"]
        unit = mean if self.distribution == "laplace" else np.sqrt(mean)
        return np.minimum(best_multiple(self.distribution) * unit, total["absmax"])


def best_multiple(distribution: str) -> float:
    """The limit of least squared error in units of b or sigma, by bisection: the slope rises through 0."""
    slope, low, high = _SLOPES[distribution], 1.0, 64.0
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return low


def _laplace_slope(u: float) -> float:
    """d/du of the clipping error 2 exp(-u) and of the rounding error (u / 127)^2 / 12."""
    return -2 * math.exp(-u) + u / (6 * INT8_MAX**2)


def _gaussian_slope(u: float) -> float:
    """d/du of (u^2 + 1) erfc(u / sqrt 2) - u sqrt(2 / pi) exp(-u^2 / 2), and of (u / 127)^2 / 12."""
    clipping = 2 * u * math.erfc(u / math.sqrt(2)) - 2 * math.sqrt(2 / math.pi) * math.exp(-u * u / 2)
    return clipping + u / (6 * INT8_MAX**2)


_SLOPES = {"gaussian": _gaussian_slope, "laplace": _laplace_slope}
