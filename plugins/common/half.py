"""fp16 activations: what flows between the ops of a W4A16 model.

A value is rounded to fp16 once, half steps to even; beyond fp16's largest number it saturates, as int8 codes
do. An fp16 number times an int4 code is a multiple of 2^-24 of at most 2^19, so the sum of a group
of 128 needs 50 bits: fp64 holds it, whatever the order, and every implementation can give the same bits.
"""

from __future__ import annotations

from torch import Tensor

from quamba_export.plugins.common.onnx_text import DOUBLE, FLOAT, FLOAT16

HALF_MAX = 65504.0


def to_half(x: Tensor) -> Tensor:
    """fp32 -> fp16."""
    return x.clamp(-HALF_MAX, HALF_MAX).half()


def half_lines(source: str, target: str) -> str:
    """`target` = to_half(`source`)."""
    return f"""
        {target}_high = Constant <value_float = {HALF_MAX}> ()
        {target}_low = Neg ({target}_high)
        {target}_clipped = Clip ({source}, {target}_low, {target}_high)
        {target} = Cast <to = {FLOAT16}> ({target}_clipped)
    """


def widened_lines(*names: str) -> str:
    """`name`_f = `name` in fp32, for each."""
    return "\n".join(f"{name}_f = Cast <to = {FLOAT}> ({name})" for name in names)


def half_matmul(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., K) fp16 @ weight (M, K).T int8, summed in fp64 and rounded to fp32 once -> (..., M)."""
    return (x.double() @ weight.double().T).float()


def half_matmul_lines(x: str, weight: str, target: str) -> str:
    """`target` = half_matmul(`x`, `weight`)."""
    return f"""
        {target}_columns = Transpose <perm = [1, 0]> ({weight})
        {target}_weight = Cast <to = {DOUBLE}> ({target}_columns)
        {target}_x = Cast <to = {DOUBLE}> ({x})
        {target}_wide = MatMul ({target}_x, {target}_weight)
        {target} = Cast <to = {FLOAT}> ({target}_wide)
    """
