import dataclasses
import re

import pytest
import tomllib

from quamba_export.calib.config import MambaConfig
from quamba_export.calib.observers.absmax import AbsoluteMaximum
from quamba_export.calib.observers.percentile import Percentile
from quamba_export.calib.recipes.recipe import RECIPES, default_recipe, load_recipe, recipe_from_table
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
        ("layers = 3", "allowed: list"),
        ("layers = [3]", "layers[0] is no table"),
        ("[[layers]]\nobservers.x = { kind = 'mse' }", "layers[0] does not say which layers"),
        ("[[layers]]\nat = 'first'", "layers[0] has no observers"),
        ("[[layers]]\nat = 'frist'\nobservers.x = { kind = 'mse' }", "found: 'frist'"),
        ("[[layers]]\nat = '7-3'\nobservers.x = { kind = 'mse' }", "allowed: 3-7"),
        ("[[layers]]\nat = '3, '\nobservers.x = { kind = 'mse' }", '"0-3, 7"'),
        ("[[layers]]\nwhere = 'first'", "unknown field of layers[0]: where"),
        ("[[layers]]\nat = '3'\nobservers.y = { kind = 'mse' }", "unknown site in recipe bad: y"),
        ("[[layers]]\nat = '3'\nobservers.x = { kind = 'mes' }", "did you mean mse?"),
        ("[[layers]]\nat = '3'\nobservers.x = 'mse'", "layers[0].observers.x is no table"),
        ("qformat = 'w4a88'", "found: 'w4a88'"),
        ("qformats = 'w4a8'", "did you mean qformat?"),
        ("[[layers]]\nat = '3'\nqformat = 'w2a8'", "layers[0].qformat is no width of a block"),
        ("[[layers]]\nat = '3'\nqfromat = 'w4a8'", "did you mean qformat?"),
        ("[weights]\nkind = 'gptq'\ndampin = 1", "did you mean damping?"),
        ("[weights]\nkind = 'gptq'\nbits = 3", "allowed: 4, 8"),
        ("[weights]\nkind = 'gptq'\ndamping = -1", "allowed: 0 or more"),
        ("[weights]\nkind = 'gtpq'", "did you mean gptq?"),
        ("smoothing = 1.5", "allowed: a number in [0, 1]"),
        ("smoothing = -0.1", "allowed: a number in [0, 1]"),
        ("smoothing = nan", "allowed: a number in [0, 1]"),
        ("smoothing = true", "allowed: a number in [0, 1]"),
        ("smoothing = '0.5'", "allowed: a number in [0, 1]"),
        ("smooting = 0.5", "did you mean smoothing?"),
        ("smoothing = 0.5\nrotate_residual = true", "smooths and rotates the residual stream"),
        ("smoothing = 0.5\nklt = true", "found: smoothing = 0.5, klt = true"),
        ("klt = 1", "allowed: bool"),
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
    (tmp_path / "mine.toml").write_text('observers.default = { kind = "absmax" }')
    with pytest.raises(QuambaError, match=r"quamba2.*\n  fix: did you mean .*/mine\.toml\?"):
        load_recipe(tmp_path / "mien.toml")


def test_a_recipe_must_fit_the_model(tmp_path):
    with pytest.raises(QuambaError, match="needs heads"):
        load_recipe("quamba2").check_fits(MAMBA1)
    path = tmp_path / "r.toml"
    path.write_text("[observers.dt_low]\nkind = 'absmax'")
    load_recipe(path).check_fits(MAMBA1)
    with pytest.raises(QuambaError, match="unknown site of a mamba2 model: dt_low"):
        load_recipe(path).check_fits(MAMBA2)


@pytest.mark.parametrize(
    ("groups", "fits"), [((5, 4), False), ((4, 17), False), ((4, 16), True), ((3, 5), True)]
)
def test_more_groups_than_heads_or_channels_are_refused(groups, fits):
    """MAMBA2 has four heads of 16 channels; three runs of its heads are no fault: runs have any length."""
    recipe = dataclasses.replace(load_recipe("quamba2"), head_groups=groups[0], channel_groups=groups[1])
    if fits:
        recipe.check_groups(MAMBA2)
        return
    with pytest.raises(QuambaError, match="more groups than") as refused:
        recipe.check_groups(MAMBA2)
    assert refused.value.fix == f"use {min(groups[0], 4)} and {min(groups[1], 16)}"


def test_the_published_groups_are_at_most_those_of_the_model():
    two_heads = dataclasses.replace(MAMBA2, headdim=32)
    load_recipe("quamba2").check_groups(two_heads)
    assert load_recipe("quamba2").groups(two_heads) == (2, 4)


