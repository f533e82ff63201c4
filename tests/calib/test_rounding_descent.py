"""Coordinate descent behind GPTQ: no row ever loses more, and what cannot be bettered stays as it is."""

from __future__ import annotations

import pytest
import torch

from quamba_export.calib.rounding import descent
from quamba_export.calib.rounding.descent import descend, row_losses
from quamba_export.calib.rounding.gptq import Gptq
from quamba_export.calib.rounding.hessian import Hessian
from quamba_export.calib.rounding.kinds import rounding_from_table
from quamba_export.calib.rounding.nearest import Nearest
from quamba_export.calib.rounding.weight_grid import WeightGrid
from quamba_export.runtime.errors import QuambaError

GRIDS = [WeightGrid(4, 32), WeightGrid(4, 40), WeightGrid(4), WeightGrid(8), WeightGrid(8, one_scale=True)]


def problem(rows, columns, seed=0):
    """weight (M, K) fp64, and a damped Hessian of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    loud = torch.exp(torch.randn(columns, generator=generator))
    hessian = Hessian(columns)
    hessian.add(torch.randn(2 * columns, columns, generator=generator) @ mix * loud)
    damped = hessian.matrix()
    damped.diagonal().add_(0.01 * damped.diagonal().mean())
    return torch.randn(rows, columns, generator=generator).double(), damped


def first_codes(weight, grid, hessian, kind):
    if kind == "nearest":
        return Nearest().round(weight.float(), grid)
    return Gptq(clip=True).round(weight.float(), grid, hessian)


@pytest.mark.parametrize("kind", ["nearest", "gptq"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("columns", [32, 96, 2 * descent.BLOCK + 64])
def test_no_row_ever_loses_more(columns, grid, kind):
    weight, hessian = problem(12, columns, seed=columns)
    found = first_codes(weight, grid, hessian, kind)
    start = before = row_losses(weight, found, hessian)
    for _ in range(4):
        found = descend(weight, found, hessian, grid, "w", 1)
        after = row_losses(weight, found, hessian)
        assert (after <= before * (1 + 1e-12)).all()
        before = after
    assert before.sum() < start.sum()
    assert grid.low <= int(found.codes.min()) <= int(found.codes.max()) <= grid.high
    assert grid.bits == 8 or torch.equal(found.scale.half().float(), found.scale)


def test_scales_that_lose_more_once_they_are_fp16_are_not_taken():
    """Near fp16's smallest number the best scales are not always those nearest to the solution."""
    weight, hessian = problem(24, 160, seed=6)
    hessian, grid = hessian + hessian.diagonal().mean(), WeightGrid(4, 32)
    coarse = first_codes(weight, grid, hessian, "gptq")
    weight, steps = weight * 2**-20, (coarse.scale * 2**4).round()  # of 2^-24
    best = type(coarse)(coarse.codes, steps * 2**-24, 32)
    for change in (2.0**-24, -(2.0**-24)):
        for group in range(5):
            moved = best.scale.clone()
            moved[:, group] += change
            tried = type(best)(best.codes, moved, 32)
            better = row_losses(weight, tried, hessian) < row_losses(weight, best, hessian)
            best = type(best)(best.codes, torch.where(better[:, None], moved, best.scale), 32)
    fitted = descent.fit_scales(weight, best, hessian, grid, "w")
    assert (row_losses(weight, fitted, hessian) <= row_losses(weight, best, hessian)).all()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_single_code_can_be_bettered_at_the_end(grid):
    weight, hessian = problem(6, 96, seed=1)
    found = descend(weight, first_codes(weight, grid, hessian, "gptq"), hessian, grid, "w", 40)
    least = row_losses(weight, found, hessian)
    for column in range(96):
        for step in (-1, 1):
            moved = found.codes.clone()
            moved[:, column] = (moved[:, column].int() + step).clamp(grid.low, grid.high).to(torch.int8)
            changed = type(found)(moved, found.scale, found.group)
            assert (row_losses(weight, changed, hessian) >= least * (1 - 1e-9)).all()


def test_a_scale_is_moved_where_the_codes_are_right_and_it_is_not():
    weight, hessian = problem(6, 64, seed=2)
    grid = WeightGrid(4, 32)
    right = Nearest().round(weight.float(), grid)
    wrong = type(right)(right.codes, (right.scale * 1.02).half().float(), 32)
    found = descent.fit_scales(right.dequantize().double(), wrong, hessian, grid, "w")
    assert torch.equal(found.scale, right.scale)


def test_groups_of_zeros_stay_zeros_and_keep_their_scale():
    weight, hessian = problem(6, 96, seed=3)
    weight[:, 32:64] = 0
    hessian[32:64], hessian[:, 32:64] = 0, 0
    hessian.diagonal()[32:64] = 1
    grid = WeightGrid(4, 32)
    found = descend(weight, first_codes(weight, grid, hessian, "nearest"), hessian, grid, "w", 3)
    assert not found.codes[:, 32:64].any()
    assert (found.scale[:, 1] == 1).all()


def test_rows_do_not_depend_on_their_neighbours():
    """lm_head is rounded a piece at a time."""
    weight, hessian = problem(24, 96, seed=4)
    grid, rounding = WeightGrid(4, 32), Gptq(descent_sweeps=3)
    whole = rounding.round(weight.float(), grid, hessian)
    parts = [rounding.round(rows.float(), grid, hessian) for rows in weight.split(8)]
    assert torch.equal(torch.cat([part.codes for part in parts]), whole.codes)
    assert torch.equal(torch.cat([part.scale for part in parts]), whole.scale)


def test_threads_change_no_bit():
    weight, hessian = problem(48, 256, seed=5)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(Gptq(descent_sweeps=2).round(weight.float(), WeightGrid(4, 128), hessian))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result.codes, results[0].codes) for result in results)
    assert all(torch.equal(result.scale, results[0].scale) for result in results)


def test_the_option_is_written_only_where_it_does_something():
    assert "descent_sweeps" not in Gptq().as_table()
    table = Gptq(descent_sweeps=3).as_table()
    assert rounding_from_table(table) == Gptq(descent_sweeps=3)
    with pytest.raises(QuambaError, match=r"(?s)negative number of sweeps.*say 4"):
        Gptq(descent_sweeps=-1)
