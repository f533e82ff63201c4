"""The network's two ends, embedding and head, at the bits that a format gives them.

Both are tables with a row a token, in fp16 (16) or fp32 (32), or codes: int8 on a scale a row (8), int4 on
scales of 128 columns (4), stored as calib/rounding/stored_weight.py says. Behind the embedding and in
front of the head everything is fp32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from quamba_export.calib.model.backend import Backend, V
from quamba_export.calib.rounding.nearest import Nearest
from quamba_export.calib.rounding.stored_weight import stored
from quamba_export.calib.rounding.weight_grid import RoundedWeight, grid_of

if TYPE_CHECKING:
    from quamba_export.calib.model.quantized_model import QuantizedModel

FLOATS = {16: torch.float16, 32: torch.float32}
PIECE = 8192  # rows of a table that are rounded at once: several copies of them are in memory
HEAD_OPS = {8: "RMSNormInt8Linear", 4: "RMSNormInt4Linear"}


def stored_table(name: str, weight: Tensor, bits: int, *, clip: bool) -> dict[str, Tensor]:
    """`{name}.weight` and, of codes, `{name}.weight_scale` of weight (V, D) fp32, rounded to nearest.

    clip: scales of the least squared error, at 8 bits; at 4 they are that always: it halves what codes cost.
    Raises QuambaError for columns that int4's packing does not fit.
    """
    if bits in FLOATS:
        return {f"{name}.weight": weight.to(FLOATS[bits])}
    rounding, grid = Nearest(clip=clip or bits == 4), grid_of(bits)
    rounded = in_pieces(weight, lambda rows: rounding.round(rows.float(), grid, name=name))
    codes, scale = stored(rounded, bits, name)
    return {f"{name}.weight": codes, f"{name}.weight_scale": scale}


def in_pieces(weight: Tensor, round_rows: Callable[[Tensor], RoundedWeight]) -> RoundedWeight:
    """weight (V, D) with its rows rounded PIECE at a time; a row's codes depend on no other row."""
    parts = [round_rows(rows) for rows in weight.split(PIECE)]
    codes, scale = torch.cat([part.codes for part in parts]), torch.cat([part.scale for part in parts])
    return RoundedWeight(codes, scale, parts[0].group)


def embed(net: Backend[V], model: QuantizedModel, input_ids: V) -> V:
    """input_ids (B, L) -> (B, L, D) fp32."""
    table, bits = net.weight("embedding.weight"), model.widths.embedding_bits
    if bits in FLOATS:
        return net.embed(table, input_ids)
    return net.embed_codes(table, net.weight("embedding.weight_scale"), input_ids, bits)


def head(net: Backend[V], model: QuantizedModel, hidden: V) -> V:
    """hidden (B, L, D) fp32 -> final norm and logits (B, L, V) fp32."""
    weight, bits, epsilon = net.weight("lm_head.weight"), model.widths.head_bits, model.config.norm_epsilon
    if bits in FLOATS:
        return net.norm_linear(hidden, weight, epsilon)
    (logits,) = net.op(HEAD_OPS[bits], hidden, weight, net.weight("lm_head.weight_scale"), epsilon=epsilon)
    return logits
