"""Outlier-aware: a percentile gets a code below 127, and the codes above it are left to the outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from quamba_export.calib.observers import Percentile, Rows, Statistic
from quamba_export.plugins.common.quantization import INT8_MAX
from quamba_export.runtime.errors import QuambaError


@dataclass(frozen=True)
class OutlierAware(Percentile):
    """The alpha-percentile of |x| gets code `inlier_code`: limit = percentile * 127 / inlier_code.

    With the defaults the scale is the 99 % percentile / 120, codes 121 to 127 are for outliers. Never beyond
    the largest magnitude seen. A rule of thumb of the Quamba study, not of a paper.
    """

    kind: ClassVar[str] = "outlier-aware"
    alpha: float = 0.99
    inlier_code: int = 120

    def __post_init__(self) -> None:
        super().__post_init__()
        code = self.inlier_code
        if isinstance(code, bool) or not isinstance(code, int) or not 1 <= code <= INT8_MAX:
            raise QuambaError(
                f"option inlier_code of {self.kind} is out of range",
                found=repr(code),
                allowed=f"an integer from 1 to {INT8_MAX}",
            )

    def limit(self, total: Statistic) -> Rows:
        return np.minimum(super().limit(total) * INT8_MAX / self.inlier_code, total["absmax"])
