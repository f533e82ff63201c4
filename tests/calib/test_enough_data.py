"""Data too short for an observer: found before any is read, and by the sizes that calibration then sees."""

import dataclasses

import pytest
import torch
from random_checkpoints import MAMBA1, MAMBA2, MAMBA2_GROUPS, random_checkpoint

from quamba_export.calib.enough_data import check_enough, shortages, values_of
from quamba_export.calib.model.float_model import FloatMamba
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


def test_a_percentile_needs_a_value_above_it():
    recipe = load_recipe("quamba")  # x: 1 in 100,000
    size = 1600  # tokens of 64 channels: 102,400 values of x, 1024 of the state a sample
    assert not shortages(recipe, MAMBA1, 25, size // 25)
    check_enough(recipe, MAMBA1, 25, size // 25)
    with pytest.raises(QuambaError, match=r"site 'layers.0.x'") as refused:
        check_enough(recipe, MAMBA1, 25, size // 25 - 2)
    assert refused.value.found == "99200 values a scale in 25 samples of 62 tokens"
    assert refused.value.allowed == "100000 or more for kind percentile, alpha 0.99999, sigma 0.01"
    with pytest.raises(QuambaError, match=r"layers.0.ssm_state"):
        check_enough(recipe, MAMBA1, 1, 4000)


def test_groups_share_the_values():
    recipe = dataclasses.replace(load_recipe("quamba2"), observers={"x": Percentile(0.99)})
    assert not shortages(recipe, MAMBA2, 1, 25)  # 1600 values over 16 scales
    assert [short.found for short in shortages(recipe, MAMBA2, 1, 24)] == [96, 96]
