"""Round-to-nearest int4 weights: a scale for every group of 128 columns of a row, by its largest value."""

from __future__ import annotations

import torch
from torch import Tensor

from quamba_export.plugins.common.int4 import CHUNK, INT4_MAX, INT4_MIN, group_sizes, pack_int4
from quamba_export.runtime.errors import ExitCode, QuambaError

SMALLEST_SCALE = 2.0**-24  # fp16's smallest number above zero


def int4_weight(weight: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """weight (M, K) -> packed codes (M, K/2) int8 and scales (M, K/128) fp16.

    A row's last group may be shorter. A scale is max |w| / 7 rounded to fp16 before any weight is divided by
    it, 1 for a group of zeros. Raises QuambaError where K is no multiple of 32 (what 16 bytes hold), and for
    a scale beyond fp16.
    """
    columns = weight.shape[1]
    if columns % CHUNK:
        raise QuambaError(
            f"{name} does not fit int4's packing",
            found=f"{columns} columns",
            allowed=f"a multiple of {CHUNK}",
            fix="use --qformat w8a8",
        )
    groups = weight.float().split(group_sizes(columns), dim=1)
    scale = torch.stack([_group_scale(group, name) for group in groups], dim=1)  # (M, K/128)
    codes = [
        torch.round(group / scale[:, g, None].float()).clamp(INT4_MIN, INT4_MAX)
        for g, group in enumerate(groups)
    ]
    return pack_int4(torch.cat(codes, dim=1).to(torch.int8)), scale


def _group_scale(group: Tensor, name: str) -> Tensor:
    """(M, up to 128) -> (M,) fp16."""
    wanted = group.abs().amax(1) / INT4_MAX
    scale = torch.where(wanted > 0, wanted.clamp(min=SMALLEST_SCALE), torch.ones_like(wanted)).half()
    if not bool(torch.isfinite(scale).all()):
        raise QuambaError(
            f"a scale of {name} has no fp16 number",
            found=f"{float(wanted.max()):.6g}",
            allowed="at most 65504",
            code=ExitCode.NUMERIC,
        )
    return scale
