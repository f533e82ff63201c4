"""GPTQ of one layer against its definition, column by column, and the properties it must have."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from quamba_export.calib.rounding.gptq import BLOCK, Gptq
from quamba_export.calib.rounding.hessian import ROWS, Hessian
from quamba_export.calib.rounding.nearest import Nearest
from quamba_export.calib.rounding.way import output_error
from quamba_export.calib.rounding.weight_grid import WeightGrid, each_column
from quamba_export.runtime.errors import ExitCode, QuambaError


def problem(rows, columns, seed=0, inputs=None):
    """weight (M, K) and the Hessian of correlated inputs with a few loud channels."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    loud = torch.exp(torch.randn(columns, generator=generator))
    x = torch.randn(inputs or 4 * columns, columns, generator=generator) @ mix * loud
    hessian = Hessian(columns)
    hessian.add(x)
    return torch.randn(rows, columns, generator=generator), hessian.matrix()


def gptq(weight, hessian, grid, name="the weight", **options):
    return Gptq(**{"act_order": False, "clip": False, **options}).round(weight, grid, hessian, name)


def nearest(weight, grid, clip=False):
    return Nearest(clip).round(weight, grid)


def lost(rounded, weight, hessian):
    return output_error(weight, rounded.dequantize(), hessian)


def defined_codes(weight, hessian, grid, *, damping=0.01, act_order=False, clip=False):
    """Optimal brain surgery with its inverse Hessian updated after every column: no factor and no blocks."""
    w, h = weight.double().numpy().copy(), hessian.numpy().copy()
    columns, loudness = w.shape[1], h.diagonal().copy()
    dead = loudness == 0
    w[:, dead] = 0
    h += np.eye(columns) * damping * loudness[~dead].mean()
    h[dead, dead] = 1
    scale = grid.scales(torch.from_numpy(w), "w", clip=clip, importance=torch.from_numpy(loudness))
    scale = each_column(scale, grid.columns_a_group(columns), columns).double().numpy()
    codes, inverse = np.zeros(w.shape, dtype=np.int8), np.linalg.inv(h)
    order = np.argsort(-loudness, kind="stable") if act_order else range(columns)
    for j in order:
        codes[:, j] = np.clip(np.round(w[:, j] / scale[:, j]), grid.low, grid.high)
        error = (w[:, j] - codes[:, j] * scale[:, j]) / inverse[j, j]
        w -= np.outer(error, inverse[j])
        inverse -= np.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return codes


GRIDS = [WeightGrid(4, 32), WeightGrid(4, 40), WeightGrid(4), WeightGrid(8), WeightGrid(8, one_scale=True)]


@pytest.mark.parametrize("options", [{}, {"act_order": True}, {"clip": True}, {"damping": 0.1}], ids=str)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (24, 96), (16, BLOCK + 32), (8, 2 * BLOCK + 64)])
def test_codes_are_those_of_the_definition(rows, columns, grid, options):
    weight, hessian = problem(rows, columns, seed=columns)
    found = gptq(weight, hessian, grid, **options)
    assert np.array_equal(found.codes.numpy(), defined_codes(weight, hessian, grid, **options))


def test_dead_columns_become_zero_and_change_nothing_else():
    weight, hessian = problem(16, 96)
    hessian[[3, 40]], hessian[:, [3, 40]] = 0, 0
    weight[:, 3] = 100  # would stretch its group's scale
    grid = WeightGrid(4, 32)
    found = gptq(weight, hessian, grid, act_order=True)
    assert not found.codes[:, [3, 40]].any()
    assert float(found.scale.max()) < 1
    assert np.array_equal(found.codes.numpy(), defined_codes(weight, hessian, grid, act_order=True))


def test_a_layer_without_live_inputs_rounds_to_zero():
    found = gptq(torch.ones(2, 32), torch.zeros(32, 32), WeightGrid(4, 32))
    assert not found.codes.any()
    assert lost(found, torch.ones(2, 32), torch.zeros(32, 32)) == 0


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_error_is_below_that_of_rounding_to_nearest(grid, act_order):
    for seed in range(12):
        weight, hessian = problem(8 + seed, 64 + 32 * (seed % 4), seed, inputs=32 + 40 * seed)
        found = gptq(weight, hessian, grid, act_order=act_order)
        assert lost(found, weight, hessian) < lost(nearest(weight, grid), weight, hessian)


