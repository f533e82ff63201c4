"""Pieces of ONNX's textual form that several function bodies share."""

from __future__ import annotations

import torch

from quamba_export.plugins.common.hadamard import hadamard_factors


def float_tensor(values: torch.Tensor) -> str:
    """A float tensor literal; nine significant digits bring every fp32 value back exactly."""
    shape = ",".join(str(size) for size in values.shape)
    numbers = ", ".join(f"{value:.9g}" if value % 1 else f"{value:.1f}" for value in values.flatten().tolist())
    return f"float[{shape}] {{{numbers}}}"


def hadamard_lines(source: str, target: str, size: int) -> str:
    """Lines that apply the Hadamard transform of `size` to the last axis of a (B, L, size) value."""
    factors = hadamard_factors(size)
    left, right = factors.left, factors.right
    folded = [0, 0, factors.blocks, left.shape[0], right.shape[0]]
    return f"""
        hadamard_left = Constant <value = {float_tensor(left.float())}> ()
        hadamard_right = Constant <value = {float_tensor(right.float().T)}> ()
        hadamard_shape = Constant <value_ints = {folded}> ()
        hadamard_flat = Constant <value_ints = [0, 0, {size}]> ()
        {source}_folded = Reshape ({source}, hadamard_shape)
        {source}_right = MatMul ({source}_folded, hadamard_right)
        {source}_both = MatMul (hadamard_left, {source}_right)
        {target} = Reshape ({source}_both, hadamard_flat)
    """


def state_in_line(dtype: str) -> str:
    """`h_0` in fp32 from `state` and `state_scale`."""
    if dtype == "int8":
        return "state_f = Cast <to = 1> (state)\n h_0 = Mul (state_f, state_scale)"
    return "h_0 = Cast <to = 1> (state)"


def state_out_lines(dtype: str) -> str:
    """`state_out` in the state's dtype from `h_last` in fp32 and `state_scale`."""
    if dtype == "int8":
        return """
            state_steps = Div (h_last, state_scale)
            state_rounded = Round (state_steps)
            state_low = Constant <value_float = -128.0> ()
            state_high = Constant <value_float = 127.0> ()
            state_clipped = Clip (state_rounded, state_low, state_high)
            state_out = Cast <to = 3> (state_clipped)
        """
    return f"state_out = Cast <to = {10 if dtype == 'float16' else 1}> (h_last)"
