"""Pieces of ONNX's textual form that several function bodies share; each names what it reads and what it
yields.
"""

from __future__ import annotations

import torch

from quamba_export.plugins.common.hadamard import hadamard_factors

DOUBLE, FLOAT, FLOAT16, INT8, INT32, UINT8 = 11, 1, 10, 3, 6, 2  # ONNX element types


def tensor_literal(values: torch.Tensor) -> str:
    """A double tensor literal; seventeen significant digits bring every value back exactly."""
    shape = ",".join(str(size) for size in values.shape)
    numbers = ", ".join(
        f"{value:.17g}" if value % 1 else f"{value:.1f}" for value in values.flatten().tolist()
    )
    return f"double[{shape}] {{{numbers}}}"


def int8_matmul_lines(x: str, weight: str, target: str) -> str:
    """`target` = the exact integer product `x` @ `weight`.T in fp32.

    x is shifted to unsigned codes (x + 128, zero point 128): ONNX Runtime on x86 has fast kernels for uint8 x
    int8 and a plain loop, 40 times slower, for int8 x int8.
    """
    return f"""
        {target}_sign = Constant <value = int8 {{-128}}> ()
        {target}_zero_point = Constant <value = uint8 {{128}}> ()
        {target}_shifted = BitwiseXor ({x}, {target}_sign)
        {target}_unsigned = Cast <to = {UINT8}> ({target}_shifted)
        {target}_weight = Transpose <perm = [1, 0]> ({weight})
        {target}_int = MatMulInteger ({target}_unsigned, {target}_weight, {target}_zero_point)
        {target} = Cast <to = {FLOAT}> ({target}_int)
    """


def silu_lines(source: str, target: str) -> str:
    """`target` = silu(`source`), fp32 -> fp32, as plugins/common/precise.py rounds it."""
    return f"""
        {target}_one = Constant <value = double {{1.0}}> ()
        {target}_wide = Cast <to = {DOUBLE}> ({source})
        {target}_negative = Neg ({target}_wide)
        {target}_exp = Exp ({target}_negative)
        {target}_below = Add ({target}_exp, {target}_one)
        {target}_double = Div ({target}_wide, {target}_below)
        {target} = Cast <to = {FLOAT}> ({target}_double)
    """


def exp_lines(source: str, target: str) -> str:
    """`target` = exp(`source`), fp32 -> fp32, rounded once."""
    return f"""
        {target}_exponent = Cast <to = {DOUBLE}> ({source})
        {target}_wide = Exp ({target}_exponent)
        {target} = Cast <to = {FLOAT}> ({target}_wide)
    """


def softplus_lines(source: str, target: str) -> str:
    """`target` = softplus(`source`), fp32 -> fp32, as plugins/common/precise.py rounds it.

    log1p(e) is log(1 + e) plus what the sum lost of e; ONNX has no Log1p.
    """
    return f"""
        {target}_one = Constant <value = double {{1.0}}> ()
        {target}_zero = Constant <value = double {{0.0}}> ()
        {target}_wide = Cast <to = {DOUBLE}> ({source})
        {target}_abs = Abs ({target}_wide)
        {target}_negative = Neg ({target}_abs)
        {target}_exp = Exp ({target}_negative)
        {target}_sum = Add ({target}_exp, {target}_one)
        {target}_log = Log ({target}_sum)
        {target}_kept = Sub ({target}_sum, {target}_one)
        {target}_lost = Sub ({target}_exp, {target}_kept)
        {target}_log1p = Add ({target}_log, {target}_lost)
        {target}_above = Max ({target}_wide, {target}_zero)
        {target}_double = Add ({target}_above, {target}_log1p)
        {target} = Cast <to = {FLOAT}> ({target}_double)
    """


def root_mean_square_lines(source: str, target: str, epsilon: str) -> str:
    """`target` = sqrt(mean(`source`^2) + `epsilon`) over the last axis, fp32 -> fp32."""
    return f"""
        {target}_axis = Constant <value_ints = [-1]> ()
        {target}_epsilon = Cast <to = {DOUBLE}> ({epsilon})
        {target}_wide = Cast <to = {DOUBLE}> ({source})
        {target}_square = Mul ({target}_wide, {target}_wide)
        {target}_mean = ReduceMean <keepdims = 1> ({target}_square, {target}_axis)
        {target}_shifted = Add ({target}_mean, {target}_epsilon)
        {target}_double = Sqrt ({target}_shifted)
        {target} = Cast <to = {FLOAT}> ({target}_double)
    """


def hadamard_lines(source: str, target: str, size: int) -> str:
    """`target` = the Hadamard transform of `size` on the last axis of `source` (B, L, size), fp32 -> fp32."""
    factors = hadamard_factors(size)
    left, right = factors.left, factors.right
    folded = [0, 0, factors.blocks, left.shape[0], right.shape[0]]
    return f"""
        hadamard_left = Constant <value = {tensor_literal(left)}> ()
        hadamard_right = Constant <value = {tensor_literal(right.T)}> ()
        hadamard_shape = Constant <value_ints = {folded}> ()
        hadamard_flat = Constant <value_ints = [0, 0, {size}]> ()
        {source}_wide = Cast <to = {DOUBLE}> ({source})
        {source}_folded = Reshape ({source}_wide, hadamard_shape)
        {source}_right = MatMul ({source}_folded, hadamard_right)
        {source}_both = MatMul (hadamard_left, {source}_right)
        {source}_flat = Reshape ({source}_both, hadamard_flat)
        {target} = Cast <to = {FLOAT}> ({source}_flat)
    """


def quantize_lines(source: str, target: str, scale: str) -> str:
    """`target` = int8 codes of fp32 `source` on `scale`; ONNX Runtime's QuantizeLinear is slow on the last
    axis.
    """
    return f"""
        {target}_low = Constant <value_float = -128.0> ()
        {target}_high = Constant <value_float = 127.0> ()
        {target}_steps = Div ({source}, {scale})
        {target}_rounded = Round ({target}_steps)
        {target}_clipped = Clip ({target}_rounded, {target}_low, {target}_high)
        {target} = Cast <to = {INT8}> ({target}_clipped)
    """
