"""GPTQ (Frantar et al., arXiv 2210.17323, section 3 and algorithm 1).

Columns are rounded one after the other; what a column's rounding does to the layer's outputs is made up for,
as far as it can be, by the columns that are still to come. With H = 2/n sum x x^T over the layer's inputs x
and U the upper Cholesky factor of H^-1, the error e = (w_j - q_j) / U_jj of column j moves every later column
k by -e U_jk.

Scales are those of the original weight, chosen before the first column is rounded, and groups are runs of
original columns in any order of rounding: `static_groups` of the published code. Everything is fp64 on one
thread, so codes differ neither between runs nor between numbers of threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from quamba_export.calib.rounding.descent import descend
from quamba_export.calib.rounding.hessian import require_finite
from quamba_export.calib.rounding.way import Rounding
from quamba_export.calib.rounding.weight_grid import BITS, RoundedWeight, WeightGrid, each_column
from quamba_export.calib.workers import one_thread
from quamba_export.plugins.common.int4 import GROUP
from quamba_export.runtime.errors import ExitCode, QuambaError

BLOCK = 128  # columns whose updates of the columns behind them are one matrix product


@dataclass(frozen=True)
class Gptq(Rounding):
    """Options of GPTQ.

    bits:      width of the codes, 4 or 8, where the recipe gives the blocks no widths.
    head_bits: width of lm_head's codes, 4 or 8, for `export --lm-head-bits`; 16 leaves it as it is.
    damping:   added to H's diagonal, as a share of its mean over the inputs that are ever not 0.
    act_order: columns of the largest diagonal first, instead of from left to right.
    group_size: columns of a row that share a scale at 4 bits, a multiple of 128: the ops hold a scale for 128
        columns, and a larger group's is repeated. int8 has a scale a row.
    clip:      scales of the least squared error, a column's counted by its diagonal, instead of those of the
        largest value.
    descent_sweeps: rounds of calib/rounding/descent.py behind GPTQ's codes; 0 for none.

    Raises QuambaError for other bits, a damping that is negative or not finite, a group that the ops have no
    scales for, one at 8 bits, and a negative number of sweeps.
    """

    kind: ClassVar[str] = "gptq"
    uses_inputs: ClassVar[bool] = True

    bits: int = field(default=4, metadata={"schema": {"enum": [4, 8]}})
    damping: float = field(default=0.01, metadata={"schema": {"minimum": 0}})
    act_order: bool = True
    clip: bool = True
    group_size: int = field(default=GROUP, metadata={"schema": {"minimum": GROUP, "multipleOf": GROUP}})
    head_bits: int = field(default=16, metadata={"schema": {"enum": [4, 8, 16]}})
    descent_sweeps: int = field(default=0, metadata={"schema": {"minimum": 0}})

    def __post_init__(self) -> None:
        for name, bits, allowed in (("bits", self.bits, BITS), ("head_bits", self.head_bits, (*BITS, 16))):
            if bits not in allowed:
                raise QuambaError(
                    f"weights have no grid of this many {name}",
                    found=str(bits),
                    allowed=", ".join(map(str, allowed)),
                )
        if not 0 <= self.damping < float("inf"):
            raise QuambaError(
                "damping must not be negative", found=str(self.damping), allowed="0 or more, say 0.01"
            )
        if self.descent_sweeps < 0:
            raise QuambaError(
                "there is no negative number of sweeps",
                found=f"descent_sweeps {self.descent_sweeps}",
                allowed="0 or more, say 4",
            )
        self._check_group()

    def _check_group(self) -> None:
        if self.group_size < GROUP or self.group_size % GROUP:
            raise QuambaError(
                "int4 weights have no groups of this size",
                found=f"group_size {self.group_size}",
                allowed=f"multiples of {GROUP}: the ops and their kernels read a scale for {GROUP} columns",
            )
        self.check_widths([self.bits])

    def check_widths(self, bits: Sequence[int]) -> None:
        """Refuse groups where neither a layer nor lm_head is rounded to 4 bits."""
        if self.group_size != GROUP and 4 not in (*bits, self.head_bits):
            raise QuambaError(
                "int8 weights have a scale a row, and no groups",
                found=f"group_size {self.group_size} with {', '.join(map(str, sorted(set(bits))))} bits",
                allowed="a group_size where a layer or lm_head is rounded to 4 bits",
                fix="leave group_size out",
            )

    def as_table(self) -> dict[str, Any]:
        """Without the options that are younger than the first calibrations where they change nothing."""
        unchanged = {"head_bits": 16, "group_size": GROUP, "descent_sweeps": 0}
        return {k: v for k, v in super().as_table().items() if unchanged.get(k) != v}

    def round(
        self, weight: Tensor, grid: WeightGrid, hessian: Tensor | None = None, name: str = "the weight"
    ) -> RoundedWeight:
        """A column whose input is always 0 becomes 0, as in the published code.

        Raises QuambaError for values that are not finite, shapes that do not fit, and an H that stays
        singular.
        """
        hessian = _checked(weight, hessian, name)
        exact, damped = weight.double().clone(), hessian.double().clone()
        importance = damped.diagonal().clone()  # (K,)
        dead = importance == 0
        exact[:, dead] = 0
        damped.diagonal().add_(self.damping * importance.sum() / (~dead).sum().clamp(min=1))
        damped.diagonal()[dead] = 1
        order = torch.arange(len(importance), device=exact.device)
        if self.act_order:
            order = torch.argsort(importance, descending=True, stable=True)
        group = grid.columns_a_group(len(order))
        with one_thread():
            scale = grid.scales(exact, name, clip=self.clip, importance=importance)  # (M, G)
            factor = _inverse_factor(damped[order][:, order], name)
            by_column = each_column(scale.double(), group, len(order)).T[order]  # (K, M)
            codes = torch.empty(weight.T.shape, dtype=torch.int8, device=exact.device)
            codes[order] = _round_columns(exact.T[order], by_column, factor, grid)
            found = RoundedWeight(codes.T.contiguous(), scale, group)
            return descend(exact, found, damped, grid, name, self.descent_sweeps)


def _round_columns(columns: Tensor, scale: Tensor, factor: Tensor, grid: WeightGrid) -> Tensor:
    """columns (K, M), written over, scale (K, M), factor (K, K) upper -> codes (K, M) int8."""
    codes = torch.empty(columns.shape, dtype=torch.int8, device=columns.device)
    for first in range(0, len(columns), BLOCK):
        last = min(first + BLOCK, len(columns))
        errors = torch.empty_like(columns[first:last])
        for j in range(first, last):
            code = grid.codes(columns[j], scale[j])
            codes[j] = code
            error = errors[j - first] = (columns[j] - code * scale[j]) / factor[j, j]
            columns[j + 1 : last].addr_(factor[j, j + 1 : last], error, alpha=-1)
        columns[last:].addmm_(factor[first:last, last:].T, errors, alpha=-1)
    return codes


def _inverse_factor(hessian: Tensor, name: str) -> Tensor:
    """Upper U with U^T U = H^-1.

    From R R^T = H with R upper, U is R^-1: one factorization of H itself, read from its last row backwards.
    """
    lower, failed = torch.linalg.cholesky_ex(hessian.flip(0, 1))
    if failed:
        raise QuambaError(
            f"the Hessian of {name} is singular",
            found=f"no Cholesky factor from pivot {int(failed)} on",
            fix="give a larger damping, or more calibration text",
            code=ExitCode.NUMERIC,
        )
    upper = lower.flip(0, 1)
    identity = torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
    factor: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
    return factor


def _checked(weight: Tensor, hessian: Tensor | None, name: str) -> Tensor:
    """The Hessian, if there is one that fits the weight."""
    if weight.ndim != 2 or hessian is None or hessian.shape != (weight.shape[1],) * 2:
        raise QuambaError(
            f"the Hessian of {name} does not fit it",
            found=f"{None if hessian is None else tuple(hessian.shape)} for a weight {tuple(weight.shape)}",
            allowed="(K, K) for a weight (M, K)",
        )
    require_finite(weight, f"{name} has values that are not finite", "value")
    require_finite(hessian, f"the Hessian of {name} has values that are not finite", "value")
    return hessian
