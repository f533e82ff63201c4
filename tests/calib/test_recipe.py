import dataclasses
import re

import pytest

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.observer_absmax import AbsoluteMaximum
from quamba_export.calib.observer_percentile import Percentile
from quamba_export.calib.recipe import RECIPES, default_recipe, load_recipe, recipe_from_table
from quamba_export.runtime.errors import QuambaError

MAMBA1 = MambaConfig(
    kind="mamba1",
    d_model=32,
    n_layer=2,
    vocab_size=64,
    d_inner=64,
    d_state=16,
    d_conv=4,
    dt_rank=2,
    headdim=0,
    n_groups=0,
    tie_embeddings=True,
    conv_bias=True,
    proj_bias=False,
    norm_epsilon=1e-5,
)
MAMBA2 = dataclasses.replace(MAMBA1, kind="mamba2", dt_rank=0, headdim=16, n_groups=1)


@pytest.mark.parametrize("name", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_shipped_recipe_survives_its_own_table(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe_from_table(recipe.as_table()) == recipe


def test_shipped_recipes_follow_the_method():
    quamba, quamba2 = load_recipe("quamba"), load_recipe("quamba2")
    assert quamba.observer("x") == Percentile(alpha=0.99999, sigma=0.01)
    assert quamba.observer("z") == quamba2.observer("x") == AbsoluteMaximum()
    assert (quamba2.head_groups, quamba2.channel_groups, quamba2.reorder) == (4, 4, True)


def test_the_default_follows_kind_and_size():
    assert default_recipe(MAMBA2).name == "quamba2"
    assert default_recipe(MAMBA1).name == "quamba"
    large = dataclasses.replace(MAMBA1, d_model=2560, n_layer=64, d_inner=5120, vocab_size=50280)
    assert default_recipe(large).observer("x") == Percentile(alpha=0.9995, sigma=0.01)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("rotate_out_proj = true\n[observers.z]\nkind = 'percentile'\nalpha = 1.0\n")
    recipe = load_recipe(path)
    assert recipe.name == "mine"
    assert recipe.rotate_out_proj
    assert recipe.observer("z") == Percentile(alpha=1.0)
    assert recipe.observer("x") == AbsoluteMaximum()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rotate_outproj = true", "did you mean rotate_out_proj?"),
        ("head_groups = 0", "integer from 1 to 256"),
        ("head_groups = true", "integer from 1 to 256"),
        ("head_groups = '4'", "found: '4'"),
        ("reorder = 1", "allowed: bool"),
        ("observers = 3", "allowed: mapping"),
        ("[observers]\nx = 'absmax'", "observers.x is no table"),
        ("[observers.conv_inx]\nkind = 'absmax'", "did you mean conv_in_x?"),
        ("[observers.x]\nkind = 'percentil'", "did you mean percentile?"),
        ("[observers.x]\nkind = 'percentile'\nalpha = 2", "option alpha"),
        ("head_groups = 2", "has groups but no reorder"),
        ("= 3", "is not TOML"),
    ],
)
def test_bad_files_are_refused_in_words(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(QuambaError, match=re.escape(message)):
        load_recipe(path)


def test_unknown_names_and_missing_files_are_refused(tmp_path):
    with pytest.raises(QuambaError, match=r"did you mean quamba2?\?"):
        load_recipe("qamba2")
    with pytest.raises(QuambaError, match="no recipe at"):
        load_recipe(tmp_path / "missing.toml")


def test_a_recipe_must_fit_the_model(tmp_path):
    with pytest.raises(QuambaError, match="needs heads"):
        load_recipe("quamba2").check_fits(MAMBA1)
    path = tmp_path / "r.toml"
    path.write_text("[observers.dt_low]\nkind = 'absmax'")
    load_recipe(path).check_fits(MAMBA1)
    with pytest.raises(QuambaError, match="unknown site of a mamba2 model: dt_low"):
        load_recipe(path).check_fits(MAMBA2)
