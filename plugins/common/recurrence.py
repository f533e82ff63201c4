"""The recurrence of both scans: one fp32 state update a token, rounded to the state's dtype after each.

Every operation is a plain fp32 one in a stated order, so prefill, prefill in pieces and token by token give
the same bits, and so does every implementation that keeps the order. Source: Mamba (arXiv 2312.00752),
algorithm 2; Mamba-2 (arXiv 2405.21060), section 3; the order is this project's contract.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor as T

from quamba_export.plugins.common.onnx_text import FLOAT, FLOAT16, quantize_lines
from quamba_export.plugins.common.quantization import dequantize, quantize

ONNX_TYPE = {"float16": "float16", "float32": "float", "int8": "int8"}


def scan(state: T, state_scale: T | float, decay: Callable[[int], T], inputs: T, B: T, C: T) -> tuple[T, T]:
    """h[t] = round(h[t-1]) decay(t) + inputs[t] B[t];  y[t] = tree_sum(h[t] C[t]) -> y, round(h[L-1]).

    state (b, ..., N) fp16, fp32 or int8 on `state_scale`; decay(t), inputs[:, t], B[:, t] and C[:, t] fp32,
    each broadcasting against the state; -> y (b, L, ...) fp32.
    """
    outputs = []
    for t in range(inputs.shape[1]):
        h = dequantize(state, state_scale) if state.dtype == torch.int8 else state.float()
        h = h * decay(t) + inputs[:, t] * B[:, t]
        outputs.append(tree_sum(h * C[:, t]))
        state = quantize(h, state_scale) if state.dtype == torch.int8 else h.to(state.dtype)
    return torch.stack(outputs, dim=1), state


def tree_sum(x: T) -> T:
    """Sum over the last axis (..., N) -> (...) in fp32 by halving: entry n takes entry n + half, where there
    is one, half running from half the next power of two down to 1. A warp's xor shuffles give this order.
    """
    half = tree_width(x.shape[-1]) // 2
    while half:
        paired = x.shape[-1] - half  # below `half` only where N is no power of two
        x = torch.cat([x[..., :paired] + x[..., half:], x[..., paired:half]], dim=-1)
        half //= 2
    return x.squeeze(-1)


def tree_width(n_state: int) -> int:
    """The next power of two."""
    return 1 << (n_state - 1).bit_length()


def tree_sum_lines(source: str, target: str, n_state: int) -> str:
    """`target` (..., 1) = tree_sum of `source` (..., n_state), zeros in the place of missing entries."""
    width = tree_width(n_state)
    lines = [f"{target}_{width} = Identity ({source})"]
    if width != n_state:
        lines = [
            f"""
            {target}_axis = Constant <value_ints = [-1]> ()
            {target}_pads = Constant <value_ints = [0, {width - n_state}]> ()
            {target}_nothing = Constant <value_float = 0.0> ()
            {target}_{width} = Pad ({source}, {target}_pads, {target}_nothing, {target}_axis)
        """
        ]
    while width > 1:
        whole, left, right = f"{target}_{width}", f"{target}_{width}_left", f"{target}_{width}_right"
        width //= 2
        lines.append(f"""
            {left}, {right} = Split <axis = -1, num_outputs = 2> ({whole})
            {target}_{width} = Add ({left}, {right})
        """)
    return "\n".join([*lines, f"{target} = Identity ({target}_1)"])


def state_in_lines(source: str, target: str, dtype: str, scale: str) -> str:
    """`target` = the state `source` of `dtype` in fp32; codes of an int8 one stand on `scale`."""
    if dtype == "int8":
        return f"""
            {source}_codes = Cast <to = {FLOAT}> ({source})
            {target} = Mul ({source}_codes, {scale})
        """
    return f"{target} = Cast <to = {FLOAT}> ({source})"


def state_out_lines(source: str, target: str, dtype: str, scale: str) -> str:
    """`target` = the fp32 `source` rounded to a state of `dtype`; an int8 one on `scale`."""
    if dtype == "int8":
        return quantize_lines(source, target, scale)
    return f"{target} = Cast <to = {FLOAT16 if dtype == 'float16' else FLOAT}> ({source})"
