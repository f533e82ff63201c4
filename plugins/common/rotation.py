"""The Walsh-Hadamard transform of B and C over d_state, in which a dynamic int8 state of Mamba-2 is held.

One decay serves all of a head's entries, so its recurrence is the same in any orthogonal basis of N; in this
one a row's entries are of one size, and one scale serves them. On codes the transform is a sum of integers:
exact in fp32, in whatever order.
"""

from __future__ import annotations

import torch
from torch import Tensor as T

from quamba_export.plugins.common.onnx_text import FLOAT


def rotation_size(n_state: int) -> int:
    """Of a block of N: the largest power of two that divides it. All of N in every published model."""
    return n_state & -n_state


def rotated(codes: T) -> T:
    """int8 codes or fp32 values (..., N) -> the sums and differences of each block, fp32; not normalized.

    Entry i of a block is the sum over j of codes[j], negative where i and j share an odd number of bits.
    """
    size, n_state = rotation_size(codes.shape[-1]), codes.shape[-1]
    x, half = codes.float(), 1
    while half < size:
        left, right = x.reshape(*x.shape[:-1], -1, 2, half).unbind(-2)
        x = torch.stack([left + right, left - right], dim=-2).reshape(*codes.shape)
        half *= 2
    return x.reshape(*codes.shape[:-1], n_state)


def rotated_lines(source: str, target: str, groups: int, n_state: int) -> str:
    """`target` fp32 = rotated(`source`), (B, L, groups, n_state): each block between two products."""
    size = rotation_size(n_state)
    rows = 1 << (size.bit_length() - 1) // 2
    folded = [0, 0, groups * n_state // size, rows, size // rows]
    return f"""
        {target}_left = Constant <value = {_signs(rows)}> ()
        {target}_right = Constant <value = {_signs(size // rows)}> ()
        {target}_folded_shape = Constant <value_ints = {folded}> ()
        {target}_shape = Constant <value_ints = [0, 0, {groups}, {n_state}]> ()
        {target}_codes = Cast <to = {FLOAT}> ({source})
        {target}_folded = Reshape ({target}_codes, {target}_folded_shape)
        {target}_half = MatMul ({target}_left, {target}_folded)
        {target}_both = MatMul ({target}_half, {target}_right)
        {target} = Reshape ({target}_both, {target}_shape)
    """


def _signs(size: int) -> str:
    """The matrix of the transform as a literal."""
    rows = rotated(torch.eye(size)).flatten().tolist()
    return f"float[{size},{size}] {{{', '.join(str(sign) for sign in rows)}}}"
