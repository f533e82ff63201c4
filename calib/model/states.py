"""The recurrent state of a Mamba model between two calls."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from quamba_export.calib.config import MambaConfig
from quamba_export.plugins.common.rotation import rotated, rotation_size


@dataclass
class States:
    """Convolution and scan state of every layer.

    conv: n_layer tensors (B, C, W-1): the last W-1 inputs of the convolution, oldest first.
    ssm:  n_layer tensors (B, E, N) for mamba1, (B, H, P, N) for mamba2: the scan's h after the last token.
    row_scales: of a dynamic int8 state n_layer fp32 tensors (B, E) or (B, H, P), else none.
    """

    conv: list[Tensor]
    ssm: list[Tensor]
    row_scales: list[Tensor] = field(default_factory=list)

    @classmethod
    def zeros(
        cls,
        config: MambaConfig,
        batch: int,
        *,
        ssm_dtype: torch.dtype = torch.float32,
        conv_dtype: torch.dtype = torch.float32,
        dynamic: bool = False,
        device: torch.device | str = "cpu",
    ) -> States:
        """The state before the first token; `dynamic`: with row scales."""
        layers = range(config.n_layer)
        conv, ssm = (batch, *config.conv_state_shape), (batch, *config.ssm_state_shape)
        return cls(
            conv=[torch.zeros(conv, dtype=conv_dtype, device=device) for _ in layers],
            ssm=[torch.zeros(ssm, dtype=ssm_dtype, device=device) for _ in layers],
            row_scales=[torch.zeros(ssm[:-1], device=device) for _ in layers if dynamic],
        )

    @classmethod
    def of_layers(cls, conv: list[Tensor], scan: list[tuple[Tensor, ...]]) -> States:
        """scan: as `scan_states` gives them."""
        return cls(conv, [state[0] for state in scan], [state[1] for state in scan if len(state) > 1])

    def scan_states(self) -> list[tuple[Tensor, ...]]:
        """The tensors of every layer's scan state: h, or codes and row scales."""
        return (
            list(zip(self.ssm, self.row_scales, strict=True)) if self.row_scales else [(h,) for h in self.ssm]
        )

    def float_ssm(self) -> list[Tensor]:
        """ssm as it stands, or of a dynamic int8 state the fp32 values that it holds."""
        return [float_state(*state) if len(state) > 1 else state[0] for state in self.scan_states()]


def float_state(codes: Tensor, row_scale: Tensor) -> Tensor:
    """The fp32 h of a dynamic int8 state: (B, E, N), or (B, H, P, N), which is held rotated."""
    if codes.dim() == 3:
        return codes * row_scale[..., None]
    return rotated(codes) * (row_scale / rotation_size(codes.shape[-1]))[..., None]
