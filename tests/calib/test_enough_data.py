"""Data too short for an observer: found before any is read, and by the sizes that calibration then sees."""

import dataclasses

import pytest
import torch
from random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS, random_checkpoint

from quamba_export.calib.enough_data import check_enough, shortages, values_of
from quamba_export.calib.model.float_model import FloatMamba
from quamba_export.calib.observers.kinds import OBSERVERS
from quamba_export.calib.observers.percentile import Percentile
from quamba_export.calib.recipes.recipe import load_recipe
from quamba_export.calib.sites import SITES
from quamba_export.runtime.errors import QuambaError


@pytest.mark.parametrize("config", [MAMBA1, MAMBA2, MAMBA2_GROUPS], ids=["mamba1", "mamba2", "groups"])
def test_values_of_a_site_are_those_that_the_model_shows(config):
    seen = {}
    with torch.no_grad():
        model = FloatMamba.from_checkpoint(random_checkpoint(config))
        model(torch.arange(7)[None], observe=lambda site, value: seen.setdefault(site, value.numel()))
    for name in SITES[config.kind]:
        assert values_of(config, name, 7) == seen[f"layers.0.{name}"], name


def test_a_percentile_needs_a_value_above_it_in_each_sample():
    recipe = load_recipe("quamba")  # x: 1 in 100,000
    length = 1563  # tokens of 64 channels: 100,032 values of x, and 1024 of the state
    recipe = dataclasses.replace(recipe, observers={**recipe.observers, "ssm_state": Percentile(0.999)})
    assert not shortages(recipe, MAMBA1, 1, length)
    check_enough(recipe, MAMBA1, 25, length)
    with pytest.raises(QuambaError, match=r"site 'layers.0.x'") as refused:
        check_enough(recipe, MAMBA1, 25, length - 1)
    assert refused.value.found == "99968 values a scale in each sample of 1562 tokens"
    assert refused.value.allowed == "100000 or more for kind percentile, alpha 0.99999, sigma 0.01"
    observer = "this site an observer that needs fewer values"
    assert refused.value.fix == f"give longer samples (--calib-seqlen), or {observer}"  # more would not do
    with pytest.raises(QuambaError, match=r"layers.0.ssm_state") as refused:
        check_enough(load_recipe("quamba"), MAMBA1, 25, 4000)
    assert refused.value.found == "1024 values a scale in each sample of any length"
    assert refused.value.fix == f"give {observer}"  # nor would longer ones


def test_an_entropy_needs_a_value_for_each_level_in_all_samples():
    recipe = dataclasses.replace(load_recipe("quamba2"), observers={"dt": OBSERVERS["entropy"]()})
    assert MAMBA2.n_heads == 4
    assert not shortages(recipe, MAMBA2, 8, 4)  # 16 values a sample
    assert [short.found for short in shortages(recipe, MAMBA2, 7, 4)] == [112, 112]
    with pytest.raises(QuambaError, match=r"layers.0.dt") as refused:
        check_enough(recipe, MAMBA2, 7, 4)
    assert refused.value.found == "112 values a scale in 7 samples of 4 tokens"
    assert "more samples (--calib-size), or longer samples (--calib-seqlen), or" in refused.value.fix


def test_groups_share_the_values():
    recipe = dataclasses.replace(load_recipe("quamba2"), observers={"x": Percentile(0.99)})
    assert not shortages(recipe, MAMBA2, 1, 25)  # 1600 values over 16 scales
    assert [short.found for short in shortages(recipe, MAMBA2, 9, 24)] == [96, 96]
