"""Integer grids for weights: symmetric, 8 bits with a scale a row, or 4 bits with one for a group of columns.

A weight w with scale s becomes q = clamp(round_half_even(w / s), -2^(bits-1), 2^(bits-1) - 1), and stands for
q * s. The scales of 4-bit codes are rounded to fp16 before any weight is divided by them, because artefacts
store them so: codes fit the scale that is used, not the one that was wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quamba_export.plugins.common.int4 import GROUP
from quamba_export.plugins.common.quantization import SMALLEST_SCALE
from quamba_export.runtime.errors import ExitCode, QuambaError

BITS = (4, 8)
_SMALLEST_HALF = 2.0**-24
_CLIP_RATIOS = tuple(1 - step / 50 for step in range(26))  # 1.00, 0.98 ... 0.50 of the largest value


@dataclass(frozen=True, eq=False)
class RoundedWeight:
    """codes (M, K) int8 within the bits of a grid; scale (M, ceil(K / group)) fp32."""

    codes: Tensor
    scale: Tensor
    group: int  # columns that share a scale; the last group may have fewer

    def dequantize(self) -> Tensor:
        """(M, K) fp32."""
        return self.codes.float() * each_column(self.scale, self.group, self.codes.shape[1])


@dataclass(frozen=True)
class WeightGrid:
    """How weights are laid on integers.

    group:     columns that share a scale in a row, the last group with what is left; None for all of them.
    one_scale: all rows share it too.

    Raises QuambaError for other bits than 4 and 8, and for a group that is not positive.
    """

    bits: int
    group: int | None = None
    one_scale: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise QuambaError("weights have no grid of this many bits", found=str(self.bits), allowed="4, 8")
        if self.group is not None and self.group < 1:
            raise QuambaError("a group has no columns", found=str(self.group), allowed="1 or more")

    @property
    def low(self) -> int:
        return -(1 << self.bits - 1)

    @property
    def high(self) -> int:
        return (1 << self.bits - 1) - 1

    def columns_a_group(self, columns: int) -> int:
        return min(self.group or columns, columns)

    def scales(
        self, weight: Tensor, name: str, *, clip: bool = False, importance: Tensor | None = None
    ) -> Tensor:
        """Scales (M, ceil(K / group)) fp32 of weight (M, K): the largest value becomes the highest code.

        clip:       the scale of the least squared error instead: values beyond it are clipped, the others
            lie on a finer grid. At 4 bits it may be negative, which lets a large positive value have the
            code -8: there is one code more on that side.
        importance: (K,) weight of each column's squared error; None for all the same.

        A group of zeros gets the scale 1, and at 8 bits one whose scale were below SMALLEST_SCALE: its codes
        are all 0. Raises QuambaError, with the weight's name, where a scale is beyond fp16.
        """
        group = self.columns_a_group(weight.shape[1])
        groups = in_groups(weight.float(), group)  # (M, G, g)
        largest = groups.abs().amax(2) / self.high  # (M, G)
        if self.one_scale:
            largest = largest.max().expand_as(largest)
        scale = self.stored_scale(largest, name)
        if not clip:
            return scale
        counts = None if importance is None else in_groups(importance.float()[None], group)  # (1, G, g)
        least = torch.full_like(largest, torch.inf)
        for ratio in _CLIP_RATIOS if self.bits == 8 else (*_CLIP_RATIOS, *(-r for r in _CLIP_RATIOS)):
            candidate = self.stored_scale(largest * ratio, name)
            error = self._squared_error(groups, candidate, counts)
            scale = torch.where(error < least, candidate, scale)
            least = torch.minimum(error, least)
        return scale

    def _squared_error(self, groups: Tensor, scale: Tensor, counts: Tensor | None) -> Tensor:
        """groups (M, G, g), scale (M, G), counts (1, G, g) -> what rounding loses in each group (M, G)."""
        lost = self.codes(groups, scale[..., None]).mul_(scale[..., None]).sub_(groups).square_()
        error = (lost if counts is None else lost.mul_(counts)).sum(2)
        return error.sum().expand_as(error) if self.one_scale else error

    def codes(self, values: Tensor, scale: Tensor) -> Tensor:
        """Codes of `values`, in their dtype; `scale` broadcasts against them."""
        return torch.clamp(torch.round(values / scale), self.low, self.high)

    def stored_scale(self, scale: Tensor, name: str) -> Tensor:
        """The nearest number that artefacts can hold, and none that is 0; 1 for 0, and at 8 bits for what is
        below SMALLEST_SCALE.
        """
        if self.bits == 8:
            return torch.where(scale < SMALLEST_SCALE, 1, scale)
        half = scale.half().float()
        half = torch.where(half == 0, torch.copysign(torch.tensor(_SMALLEST_HALF), scale), half)
        if not torch.isfinite(half).all():
            raise QuambaError(
                f"a scale of {name} has no fp16 number",
                found=f"{float(scale.abs().max()):.6g}",
                allowed="at most 65504",
                code=ExitCode.NUMERIC,
            )
        return torch.where(scale == 0, 1, half)


def grid_of(bits: int, *, one_scale: bool = False, group: int = GROUP) -> WeightGrid:
    """A grid that the ops can read: one_scale is for 8 bits, `group`, a multiple of 128, for 4 bits."""
    return WeightGrid(4, group) if bits == 4 else WeightGrid(bits, one_scale=one_scale)


def each_column(scale: Tensor, group: int, columns: int) -> Tensor:
    """(M, ceil(K / group)) -> (M, K)."""
    return scale.repeat_interleave(group, dim=1)[:, :columns]


def in_groups(values: Tensor, group: int) -> Tensor:
    """(M, K) -> (M, G, g), zeros behind the last column."""
    return torch.unflatten(F.pad(values, (0, -values.shape[1] % group)), 1, (-1, group))
