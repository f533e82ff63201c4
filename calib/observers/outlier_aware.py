"""Outlier-aware: a percentile gets a code below 127, and the codes above it are left to the outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from quamba_export.calib.observers.observer import Rows, Statistic
from quamba_export.calib.observers.percentile import Percentile
from quamba_export.calib.recipes.options import integer, number
from quamba_export.plugins.common.quantization import INT8_MAX


@dataclass(frozen=True)
class OutlierAware(Percentile):
    """The alpha-percentile of |x| gets code `inlier_code`: limit = percentile * 127 / inlier_code.

    With the defaults the scale is the 99 % percentile / 120, codes 121 to 127 are for outliers. Never beyond
    the largest magnitude seen. A rule of thumb of the Quamba study, not of a paper.
    """

    kind: ClassVar[str] = "outlier-aware"
    alpha: float = number(0.99, above=0, most=1)
    inlier_code: int = integer(120, least=1, most=INT8_MAX)

    def limit(self, total: Statistic) -> Rows:
        return np.minimum(super().limit(total) * INT8_MAX / self.inlier_code, total["absmax"])
