import itertools

import numpy as np
import pytest
import torch

from quamba_export.calib.model.head_groups import cluster_heads, cut_sorted, sort_and_cluster
from quamba_export.calib.sites import GroupRanges, split_rows


def magnitudes(heads, headdim, seed=0):
    return np.random.default_rng(seed).lognormal(size=(heads, headdim))


@pytest.mark.parametrize(
    ("heads", "headdim", "n_groups", "a", "b"),
    [
        (8, 16, 1, 4, 4),
        (8, 16, 2, 4, 4),
        (8, 16, 8, 1, 4),
        (2, 3, 1, 2, 3),
        (12, 64, 1, 4, 4),
        (6, 5, 2, 1, 1),
    ],
)
def test_reorder_is_a_permutation_inside_groups_and_runs_cover_everything(heads, headdim, n_groups, a, b):
    values = magnitudes(heads, headdim)
    permutation, ranges = sort_and_cluster(values, n_groups, a, b)
    per_group = heads // n_groups
    assert sorted(permutation.flat().tolist()) == list(range(heads * headdim))
    assert (permutation.heads // per_group).tolist() == [h // per_group for h in range(heads)]
    assert ranges.head_ends.shape == (n_groups, a)
    assert ranges.channel_ends.shape == (n_groups, a, b)
    assert (ranges.head_ends[:, -1] == per_group).all()
    assert (ranges.channel_ends[..., -1] == headdim).all()
    covered = np.zeros((heads, headdim), dtype=int)
    for h, p in ranges.blocks(heads):
        covered[h, p] += 1
    assert (covered == 1).all()


def test_channels_are_sorted_largest_first_inside_each_head():
    values = magnitudes(8, 16)
    permutation, _ = sort_and_cluster(values, 2, 2, 4)
    reordered = values.flatten()[permutation.flat().numpy()].reshape(8, 16)
    assert (np.diff(reordered, axis=1) <= 0).all()


def test_heads_of_one_loudness_share_a_group():
    loud = np.array([1, 100, 1, 10, 100, 10])
    values = loud[:, None] * (1 + 0.01 * magnitudes(6, 8))
    permutation, ranges = sort_and_cluster(values, 1, 3, 2)
    assert permutation.heads.tolist() == [1, 4, 3, 5, 0, 2]
    assert ranges.head_ends.tolist() == [[2, 4, 6]]


def test_ties_keep_the_models_order_and_every_run_has_a_member():
    permutation, ranges = sort_and_cluster(np.ones((4, 8)), 1, 4, 4)
    assert permutation.channels.tolist() == [list(range(8))] * 4
    assert sorted(permutation.heads.tolist()) == [0, 1, 2, 3]
    assert (torch.diff(ranges.channel_ends, prepend=torch.zeros(1, 4, 1), dim=-1) > 0).all()
    again, _ = sort_and_cluster(np.ones((4, 8)), 1, 4, 4)
    assert again.flat().tolist() == permutation.flat().tolist()


def test_all_zero_channels_are_grouped_too():
    _, ranges = sort_and_cluster(np.zeros((4, 8)), 2, 2, 4)
    assert ranges.head_ends.tolist() == [[1, 2], [1, 2]]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("seed", range(4))
def test_cut_is_the_best_of_all_cuts(count, seed):
    values = -np.sort(-np.random.default_rng(seed).lognormal(size=9))

    def spread(ends):
        return sum(np.var(run) * len(run) for run in np.split(values, ends))

    best = min(spread(ends) for ends in itertools.combinations(range(1, 9), count - 1))
    ends = cut_sorted(values, count)
    assert ends[-1] == 9
    assert (np.diff(ends, prepend=0) > 0).all()
    assert spread(ends[:-1]) == pytest.approx(best, abs=1e-12)


@pytest.mark.parametrize("count", [1, 2, 4, 12])
@pytest.mark.parametrize("seed", range(3))
def test_clusters_are_those_of_wards_method(count, seed):
    hierarchy = pytest.importorskip("scipy.cluster.hierarchy")
    profiles = magnitudes(12, 16, seed)
    labels = hierarchy.fcluster(hierarchy.linkage(profiles, "ward"), count, "maxclust")
    expected = {tuple(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}
    found = cluster_heads(profiles, count)
    assert {tuple(cluster) for cluster in found} == expected
    loudness = [profiles[cluster].mean() for cluster in found]
    assert loudness == sorted(loudness, reverse=True)


RANGES = GroupRanges(
    torch.tensor([[1, 2], [1, 2]], dtype=torch.int32),
    torch.tensor([[[1, 3], [2, 3]], [[2, 3], [1, 3]]], dtype=torch.int32),
)  # G = 2, two heads each; P = 3


def test_rows_follow_the_order_of_the_scale_table():
    x = torch.arange(5 * 4 * 3).reshape(5, 4, 3)
    blocks = split_rows(x, "x", RANGES)
    assert [block.shape for block in blocks] == [(1, 5 * n) for n in (1, 2, 2, 1, 2, 1, 1, 2)]
    assert blocks[2].tolist() == x[:, 1, :2].reshape(1, -1).tolist()
    state = torch.randn(4, 3, 7)
    blocks = split_rows(state, "ssm_state", RANGES)
    assert [tuple(block.shape) for block in blocks] == [(7, n) for n in (1, 2, 2, 1, 2, 1, 1, 2)]
    torch.testing.assert_close(blocks[1], state[0, 1:].T)
    rows = torch.randn(5, 2, 7)
    torch.testing.assert_close(split_rows(rows, "B", RANGES)[0], rows.transpose(0, 1).reshape(2, 35))
    assert split_rows(rows, "z", RANGES)[0].shape == split_rows(rows, "B", None)[0].shape == (1, 70)


def test_the_index_names_the_scale_of_every_head_and_channel():
    index = RANGES.index(4)
    assert index.dtype == torch.int32
    assert index.tolist() == [[0, 1, 1], [2, 2, 3], [4, 4, 5], [6, 7, 7]]