def test_a_clipped_scale_loses_less_and_is_an_fp16_number_at_4_bits():
    weight, hessian = problem(16, 96)
    weight[:, 5] *= 3
    for grid in GRIDS:
        plain, clipped = (nearest(weight, grid, clip) for clip in (False, True))
        squares = [(found.dequantize() - weight).square().sum() for found in (plain, clipped)]
        assert squares[1] <= squares[0]
        if grid.bits == 4:
            assert squares[1] < squares[0]
            assert torch.equal(clipped.scale.half().float(), clipped.scale)
            assert len(clipped.scale.sign().unique()) == 2
        by_input = grid.scales(weight, "w", clip=True, importance=hessian.diagonal())
        assert not grid.one_scale or len(by_input.unique()) == 1


def test_a_clipped_scale_is_the_best_of_those_tried():
    weight, grid = problem(4, 32)[0], WeightGrid(4, 32)
    found, largest = grid.scales(weight, "w", clip=True), weight.abs().amax(1) / 7
    for row, values in enumerate(weight):
        tried = [sign * largest[row] * (1 - step / 50) for step in range(26) for sign in (1, -1)]
        tried = [scale.half().float() for scale in tried]
        losses = [(grid.codes(values, scale) * scale - values).square().sum() for scale in tried]
        assert float(found[row, 0]) == float(tried[int(torch.stack(losses).argmin())])


def test_independent_inputs_leave_nothing_to_make_up_for():
    weight = problem(16, 96)[0]
    hessian = torch.diag(torch.linspace(1, 2, 96, dtype=torch.float64))
    grid = WeightGrid(4, 32)
    assert torch.equal(gptq(weight, hessian, grid).codes, nearest(weight, grid).codes)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("grid", [WeightGrid(4, 32), WeightGrid(4), WeightGrid(8)], ids=str)
def test_weights_on_the_grid_stay(grid, act_order):
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(-grid.high, grid.high + 1, (16, 96), generator=generator, dtype=torch.int8)
    codes[:, ::32] = grid.high  # every group's largest weight
    groups = 96 // grid.columns_a_group(96)
    scale = torch.exp2(torch.randint(-9, 0, (16, groups), generator=generator).float())
    weight = codes.float() * scale.repeat_interleave(96 // groups, dim=1)
    found = gptq(weight, problem(1, 96)[1], grid, act_order=act_order)
    assert torch.equal(found.codes, codes)
    assert torch.equal(found.scale, scale)
    assert torch.equal(found.dequantize(), weight)


def test_order_goes_by_the_diagonal_and_groups_stay_those_of_the_original_columns():
    """Columns handed over in the order of their loudness need no act_order; every row has its own scale."""
    weight, hessian = problem(16, 160, seed=2)
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    by_request = gptq(weight, hessian, WeightGrid(4, None), act_order=True)
    by_hand = gptq(weight[:, order], hessian[order][:, order], WeightGrid(4, None))
    assert torch.equal(by_request.codes[:, order], by_hand.codes)
    grouped = gptq(weight, hessian, WeightGrid(4, 32), act_order=True)
    assert torch.equal(grouped.scale, nearest(weight, WeightGrid(4, 32)).scale)


def test_codes_do_not_depend_on_threads():
    weight, hessian = problem(48, 256)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4, 1):
            torch.set_num_threads(threads)
            results.append(gptq(weight, hessian, WeightGrid(4, 128), act_order=True))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result.codes, results[0].codes) for result in results)


@pytest.mark.parametrize("sizes", [[1] * 7, [ROWS], [ROWS - 1, 1, 5], [3, 2 * ROWS, 700], [0, 9]])
def test_hessian_is_the_same_however_inputs_are_cut(sizes):
    x = torch.randn(sum(sizes), 24, generator=torch.Generator().manual_seed(3))
    whole, parts = Hessian(24), Hessian(24)
    whole.add(x.view(1, -1, 24))
    for part in torch.split(x, sizes):
        parts.add(part)
        if parts.inputs:
            parts.matrix()  # looking changes nothing
    assert torch.equal(parts.matrix(), whole.matrix())
    exact = 2 / len(x) * x.double().T @ x.double()
    assert float((whole.matrix() - exact).abs().max()) <= 1e-6 * float(exact.abs().max())


def test_more_damping_than_input_gives_rounding_to_nearest():
    weight, hessian = problem(16, 96)
    found = gptq(weight, hessian, WeightGrid(4, 32), damping=1e9)
    assert torch.equal(found.codes, nearest(weight, WeightGrid(4, 32)).codes)


