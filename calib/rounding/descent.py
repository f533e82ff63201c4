"""Codes and scales made better in turns, against the Hessian of a layer's inputs.

With E = q s - w and H as in gptq.py, a row loses e H e^T. A sweep goes through the columns and gives each the
code of the least loss while all others stay: cyclic coordinate descent (QuantEase, arXiv 2309.01885). Behind
it the scales of a row that lose least with these codes are G unknowns of linear equations; a row takes them
where it loses less with what artefacts can hold of them. So no row ever loses more than it did, whatever gave
the first codes. Everything is fp64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quamba_export.calib.rounding.weight_grid import RoundedWeight, WeightGrid, each_column, in_groups

BLOCK = 128  # columns whose share of E H is kept up to date


def descend(
    exact: Tensor, first: RoundedWeight, hessian: Tensor, grid: WeightGrid, name: str, sweeps: int
) -> RoundedWeight:
    """`first` of the weight `exact` (M, K) fp64 behind so many sweeps.

    hessian: (K, K) fp64, positive definite. Raises QuambaError, with `name`, for a scale beyond fp16.
    """
    found = first
    for _ in range(sweeps):
        found = _sweep(exact, found, hessian, grid)
        if not grid.one_scale:
            found = fit_scales(exact, found, hessian, grid, name)
    return found


def row_losses(exact: Tensor, rounded: RoundedWeight, hessian: Tensor) -> Tensor:
    """e H e^T of every row (M,)."""
    error = rounded.codes.double() * _column_scales(rounded) - exact
    return ((error @ hessian) * error).sum(1)


def _sweep(exact: Tensor, rounded: RoundedWeight, hessian: Tensor, grid: WeightGrid) -> RoundedWeight:
    """Every column's best code while all others stay, from left to right."""
    scale, codes = _column_scales(rounded).T.contiguous(), rounded.codes.T.double()  # (K, M)
    error, targets = codes * scale - exact.T, exact.T
    for start in range(0, len(codes), BLOCK):
        block = hessian[start : start + BLOCK, start : start + BLOCK]
        slopes = hessian[start : start + BLOCK] @ error  # (B, M): half the loss's, by column
        for j, row in enumerate(block):
            k = start + j
            best = targets[k] + error[k] - slopes[j] / row[j]  # of the column's values, if any were one
            code = grid.codes(best, scale[k])
            moved = (code - codes[k]) * scale[k]
            codes[k] = code
            error[k] += moved
            slopes.addr_(row, moved)
    return RoundedWeight(codes.T.to(torch.int8).contiguous(), rounded.scale, rounded.group)


def fit_scales(
    exact: Tensor, rounded: RoundedWeight, hessian: Tensor, grid: WeightGrid, name: str
) -> RoundedWeight:
    """The same codes, and in every row that loses less by it the scales of the least loss."""
    group, codes = rounded.group, rounded.codes.double()
    width = codes.shape[1]
    products = [  # of a group's codes with all groups' through H, (M, G) each
        in_groups((part @ hessian[first : first + part.shape[1]]) * codes, group).sum(2)
        for first, part in zip(range(0, width, group), codes.split(group, dim=1), strict=True)
    ]
    matrix = torch.stack(products, 1)  # (M, G, G)
    wanted = in_groups((exact @ hessian) * codes, group).sum(2)  # (M, G)
    empty = matrix.diagonal(dim1=1, dim2=2) == 0  # groups of zeros: any scale will do, and theirs stays
    matrix = matrix + torch.diag_embed(empty.double())
    solved, failed = torch.linalg.solve_ex(matrix, wanted)
    usable = (failed == 0) & torch.isfinite(solved).all(1)
    solved = torch.where(empty | ~usable[:, None], rounded.scale.double(), solved)
    fitted = RoundedWeight(rounded.codes, grid.stored_scale(solved.float(), name), group)
    better = row_losses(exact, fitted, hessian) < row_losses(exact, rounded, hessian)
    return RoundedWeight(rounded.codes, torch.where(better[:, None], fitted.scale, rounded.scale), group)


def _column_scales(rounded: RoundedWeight) -> Tensor:
    """(M, K) fp64."""
    return each_column(rounded.scale.double(), rounded.group, rounded.codes.shape[1])
