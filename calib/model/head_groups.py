"""Sort and cluster (Quamba2, arXiv 2503.22879, section 4.2): which heads and channels share a scale.

Inside each head the channels are sorted by magnitude, largest first. The heads of a group of B and C are
clustered by their sorted magnitudes (agglomerative, Ward), then the channels of each head group are cut into
runs. After the permutation every group is a run of heads and a run of channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quamba_export.calib.sites import GroupRanges

Magnitudes = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ChannelPermutation:
    """New head h is old head heads[h]; new channel p of it is the old head's channel channels[h, p].

    heads (H,) int64, channels (H, P) int64.
    """

    heads: Tensor
    channels: Tensor

    def flat(self) -> Tensor:
        """(E,) int64: the old place of each of the E = H P channels."""
        return (self.heads[:, None] * self.channels.shape[1] + self.channels).flatten()


def sort_and_cluster(
    magnitudes: Magnitudes, n_groups: int, head_groups: int, channel_groups: int
) -> tuple[ChannelPermutation, GroupRanges]:
    """The reorder of one layer and the runs it makes.

    magnitudes (H, P): mean over samples of each channel's max |x|. head_groups <= H / n_groups and
    channel_groups <= P. Deterministic: ties keep the order the model has.
    """
    heads_per_group = magnitudes.shape[0] // n_groups
    channels = np.argsort(-magnitudes, axis=1, kind="stable")  # (H, P)
    profiles = np.take_along_axis(magnitudes, channels, axis=1)  # (H, P), falling along P
    order: list[int] = []
    head_ends, channel_ends = [], []
    for first in range(0, magnitudes.shape[0], heads_per_group):
        clusters = cluster_heads(profiles[first : first + heads_per_group], head_groups)
        order += [first + head for cluster in clusters for head in cluster]
        head_ends.append(np.cumsum([len(cluster) for cluster in clusters]))
        for cluster in clusters:
            mean = profiles[[first + head for head in cluster]].mean(axis=0)
            channel_ends.append(cut_sorted(mean, channel_groups))
    heads = np.array(order)
    ranges = GroupRanges(
        torch.tensor(np.stack(head_ends), dtype=torch.int32),
        torch.tensor(np.stack(channel_ends), dtype=torch.int32).reshape(
            n_groups, head_groups, channel_groups
        ),
    )
    return ChannelPermutation(torch.from_numpy(heads), torch.from_numpy(channels[heads].copy())), ranges


def cluster_heads(profiles: Magnitudes, count: int) -> list[list[int]]:
    """Heads of profiles (H, P) in `count` clusters, the loudest first; each keeps the heads' order.

    Agglomerative, by Ward's criterion: join the two clusters whose union adds least to the sum of squares.
    """
    clusters = [[head] for head in range(len(profiles))]
    while len(clusters) > count:
        means = np.stack([profiles[cluster].mean(axis=0) for cluster in clusters])
        sizes = np.array([len(cluster) for cluster in clusters], dtype=np.float64)
        distance = np.square(means[:, None] - means[None]).sum(axis=-1)
        added = distance * (sizes[:, None] * sizes / (sizes[:, None] + sizes))
        np.fill_diagonal(added, np.inf)
        first, second = divmod(int(added.argmin()), len(clusters))  # of equals the first; first < second
        clusters[first] = sorted(clusters[first] + clusters.pop(second))
    return sorted(clusters, key=lambda cluster: (-profiles[cluster].mean(), cluster[0]))


def cut_sorted(values: Magnitudes, count: int) -> NDArray[np.int64]:
    """Exclusive ends (count,) of the runs of sorted values (P,) with the least sum of squares within runs.

    This is k-means on a line, solved exactly by dynamic programming (Fisher, 1958); every run has a value.
    """
    size = len(values)
    sums, squares = (np.concatenate([[0.0], np.cumsum(v)]) for v in (values, values * values))

    def spread(starts: NDArray[np.int64], end: int) -> Magnitudes:
        within: Magnitudes = squares[end] - squares[starts] - (sums[end] - sums[starts]) ** 2 / (end - starts)
        return within

    best = np.full((count + 1, size + 1), np.inf)  # [runs, values covered]
    best[0, 0] = 0.0
    start_of = np.zeros((count + 1, size + 1), dtype=np.int64)
    for runs in range(1, count + 1):
        for end in range(runs, size - count + runs + 1):
            starts = np.arange(runs - 1, end)
            cost = best[runs - 1, starts] + spread(starts, end)
            start_of[runs, end] = starts[cost.argmin()]
            best[runs, end] = cost.min()
    ends = [size]
    for runs in range(count, 1, -1):
        ends.append(int(start_of[runs, ends[-1]]))
    return np.array(ends[::-1])
