"""The quantized model: integer weights and scales by name, run by interpreting calib/model/network.py.

In PyTorch it is made of the ops' references and is the ground truth for the ONNX graph and the engines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.network import forward
from quamba_export.calib.model.qformat import BlockWidths, QFormat
from quamba_export.calib.model.scan_input import ScanInput
from quamba_export.calib.model.state_dtype import SsmStateDtype, has_row_scales, stored_as
from quamba_export.calib.model.states import States
from quamba_export.calib.model.torch_backend import TorchBackend
from quamba_export.runtime.errors import QuambaError

Tap = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class QuantizedModel:
    """Constants of a quantized Mamba model.

    tensors: int8 or packed int4 weights and their scales, embedding and head, by the names network.py asks
        for.
    scales:  per-tensor scales (fp32 values) by site or parameter name.
    widths:  of the whole; blocks: of every layer.
    """

    FLOAT_MAX: ClassVar[float] = torch.finfo(torch.float32).max

    config: MambaConfig
    tensors: dict[str, Tensor]
    scales: dict[str, float]
    widths: QFormat
    blocks: tuple[BlockWidths, ...]
    ssm_state_dtype: SsmStateDtype
    out_hadamard: bool
    ssm_input: ScanInput = field(default_factory=ScanInput)

    @property
    def qformat(self) -> str:
        """The name of the widths."""
        return self.widths.name

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return next(iter(self.tensors.values())).device

    def to(self, device: torch.device) -> QuantizedModel:
        """The same model with its tensors on `device`: the same codes and scales, to the bit."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def block(self, i: int) -> BlockWidths:
        """Widths of layer i."""
        return self.blocks[i]

    def bits(self, projection: str) -> int:
        """Bits of the weight of `layers.{i}.in_proj` and the like."""
        return self.block(layer_of(projection)).bits(projection)

    @property
    def dynamic_state(self) -> bool:
        """Whether the rows of the scan state are scaled as they are written."""
        return has_row_scales(self.ssm_state_dtype)

    @property
    def row_rounding(self) -> dict[str, int]:
        """The attribute of a scan op whose rows are scaled as they are written."""
        return {"stochastic": int(self.ssm_state_dtype == "int8-stochastic")}

    @property
    def smoothed(self) -> bool:
        """Whether the norms in front of in_proj have a weight (calib/model/smoothing.py)."""
        return "layers.0.norm_weight" in self.tensors

    def state_scale(self, site: str) -> float:
        """Scale of the scan state of Mamba-1's layer `site`; 1 for a float state."""
        return self.scale(f"{site}.ssm_state") if self.ssm_state_dtype == "int8" else 1.0

    def scale(self, name: str) -> float:
        """Per-tensor scale of a site or parameter; raises QuambaError where the calibration gave none."""
        if name not in self.scales:
            raise QuambaError(
                f"no per-tensor scale for '{name}'",
                found=f"{len(self.scales)} scales",
                fix="run `quamba-export calibrate` on this checkpoint",
            )
        return self.scales[name]

    def scan_x_scale(self, site: str) -> float:
        """Scale that Mamba-1's scan takes x by: x's own, or that of a study (calib/model/scan_input.py)."""
        return self.scales.get(f"{site}.scan_x") or self.scale(f"{site}.x")

    def site_scale(self, site: str) -> Tensor:
        """fp32 scale that dequantizes the tensor tapped at `site`; broadcasts against it, 1 for a float
        tensor and for a state whose scales are beside it.
        """
        layer, _, name = site.rpartition(".")
        if (
            self.block(layer_of(site)).activation_bits != 8
            or name in ("y", "hidden")
            or (name == "x" and self.ssm_input.is_float)
            or (name == "ssm_state" and self.ssm_state_dtype != "int8")
        ):
            return torch.tensor(1.0)
        if site in self.scales:
            return torch.tensor(self.scales[site])
        if name == "conv_in":
            return self.tensors[f"{layer}.conv1d.x_scale"]  # (C,)
        if name in ("B", "C"):
            return self.tensors[f"{layer}.{name}_scale"][:, None]  # (G, 1)
        table = self.tensors[f"{layer}.{'state' if name == 'ssm_state' else name}_scale"]
        return table[self.tensors[f"{layer}.scale_index"]]  # (H, P) or (H, P, N)

    def zero_states(self, batch: int) -> States:
        """States before the first token, in the dtypes that they are stored in."""
        states = States.zeros(
            self.config,
            batch,
            ssm_dtype=getattr(torch, stored_as(self.ssm_state_dtype)),
            dynamic=self.dynamic_state,
            device=self.device,
        )
        pairs = zip(states.conv, self.blocks, strict=True)
        return replace(states, conv=[c.to(getattr(torch, block.conv_state_dtype)) for c, block in pairs])

    @torch.no_grad()
    def run(
        self,
        input_ids: Tensor,
        states: States | None = None,
        tap: Tap | None = None,
        num_logits: int | None = None,
    ) -> tuple[Tensor, States]:
        """input_ids (B, L) int64 -> logits (B, num_logits or L, V) fp32, next states; `tap` sees every
        site.
        """
        batch, length = input_ids.shape
        states = states or self.zero_states(batch)
        count = torch.tensor(length if num_logits is None else num_logits)
        backend = TorchBackend(self.tensors, tap)
        logits, conv, scan = forward(backend, self, input_ids, states.conv, states.scan_states(), count)
        return logits, States.of_layers(conv, scan)

    def __call__(self, input_ids: Tensor, states: States | None = None) -> tuple[Tensor, States]:
        return self.run(input_ids, states)


def layer_of(name: str) -> int:
    """i of `layers.{i}...`."""
    return int(name.split(".")[1])
