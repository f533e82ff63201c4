import pytest
import torch

from quamba_export.plugins.common.hadamard import apply_hadamard, fold_hadamard, hadamard_factors
from quamba_export.runtime.errors import QuambaError

FULL = [1, 2, 4, 12, 20, 24, 28, 40, 56, 80, 96, 160, 384, 512, 768, 1024, 2560, 5120]
BLOCKED = {3: 3, 6: 3, 36: 9, 44: 11, 60: 15, 72: 9, 176: 11, 640 * 3: 15}  # width -> blocks


def dense(size: int) -> torch.Tensor:
    factors = hadamard_factors(size)
    block = torch.kron(factors.left, factors.right)
    return torch.block_diag(*[block] * factors.blocks)


@pytest.mark.parametrize("size", [s for s in FULL if s <= 1024] + [s for s in BLOCKED if s <= 640])
def test_transform_is_orthonormal_with_entries_of_one_magnitude(size):
    matrix, factors = dense(size), hadamard_factors(size)
    assert factors.size == size
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-13)
    block = torch.kron(factors.left, factors.right)
    torch.testing.assert_close(
        block.abs(), torch.full_like(block, factors.block_size**-0.5), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("size", FULL)
def test_full_transform_spreads_over_the_whole_width(size):
    assert hadamard_factors(size).blocks == 1


@pytest.mark.parametrize(("size", "blocks"), BLOCKED.items())
def test_other_widths_use_the_largest_power_of_two_that_divides(size, blocks):
    factors = hadamard_factors(size)
    assert factors.blocks == blocks
    assert factors.block_size == size & -size


@pytest.mark.parametrize("size", [768, 1024, 1536, 2048, 2560, 4096, 5120, 8192, 16384])
def test_factors_are_balanced_and_narrow(size):
    factors = hadamard_factors(size)
    assert max(factors.left.shape[0], factors.right.shape[0]) <= 160


@pytest.mark.parametrize("size", [1, 3, 12, 28, 36, 384])
def test_apply_equals_the_dense_matrix_and_keeps_norms(size):
    x = torch.randn(2, 3, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(apply_hadamard(x), x @ dense(size).T, rtol=0, atol=1e-12)
    torch.testing.assert_close(apply_hadamard(x).norm(dim=-1), x.norm(dim=-1))
    assert apply_hadamard(x.float()).dtype == torch.float32


@pytest.mark.parametrize("size", [1, 20, 44, 768])
def test_folded_weight_undoes_the_transform(size):
    generator = torch.Generator().manual_seed(1)
    weight, x = torch.randn(5, size, generator=generator), torch.randn(7, size, generator=generator)
    folded = fold_hadamard(weight)
    assert folded.dtype == torch.float64
    torch.testing.assert_close(
        apply_hadamard(x.double()) @ folded.T, x.double() @ weight.double().T, rtol=0, atol=1e-12
    )


def test_width_zero_is_refused():
    with pytest.raises(QuambaError, match="impossible width"):
        hadamard_factors(0)
