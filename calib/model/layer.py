"""What the two kinds of Mamba block share: weights by name, causal convolution, RMSNorm, projections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from quamba_export.calib.config import MambaConfig
from quamba_export.plugins.common.hadamard import apply_hadamard

Observer = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Layer:
    """One layer's view of the model: its weights and its observation sites by short name."""

    config: MambaConfig
    index: int
    tensors: dict[str, Tensor]
    out_hadamard: bool
    observer: Observer | None

    def weight(self, name: str) -> Tensor:
        return self.tensors[f"backbone.layers.{self.index}.{name}"]

    def optional(self, name: str) -> Tensor | None:
        return self.tensors.get(f"backbone.layers.{self.index}.{name}")

    def observe(self, site: str, tensor: Tensor) -> None:
        if self.observer is not None:
            self.observer(f"layers.{self.index}.{site}", tensor)

    def in_proj(self, norm_out: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, d_in_proj)."""
        return F.linear(norm_out, self.weight("mixer.in_proj.weight"), self.optional("mixer.in_proj.bias"))

    def out_proj(self, y: Tensor) -> Tensor:
        """(B, L, E) -> (B, L, D); the online Hadamard undoes the one folded into the weight."""
        if self.out_hadamard:
            y = apply_hadamard(y)
        self.observe("out_proj_in", y)
        return F.linear(y, self.weight("mixer.out_proj.weight"), self.optional("mixer.out_proj.bias"))

    def causal_conv(self, conv_in: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """SiLU of the depthwise causal convolution, over what calib/model/smoothing.py divides it by.

        conv_in (B, L, C), state (B, C, W-1) -> y (B, L, C), the state after the last token (B, C, W-1).
        """
        weight, bias = self.weight("mixer.conv1d.weight"), self.optional("mixer.conv1d.bias")
        history = torch.cat([state.to(conv_in.dtype), conv_in.transpose(1, 2)], dim=2)  # (B, C, W-1+L)
        y = F.conv1d(history, weight, bias, groups=history.shape[1])  # (B, C, L)
        last = history[:, :, conv_in.shape[1] :].clone()  # not a view that keeps all of history
        divisor, y = self.optional("mixer.x_divisor"), F.silu(y).transpose(1, 2)
        return y if divisor is None else y / divisor, last


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, groups: int = 1) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight, the mean over each of `groups` parts of the last dimension."""
    parts = torch.unflatten(x, -1, (groups, -1))
    scale = torch.rsqrt(parts.square().mean(-1, keepdim=True) + epsilon)
    return (parts * scale).flatten(-2) * weight
