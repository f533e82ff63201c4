"""The recurrent state of a Mamba model between two calls."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quamba_export.calib.config import MambaConfig


@dataclass
class States:
    """Convolution and scan state of every layer.

    conv: n_layer tensors (B, C, W-1): the last W-1 inputs of the convolution, oldest first.
    ssm:  n_layer tensors (B, E, N) for mamba1, (B, H, P, N) for mamba2: the scan's h after the last token.
    """

    conv: list[Tensor]
    ssm: list[Tensor]

    @classmethod
    def zeros(
        cls,
        config: MambaConfig,
        batch: int,
        *,
        ssm_dtype: torch.dtype = torch.float32,
        conv_dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> States:
        """The state before the first token."""
        layers = range(config.n_layer)
        conv, ssm = (batch, *config.conv_state_shape), (batch, *config.ssm_state_shape)
        return cls(
            conv=[torch.zeros(conv, dtype=conv_dtype, device=device) for _ in layers],
            ssm=[torch.zeros(ssm, dtype=ssm_dtype, device=device) for _ in layers],
        )
