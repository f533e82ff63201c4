"""What a way of rounding weights is, and what its rounding costs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from quamba_export.calib.rounding.weight_grid import RoundedWeight, WeightGrid
from quamba_export.calib.workers import one_thread
from quamba_export.plugins.common.int4 import GROUP

PIECE = 8192  # rows that are in memory in fp64 at once


@dataclass(frozen=True)
class Rounding(ABC):
    """A way of rounding weights, with its options: frozen, written to the calibration as a table.

    uses_inputs: the weights are rounded while the model is calibrated, one layer after the other, because
        the codes depend on what a layer is given. Such a method has an option `bits`, the width it rounds to;
        the others round when the model is quantized, to whatever width is asked for.
    """

    kind: ClassVar[str]
    uses_inputs: ClassVar[bool] = False
    head_bits = 16  # what lm_head is rounded to while calibrating; 16 for not at all
    group_size = GROUP  # columns that share a scale at 4 bits

    @abstractmethod
    def round(
        self, weight: Tensor, grid: WeightGrid, hessian: Tensor | None = None, name: str = "the weight"
    ) -> RoundedWeight:
        """weight (M, K) fp32 on the integers of `grid`.

        hessian: (K, K), sum of x x^T over inputs, times any number; given where uses_inputs.
        name:    the layer's, for errors.
        """

    def check_widths(self, bits: Sequence[int]) -> None:  # noqa: B027 - most ways have nothing to say
        """Raise QuambaError where layers of these bits have no use for an option."""

    def as_table(self) -> dict[str, Any]:
        return {"kind": self.kind, **asdict(self)}


def output_error(weight: Tensor, rounded: Tensor, hessian: Tensor) -> float:
    """tr(E H E^T) / tr(W H W^T) with E = rounded - weight: the share of the output's energy that is lost.

    weight, rounded (M, K), hessian (K, K). 0 where the output has no energy. In fp64, PIECE rows at a time.
    """
    energy = lost = torch.zeros((), dtype=torch.float64, device=weight.device)
    hessian = hessian.double()
    with one_thread():
        for exact, found in zip(weight.split(PIECE), rounded.split(PIECE), strict=True):
            exact = exact.double()
            difference = found.double() - exact
            energy = energy + torch.sum((exact @ hessian) * exact)
            lost = lost + torch.sum((difference @ hessian) * difference)
    return float(lost / energy) if energy > 0 else 0.0
