"""Samples from several texts: how many of each, in which order, and what is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import refused
from tokenizers import Tokenizer, models, pre_tokenizers

from quamba_export.calib.data import calibration_windows
from quamba_export.calib.mixed_data import Source, mixed_windows, shares
from quamba_export.runtime.errors import ExitCode


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Texts of the words a1 ..., b1 ..., c1 ...: ids 100 to 199, 200 to 299, 300 to 399."""
    folder = tmp_path_factory.mktemp("texts")
    ids = {"?": 0} | {f"{text}{k}": 100 * i + k for i, text in enumerate("abc", 1) for k in range(100)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    for text in "abc":
        (folder / f"{text}.txt").write_text(" ".join(f"{text}{k}" for k in range(100)))
    return folder


def mixed(folder, weights, count, **options):
    sources = [Source(folder / f"{text}.txt", weight) for text, weight in weights.items()]
    return mixed_windows(sources, folder / "tokenizer.json", 0, count=count, size=5, **options)


@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=6), count=st.integers(1, 600))
def test_shares_are_within_one_of_their_weight(weights, count):
    sources = [Source(f"{i}.txt", weight) for i, weight in enumerate(weights)]
    exact = [count * weight / sum(weights) for weight in weights]
    if min(exact) < 1:
        return
    found = shares(sources, count)
    assert sum(found) == count
    assert all(abs(share - wanted) < 1 for share, wanted in zip(found, exact, strict=True))


def test_one_text_alone_is_as_it_was(folder):
    whole = calibration_windows(folder / "a.txt", folder / "tokenizer.json", 0, count=12, size=5)
    np.testing.assert_array_equal(mixed(folder, {"a": 3.0}, 12), whole)


def test_each_text_gives_its_first_windows_spread_over_all(folder):
    windows = mixed(folder, {"a": 1, "b": 3}, 8)
    texts = "".join("abc"[row[0] // 100 - 1] for row in windows)
    assert texts == "babbbabb"
    np.testing.assert_array_equal(windows[windows[:, 0] // 100 == 2].flatten(), 200 + np.arange(30))


def test_a_seed_draws_from_all_of_each_text(folder):
    windows = mixed(folder, {"a": 1, "c": 1}, 10, seed=3)
    again = mixed(folder, {"a": 1, "c": 1}, 10, seed=3)
    np.testing.assert_array_equal(windows, again)
    assert sorted(row[0] // 100 for row in windows) == [1] * 5 + [3] * 5
    assert set(windows.flatten()) != set(mixed(folder, {"a": 1, "c": 1}, 10).flatten())


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf")])
def test_a_weight_is_a_number_above_zero(weight):
    with refused("weight", code=ExitCode.USAGE):
        Source("a.txt", weight)


def test_a_text_without_a_sample_or_too_short_is_refused(folder):
    with refused("b.txt would give no sample", code=ExitCode.USAGE):
        mixed(folder, {"a": 100, "b": 1}, 4)
    with refused("too little text in", "b.txt"):
        mixed(folder, {"a": 1, "b": 9}, 30)
