"""Every weight to the nearest integer, by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from quamba_export.calib.rounding.way import Rounding
from quamba_export.calib.rounding.weight_grid import RoundedWeight, WeightGrid, each_column


@dataclass(frozen=True)
class Nearest(Rounding):
    """clip: scales of the least squared error instead of those of the largest value."""

    kind: ClassVar[str] = "nearest"

    clip: bool = False

    def round(
        self, weight: Tensor, grid: WeightGrid, hessian: Tensor | None = None, name: str = "the weight"
    ) -> RoundedWeight:
        columns = weight.shape[1]
        group = grid.columns_a_group(columns)
        scale = grid.scales(weight, name, clip=self.clip)
        codes = grid.codes(weight.float(), each_column(scale, group, columns))
        return RoundedWeight(codes.to(torch.int8), scale, group)
