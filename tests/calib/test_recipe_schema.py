"""The recipe's schema: valid itself, the one in docs/, and of one mind with the reader of recipes."""

import json
from pathlib import Path

import pytest
import tomllib
from jsonschema import Draft202012Validator

from quamba_export.calib.observers.kinds import OBSERVERS
from quamba_export.calib.recipes.recipe import RECIPES, load_recipe
from quamba_export.calib.recipes.schema import recipe_schema
from quamba_export.runtime.errors import QuambaError

SCHEMA = Draft202012Validator(recipe_schema())
GOOD = [
    "",
    "[weights]\nkind = 'gptq'\nbits = 8\ndamping = 1",
    "[weights]\nkind = 'nearest'\nclip = true",
    "reorder = true\nhead_groups = 256",
    "smoothing = 0",
    "klt = true",
    "smoothing = 1.0",
    "[weights]\nkind = 'gptq'\nhead_bits = 8",
    "qformat = 'w4a8'\n[[layers]]\nat = 'first'\nqformat = 'w8a8'",
    *(f"[observers.x]\nkind = '{kind}'" for kind in OBSERVERS),
    "[observers.default]\nkind = 'percentile'\nalpha = 1\nsigma = 1e-9",
    "[observers.z]\nkind = 'outlier-aware'\ninlier_code = 127",
    "[[layers]]\nat = '0-3, 7'\nobservers.x = { kind = 'aciq', distribution = 'gaussian' }",
]
BAD = [
    "[weights]\nkind = 'gptq'\nbits = 5",
    "[weights]\nkind = 'gptq'\nhead_bits = 32",
    "[weights]\nkind = 'gptq'\ndamping = -0.01",
    "[weights]\nkind = 'nearest'\nclip = 1",
    "qformat = 'w4a4'",
    "qformat = 'fp16'",
    "qformat = 8",
    "[[layers]]\nat = '3'\nqformat = 'w8a4'",
    "[[layers]]\nat = '3'\nqformat = 4",
    "[[layers]]\nqformat = 'w4a8'",
    "[weights]\nkind = 'gtpq'",
    "[weights]\nkind = 'nearest'\nbits = 4",
    "[weights]\nkind = 'gptq'\nact_order = 1",
    "weights = 'gptq'",
    "rotate_outproj = true",
    "head_groups = 0",
    "smoothing = -0.5",
    "klt = 'hadamard'",
    "smoothing = 1.01",
    "smoothing = true",
    "smoothing = 'half'",
    "head_groups = 257",
    "head_groups = true",
    "reorder = 1",
    "observers = 3",
    "[observers]\nx = 'absmax'",
    "[observers.y]\nkind = 'absmax'",
    "[observers.x]\nkind = 'percentil'",
    "[observers.x]\nalpha = 0.9",
    "[observers.x]\nkind = 'absmax'\nalpha = 0.9",
    "[observers.x]\nkind = 'percentile'\nalpha = 0",
    "[observers.x]\nkind = 'percentile'\nalpha = 1.5",
    "[observers.x]\nkind = 'percentile'\nsigma = '0.1'",
    "[observers.x]\nkind = 'outlier-aware'\ninlier_code = 128",
    "[observers.x]\nkind = 'outlier-aware'\ninlier_code = 1.5",
    "[observers.x]\nkind = 'aciq'\ndistribution = 'cauchy'",
    "[[layers]]\nat = 'frist'\nobservers.x = { kind = 'mse' }",
    "[[layers]]\nat = '3'\nobservers = {}",
    "[[layers]]\nat = '3'\nobserver.x = { kind = 'mse' }",
]


def test_it_is_the_one_in_docs():
    written = Path(__file__).parents[2] / "docs" / "recipe.schema.json"
    assert json.loads(written.read_text()) == recipe_schema(), "python -m quamba_export.calib.recipes.schema"
    Draft202012Validator.check_schema(recipe_schema())


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_it_takes_the_shipped_recipes_as_files_and_as_written_out(path):
    SCHEMA.validate(tomllib.loads(path.read_text()))
    SCHEMA.validate(json.loads(json.dumps(load_recipe(path).as_table())))


@pytest.mark.parametrize("text", GOOD)
def test_it_takes_what_the_reader_takes(tmp_path, text):
    (tmp_path / "good.toml").write_text(text)
    load_recipe(tmp_path / "good.toml")
    assert SCHEMA.is_valid(tomllib.loads(text))


@pytest.mark.parametrize("text", BAD)
def test_it_refuses_what_the_reader_refuses(tmp_path, text):
    (tmp_path / "bad.toml").write_text(text)
    with pytest.raises(QuambaError):
        load_recipe(tmp_path / "bad.toml")
    assert not SCHEMA.is_valid(tomllib.loads(text))
