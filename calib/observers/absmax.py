"""The absolute maximum: no value is clipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from quamba_export.calib.observers.observer import Observer, Rows, Statistic, absolute_maximum


@dataclass(frozen=True)
class AbsoluteMaximum(Observer):
    """The largest magnitude seen: nothing is clipped."""

    kind: ClassVar[str] = "absmax"

    def measure(self, rows: Tensor) -> Statistic:
        return {"absmax": absolute_maximum(rows)}

    def combine(self, total: Statistic, sample: Statistic) -> Statistic:
        return {"absmax": np.maximum(total["absmax"], sample["absmax"])}

    def limit(self, total: Statistic) -> Rows:
        return total["absmax"].astype(np.float64)
