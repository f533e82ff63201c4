"""The recurrence of both scans: one fp32 state update a token, rounded to the state's dtype after each.

Every operation is a plain fp32 one in a stated order, so prefill, prefill in pieces and token by token give
the same bits, and so does every implementation that keeps the order. Source: Mamba (arXiv 2312.00752),
algorithm 2; Mamba-2 (arXiv 2405.21060), section 3; the order is this project's contract.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor as T

from quamba_export.plugins.common.scan_state import State, loaded, stored


def scan(
    state: State, state_scale: T | float, decay: Callable[[int], T], inputs: T, B: T, C: T
) -> tuple[T, State]:
    """h[t] = round(h[t-1]) decay(t) + inputs[t] B[t];  y[t] = tree_sum(h[t] C[t]) -> y, round(h[L-1]).

    state (b, ..., N) fp16, fp32, int8 on `state_scale`, or RowScaled; decay(t), inputs[:, t], B[:, t] and
    C[:, t] fp32, each broadcasting against the state; -> y (b, L, ...) fp32.
    """
    outputs = []
    for t in range(inputs.shape[1]):
        h = loaded(state, state_scale) * decay(t) + inputs[:, t] * B[:, t]
        outputs.append(tree_sum(h * C[:, t]))
        state = stored(h, state, state_scale)
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
