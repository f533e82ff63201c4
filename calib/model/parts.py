"""The float model of a checkpoint a part at a time: its two ends, or one layer, behind the exact rewrites.

A part is read from the checkpoint's files when it is asked for, widened to fp32, put on the device, and
rewritten there; whoever asked holds the only copy. So memory holds a layer, whatever the number of layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from quamba_export.calib.checkpoints.checkpoint import Checkpoint
from quamba_export.calib.config import MambaConfig
from quamba_export.calib.device import CPU
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.model.head_groups import ChannelPermutation
from quamba_export.calib.model.rewrites import EMBEDDING, FINAL_NORM, HEAD, RewriteReport, apply_rewrites
from quamba_export.calib.recipes.recipe import Recipe

Rewrite = Callable[[FloatMamba], list[RewriteReport]]  # of a part, in place


@dataclass
class ModelParts:
    """rewrite: what is done to every part; nothing where it is None."""

    checkpoint: Checkpoint
    device: torch.device = CPU
    rewrite: Rewrite | None = None
    _reports: dict[str, list[RewriteReport]] = field(default_factory=dict)

    @property
    def config(self) -> MambaConfig:
        return self.checkpoint.config

    def ends(self) -> FloatMamba:
        """Embedding, final norm and head, if the model has one, in the host's memory."""
        return self._part("ends", [EMBEDDING, FINAL_NORM, HEAD], CPU)

    def layer(self, i: int) -> FloatMamba:
        """Layer i, which keeps its number, on the device."""
        prefix = f"backbone.layers.{i}."
        names = [name for name in self.checkpoint.tensors if name.startswith(prefix)]
        return self._part(prefix, names, self.device)

    def reports(self) -> list[RewriteReport]:
        """What the rewrites did to the whole model.

        Parts that nobody has asked for are made for it. That is so in a run resumed behind its passes only,
        whatever the workers: a pass takes every part from here.
        """
        for i in range(self.config.n_layer):
            if f"backbone.layers.{i}." not in self._reports:
                self.layer(i)
        if "ends" not in self._reports:
            self.ends()
        by_rewrite = zip(*self._reports.values(), strict=True)
        return [_sum(reports) for reports in by_rewrite]

    def _part(self, key: str, names: list[str], device: torch.device) -> FloatMamba:
        stored = self.checkpoint.tensors
        model = FloatMamba(self.config, {name: stored[name].to(device) for name in names if name in stored})
        self._reports[key] = self.rewrite(model) if self.rewrite is not None else []
        return model


def rewritten_parts(
    checkpoint: Checkpoint,
    recipe: Recipe,
    permutation: Mapping[int, ChannelPermutation],
    basis: Mapping[str, Tensor],
    device: torch.device = CPU,
) -> ModelParts:
    """The model in the basis that a calibration observes it in, as `apply_rewrites` makes the whole one."""
    return ModelParts(checkpoint, device, lambda part: apply_rewrites(part, recipe, permutation, basis))


def _sum(reports: tuple[RewriteReport, ...]) -> RewriteReport:
    """The report of a rewrite, of its reports of all parts."""
    return replace(
        reports[0],
        values_before=sum(report.values_before for report in reports),
        values_after=sum(report.values_after for report in reports),
        untied_head=any(report.untied_head for report in reports),
    )
