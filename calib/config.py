"""What a Mamba checkpoint is, as one frozen record; every size the project uses comes from here.

Shape letters used everywhere: B batch, L length, D d_model, E d_inner, H heads, P headdim, N d_state,
G groups, R dt_rank, W conv width (d_conv), V vocabulary (padded).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["mamba1", "mamba2"]


@dataclass(frozen=True)
class MambaConfig:
    """Sizes and switches of a Mamba-1 or Mamba-2 language model, from its config.json."""

    kind: Kind
    d_model: int
    n_layer: int
    vocab_size: int  # V, after padding: the rows of the embedding
    d_inner: int  # E
    d_state: int  # N
    d_conv: int  # W
    dt_rank: int  # R, 0 for mamba2
    headdim: int  # P, 0 for mamba1
    n_groups: int  # G, 0 for mamba1
    tie_embeddings: bool
    conv_bias: bool
    proj_bias: bool  # in_proj and out_proj
    norm_epsilon: float
    time_step_limit: tuple[float, float] = (0.0, float("inf"))  # clamp on softplus(dt), mamba2

    @property
    def n_heads(self) -> int:
        return self.d_inner // self.headdim if self.headdim else 0

    @property
    def conv_dim(self) -> int:
        """Channels of the causal convolution: E for mamba1, E + 2 G N for mamba2."""
        return self.d_inner + 2 * self.n_groups * self.d_state

    @property
    def d_in_proj(self) -> int:
        """Rows of in_proj: (x, z) for mamba1, (z, x, B, C, dt) for mamba2."""
        if self.kind == "mamba1":
            return 2 * self.d_inner
        return 2 * self.d_inner + 2 * self.n_groups * self.d_state + self.n_heads

    @property
    def conv_state_shape(self) -> tuple[int, int]:
        return (self.conv_dim, self.d_conv - 1)

    @property
    def ssm_state_shape(self) -> tuple[int, ...]:
        if self.kind == "mamba1":
            return (self.d_inner, self.d_state)
        return (self.n_heads, self.headdim, self.d_state)
