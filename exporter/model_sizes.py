"""Sizes of published Mamba models, and the bytes that a token of one takes through memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from quamba_export.calib.config import MambaConfig

VOCABULARY = 50288
IntegerForm = Literal["w8a8", "w4a8"]

_MAMBA1 = MambaConfig(
    kind="mamba1",
    d_model=768,
    n_layer=24,
    vocab_size=VOCABULARY,
    d_inner=1536,
    d_state=16,
    d_conv=4,
    dt_rank=48,
    headdim=0,
    n_groups=0,
    tie_embeddings=True,
    conv_bias=True,
    proj_bias=False,
    norm_epsilon=1e-5,
)
_MAMBA2 = replace(_MAMBA1, kind="mamba2", d_state=128, dt_rank=0, headdim=64, n_groups=1)


def _sized(base: MambaConfig, d_model: int, n_layer: int) -> MambaConfig:
    dt_rank = -(-d_model // 16) if base.kind == "mamba1" else 0
    return replace(base, d_model=d_model, n_layer=n_layer, d_inner=2 * d_model, dt_rank=dt_rank)


CONFIGS = {
    "mamba-130m": _MAMBA1,
    "mamba-790m": _sized(_MAMBA1, 1536, 48),
    "mamba-2.8b": _sized(_MAMBA1, 2560, 64),
    "mamba2-130m": _MAMBA2,
    "mamba2-780m": _sized(_MAMBA2, 1536, 48),
    "mamba2-2.7b": _sized(_MAMBA2, 2560, 64),
    "mamba2-8b": replace(_sized(_MAMBA2, 4096, 56), n_groups=8, vocab_size=256000, tie_embeddings=False),
}


@dataclass(frozen=True)
class TokenBytes:
    """Of a model with int8 activations and fp16 states."""

    weights: int  # that a token reads: all of them and the head, not the embedding's other rows
    state: int  # of one sequence; a token reads it and writes it


def token_bytes(config: MambaConfig, qformat: IntegerForm = "w8a8") -> TokenBytes:
    """Counted by the shapes: projections with scales, bias and output scale of every row, fp16 head.

    W4A8 has in_proj and out_proj in int4, with an fp16 scale for 128 columns. Within 1 % of the tensors of an
    exported model of that size.
    """
    E, N = config.d_inner, config.d_state
    wide = _linear if qformat == "w8a8" else _int4_linear
    layer = wide(config.d_in_proj, config.d_model) + wide(config.d_model, E)
    layer += _linear(config.conv_dim, config.d_conv) + 4 * config.conv_dim
    if config.kind == "mamba1":
        layer += _linear(config.dt_rank + 2 * N, E) + _linear(E, config.dt_rank) + E * (N + 2)
    else:
        layer += 4 * E + 4 * E + 12 * config.n_heads  # norm, scale of every channel, A_log, D and dt_bias
    head = 2 * config.vocab_size * config.d_model
    state = math.prod(config.conv_state_shape) + 2 * math.prod(config.ssm_state_shape)
    return TokenBytes(weights=config.n_layer * layer + head, state=config.n_layer * state)


def _linear(rows: int, columns: int) -> int:
    return rows * (columns + 12)


def _int4_linear(rows: int, columns: int) -> int:
    return rows * (columns // 2 + 2 * -(-columns // 128) + 8)
