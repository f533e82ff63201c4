"""64 tokens of Mamba-2's SSD scan at once, as matrix products of integers: exact, in any order of adding.

Of a chunk's tokens t and s <= t, a head's y[t] reads S[t, s] = sum_n C[t, n] B[s, n] on codes, weighted by
the decay between s and t and the step of s; the state before the chunk adds C[t] h, decayed. What is
multiplied by codes is first rounded to integers of 15 bits on a power of two a row (fixed_point), so that
every product of matrices is a sum of integers: a tensor core, an fp32 or an fp64 unit give the same. The
state is rounded to its dtype once, behind the chunk. An fp32 x (FloatInputSSDScan) counts in its scales, to
22 bits of a channel's largest in the chunk: values that stand for codes are those codes. Source: Mamba-2
(arXiv 2405.21060), section 6; the arithmetic is this project's contract (README.md).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor as T

from quamba_export.plugins.common.quantization import dequantize, quantize

CHUNK, TILE = 64, 8  # tokens
TILES = CHUNK // TILE
SMALLEST, DIGITS = 2.0**-100, 13  # the least power of two of a row; a row's largest integer has 14 bits
X_DIGITS = 21  # of an fp32 x: fine beside fp32, and coarse enough that (c s) / s is the code c again


class Scales(NamedTuple):
    """Of the codes, fp32: x (G, R, P), B and C (G, 1, 1), state (G, R, P, N); R heads a group."""

    x: T
    B: T
    C: T
    state: T


def scan_chunks(x: T, step: T, decay: T, B: T, C: T, scales: Scales, state: T) -> tuple[T, T]:
    """Tokens in whole chunks -> y (b, L, H, P) fp32 without D x, and the state behind them.

    x (b, L, H, P) int8 or fp32, B and C (b, L, G, N) int8; step and decay (b, L, H) fp32; state
    (b, H, P, N) fp16, fp32 or int8.
    """
    groups = B.shape[2]
    per_chunk = [tensor.unflatten(1, (-1, CHUNK)).transpose(2, 3) for tensor in (x, step, decay, B, C)]
    x, step, decay = (tensor.unflatten(2, (groups, -1)) for tensor in per_chunk[:3])
    B, C = (tensor.unsqueeze(3) for tensor in per_chunk[3:])
    y, state = _scan(x, step, decay, B, C, scales, state.unflatten(1, (groups, -1)))
    return y.flatten(2, 3).transpose(2, 3).flatten(1, 2), state.flatten(1, 2)


def _scan(x: T, step: T, decay: T, B: T, C: T, scales: Scales, state: T) -> tuple[T, T]:
    """The chunks of Q tokens of G groups of R heads: x (b, c, G, R, Q, P), step and decay (b, c, G, R, Q), B
    and C (b, c, G, 1, Q, N), state (b, G, R, P, N) -> y as x, and the state.
    """
    codes, reach, first = codes_of(x, scales.x), *weights(step, decay)
    mixed, mixed_unit = fixed_point(reach * (C.float() @ B.float().mT))  # (b, c, G, R, Q, Q)
    weighted, weighted_unit = fixed_point(reach[..., -1, :, None].mul(codes).mT)  # (b, c, G, R, P, Q)
    inside = exact_product(mixed, codes) * mixed_unit * (scales.B * scales.C * scales.x)[..., None, :]
    added = exact_product(weighted, B) * (weighted_unit * (scales.x * scales.B)[..., None])
    before = []
    for chunk in range(x.shape[1]):
        h = dequantize(state, scales.state) if state.dtype == torch.int8 else state.float()
        before.append(h)
        h = h * first[:, chunk, ..., -1, None, None] + added[:, chunk]
        state = quantize(h, scales.state) if state.dtype == torch.int8 else h.to(state.dtype)
    held, held_unit = fixed_point(torch.stack(before, dim=1))  # (b, c, G, R, P, N)
    read = exact_product(C, held.mT) * (held_unit * scales.C[..., None]).mT
    return inside + read * first[..., None], state


def codes_of(x: T, scale: T) -> T:
    """x (b, c, G, R, Q, P) in its scales (G, R, P) as fp32: int8 codes as they are, or fp32 values so rounded
    that a chunk's channel has one unit, 2^-21 of the power of two at or below its largest.
    """
    if x.dtype == torch.int8:
        return x.float()
    whole, unit = fixed_point((x / scale[..., None, :]).mT, X_DIGITS)
    return (whole * unit).mT


def weights(step: T, decay: T) -> tuple[T, T]:
    """What reaches token t: of token s its step times the decay since, of the state before the decay.

    step, decay (..., Q) -> (..., Q, Q), zero for s > t, and (..., Q). From tile to tile the decay is the
    product of three: to the end of the tile of s, of the tiles between, and in the tile of t.
    """
    tiles = decay.unflatten(-1, (TILES, TILE))
    own = products(tiles)  # (..., TILES, TILE + 1, TILE + 1)
    whole = products(own[..., -1, 0])  # (..., TILES + 1, TILES + 1)
    begun, ended = own[..., 1:, 0], own[..., -1, 1:]  # of each token: from its tile's begin on, to its end
    arrived = whole[..., :-1, None, :] * begun[..., None]  # (..., TILES, TILE, TILES + 1): t, boundary
    steps = step.unflatten(-1, (TILES, TILE))
    across = (ended * steps)[..., None, None, :, :] * arrived[..., 1:, None]  # (..., t, i, s, j)
    near = (own[..., 1:, 1:] * steps[..., None, :])[..., None, :]  # (..., t, i, 1, j)
    same = torch.eye(TILES, dtype=torch.bool, device=step.device)[:, None, :, None]
    reach = torch.where(same, near, across).flatten(-2).flatten(-3, -2)
    return reach, arrived[..., 0].flatten(-2)


def products(factors: T) -> T:
    """(..., n) -> (..., n + 1, n + 1): entry (i, j) is the product of factors j to i - 1, from the left; zero
    above the diagonal of ones.
    """
    n = factors.shape[-1]
    ones = torch.eye(n + 1, device=factors.device)
    rows = [ones[0].expand(*factors.shape[:-1], n + 1)]
    for i in range(n):
        rows.append(rows[-1] * factors[..., i, None] + ones[i + 1])
    return torch.stack(rows, dim=-2)


def fixed_point(x: T, digits: int = DIGITS) -> tuple[T, T]:
    """fp32 x (..., n) -> integers (..., n) of at most 2^(digits + 1) and the unit (..., 1) of each row, fp32.

    The unit is 2^-digits of the power of two at or below the row's largest value, of at least SMALLEST.
    """
    largest = x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    mantissa, _ = torch.frexp(largest)  # in [1/2, 1)
    unit = largest / mantissa * 2.0 ** -(digits + 1)
    return torch.round(x / unit), unit


def exact_product(left: T, right: T) -> T:
    """left @ right of integers on powers of two in fp32, rounded once: every sum has less than 53 bits."""
    return (left.double() @ right.double()).float()
