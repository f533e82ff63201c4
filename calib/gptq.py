"""GPTQ of one linear layer (Frantar et al., arXiv 2210.17323, section 3 and algorithm 1).

Columns are rounded one after the other; what a column's rounding does to the layer's outputs is made up for,
as far as it can be, by the columns that are still to come. With H = 2/n sum x x^T over the layer's inputs x
and U the upper Cholesky factor of H^-1, the error e = (w_j - q_j) / U_jj of column j moves every later column
k by -e U_jk.

Scales are those of the original weight, chosen before the first column is rounded, and groups are runs of
original columns in any order of rounding: `static_groups` of the published code. Everything is fp64 on one
thread, so codes differ neither between runs nor between numbers of threads.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quamba_export.calib.weight_grid import RoundedWeight, WeightGrid, output_error
from quamba_export.calib.workers import one_thread
from quamba_export.runtime.errors import ExitCode, QuambaError

BLOCK = 128  # columns whose updates of the columns behind them are one matrix product
ROWS = 512  # inputs that are multiplied at once in fp32, and then added in fp64


class Hessian:
    """H = 2/n sum x x^T over the inputs x of a layer with K columns, (K, K) fp64, as the inputs come.

    Inputs are taken ROWS at a time however they are cut into batches, so any cut gives the same bits. Memory:
    8 K^2 + 4 ROWS K bytes.
    """

    def __init__(self, columns: int, device: torch.device | str = "cpu") -> None:
        self.inputs = 0
        self._sum = torch.zeros(columns, columns, dtype=torch.float64, device=device)
        self._waiting = torch.zeros(ROWS, columns, device=device)

    def add(self, x: Tensor) -> None:
        """x (..., K): one input for each index of the leading dimensions."""
        rows = x.reshape(-1, x.shape[-1]).to(self._waiting)
        while len(rows):
            filled = self.inputs % ROWS
            taken = rows[: ROWS - filled]
            self._waiting[filled : filled + len(taken)] = taken
            self.inputs += len(taken)
            rows = rows[len(taken) :]
            if self.inputs % ROWS == 0:
                self._sum += self._product(ROWS)

    def matrix(self, name: str = "the layer") -> Tensor:
        """H so far; `name` is the layer's, for errors.

        Raises QuambaError where there was no input, or one that is not finite.
        """
        if not self.inputs:
            raise QuambaError(f"{name} saw no input", found="0 inputs", fix="give calibration text")
        total = (self._sum + self._product(self.inputs % ROWS)) * (2 / self.inputs)
        _require_finite(total.diagonal(), f"the inputs of {name} are not finite", "channel")
        return total

    def _product(self, rows: int) -> Tensor:
        part = self._waiting[:rows]
        with one_thread():
            return (part.T @ part).double()


def gptq(
    weight: Tensor,
    hessian: Tensor,
    grid: WeightGrid,
    *,
    damping: float = 0.01,
    act_order: bool = False,
    name: str = "the weight",
) -> RoundedWeight:
    """weight (M, K) on the integers of `grid`, for inputs of hessian (K, K).

    damping:   added to H's diagonal, as a share of its mean over the inputs that are ever not 0.
    act_order: columns of the largest diagonal first, instead of from left to right.
    name:      the layer's, for errors.

    A column whose input is always 0 becomes 0, as in the published code.

    Raises QuambaError for values that are not finite, shapes or groups that do not fit, a negative damping,
    and an H that stays singular.
    """
    _check(weight, hessian, damping, name)
    exact, damped = weight.double().clone(), hessian.double().clone()
    importance = damped.diagonal().clone()  # (K,)
    dead = importance == 0
    exact[:, dead] = 0
    damped.diagonal().add_(damping * importance.sum() / (~dead).sum().clamp(min=1))
    damped.diagonal()[dead] = 1
    order = (
        torch.argsort(importance, descending=True, stable=True)
        if act_order
        else torch.arange(len(importance), device=weight.device)
    )
    with one_thread():
        scale = grid.scales(exact, importance)  # (M, G)
        factor = _inverse_factor(damped[order][:, order], name)
        group = order // grid.columns_a_group(len(order))  # (K,): of each column as it comes
        codes = torch.empty(weight.T.shape, dtype=torch.int8, device=weight.device)
        codes[order] = _round_columns(exact.T[order], scale.T[group], factor, grid)
        rounded = RoundedWeight(codes.T.contiguous(), scale.float(), 0.0)
        error = output_error(weight, rounded.dequantize(), hessian)
    return RoundedWeight(rounded.codes, rounded.scale, error)


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
    return torch.linalg.solve_triangular(upper, identity, upper=True)


def _check(weight: Tensor, hessian: Tensor, damping: float, name: str) -> None:
    if weight.ndim != 2 or hessian.shape != (weight.shape[1],) * 2:
        raise QuambaError(
            f"the Hessian of {name} does not fit it",
            found=f"{tuple(hessian.shape)} for a weight {tuple(weight.shape)}",
            allowed="(K, K) for a weight (M, K)",
        )
    if not 0 <= damping < float("inf"):
        raise QuambaError("damping must not be negative", found=str(damping), allowed="0 or more, say 0.01")
    _require_finite(weight, f"{name} has values that are not finite", "value")
    _require_finite(hessian, f"the Hessian of {name} has values that are not finite", "value")


def _require_finite(values: Tensor, message: str, unit: str) -> None:
    wrong = torch.nonzero(~torch.isfinite(values))
    if len(wrong):
        where = ", ".join(str(int(index)) for index in wrong[0])
        raise QuambaError(
            message,
            found=f"{len(wrong)} of {values.numel()} {unit}s, the first at {where}",
            fix="check the checkpoint's weights",
            code=ExitCode.NUMERIC,
        )
