"""Symmetric int4 weights: codes -8..7 in groups of 128 columns, an fp16 scale a group, two codes a byte.

A byte holds two's complement nibbles. Of every 32 columns, byte j (0..15) has column j in its low and column
j + 16 in its high half, so that 16 bytes meet two runs of 16 neighbouring activations. A row's last group is
shorter where 128 does not divide it. Source: Quamba2 (arXiv 2503.22879), section 4: W4A8 and W4A16.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quamba_export.plugins.common.onnx_text import DOUBLE, FLOAT, INT8, INT32, UINT8

INT4_MIN, INT4_MAX = -8, 7
GROUP, CHUNK = 128, 32  # columns that share a scale; columns that share 16 bytes


def group_sizes(columns: int) -> list[int]:
    """Columns of every group: 128 each, the last one what is left."""
    return [min(GROUP, columns - start) for start in range(0, columns, GROUP)]


def pack_int4(codes: Tensor) -> Tensor:
    """codes (M, K) int8 of -8..7, K a multiple of 32 -> (M, K/2) int8."""
    low, high = codes.unflatten(1, (-1, 2, CHUNK // 2)).to(torch.int32).unbind(2)  # (M, K/32, 16) each
    both: Tensor = (high << 4) | (low & 15)
    return both.to(torch.int8).flatten(1)


def unpack_int4(packed: Tensor) -> Tensor:
    """(M, K/2) int8 -> codes (M, K) int8 of -8..7."""
    high = packed >> 4  # arithmetic: the sign comes along
    low = ((packed & 15) ^ 8) - 8
    return torch.stack([part.unflatten(1, (-1, CHUNK // 2)) for part in (low, high)], dim=2).flatten(1)


def dequantize_int4(packed: Tensor, scale: Tensor) -> Tensor:
    """Packed codes (M, K/2) int8 on scales (M, K/128) fp16 -> (M, K) fp32, one fp32 product each."""
    codes = unpack_int4(packed).float()
    return codes * scale.float().repeat_interleave(GROUP, dim=1)[:, : codes.shape[1]]


def grouped_matmul(x: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """x @ weight.T, exact inside a group; groups are scaled and added in fp32, from the first to the last.

    x (..., K) int8 or fp16, weight (M, K/2) int8 packed, weight_scale (M, K/128) fp16 -> (..., M) fp32. A
    group's sum of int8 products is at most 2^17: fp32 holds it. One of fp16 products is exact in fp64
    (plugins/common/half.py) and rounded to fp32 once.
    """
    sizes, wide = group_sizes(x.shape[-1]), torch.float32 if x.dtype == torch.int8 else torch.float64
    columns = zip(x.split(sizes, dim=-1), unpack_int4(weight).split(sizes, dim=1), strict=True)
    parts: list[Tensor] = [
        (a.to(wide) @ b.to(wide).T).float() * scale
        for (a, b), scale in zip(columns, weight_scale.float().unbind(1), strict=True)
    ]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def unpack_int4_lines(packed: str, target: str, rows: int, columns: int) -> str:
    """`target` = codes (M, K) int32 of `packed` (M, K/2) int8, by integer ops that a runtime can fold."""
    return f"""
        {target}_chunked = Constant <value_ints = [{rows}, {columns // CHUNK}, {CHUNK // 2}]> ()
        {target}_whole = Constant <value_ints = [{rows}, {columns}]> ()
        {target}_nibble = Constant <value = int32 {{15}}> ()
        {target}_sign = Constant <value = int32 {{8}}> ()
        {target}_step = Constant <value = int32 {{16}}> ()
        {target}_wide = Cast <to = {INT32}> ({packed})
        {target}_bytes = Reshape ({target}_wide, {target}_chunked)
        {target}_unsigned = BitwiseAnd ({target}_bytes, {target}_nibble)
        {target}_flipped = BitwiseXor ({target}_unsigned, {target}_sign)
        {target}_low = Sub ({target}_flipped, {target}_sign)
        {target}_above = Sub ({target}_bytes, {target}_unsigned)
        {target}_high = Div ({target}_above, {target}_step)
        {target}_both = Concat <axis = 2> ({target}_low, {target}_high)
        {target} = Reshape ({target}_both, {target}_whole)
    """


def dequantize_int4_lines(packed: str, scale: str, target: str, rows: int, columns: int) -> str:
    """`target` = dequantize_int4(`packed`, `scale`)."""
    groups = [column // GROUP for column in range(columns)]
    return f"""
        {unpack_int4_lines(packed, f"{target}_codes", rows, columns)}
        {target}_floats = Cast <to = {FLOAT}> ({target}_codes)
        {target}_groups = Constant <value_ints = {groups}> ()
        {target}_scale_wide = Cast <to = {FLOAT}> ({scale})
        {target}_scales = Gather <axis = 1> ({target}_scale_wide, {target}_groups)
        {target} = Mul ({target}_floats, {target}_scales)
    """


def grouped_matmul_lines(
    x: str, weight: str, scale: str, target: str, rows: int, columns: int, *, half: bool = False
) -> str:
    """`target` = grouped_matmul(`x`, `weight`, `scale`) of int8 codes, or of fp16 numbers with `half`."""
    sizes = group_sizes(columns)
    groups = range(len(sizes))
    x_parts, w_parts, s_parts = (
        ", ".join(f"{target}_{name}_{g}" for g in groups) for name in ("x", "weight", "scale")
    )
    head = f"""
        {target}_sizes = Constant <value_ints = {sizes}> ()
        {target}_ones = Constant <value_ints = {[1] * len(sizes)}> ()
        {_half_operand(x, target) if half else _int8_operand(x, target)}
        {x_parts} = Split <axis = 2> ({target}_operand, {target}_sizes)
        {unpack_int4_lines(weight, f"{target}_codes", rows, columns)}
        {target}_cast = Cast <to = {DOUBLE if half else INT8}> ({target}_codes)
        {target}_weight = Transpose <perm = [1, 0]> ({target}_cast)
        {w_parts} = Split <axis = 0> ({target}_weight, {target}_sizes)
        {target}_scale_wide = Cast <to = {FLOAT}> ({scale})
        {target}_scale_rows = Transpose <perm = [1, 0]> ({target}_scale_wide)
        {s_parts} = Split <axis = 0> ({target}_scale_rows, {target}_ones)
    """
    sums = "".join(_group_lines(target, g, half) for g in groups)
    return f"{head} {sums} {target} = Identity ({target}_sum_{groups[-1]})"


def _int8_operand(x: str, target: str) -> str:
    """uint8 codes on zero point 128: see int8_matmul_lines."""
    return f"""
        {target}_sign = Constant <value = int8 {{-128}}> ()
        {target}_zero_point = Constant <value = uint8 {{128}}> ()
        {target}_shifted = BitwiseXor ({x}, {target}_sign)
        {target}_operand = Cast <to = {UINT8}> ({target}_shifted)
    """


def _half_operand(x: str, target: str) -> str:
    return f"{target}_operand = Cast <to = {DOUBLE}> ({x})"


def _group_lines(target: str, g: int, half: bool) -> str:
    """`target`_sum_g: the scaled sums of groups 0 to g."""
    operands = f"{target}_x_{g}, {target}_weight_{g}"
    product = f"MatMul ({operands})" if half else f"MatMulInteger ({operands}, {target}_zero_point)"
    add = f"Add ({target}_sum_{g - 1}, {target}_part_{g})" if g else f"Identity ({target}_part_{g})"
    return f"""
        {target}_exact_{g} = {product}
        {target}_float_{g} = Cast <to = {FLOAT}> ({target}_exact_{g})
        {target}_part_{g} = Mul ({target}_float_{g}, {target}_scale_{g})
        {target}_sum_{g} = {add}
    """