def test_error_is_the_share_of_the_outputs_energy():
    generator = torch.Generator().manual_seed(4)
    x, weight = torch.randn(200, 32, generator=generator), torch.randn(8, 32, generator=generator)
    hessian = Hessian(32)
    hessian.add(x)
    found = gptq(weight, hessian.matrix(), WeightGrid(4, 32))
    outputs, rounded = x.double() @ weight.double().T, x.double() @ found.dequantize().double().T
    share = float((outputs - rounded).square().sum() / outputs.square().sum())
    assert lost(found, weight, hessian.matrix()) == pytest.approx(share, rel=1e-5)
    assert output_error(weight, weight, hessian.matrix()) == 0


def test_speed_of_a_large_layer():
    """M 4096, K 2048 in 4-bit groups of 128: 3 s on one core of a shared 2-core machine (bound: 30 s)."""
    weight = torch.randn(4096, 2048, generator=torch.Generator().manual_seed(5))
    hessian = Hessian(2048)
    hessian.add(torch.randn(4096, 2048, generator=torch.Generator().manual_seed(6)))
    matrix, started = hessian.matrix(), time.process_time()
    gptq(weight, matrix, WeightGrid(4, 128))
    assert time.process_time() - started <= 30


def with_value(tensor, place, value):
    changed = tensor.clone()
    changed[place] = value
    return changed


@pytest.mark.parametrize(
    ("call", "words", "code"),
    [
        (lambda w, h, g: gptq(with_value(w, (2, 7), torch.nan), h, g), "first at 2, 7", ExitCode.NUMERIC),
        (lambda w, h, g: gptq(w, with_value(h, (4, 4), torch.inf), g), "first at 4, 4", ExitCode.NUMERIC),
        (lambda w, h, g: gptq(w, h - 2 * torch.diag(h.diagonal()), g), "singular", ExitCode.NUMERIC),
        (lambda w, h, g: gptq(w, torch.ones_like(h), g, damping=0), "singular", ExitCode.NUMERIC),
        (lambda w, h, g: gptq(w * 1e7, h, g), "fp16", ExitCode.NUMERIC),
        (lambda w, h, g: gptq(w, h[:5, :5], g), "does not fit", ExitCode.INVALID_INPUT),
        (lambda w, h, g: gptq(w, h, g, damping=-0.1), "damping", ExitCode.INVALID_INPUT),
        (lambda w, h, g: gptq(w, h, g, damping=torch.nan), "damping", ExitCode.INVALID_INPUT),
        (lambda w, h, g: gptq(w, None, g), "None for a weight", ExitCode.INVALID_INPUT),
        (lambda w, h, g: gptq(w, h, g, bits=5), "4, 8", ExitCode.INVALID_INPUT),
        (lambda w, h, g: WeightGrid(3), "4, 8", ExitCode.INVALID_INPUT),
        (lambda w, h, g: WeightGrid(4, 0), "no columns", ExitCode.INVALID_INPUT),
        (lambda w, h, g: Hessian(8).matrix("layers.3.in_proj"), "layers.3.in_proj", ExitCode.INVALID_INPUT),
    ],
)
def test_bad_input_is_refused_in_words(call, words, code):
    weight, hessian = problem(8, 96)
    with pytest.raises(QuambaError) as raised:
        call(weight, hessian, WeightGrid(4, 32))
    assert words in str(raised.value)
    assert raised.value.code == code


def test_inputs_that_are_not_finite_are_named_by_channel():
    hessian = Hessian(8)
    hessian.add(with_value(torch.ones(3, 8), (1, 5), torch.nan))
    with pytest.raises(QuambaError, match=r"inputs of layers\.0\.out_proj are not finite"):
        hessian.matrix("layers.0.out_proj")


def test_a_group_that_the_ops_have_no_scales_for_is_refused_in_words():
    for size in (0, 64, 200, -128):
        with pytest.raises(QuambaError, match=r"(?s)no groups of this size.*multiples of 128"):
            Gptq(group_size=size)
    with pytest.raises(QuambaError, match="int8 weights have a scale a row"):
        Gptq(bits=8, group_size=256)
    assert Gptq(bits=8, head_bits=4, group_size=256).group_size == 256
    assert "group_size" not in Gptq().as_table()
    assert Gptq(group_size=256).as_table()["group_size"] == 256
