"""The float Mamba language model: the ground truth before quantization.

One code path serves prefill, prefill with a carried state, and the single step (L = 1). Nothing is written in
place and gradients flow, so the same model trains.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.model.layer import Layer, Observer, rms_norm
from quamba_export.calib.model.mamba1 import mamba1_mixer
from quamba_export.calib.model.mamba2 import mamba2_mixer
from quamba_export.calib.model.states import States

MIXERS = {"mamba1": mamba1_mixer, "mamba2": mamba2_mixer}


@dataclass
class FloatMamba:
    """A Mamba-1 or Mamba-2 language model in fp32.

    tensors: weights under mamba-ssm's names, read at every call: a rewrite or a trainer may replace them.
        Where `lm_head.weight` is absent the head is the embedding.
    out_hadamard: out_proj's input goes through the Hadamard transform whose inverse out_proj's weight holds.
    """

    config: MambaConfig
    tensors: dict[str, Tensor]
    out_hadamard: bool = False

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> FloatMamba:
        return cls(checkpoint.config, dict(checkpoint.tensors))

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(iter(self.tensors.values())).device

    def to(self, device: torch.device) -> FloatMamba:
        """The same model with its weights on `device`."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def __call__(
        self, input_ids: Tensor, states: States | None = None, *, observe: Observer | None = None
    ) -> tuple[Tensor, States]:
        """input_ids (B, L) int64 -> logits (B, L, V) fp32 and the states after the last token.

        observe(site, tensor) sees every site of docs/architecture.md, in the order of computation.
        """
        if states is None:
            states = States.zeros(self.config, input_ids.shape[0], device=input_ids.device)
        after = States(conv=[], ssm=[])
        residual = F.embedding(input_ids, self.tensors["backbone.embedding.weight"])  # (B, L, D)
        for index in range(self.config.n_layer):
            residual, conv, ssm = self.block(index, residual, states.conv[index], states.ssm[index], observe)
            after.conv.append(conv)
            after.ssm.append(ssm)
        return self._head(residual), after

    def block(
        self, index: int, residual: Tensor, conv: Tensor, ssm: Tensor, observe: Observer | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One layer: the residual stream (B, L, D) and its states -> those behind it."""
        layer = Layer(self.config, index, self.tensors, self.out_hadamard, observe)
        norm_out = rms_norm(residual, layer.weight("norm.weight"), self.config.norm_epsilon)
        layer.observe("norm_out", norm_out)
        out, conv, ssm = MIXERS[self.config.kind](layer, norm_out, conv, ssm)
        return residual + out, conv, ssm

    def _head(self, residual: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, V)."""
        head = self.tensors.get("lm_head.weight", self.tensors["backbone.embedding.weight"])
        return F.linear(
            rms_norm(residual, self.tensors["backbone.norm_f.weight"], self.config.norm_epsilon), head
        )
