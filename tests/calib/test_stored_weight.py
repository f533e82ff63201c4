"""Round-to-nearest int4 as it is stored: every weight's error, fp16 scales, short groups."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from quamba_export.calib.rounding.nearest import Nearest
from quamba_export.calib.rounding.stored_weight import stored
from quamba_export.calib.rounding.weight_grid import grid_of
from quamba_export.plugins.common.int4 import group_sizes, pack_int4, unpack_int4
from quamba_export.plugins.common.quantization import SMALLEST_SCALE
from quamba_export.runtime.errors import ExitCode, QuambaError


def int4_weight(weight: Tensor, name: str) -> tuple[Tensor, Tensor]:
    return stored(Nearest().round(weight, grid_of(4), name=name), 4, name)


def dequantized(packed: Tensor, scale: Tensor) -> Tensor:
    sizes = torch.tensor(group_sizes(2 * packed.shape[1]))
    return unpack_int4(packed).float() * scale.float().repeat_interleave(sizes, dim=1)


@pytest.mark.parametrize("columns", [32, 128, 160, 384])
def test_no_weight_is_off_by_more_than_half_a_step(columns: int) -> None:
    weight = torch.randn(9, columns, generator=torch.Generator().manual_seed(0))
    packed, scale = int4_weight(weight, "layers.0.in_proj")
    assert (packed.shape, packed.dtype) == ((9, columns // 2), torch.int8)
    assert (scale.shape, scale.dtype) == ((9, -(-columns // 128)), torch.float16)
    sizes = torch.tensor(group_sizes(columns))
    step = scale.float().repeat_interleave(sizes, dim=1)
    assert bool(((dequantized(packed, scale) - weight).abs() <= 0.5 * step + 7 * 2**-11 * step).all())


def test_a_large_value_coarsens_its_own_group_only() -> None:
    weight = torch.full((1, 384), 0.07)
    weight[0, 200] = 70.0
    _, scale = int4_weight(weight, "layers.0.in_proj")
    torch.testing.assert_close(scale.float(), torch.tensor([[0.01, 10.0, 0.01]]), rtol=1e-3, atol=0)


def test_zeros_get_the_scale_1_and_tiny_weights_the_smallest() -> None:
    weight = torch.zeros(2, 128)
    weight[1] = 1e-9
    packed, scale = int4_weight(weight, "layers.0.in_proj")
    assert scale[:, 0].tolist() == [1.0, 2.0**-24]
    assert not packed.any()


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("one_scale", [False, True])
def test_a_row_of_next_to_nothing_counts_as_zeros_at_8_bits(clip: bool, one_scale: bool) -> None:
    weight = torch.full((2, 64), 100 * SMALLEST_SCALE)
    codes, scale = stored(Nearest(clip).round(weight, grid_of(8, one_scale=one_scale)), 8, "w")
    assert scale.tolist() == [1.0, 1.0]
    assert not codes.any()
    least = Nearest().round(torch.full((1, 64), 127 * SMALLEST_SCALE), grid_of(8))
    assert least.scale.item() == SMALLEST_SCALE


def test_every_code_survives_packing() -> None:
    codes = torch.arange(-8, 8, dtype=torch.int8).repeat(3, 4)  # (3, 64)
    packed = pack_int4(codes)
    assert packed.shape == (3, 32)
    assert torch.equal(unpack_int4(packed), codes)
    assert packed[0, 0].item() == codes[0, 16].item() * 16 + (codes[0, 0].item() & 15)


def test_a_scale_that_fp16_cannot_hold_is_refused() -> None:
    with pytest.raises(QuambaError, match=r"a scale of layers\.0\.in_proj has no fp16 number") as caught:
        int4_weight(torch.full((1, 32), 1e6), "layers.0.in_proj")
    assert caught.value.code == ExitCode.NUMERIC


@pytest.mark.parametrize(("columns", "group"), [(384, 256), (320, 512), (512, 512), (64, 256)])
def test_a_larger_group_repeats_its_scale(columns: int, group: int) -> None:
    weight = torch.randn(9, columns, generator=torch.Generator().manual_seed(0))
    rounded = Nearest().round(weight, grid_of(4, group=group), name="layers.0.in_proj")
    packed, scale = stored(rounded, 4, "layers.0.in_proj")
    assert scale.shape == (9, -(-columns // 128))
    assert torch.equal(dequantized(packed, scale), rounded.dequantize())
    assert rounded.scale.shape == (9, -(-columns // group))
