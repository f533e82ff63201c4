"""The sites of a model (docs/architecture.md): their names, and which values of one share a scale."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from quamba_export.calib.config import MambaConfig

SITES = {
    "mamba1": ("norm_out", "z", "conv_in", "x", "dt_low", "B", "C", "dt", "ssm_state", "out_proj_in"),
    "mamba2": (
        *("norm_out", "z", "conv_in_x", "conv_in_B", "conv_in_C"),
        *("x", "B", "C", "dt", "ssm_state", "out_proj_in"),
    ),
}
_GROUPED = ("x", "B", "C", "ssm_state")  # the sites with a scale for each group, where there are groups


@dataclass(frozen=True, eq=False)
class GroupRanges:
    """Contiguous runs of heads, and of channels inside a head, that share a scale (Mamba-2, reordered).

    head_ends (G, a) int32:       exclusive ends of the runs of heads, counted from the group's first head.
    channel_ends (G, a, b) int32: exclusive ends of the runs of channels inside each head of a head group.
    """

    head_ends: Tensor
    channel_ends: Tensor

    def blocks(self, heads: int) -> Iterator[tuple[slice, slice]]:
        """Slices of heads (of all H) and of channels, one pair for each entry of a (G, a, b) table."""
        groups, head_groups = self.head_ends.shape
        for group in range(groups):
            head = first = group * (heads // groups)
            for run in range(head_groups):
                rows = slice(head, first + int(self.head_ends[group, run]))
                head, channel = rows.stop, 0
                for end in self.channel_ends[group, run].tolist():
                    yield rows, slice(channel, end)
                    channel = end

    def index(self, heads: int) -> Tensor:
        """(H, P) int32: row of each head and channel in a (G, a, b, ...) table flattened to (S, ...)."""
        index = torch.empty(heads, int(self.channel_ends[0, 0, -1]), dtype=torch.int32)
        for row, (h, p) in enumerate(self.blocks(heads)):
            index[h, p] = row
        return index


def site_names(config: MambaConfig) -> list[str]:
    """Every site of the model, layer by layer: `layers.{i}.{site}`."""
    return [f"layers.{i}.{site}" for i in range(config.n_layer) for site in SITES[config.kind]]


def scale_shape(config: MambaConfig, site: str, groups: tuple[int, int] | None) -> tuple[int, ...]:
    """Shape of the scale of `site`, a short name: () per tensor; (G,), (G, a, b), (G, a, b, N) per group.

    groups: (a, b), or None where the recipe forms none.
    """
    if groups is None or site not in _GROUPED:
        return ()
    if site in ("B", "C"):
        return (config.n_groups,)
    return (config.n_groups, *groups, *((config.d_state,) if site == "ssm_state" else ()))


def split_rows(values: Tensor, site: str, ranges: GroupRanges | None) -> list[Tensor]:
    """One sample's values at `site` as blocks of rows (k, n): a row for each scale, in their order.

    values: (L, ...), or the state (H, P, N); see calib/model/float_model.py.
    """
    if ranges is None or site not in _GROUPED:
        return [values.reshape(1, -1)]
    if site in ("B", "C"):
        return [values.transpose(0, 1).flatten(1)]  # (G, L N)
    if site == "x":
        return [values[:, h, p].reshape(1, -1) for h, p in ranges.blocks(values.shape[1])]
    return [values[h, p].flatten(0, 1).T for h, p in ranges.blocks(values.shape[0])]  # (N, heads channels)


def split_channels(values: Tensor) -> Tensor:
    """x of one sample (L, H, P) as rows (H P, L), one for each channel."""
    return values.flatten(1).T
