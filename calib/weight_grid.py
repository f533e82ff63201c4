"""Integer grids for weights: symmetric, 4 or 8 bits, one scale for a run of columns of each row.

A weight w of a group with scale s becomes q = clamp(round_half_even(w / s), -2^(bits-1), 2^(bits-1) - 1), and
stands for q * s. Scales are rounded to fp16 before any weight is divided by them, because artefacts store two
bytes a scale: the codes fit the scale that is used, not the one that was wanted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quamba_export.calib.workers import one_thread
from quamba_export.runtime.errors import ExitCode, QuambaError

BITS = (4, 8)
SMALLEST_HALF = 2.0**-24
_CLIP_RATIOS = tuple(1 - step / 50 for step in range(26))  # 1.00, 0.98 ... 0.50 of the largest value


@dataclass(frozen=True)
class RoundedWeight:
    """codes (M, K) int8, within the grid's bits; scale (M, K / group) fp32, every value an fp16 number;
    error: share of the output's energy that the rounding costs, 0 where it costs nothing (output_error).
    """

    codes: Tensor
    scale: Tensor
    error: float

    def dequantize(self) -> Tensor:
        """(M, K) fp32."""
        return self.codes.float() * self.scale.repeat_interleave(self.columns_a_group, dim=1)

    @property
    def columns_a_group(self) -> int:
        return self.codes.shape[1] // self.scale.shape[1]


@dataclass(frozen=True)
class WeightGrid:
    """How weights are laid on integers.

    group: columns that share a scale in a row; None for one scale a row.
    clip:  scale of the least squared error instead of max |w| / (2^(bits-1) - 1): the values beyond it are
        clipped, the others are rounded on a finer grid.

    Raises QuambaError for other bits, and for a group that is not positive.
    """

    bits: int = 4
    group: int | None = 128
    clip: bool = False

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise QuambaError("weights have no grid of this many bits", found=str(self.bits), allowed="4, 8")
        if self.group is not None and self.group < 1:
            raise QuambaError("a group has no columns", found=str(self.group), allowed="1 or more")

    @property
    def low(self) -> int:
        return -(2 ** (self.bits - 1))

    @property
    def high(self) -> int:
        return 2 ** (self.bits - 1) - 1

    def columns_a_group(self, columns: int) -> int:
        """Raises QuambaError where `columns` are no whole number of groups."""
        if self.group is not None and columns % self.group:
            fitting = [size for size in (128, 64, 32, 16) if columns % size == 0]
            raise QuambaError(
                "the weight's columns are no whole number of groups",
                found=f"{columns} columns in groups of {self.group}",
                allowed="a group that divides the columns, or one scale a row",
                fix=f"use groups of {fitting[0]}" if fitting else "use one scale a row",
            )
        return self.group or columns

    def scales(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        """Scales (M, K / group) of weight (M, K), in its dtype, every value an fp16 number.

        importance: (K,) weight of each column's squared error where `clip` is on; None for all the same.
        A group of zeros gets the scale 1. Raises QuambaError where a scale is beyond fp16.
        """
        groups = weight.unflatten(1, (-1, self.columns_a_group(weight.shape[1])))  # (M, G, g)
        largest = groups.abs().amax(2) / self.high  # (M, G)
        if not self.clip:
            return _as_half(largest)
        if importance is not None:
            importance = importance.to(weight).unflatten(0, groups.shape[1:])  # (G, g)
        scale, least = _as_half(largest), torch.full_like(largest, torch.inf)
        for ratio in _CLIP_RATIOS:
            candidate = _as_half(largest * ratio)
            squares = (self._nearest(groups, candidate) - groups).square_()
            error = (squares if importance is None else squares * importance).sum(2)
            scale = torch.where(error < least, candidate, scale)
            least = torch.minimum(error, least)
        return scale

    def codes(self, values: Tensor, scale: Tensor) -> Tensor:
        """Codes of `values`, in their dtype; `scale` broadcasts against them."""
        return torch.clamp(torch.round(values / scale), self.low, self.high)

    def _nearest(self, groups: Tensor, scale: Tensor) -> Tensor:
        return self.codes(groups, scale[..., None]).mul_(scale[..., None])


def round_to_nearest(weight: Tensor, hessian: Tensor, grid: WeightGrid) -> RoundedWeight:
    """weight (M, K) with every value rounded by itself; hessian (K, K) only measures the error.

    Raises QuambaError as WeightGrid does.
    """
    exact = weight.double()
    scale = grid.scales(exact)
    codes = grid.codes(exact, scale.repeat_interleave(grid.columns_a_group(weight.shape[1]), dim=1))
    rounded = RoundedWeight(codes.to(torch.int8), scale.float(), 0.0)
    return RoundedWeight(rounded.codes, rounded.scale, output_error(weight, rounded.dequantize(), hessian))


def output_error(weight: Tensor, rounded: Tensor, hessian: Tensor) -> float:
    """tr(E H E^T) / tr(W H W^T) with E = rounded - weight: the share of the output's energy that is lost.

    weight, rounded (M, K), hessian (K, K). 0 where the output has no energy. In fp64.
    """
    exact, hessian = weight.double(), hessian.double()
    difference = rounded.double() - exact
    with one_thread():
        energy = torch.sum((exact @ hessian) * exact)
        lost = torch.sum((difference @ hessian) * difference)
    return float(lost / energy) if energy > 0 else 0.0


def _as_half(scale: Tensor) -> Tensor:
    """The nearest fp16 number, positive; 1 for 0."""
    half = torch.where(scale > 0, scale.to(torch.float16).to(scale.dtype).clamp(min=SMALLEST_HALF), 1)
    if not torch.isfinite(half).all():
        raise QuambaError(
            "a weight's scale has no fp16 number",
            found=f"{float(scale.max()):.6g}",
            allowed="at most 65504",
            code=ExitCode.NUMERIC,
        )
    return half