LAYERED = """
observers.x = { kind = "percentile", alpha = 0.5 }
layers = [
    { at = "early", observers.x = { kind = "percentile", alpha = 1.0 } },
    { at = "late", observers.default = { kind = "mse" } },
    { at = "2-3, 8", observers.z = { kind = "entropy" } },
    { at = "last", observers.x = { kind = "absmax" } },
]
"""


def test_layers_have_observers_of_their_own(tmp_path):
    path = tmp_path / "layered.toml"
    path.write_text(LAYERED)
    recipe, nine = load_recipe(path), dataclasses.replace(MAMBA1, n_layer=9)
    observers = recipe.observers_of(nine)
    of = {site: [observers[f"layers.{i}.{site}"].kind for i in range(9)] for site in ("x", "z")}
    assert of["x"] == ["percentile"] * 6 + ["mse"] * 2 + ["absmax"]
    assert of["z"] == ["absmax"] * 2 + ["entropy"] * 2 + ["absmax"] * 2 + ["mse"] * 2 + ["entropy"]
    assert [observers[f"layers.{i}.x"].alpha for i in range(6)] == [1.0] * 3 + [0.5] * 3
    assert recipe_from_table(recipe.as_table()) == recipe
    recipe.check_fits(nine)
    with pytest.raises(QuambaError, match="fits no layer"):
        recipe.check_fits(MAMBA1)


def test_every_layer_is_early_middle_or_late():
    recipe = load_recipe("quamba-by-depth")
    for n_layer in (1, 2, 3, 4, 24, 64):
        config = dataclasses.replace(MAMBA1, n_layer=n_layer)
        observers = recipe.observers_of(config)
        alphas = [observers[f"layers.{i}.x"].alpha for i in range(n_layer)]
        assert alphas == sorted(alphas, reverse=True)
        assert set(alphas) <= {1.0, 0.9999, 0.9995}
        assert n_layer < 3 or len(set(alphas)) == 3


def test_a_recipe_without_rules_is_written_as_before():
    assert "layers" not in load_recipe("quamba").as_table()


def widths(text, n_layer=6):
    table = tomllib.loads(text)
    blocks = recipe_from_table({"name": "mixed", **table}).blocks(n_layer)
    return blocks and [block.name for block in blocks]


def test_blocks_have_the_widths_of_the_last_rule_that_names_any():
    rules = """qformat = "w4a8"
        layers = [{ at = "early", qformat = "w8a8" }, { at = "1, 4-5", qformat = "w4a16" }]"""
    assert widths(rules) == ["w8a8", "w4a16", "w4a8", "w4a8", "w4a16", "w4a16"]
    assert widths("layers = [{ at = '0-5', qformat = 'w8a16' }]") == ["w8a16"] * 6
    assert widths("") is None


def test_widths_for_some_layers_only_are_refused():
    with pytest.raises(QuambaError, match="widths for some layers only") as caught:
        widths("layers = [{ at = 'first', qformat = 'w8a8' }]")
    assert caught.value.found == "none for layer 1"


def test_gptq_rounds_to_the_blocks_widths():
    table = {"name": "r", "qformat": "w4a8", "layers": [{"at": "last", "qformat": "w8a8"}]}
    recipe = recipe_from_table({**table, "weights": {"kind": "gptq", "head_bits": 8}})
    assert recipe.rounded_bits(3) == (4, 4, 8)
    assert recipe_from_table(recipe.as_table()) == recipe
    with pytest.raises(QuambaError, match="does not fit int4's packing"):
        recipe.check_fits(dataclasses.replace(MAMBA1, d_model=24, d_inner=48, n_layer=3))


def test_groups_that_no_layer_has_are_refused():
    """The recipe's widths count, not `bits`, which they replace."""
    table = {"name": "r", "qformat": "w8a8", "weights": {"kind": "gptq", "group_size": 256}}
    with pytest.raises(QuambaError, match=r"(?s)a scale a row, and no groups.*group_size 256 with 8 bits"):
        recipe_from_table(table).check_fits(MAMBA1)
    recipe_from_table({**table, "qformat": "w4a8"}).check_fits(
        dataclasses.replace(MAMBA1, d_model=64, d_inner=128)
    )


FIELDS = {  # of every recipe; a field beside them stands in the tables of those that use it
    *("name", "observers", "head_groups", "channel_groups", "rotate_residual", "rotate_out_proj", "reorder"),
    *("per_channel_weights", "weights"),
}


def test_tables_of_before_are_as_they_were():
    assert (
        "head_bits" not in recipe_from_table({"name": "r", "weights": {"kind": "gptq"}}).as_table()["weights"]
    )
    assert load_recipe("quamba").as_table().keys() == load_recipe("quamba2").as_table().keys() == FIELDS
