"""Orthonormal Hadamard transforms of any width: two small matrix products instead of one large one.

A width 2^k x {1, 12, 20, 28, 40} has a full transform; any other width gets a block-diagonal one over the
largest power of two that divides it. Either way the transform is H = I_blocks (x) left (x) right, so that
`H v` is `left @ V @ right^T` on every (a, b) block of v, and H is never formed.

The odd orders are Paley's: 12 and 20 by his first construction over GF(11) and GF(19), 28 by his second over
GF(13) (Paley, "On orthogonal matrices", 1933); 40 is 2 x 20. Powers of two are Sylvester's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from quamba_export.runtime.errors import QuambaError

_ODD_ORDERS = (12, 20, 28)  # base orders beside 1; 40 = 2 x 20 needs no construction of its own


@dataclass(frozen=True, eq=False)
class HadamardFactors:
    """H = I_blocks (x) left (x) right, orthonormal, blocks * a * b wide."""

    blocks: int
    left: Tensor  # (a, a) fp64
    right: Tensor  # (b, b) fp64

    @property
    def size(self) -> int:
        return self.blocks * self.block_size

    @property
    def block_size(self) -> int:
        """Width of one block: how far an outlier is spread."""
        return int(self.left.shape[0] * self.right.shape[0])


@lru_cache(maxsize=64)
def hadamard_factors(size: int) -> HadamardFactors:
    """Factors of the orthonormal transform of width `size`, a and b as near to each other as they can be.

    Raises QuambaError where size is not a positive integer.
    """
    if size < 1:
        raise QuambaError("Hadamard transform of an impossible width", found=str(size), allowed="1 or more")
    base, power = _full_order(size) or (1, size & -size)
    blocks = size // (base * power)
    splits = [(base * power // width, width) for width in _powers_of_two(power)]
    a, b = min(splits, key=lambda split: (max(split), split))
    left = torch.kron(_base_matrix(base), _sylvester(a // base))
    return HadamardFactors(blocks, left / math.sqrt(a), _sylvester(b) / math.sqrt(b))


def apply_hadamard(x: Tensor) -> Tensor:
    """H applied to the last axis of x (..., size), in the dtype of x (a floating-point one)."""
    factors = hadamard_factors(x.shape[-1])
    left, right = (matrix.to(x.device, x.dtype) for matrix in (factors.left, factors.right))
    v = x.reshape(*x.shape[:-1], factors.blocks, left.shape[0], right.shape[0])  # (..., blocks, a, b)
    return (left @ v @ right.T).reshape(x.shape)


def fold_hadamard(weight: Tensor) -> Tensor:
    """weight @ H^T in fp64, for weight (out, size): what a linear layer behind H needs to undo it."""
    return apply_hadamard(weight.double())


def _full_order(size: int) -> tuple[int, int] | None:
    """(base, 2^k) with base * 2^k == size, base one of the orders built here; None where there is none."""
    for base in (1, *_ODD_ORDERS):
        power, rest = divmod(size, base)
        if rest == 0 and power & (power - 1) == 0:
            return base, power
    return None


def _powers_of_two(largest: int) -> list[int]:
    return [1 << k for k in range(largest.bit_length())]


def _base_matrix(order: int) -> Tensor:
    """A Hadamard matrix with entries +-1, (order, order) fp64."""
    if order == 1:
        return torch.ones(1, 1, dtype=torch.float64)
    return _paley_second(13) if order == 28 else _paley_first(order - 1)


def _sylvester(order: int) -> Tensor:
    matrix = torch.ones(1, 1, dtype=torch.float64)
    pair = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    while matrix.shape[0] < order:
        matrix = torch.kron(pair, matrix)
    return matrix


def _paley_first(q: int) -> Tensor:
    """Order q + 1 for a prime q = 3 (mod 4): I + S with S skew, bordered by ones."""
    skew = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    skew[0, 1:], skew[1:, 0], skew[1:, 1:] = 1.0, -1.0, _jacobsthal(q)
    return torch.eye(q + 1, dtype=torch.float64) + skew


def _paley_second(q: int) -> Tensor:
    """Order 2 (q + 1) for a prime q = 1 (mod 4): a 2 x 2 block for each entry of the bordered S."""
    conference = torch.zeros(q + 1, q + 1, dtype=torch.float64)
    conference[0, 1:], conference[1:, 0], conference[1:, 1:] = 1.0, 1.0, _jacobsthal(q)
    ones = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64)
    diagonal = torch.tensor([[1.0, -1.0], [-1.0, -1.0]], dtype=torch.float64)
    return torch.kron(conference, ones) + torch.kron(torch.eye(q + 1, dtype=torch.float64), diagonal)


def _jacobsthal(q: int) -> Tensor:
    """Q (q, q): 1 where i - j is a square modulo the prime q, -1 where it is none, 0 on the diagonal."""
    squares = {n * n % q for n in range(1, q)}
    character = torch.tensor(
        [0.0] + [1.0 if n in squares else -1.0 for n in range(1, q)], dtype=torch.float64
    )
    index = torch.arange(q)
    return character[(index[:, None] - index[None, :]) % q]
